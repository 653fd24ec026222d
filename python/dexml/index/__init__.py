"""Search over label vectors: exact, or approximate by an HNSW graph with a measured recall.

Knows numpy, hnswlib and the Rust core, and nothing of torch. On the command line::

    python -m dexml.index RUN
"""

import dexml.extras  # noqa: F401

# isort: split
from dexml.index.exact import EXACT_TEST_UP_TO, EXACT_UP_TO, Found, exact_search
from dexml.index.labels import LabelIndex

__all__ = ["EXACT_TEST_UP_TO", "EXACT_UP_TO", "Found", "LabelIndex", "exact_search"]
