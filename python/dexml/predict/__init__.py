"""Ask a trained run for labels.

python -m dexml.predict RUN [TEXTS.txt or -] [-k 10] [--out FILE]
"""

from dexml.predict.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor"]
