"""Token ids of texts, ragged and cached; tf-idf rows are in `dexml.text.lexical`."""

from dexml import console

console.require("light", "tqdm")

# isort: split
from dexml.text.tokens import Tokens, tokenize

__all__ = ["Tokens", "tokenize"]
