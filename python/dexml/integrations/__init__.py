"""Retrievers and evaluators for other libraries, each in a module that needs its library.

`dexml.integrations.langchain`, ``llama_index``, ``haystack`` and ``sentence_transformers``; the
extras have the same names.
"""
