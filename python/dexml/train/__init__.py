"""Train on a folder in the LF layout.

``python -m dexml.train DATA_DIR --out RUN [--config FILE.toml] [--FIELD VALUE ...]``
"""

from dexml import console

console.require("light", "pydantic", "pydantic_settings", "tomli_w", "tqdm")

# isort: split
from dexml.train.settings import TrainSettings
from dexml.train.start import train

__all__ = ["TrainSettings", "train"]
