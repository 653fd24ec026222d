"""Ask a trained run for labels.

python -m dexml.predict RUN [TEXTS.txt or -] [-k 10] [--out FILE]
"""

import dexml.extras  # noqa: F401

# isort: split
from dexml.predict.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor"]
