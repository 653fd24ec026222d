"""Ask a trained run for labels.

``python -m dexml.predict RUN [TEXTS.txt or -] [-k 10] [--out FILE]``
"""

from dexml import console

console.require("light", "tqdm")

# isort: split
from dexml.predict.batch import BatchPredictor
from dexml.predict.explanation import Explanation
from dexml.predict.prediction import Prediction
from dexml.predict.predictor import Predictor
from dexml.predict.served import Opened, open_run
from dexml.scorers.thresholds import Estimate, Threshold

__all__ = [
    "BatchPredictor",
    "Estimate",
    "Explanation",
    "Opened",
    "Prediction",
    "Predictor",
    "Threshold",
    "open_run",
]
