"""Texts as numbers: token ids of a tokenizer, ragged and cached."""

from dexml.text.tokens import Tokens, tokenize

__all__ = ["Tokens", "tokenize"]
