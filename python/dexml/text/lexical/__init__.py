"""Words as evidence: tf-idf rows of texts, label centroids, exact sparse search, votes.

Rows are CSR, float32 values and int32 columns. Everything runs in the Rust core, in as many threads
as asked for, and gives the same bits for any number of them. Needs numpy and scipy only.
"""

from dexml.text.lexical.copies import near_copies
from dexml.text.lexical.search import (
    Also,
    LexicalIndex,
    Pattern,
    feature_parts,
    join_rows,
    label_centroids,
    neighbour_votes,
    pair_scores,
    vote_shares,
)
from dexml.text.lexical.vectorizer import (
    Vectorizer,
    VectorizerSettings,
    fit_vectorizer,
    load_vectorizer,
    open_vectorizer,
    settings_of,
)

__all__ = [
    "Also",
    "LexicalIndex",
    "Pattern",
    "Vectorizer",
    "VectorizerSettings",
    "feature_parts",
    "fit_vectorizer",
    "join_rows",
    "label_centroids",
    "load_vectorizer",
    "near_copies",
    "neighbour_votes",
    "open_vectorizer",
    "pair_scores",
    "settings_of",
    "vote_shares",
]
