"""What scores a text and a label: each scorer is a file.

Importing this room loads no torch; the dense scorer loads it when the first text is encoded.
"""

from dexml.scorers.dense import DenseScorer, Embedder
from dexml.scorers.fusion import Fusion
from dexml.scorers.neighbours import NeighbourScorer, PointMemory, VotedScorer
from dexml.scorers.queries import OnProgress, Queries
from dexml.scorers.scorer import Change, Scorer

__all__ = [
    "Change",
    "DenseScorer",
    "Embedder",
    "Fusion",
    "NeighbourScorer",
    "OnProgress",
    "PointMemory",
    "Queries",
    "Scorer",
    "VotedScorer",
]
