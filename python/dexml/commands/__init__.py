"""The commands that use more than one room. ``python -m dexml.train`` and others call these."""
