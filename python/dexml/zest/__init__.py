"""Learned pairs of words of texts and labels, by command: ``python -m dexml.zest``."""
