"""Outputs of several machines put together, by command: ``python -m dexml.merge``."""
