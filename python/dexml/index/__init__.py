"""Search over vectors: exact, or approximate by an HNSW graph with a measured recall.

Knows numpy and the Rust core; torch only where a GPU is asked for, hnswlib where a graph is.
"""

from dexml import console

console.require("train", "tqdm")

# isort: split
from dexml.index.edits import check_texts
from dexml.index.exact import Found, exact_search, exact_shard
from dexml.index.labels import LabelIndex
from dexml.index.recall import EXACT_TEST_UP_TO, EXACT_UP_TO, choose_search
from dexml.index.sealed import Manifest, Recall

__all__ = [
    "EXACT_TEST_UP_TO",
    "EXACT_UP_TO",
    "Found",
    "LabelIndex",
    "Manifest",
    "Recall",
    "check_texts",
    "choose_search",
    "exact_search",
    "exact_shard",
]
