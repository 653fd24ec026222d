"""A sparse bilinear model of points and labels: its training, search and scores.

``score = x' W z`` with sparse features x of a point and z of a label, and a sparse W (ZestXML, KDD
2021). The core says how each step works: ``rust/xmc-core/src/bilinear.rs``. Results are the same
bits for any number of threads.

Shapes: N points, L labels, C point features, D label features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import _rust
from dexml.data import Csr, CsrParts, csr_parts, pair_parts
from dexml.data.parts import canonical
from dexml.text.lexical import LexicalIndex, Vectorizer, feature_parts
from dexml.text.lexical.search import Also, Hits, Pattern

Loss = Literal["squared-hinge", "logistic"]
_ROWS = 4096
"""Points that are searched for at a time; Ctrl-C is answered between."""


@dataclass(frozen=True)
class BilinearSettings:
    """How a model is fitted and how it answers. The defaults were chosen on validation parts."""

    k: int = 40
    """Pairs of features kept for each point feature, and again for each label feature."""
    row_limit: int | None = None
    """Pairs of a point feature that stay, the largest, where label features chose more of them.
    None: all."""
    alpha: float = 0.02
    """What their choice goes by, from 0 (precision) to 1 (Jaccard index)."""
    direct_weight: float = 0.5
    """Added to the first weight of two features with the same name."""
    cost: float = 1.0
    """What the loss of a pair weighs against the regulariser."""
    positive_weight: float = 1.0
    """That of a positive pair is multiplied by this."""
    shortlist: int = 100
    """Labels that are found for a point, in training and in search."""
    add_positives: bool = False
    """Train on positives too that the shortlist lacks."""
    score_alpha: float = 0.9
    """Share of the fitted part in the score; words that both have by name get the rest."""
    loss: Loss = "squared-hinge"
    tolerance: float = 0.01
    """The fit stops when projected gradients differ by less."""
    passes: int = 20
    """Visits of each point at most."""


@dataclass(frozen=True, eq=False)
class BilinearModel:
    """A fitted model, which `of` makes.

    Attributes:
        core: The weights. They are kept once, here; `support` and `refined` are copies.
        bias: Added to each score.
        settings: How it was fitted.
        facts: What the fit took: plain values.
    """

    core: _rust.Bilinear
    bias: float
    settings: BilinearSettings
    facts: dict[str, Any]

    @classmethod
    def of(
        cls,
        support: Csr,
        refined: NDArray[np.float32],
        bias: float,
        direct: NDArray[np.int32],
        settings: BilinearSettings,
        facts: Mapping[str, Any] | None = None,
    ) -> BilinearModel:
        """Put a model together.

        Args:
            support: First weights, (C, D); every entry is a parameter.
            refined: Fitted weights of the same entries, (nnz,), float32.
            bias: Added to each score.
            direct: For each label feature the point feature of the same name, or -1, (D,), int32.
            settings: How it was fitted.
            facts: What the fit took: plain values.

        Raises:
            ValueError: The parts do not fit together; the message says which.
        """
        core = _rust.Bilinear(
            csr_parts(support, "support"),
            support.shape[1],
            refined,
            direct,
            bias=bias,
            loss=settings.loss,
            score_alpha=settings.score_alpha,
            shortlist=settings.shortlist,
        )
        return cls(core, bias, settings, dict(facts or {}))

    @property
    def support(self) -> Csr:
        """First weights, a copy, (C, D); every entry is a parameter."""
        return canonical(self.core.shape, *self.core.support())

    @property
    def refined(self) -> NDArray[np.float32]:
        """Fitted weights of the entries of `support`, a copy, (nnz,)."""
        return self.core.refined()

    def refined_rows(self, features: NDArray[np.integer[Any]]) -> Csr:
        """Return the fitted weights of some point features, (n, D)."""
        wanted = np.ascontiguousarray(features, np.int32)
        return canonical((len(wanted), self.core.shape[1]), *self.core.refined_rows(wanted))

    def find(
        self,
        x: Csr,
        index: LexicalIndex,
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
        also: Also | None = None,
        num_threads: int | None = None,
    ) -> Hits:
        """Find the k labels that the first weights rank highest for each point.

        Args:
            x: Points, (n, C).
            index: Over the labels' features, (L, D).
            k: Labels a point.
            exclude: Pairs to leave out, (n, L).
            only: Whether each label may be found, (L,).
            also: A second ranking, as in `dexml.text.lexical.LexicalIndex.search`.
            num_threads: Threads; default all cores.

        Returns:
            ``ids`` and the sums by the first weights, (n, k), padded with -1 and -inf. A label that
            shares no feature with a point by the support is not found. With `also` as many columns
            more behind them.
        """
        pairs = pair_parts(exclude, (x.shape[0], index.shape[0]), "exclude")
        indptr, indices, data = feature_parts(x, "x")
        found = []
        for first in range(0, max(x.shape[0], 1), _ROWS):
            window = slice(first, first + _ROWS + 1)
            found.append(
                self.core.find(
                    index.core,
                    (indptr[window], indices, data),
                    k,
                    exclude=None if pairs is None else (pairs[0][window], pairs[1]),
                    only=only,
                    also=also,
                    num_threads=num_threads,
                )
            )
        if len(found) == 1:
            return found[0]
        ids, sums = zip(*found, strict=True)
        return np.concatenate(ids), np.concatenate(sums)

    def terms(
        self, x: Csr, z: CsrParts, pairs: Pattern, *, num_threads: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what the scores of pairs are made of.

        Args:
            x: Points, (n, C).
            z: The labels' features, of `dexml.text.lexical.feature_parts`; not checked again.
            pairs: Row pointers and labels of the pairs of each point.
            num_threads: Threads; default all cores.

        Returns:
            ``x' W z + bias``, and the lexical term, each (n_pairs,).
        """
        fitted, lexical = self.core.terms(feature_parts(x, "x"), z, pairs, num_threads=num_threads)
        return fitted + np.float32(self.bias), lexical

    def combine(
        self, fitted: NDArray[np.float32], lexical: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return the score from its fitted part (bias included) and the lexical term."""
        share = self.settings.score_alpha
        return np.asarray(share * self._belief(fitted) + (1.0 - share) * lexical, np.float32)

    def belief(self, fitted: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the fitted part (bias included) says, from 0 to 1."""
        return np.asarray(self._belief(fitted), np.float32)

    def _belief(self, fitted: NDArray[np.float32]) -> NDArray[np.float64]:
        f = fitted.astype(np.float64)
        if self.settings.loss == "squared-hinge":
            return np.asarray(np.exp(-(np.maximum(0.0, 1.0 - f) ** 2)), np.float64)
        return np.asarray(1.0 / (1.0 + np.exp(-f)), np.float64)

    def export(self, path: Path, points: Vectorizer, labels: Csr) -> None:
        """Write one file that Rust, C and C++ serve (``xmc_core::bilinear::TextModel``).

        Args:
            path: The file; it appears when it is complete.
            points: Makes the rows of points, (n, C), before they are made unit length.
            labels: Rows of the labels, (L, D); a label with an empty row is never found.
        """
        parts, sublinear = feature_parts(labels, "labels"), points.settings.sublinear
        self.core.save(str(path), *points.core, sublinear, parts)

    def best(
        self,
        x: Csr,
        index: LexicalIndex,
        z: CsrParts,
        k: int,
        *,
        exclude: Csr | None = None,
        only: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """Find the k labels of best score among those of each point's shortlist.

        Args:
            x: Points, (n, C).
            index: Over the labels' features, (L, D).
            z: The same features, of `dexml.text.lexical.feature_parts`.
            k: Labels a point.
            exclude: Pairs to leave out, (n, L).
            only: Whether each label may be found, (L,).

        Returns:
            ``ids`` and ``scores``, (n, k), best first, padded with -1 and -inf.
        """
        width = max(k, self.settings.shortlist)
        found = np.sort(self.find(x, index, width, exclude=exclude, only=only)[0], axis=1)
        indptr = np.concatenate([[0], np.cumsum((found >= 0).sum(axis=1))]).astype(np.int64)
        ids = found[found >= 0]
        scores = self.combine(*self.terms(x, z, (indptr, ids)))
        return _rust.topk_csr(indptr, ids, scores, index.shape[0], k)


def fit_bilinear(
    x: Csr,
    z: Csr,
    y: Csr,
    direct: NDArray[np.int32],
    settings: BilinearSettings | None = None,
    *,
    seed: int,
    num_threads: int | None = None,
) -> BilinearModel:
    """Choose the support, make shortlists and fit the weights.

    Args:
        x: Features of the points, (N, C), rows of unit length.
        z: Features of the labels, (L, D), rows of unit length; a label without training points
            never counts as a negative.
        y: Labels of the points, (N, L); stored entries are positives.
        direct: For each label feature the point feature of the same name, or -1, (D,).
        settings: Default: `BilinearSettings`.
        seed: Of the order in which the solver visits points.
        num_threads: Threads; default all cores. The solver itself uses one.

    Raises:
        ValueError: Shapes disagree, or a value or setting is out of range.
    """
    settings = settings or BilinearSettings()
    if y.shape != (x.shape[0], z.shape[0]):
        raise ValueError(f"y: shape {y.shape}, expected {(x.shape[0], z.shape[0])}")
    seen = np.bincount(y.indices, minlength=y.shape[1]) > 0
    x_parts, z_parts = feature_parts(x, "x"), feature_parts(z, "z")
    y_parts = csr_parts(y, "y")[:2]
    direct = np.ascontiguousarray(direct, np.int32)
    support = _rust.select_support(
        x_parts,
        x.shape[1],
        z_parts,
        z.shape[1],
        y_parts,
        direct,
        k=settings.k,
        alpha=settings.alpha,
        direct_weight=settings.direct_weight,
        row_limit=settings.row_limit,
        num_threads=num_threads,
    )
    weights = canonical((x.shape[1], z.shape[1]), *support)
    pairs = _shortlists(
        x, LexicalIndex(z, num_threads=num_threads), weights, seen, settings, num_threads
    )
    if settings.add_positives:
        pairs = csr_array(pairs + (y > 0).astype(np.float32))
        pairs.sort_indices()
    refined, bias, objective, n_passes, converged = _rust.refine_support(
        x_parts,
        x.shape[1],
        z_parts,
        z.shape[1],
        y_parts,
        support,
        csr_parts(pairs, "pairs")[:2],
        loss=settings.loss,
        cost=settings.cost,
        positive_weight=settings.positive_weight,
        tolerance=settings.tolerance,
        max_passes=settings.passes,
        seed=seed,
        num_threads=num_threads,
    )
    facts = {
        "weights": int(weights.nnz),
        "pairs": int(pairs.nnz),
        "positives_found": int(pairs.multiply(y).nnz),
        "objective": objective,
        "passes": n_passes,
        "converged": converged,
    }
    return BilinearModel.of(weights, refined, bias, direct, settings, facts)


def _shortlists(
    x: Csr,
    index: LexicalIndex,
    support: Csr,
    seen: NDArray[np.bool_],
    settings: BilinearSettings,
    num_threads: int | None,
) -> Csr:
    """Find the seen labels that the first weights rank highest for each point, (N, L)."""
    found, _ = index.search_product(
        x, support, settings.shortlist, only=seen, num_threads=num_threads
    )
    found = np.sort(found, axis=1)
    starts = np.concatenate([[0], np.cumsum((found >= 0).sum(axis=1))])
    labels = found[found >= 0]
    ones = np.ones(len(labels), np.float32)
    return canonical((x.shape[0], index.shape[0]), starts, labels, ones)
