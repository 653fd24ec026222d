"""Search over vectors: exact, or approximate by an HNSW graph with a measured recall.

Knows numpy and the Rust core; torch only where a GPU is asked for, hnswlib where a graph is.
"""

from dexml import console

console.require("light", "tqdm")

# isort: split
from dexml.index.exact import Hits, exact_search, exact_shard
from dexml.index.facts import IndexFacts, Recall
from dexml.index.labels import LabelIndex
from dexml.index.recall import EXACT_TEST_UP_TO, EXACT_UP_TO, choose_search

__all__ = [
    "EXACT_TEST_UP_TO",
    "EXACT_UP_TO",
    "Hits",
    "IndexFacts",
    "LabelIndex",
    "Recall",
    "choose_search",
    "exact_search",
    "exact_shard",
]
