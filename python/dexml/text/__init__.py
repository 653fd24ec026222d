"""Texts as numbers: token ids of a tokenizer, ragged and cached; and tf-idf rows (`lexical`)."""

from dexml.text.tokens import Tokens, tokenize

__all__ = ["Tokens", "tokenize"]
