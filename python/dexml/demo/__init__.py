"""The main job on real data, start to end: ``python -m dexml.demo``."""
