"""The run folder: where training leaves its files and everything later finds them.

One manifest seals all parts; labels have one owner; one process at a time trains or edits.
"""

from dexml.run.labels import LabelSet, check_texts
from dexml.run.run import FORMAT, Run, check_there, encoder_seals, hold, require
from dexml.run.texts import FEATURES, PointTexts

__all__ = [
    "FEATURES",
    "FORMAT",
    "LabelSet",
    "PointTexts",
    "Run",
    "check_texts",
    "check_there",
    "encoder_seals",
    "hold",
    "require",
]
