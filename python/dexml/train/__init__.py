"""Train a dual encoder on a folder in the LF layout.

python -m dexml.train DATA_DIR --out RUN [--config FILE.toml] [--FIELD VALUE ...]
"""

from dexml.train.features import cached_features
from dexml.train.run import train
from dexml.train.settings import TrainSettings

__all__ = ["TrainSettings", "cached_features", "train"]
