"""A light training: words, a label tree and a ranker; no transformer, no torch, seconds.

The same story as `dexml.train.run`: select on held-out points, then build from all points, save,
score the test part.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dexml import console, data
from dexml.data import Csr
from dexml.files import write_json
from dexml.metrics import Evaluator, Result, inv_propensity, propensity_constants
from dexml.run import FORMAT, LabelSet, hold
from dexml.run.labels import TRAINED, text_part
from dexml.scorers.lexical import LexicalScorer
from dexml.scorers.queries import Queries
from dexml.scorers.ranker import RankedScorer
from dexml.sealed import Home
from dexml.text.lexical import Lexicon
from dexml.train import ranking
from dexml.train.finished import Finished, Scored
from dexml.train.folder import begin_log, end_log, fingerprint, open_folder
from dexml.train.inputs import DataSet, load_data
from dexml.train.settings import TrainSettings

NO_ENCODER = "none"
"""The encoder of a light run."""
REPORTED = ("P@1", "P@3", "P@5", "nDCG@5", "PSP@1", "PSP@5", "R@10", "R@100")
