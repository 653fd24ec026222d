"""The public name of the text encoder: ``dexml.model.DualEncoder``. Its room is `dexml.encoder`."""

from dexml.encoder import DualEncoder, autocast, compiled

__all__ = ["DualEncoder", "autocast", "compiled"]
