"""Which labels a step scores, and which of their pairs are positives, or neither.

Shapes: N points of the data set, B points of a step, L labels, K candidates, P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dexml.data import Csr
from dexml.sampling import LabelGraph, NegativeSampler, pool_positives
from dexml.train.schedule import SHORTLIST, SOURCES, Negatives, StageSchedule, parse_loss
from dexml.train.settings import TrainSettings

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Positions in the batch and positions among the candidates, both (P,)."""
FREQUENCY_POWER = 0.75
"""Of the source ``frequency``: label l is drawn by n_l to this power, as in word2vec."""


class Candidates(NamedTuple):
    """The labels of a step."""

    ids: NDArray[np.int64]
    """(K,), ascending."""
    positives: Pairs
    ignore: Pairs | None
    log_weight: Tensor | None
    """(K,): log of the weight of each as a negative; None: all weigh 1."""


class Sampler:
    """Draws the candidates of the steps of one stage.

    The pool of a step holds the positives of its points and what the sources draw for each of
    them. Every label of the pool is a candidate for every point. With ``all`` it holds all labels.
    """

    def __init__(
        self,
        y: Csr,
        exclude: Csr | None,
        rows: NDArray[np.int64],
        schedule: StageSchedule,
        settings: TrainSettings,
    ) -> None:
        """Prepare the sources.

        Args:
            y: Positives of all points, shape (N, L).
            exclude: Filter pairs, shape (N, L).
            rows: The points that are trained on, ascending; no other row of `y` is read.
            schedule: The stage; says what is drawn.
            settings: The settings of the run.
        """
        self.y, self.exclude, self.rows = y, exclude, rows
        self.settings, self.per_point = settings, schedule.per_point
        self.shares: Negatives = schedule.negatives
        self.everything = np.arange(y.shape[1])
        self.graph: LabelGraph | None = None
        self.shortlist: NDArray[np.int32] | None = None
        self._sampler: NegativeSampler | None = None
        self.n_hard = 0
        """Hard negatives that are drawn for each point."""
        self.shortlist_size = settings.shortlist_size or SHORTLIST
        """Labels a point that they are drawn from."""
        self._weighs = False
        """Whether drawn negatives stand for all labels; else they weigh 1."""
        self._not_drawn: NDArray[np.float64] | None = None
        """Log of the chance that no draw of a point hits each label, hard ones apart, (L,)."""
        self._no_positive: dict[int, NDArray[np.float64]] = {}
        """Log of the chance that each label is no positive of a random batch, (L,), by the number
        of its points."""
        self._of_this_batch = schedule.clustered
        """Whether chances are those of the draws for the points of a step, whichever these are, and
        not over random points too."""
        if self.shares == "all":
            return
        self._y = y[rows]
        self._exclude = None if exclude is None else exclude[rows]
        if "graph" in self.shares:
            self.graph = (
                LabelGraph.co_occurrence(self._y)
                if settings.graph == "co-occurrence"
                else LabelGraph.random_walk(self._y, seed=settings.seed)
            )
        counts = self._prepare(np.full((len(rows), 1), -1, np.int32))
        self.n_hard = counts.get("shortlist", 0)
        self._of_this_batch |= self.n_hard > 0
        self._weighs = settings.weigh_negatives and can_weigh(counts)
        parts = [part.loss for part in parse_loss(settings.loss)]
        if self._weighs and all("negative_log_weight" in loss.takes for loss in parts):
            # A label that is certain to be drawn weighs 1, and one of a hundred that a point draws
            # few of would weigh ten times as much, by chance.
            self.shortlist_size = settings.shortlist_size or max(1, self.n_hard)
        if self.n_hard:
            self._prepare(None)

    def use_shortlist(self, shortlist: NDArray[np.int32]) -> None:
        """Take a new shortlist, shape (len(rows), size), padded with -1."""
        self.shortlist = shortlist
        self._prepare(shortlist)
        self._not_drawn = None  # the mixture is another one than before the first shortlist

    def candidates(self, batch: NDArray[np.int64], epoch: int) -> Candidates:
        """Draw the candidates of the points `batch`, as seed, epoch and batch determine them."""
        n = self.settings.positives_per_point
        indptr, indices = pool_positives(self.y, batch, self.everything)
        rows = np.repeat(np.arange(len(batch)), np.diff(indptr))
        drawn = np.ones(len(rows), np.bool_)
        generator = np.random.default_rng((self.settings.seed, epoch, int(batch[0])))
        if n:
            # One random number for each positive; the n smallest of a row are drawn.
            order = np.lexsort((generator.random(len(rows)), rows))
            position = np.arange(len(rows)) - indptr[rows]
            drawn[order] = position < n
        if self.shares == "all":
            ignored = [(rows[~drawn], indices[~drawn])]
            if self.exclude is not None:
                ignored.append(self._pairs(self.exclude, batch, self.everything))
            some = any(len(part[0]) for part in ignored)
            return Candidates(
                self.everything,
                (rows[drawn], indices[drawn]),
                _union(ignored, len(self.everything)) if some else None,
                None,
            )
        pool = [indices[drawn]]
        if self._sampler is not None:
            positions = np.searchsorted(self.rows, batch)
            negatives = self._sampler.draw(positions, seed=self.settings.seed, epoch=epoch)
            pool.append(negatives[negatives >= 0].astype(np.int64))
        if not any(map(len, pool)):  # only points without labels; a pool must not be empty
            pool.append(generator.integers(self.y.shape[1], size=1))
        ids = np.unique(np.concatenate(pool))
        log_weight = None
        own = self._pairs(self.y, batch, ids)
        if self._weighs:
            certain = np.searchsorted(ids, np.unique(pool[0]))
            log_weight = self._log_weight(batch, ids, own, certain)
        return Candidates(
            ids,
            own,
            None if self.exclude is None else self._pairs(self.exclude, batch, ids),
            log_weight,
        )

    def _pairs(self, y: Csr, batch: NDArray[np.int64], ids: NDArray[np.int64]) -> Pairs:
        indptr, positions = pool_positives(y, batch, ids)
        return np.repeat(np.arange(len(batch)), np.diff(indptr)), positions

    def _prepare(self, shortlist: NDArray[np.int32] | None) -> dict[str, int]:
        """Make the sampler; before the first shortlist it has only the other sources.

        Returns:
            How many negatives a point draws from each source.
        """
        assert self.shares != "all"
        shares = {
            SOURCES[name]: share
            for name, share in self.shares.items()
            if name != "hard" or shortlist is not None
        }
        self._sampler = None
        if not shares:
            return {}
        self._sampler = NegativeSampler(
            self._y,
            n_negatives=self.per_point,
            sources=shares,
            exclude=self._exclude,
            graph=self.graph,
            shortlist=shortlist,
            alpha=FREQUENCY_POWER,
        )
        return {name: n for name, n in self._sampler.mixture.items() if n}

    def _log_weight(
        self,
        batch: NDArray[np.int64],
        ids: NDArray[np.int64],
        own: Pairs,
        certain: NDArray[np.int64],
    ) -> Tensor:
        """-log of the probability with which each label of a pool is in it, (K,).

        Weighted with it, the sum over the pool estimates that over all labels. `own` are the
        positives of the batch in the pool, and `certain` those that were drawn as such.

        Hard negatives and near points come with the points of a step. A chance over random batches
        would be far too low for them: where the point is, they are. So there, the probability is
        that of the draws for these points, and their positives weigh 1.
        """
        if not self._of_this_batch:
            drawn = len(batch) * self._log_not_drawn()[ids]
            return _inverse(drawn + self._log_no_positive(len(batch))[ids])
        draws = len(batch) - np.bincount(own[1], minlength=len(ids))  # no point draws its own
        missed = np.zeros(len(ids))
        # Where points draw all labels, the log is that of 0, which 0 draws must not meet.
        np.multiply(draws, self._log_not_drawn()[ids], out=missed, where=draws > 0)
        if self.shortlist is not None and self.n_hard:
            lists = self.shortlist[np.searchsorted(self.rows, batch)]
            sizes = (lists >= 0).sum(axis=1)
            with np.errstate(divide="ignore"):  # log 0 for a shortlist that is taken whole
                not_drawn = np.log1p(-np.minimum(1.0, self.n_hard / np.maximum(sizes, 1)))
                lacking = np.maximum(0, self.n_hard - sizes) / self._others  # drawn among all
                missed += np.log1p(-np.minimum(1.0, lacking)).sum()
            listed = lists[lists >= 0]
            at = np.minimum(np.searchsorted(ids, listed), len(ids) - 1)
            here = ids[at] == listed
            missed += np.bincount(at[here], np.repeat(not_drawn, sizes)[here], len(ids))
        weight = _inverse(missed)
        weight[certain] = 0.0
        return weight

    @property
    def _others(self) -> float:
        """Labels that a point draws from at random: neither its own nor its hard ones."""
        n_points, n_labels = self._y.shape
        hard = self.n_hard if self.shortlist is not None else 0
        return float(max(1.0, n_labels - self._y.nnz / max(1, n_points) - hard))

    def _log_no_positive(self, batch_size: int) -> NDArray[np.float64]:
        """See `_no_positive`: a batch holds each point with probability B/N."""
        if batch_size not in self._no_positive:
            n_points, n_labels = self._y.shape
            counts = np.diff(self._y.indptr)
            n = self.settings.positives_per_point
            each = np.minimum(1.0, n / np.maximum(counts, 1)) if n else np.ones(len(counts))
            with np.errstate(divide="ignore"):  # log 0 for a label that is certain to be there
                missed = np.log1p(-each * min(1.0, batch_size / n_points))
            self._no_positive[batch_size] = np.bincount(
                self._y.indices, np.repeat(missed, counts), n_labels
            ).astype(np.float64)
        return self._no_positive[batch_size]

    def _log_not_drawn(self) -> NDArray[np.float64]:
        """See `_not_drawn`: a point draws its n distinct labels among those that are not its own.

        A label that nothing draws weighs 1.
        """
        if self._not_drawn is None:
            n_labels = self._y.shape[1]
            mixture = {} if self._sampler is None else self._sampler.mixture
            out = np.zeros(n_labels)
            with np.errstate(divide="ignore"):  # log 0 where all labels are drawn
                out += np.log1p(-min(1.0, mixture.get("uniform", 0) / self._others))
                if mixture.get("frequency"):
                    power = np.bincount(self._y.indices, minlength=n_labels) ** FREQUENCY_POWER
                    share = power / max(power.sum(), 1e-300)
                    out += mixture["frequency"] * np.log1p(-share)
            self._not_drawn = out
        return self._not_drawn


def can_weigh(counts: Mapping[str, int]) -> bool:
    """Whether the chance of each label to be drawn is known, so that a pool can stand for all.

    `counts` are those of a point, by source (`dexml.sampling`). The chances of neighbours in a
    graph are not known. Hard negatives alone leave out most labels in every step, so they can't
    stand for these.
    """
    return counts.keys() <= {"shortlist", "uniform", "frequency"} and counts.keys() != {"shortlist"}


def _inverse(log_missed: NDArray[np.float64]) -> Tensor:
    """-log of the probability of what is missed with this one; 0 where that is certain."""
    probability = -np.expm1(log_missed)
    return torch.from_numpy(-np.log(np.where(probability > 0, probability, 1.0))).float()


def _union(parts: list[Pairs], n_labels: int) -> Pairs:
    keys = np.unique(np.concatenate([rows * n_labels + columns for rows, columns in parts]))
    return keys // n_labels, keys % n_labels
