"""How sure an answer to a text is, and whether the text is like those of the training.

Both signals cost nothing that an answer does not need anyway. Ensembles of rankers were measured
beside them and told less (``docs/confidence.md``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dexml.data import Csr
from dexml.predict.served import lexical_of, scorers_in
from dexml.scorers import NeighbourScorer, Queries, Scorer, VotedScorer
from dexml.scorers.ranker import BLOCK


def nearest(scorer: Scorer, queries: Queries) -> NDArray[np.float32] | None:
    """Return the cosine of the nearest training point of each text, (n,); 0 where there is none.

    By words where the scorer has them, else by embeddings; None where no points vote.
    """
    voters = None
    if (lexical := lexical_of(scorer)) is not None:
        voters = lexical.voters(queries)
    else:
        for one in scorers_in(scorer):
            if isinstance(one, VotedScorer | NeighbourScorer):
                voters = one.voters(queries)
                break
    if voters is None:
        return None
    cosines = np.where(np.isfinite(voters.cosines), voters.cosines, 0)
    largest: NDArray[np.float32] = cosines.max(axis=1, initial=0).astype(np.float32)
    return largest


def search_and_compare(
    scorer: Scorer,
    queries: Queries,
    k: int,
    exclude: Csr | None,
    only: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32] | None]:
    """Search as the scorer does, and find the nearest training point with what it has computed.

    Texts are asked in the blocks of a ranker, so that it keeps the neighbours that it looked at.
    """
    parts = []
    for start in range(0, max(1, len(queries)), BLOCK):
        rows = slice(start, start + BLOCK)
        some = queries if len(queries) <= BLOCK else queries.part(rows)
        pairs = exclude if exclude is None or some is queries else exclude[rows]
        hits = scorer.search(some, k, exclude=pairs, only=only)
        parts.append((*hits, nearest(scorer, some)))
    ids, scores, near = zip(*parts, strict=True)
    known = [one for one in near if one is not None]
    found = np.concatenate(known) if len(known) == len(near) else None
    return np.concatenate(ids), np.concatenate(scores), found
