"""Write vectors, labels and encoder of a run in the formats of other libraries.

python -m dexml.export RUN --to numpy | faiss | lancedb | qdrant | onnx --out FOLDER
"""

from dexml import console

console.require("light", "tqdm")

# isort: split
from dexml.export.folder import KINDS, Kind, export

__all__ = ["KINDS", "Kind", "export"]
