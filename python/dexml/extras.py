"""Imported first by the commands that need the extra ``train``: a missing package names it."""

from dexml import console

console.require(
    "train",
    *("hnswlib", "pydantic", "pydantic_settings", "safetensors", "tomli_w", "torch", "tqdm"),
    "transformers",
)
