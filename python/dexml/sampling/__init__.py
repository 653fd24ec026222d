"""Labels to train against: label graphs, negatives, label pools; and batches of near points.

A `NegativeSampler` draws negatives for batch after batch, `sample_negatives` for one call. A
`LabelGraph` holds the neighbours of each label, a source of negatives. `pool_positives` finds
the positives of points in a pool of labels. `balanced_clusters` are for batches of near points.
What each source draws: ``docs/sampling.md``. Needs only numpy and scipy.
"""

from dexml.sampling.clusters import balanced_clusters
from dexml.sampling.graph import LabelGraph
from dexml.sampling.negatives import NegativeSampler, sample_negatives
from dexml.sampling.pools import pool_positives

__all__ = [
    "LabelGraph",
    "NegativeSampler",
    "balanced_clusters",
    "pool_positives",
    "sample_negatives",
]
