"""Losses over label sets, exact and without a points x labels matrix. Knows torch only.

Equations and their sources: ``docs/losses.md``.
"""

from dexml.losses.call import Options
from dexml.losses.functions import (
    bce,
    decoupled_softmax,
    soft_topk,
    soft_topk_operator,
    softmax,
    topk_hinge,
)
from dexml.losses.layout import Layout
from dexml.losses.modules import InBatchLoss, same_group
from dexml.losses.pairs import counts
from dexml.losses.ranked import average_of_ranked
from dexml.losses.shards import Shard

__all__ = [
    "InBatchLoss",
    "Layout",
    "Options",
    "Shard",
    "average_of_ranked",
    "bce",
    "counts",
    "decoupled_softmax",
    "same_group",
    "soft_topk",
    "soft_topk_operator",
    "softmax",
    "topk_hinge",
]
