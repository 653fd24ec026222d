"""Train a dual encoder on a folder in the LF layout.

python -m dexml.train DATA_DIR --out RUN [--config FILE.toml] [--FIELD VALUE ...]
"""

import dexml.extras  # noqa: F401

# isort: split
from dexml.train.run import cached_features, train
from dexml.train.settings import TrainSettings

__all__ = ["TrainSettings", "cached_features", "train"]
