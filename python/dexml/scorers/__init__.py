"""What scores a text and a label: each scorer is a file.

Importing this room loads no torch; the dense scorer loads it when it encodes its first text.
"""

from dexml.scorers.dense import DenseScorer
from dexml.scorers.embedder import Embedder
from dexml.scorers.fusion import Fusion
from dexml.scorers.memory import PointMemory
from dexml.scorers.neighbours import NeighbourScorer, VotedScorer
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
