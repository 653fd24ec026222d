"""Token ids of texts, ragged and cached."""

from dexml.text.tokens import Tokens, tokenize

__all__ = ["Tokens", "tokenize"]
