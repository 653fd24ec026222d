"""The commands that use more than one room. ``python -m dexml.train`` and others call these."""

from dexml import console

console.require("light", "pydantic", "pydantic_settings", "tomli_w", "tqdm")
