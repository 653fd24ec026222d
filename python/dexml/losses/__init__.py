"""Losses over label sets, exact and without a points x labels matrix. Needs torch only.

Each loss has a file of its own; ``loss.py`` is the path that all of them take. Equations and when
to choose which: ``docs/losses.md``.
"""

from dexml import console

console.require("train", "torch")

# isort: split
from dexml.losses.arguments import Options
from dexml.losses.average_of_ranked import average_of_ranked
from dexml.losses.bce import bce
from dexml.losses.decoupled import decoupled_softmax
from dexml.losses.in_batch import InBatchLoss, in_sets, same_group
from dexml.losses.layout import Layout
from dexml.losses.pairs import counts
from dexml.losses.positive_hinge import positive_hinge
from dexml.losses.shards import Shard
from dexml.losses.soft_topk import soft_topk
from dexml.losses.soft_topk_operator import soft_topk_operator
from dexml.losses.softmax import softmax
from dexml.losses.topk_hinge import topk_hinge
from dexml.losses.triplet import triplet

__all__ = [
    "InBatchLoss",
    "Layout",
    "Options",
    "Shard",
    "average_of_ranked",
    "bce",
    "counts",
    "decoupled_softmax",
    "in_sets",
    "positive_hinge",
    "same_group",
    "soft_topk",
    "soft_topk_operator",
    "softmax",
    "topk_hinge",
    "triplet",
]
