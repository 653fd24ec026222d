"""The run folder: where training leaves its files and the later stages find them."""

from dexml.run.folder import Run

__all__ = ["Run"]
