"""The whole job on real data, from start to end: ``python -m dexml.demo``."""

from dexml import console

console.require("demo", "pydantic", "pydantic_settings", "tomli_w", "tqdm")
