"""Search over label vectors: exact, or approximate by an HNSW graph with a measured recall.

Knows numpy, hnswlib and the Rust core; torch only where a GPU is asked for. On the command line::

    python -m dexml.index RUN
"""

import dexml.extras  # noqa: F401

# isort: split
from dexml.index.edits import check_texts
from dexml.index.exact import Found, exact_search, exact_shard
from dexml.index.labels import LabelIndex
from dexml.index.memory import PointMemory
from dexml.index.memory_files import load_memory, save_memory
from dexml.index.recall import EXACT_TEST_UP_TO, EXACT_UP_TO, choose_search
from dexml.index.sealed import Manifest, Recall

__all__ = [
    "EXACT_TEST_UP_TO",
    "EXACT_UP_TO",
    "Found",
    "LabelIndex",
    "Manifest",
    "PointMemory",
    "Recall",
    "check_texts",
    "choose_search",
    "exact_search",
    "exact_shard",
    "load_memory",
    "save_memory",
]
