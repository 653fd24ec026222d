"""The whole job on real data, from start to end: ``python -m dexml.demo``."""
