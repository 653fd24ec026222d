"""Which labels a step scores, and which of their pairs are positives, or neither.

Shapes: N points of the data set, B points of a step, L labels, K candidates, P pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dexml.data import Csr
from dexml.sampling import LabelGraph, NegativeSampler, pool_positives
from dexml.train.schedule import SOURCES, Negatives, StageSchedule, can_weigh
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
        self.clustered = schedule.clustered
        self.shares: Negatives = schedule.negatives
        self.everything = np.arange(y.shape[1])
        self.graph: LabelGraph | None = None
        self.shortlist: NDArray[np.int32] | None = None
        self._sampler: NegativeSampler | None = None
        self._missed: dict[int, NDArray[np.float64]] | None = None
        """Log of the chance that each label is not in the pool, (L,), by the number of points of a
        step, as steps ask for them; None: negatives weigh 1."""
        self._of_this_batch = schedule.clustered or schedule.mines
        """Whether chances are those of a draw for the points of the step, whichever they are, and
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
        self._prepare()
        if settings.weigh_negatives and can_weigh(self.shares):
            self._missed = {}

    def use_shortlist(self, shortlist: NDArray[np.int32]) -> None:
        """Take a new shortlist, shape (len(rows), size), padded with -1."""
        self.shortlist = shortlist
        self._prepare()
        if self._missed is not None:  # the mixture is another one than before the first shortlist
            self._missed = {}

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
        if self._missed is not None:
            certain = np.searchsorted(ids, np.unique(pool[0])) if self._of_this_batch else None
            log_weight = self._log_weight(batch, ids, certain)
        return Candidates(
            ids,
            self._pairs(self.y, batch, ids),
            None if self.exclude is None else self._pairs(self.exclude, batch, ids),
            log_weight,
        )

    def _pairs(self, y: Csr, batch: NDArray[np.int64], ids: NDArray[np.int64]) -> Pairs:
        indptr, positions = pool_positives(y, batch, ids)
        return np.repeat(np.arange(len(batch)), np.diff(indptr)), positions

    def _prepare(self) -> None:
        """Make the sampler; before the first shortlist it has only the other sources."""
        assert self.shares != "all"
        shares = {
            SOURCES[name]: share
            for name, share in self.shares.items()
            if name != "hard" or self.shortlist is not None
        }
        self._sampler = None
        if shares:
            self._sampler = NegativeSampler(
                self._y,
                n_negatives=self.per_point,
                sources=shares,
                exclude=self._exclude,
                graph=self.graph,
                shortlist=self.shortlist,
                alpha=FREQUENCY_POWER,
            )

    def _log_weight(
        self, batch: NDArray[np.int64], ids: NDArray[np.int64], certain: NDArray[np.int64] | None
    ) -> Tensor:
        """-log of the probability with which each label of a pool is in it, (K,).

        Weighted with it, the sum over the pool estimates that over all labels.

        A batch with hard negatives, or of near points, has what belongs to its points: over random
        batches the estimate holds, for one point it would not. There, the probability is that of
        a draw for these points, and their positives, at the positions `certain`, weigh 1.
        """
        missed = self._log_missed(len(batch))[ids]
        if self.shortlist is not None:
            assert self._sampler is not None
            lists = self.shortlist[np.searchsorted(self.rows, batch)]
            sizes = (lists >= 0).sum(axis=1)
            wanted = self._sampler.mixture["shortlist"]
            drawn = np.minimum(1.0, wanted / np.maximum(sizes, 1))
            with np.errstate(divide="ignore"):  # log 0 for a shortlist that is taken whole
                not_drawn = np.repeat(np.log1p(-drawn), sizes)
                lacking = np.maximum(0, wanted - sizes) / self._others  # drawn among all labels
                missed += np.log1p(-np.minimum(1.0, lacking)).sum()
            listed = lists[lists >= 0]
            at = np.minimum(np.searchsorted(ids, listed), len(ids) - 1)
            here = ids[at] == listed
            missed += np.bincount(at[here], not_drawn[here], len(ids))
        probability = -np.expm1(missed)
        weight = -np.log(np.where(probability > 0, probability, 1.0))
        if certain is not None:
            weight[certain] = 0.0
        return torch.from_numpy(weight).float()

    @property
    def _others(self) -> float:
        """Labels that a point draws from at random: neither its own nor its hard ones."""
        n_points, n_labels = self._y.shape
        hard = self._sampler.mixture.get("shortlist", 0) if self._sampler is not None else 0
        return float(max(1.0, n_labels - self._y.nnz / max(1, n_points) - hard))

    def _log_missed(self, batch_size: int) -> NDArray[np.float64]:
        """Log of the probability that each label is not in the pool, hard negatives apart, (L,).

        A label is missing if it is no positive of the batch and no draw hits it. A batch holds each
        point with probability B/N, and a point draws its n distinct labels among those that are
        not its own. Labels that nothing draws weigh 1.
        """
        assert self._missed is not None
        if batch_size in self._missed:
            return self._missed[batch_size]
        n_points, n_labels = self._y.shape
        counts = np.diff(self._y.indptr)
        n = self.settings.positives_per_point
        each = np.minimum(1.0, n / np.maximum(counts, 1)) if n else np.ones(len(counts))
        with np.errstate(divide="ignore"):  # log 0 for a label that is certain to be drawn
            missed = np.log1p(-each * min(1.0, batch_size / n_points))
            out = np.zeros(n_labels)
            if not self._of_this_batch:
                out += np.bincount(self._y.indices, np.repeat(missed, counts), n_labels)
            mixture = {} if self._sampler is None else self._sampler.mixture
            out += batch_size * np.log1p(-min(1.0, mixture.get("uniform", 0) / self._others))
            if mixture.get("frequency"):
                power = np.bincount(self._y.indices, minlength=n_labels) ** FREQUENCY_POWER
                share = power / max(power.sum(), 1e-300)
                out += batch_size * mixture["frequency"] * np.log1p(-share)
        self._missed[batch_size] = out
        return out


def _union(parts: list[Pairs], n_labels: int) -> Pairs:
    keys = np.unique(np.concatenate([rows * n_labels + columns for rows, columns in parts]))
    return keys // n_labels, keys % n_labels
