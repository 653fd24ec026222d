"""What scores a text and a label: each scorer is a file."""

from dexml.scorers.memory import PointMemory
from dexml.scorers.memory_files import load_memory, save_memory

__all__ = ["PointMemory", "load_memory", "save_memory"]
