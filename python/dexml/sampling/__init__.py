"""Which labels to train against: label graphs, negatives, label pools.

Needs numpy and scipy only. What each source draws, and how fast: ``docs/sampling.md``.
"""

from dexml.sampling.graph import LabelGraph
from dexml.sampling.negatives import NegativeSampler, sample_negatives
from dexml.sampling.pools import pool_positives

__all__ = [
    "LabelGraph",
    "NegativeSampler",
    "pool_positives",
    "sample_negatives",
]
