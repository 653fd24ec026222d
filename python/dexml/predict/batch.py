"""Answers for batches of texts in the processes of a cluster: Ray Data, Spark, or a pool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from dexml.data.columns import listed
from dexml.predict.predictor import Predictor
from dexml.run import Run

Batch = TypeVar("Batch")
_OPEN = ("search", "device", "threads", "precision", "engine", "exact_up_to")
_PREDICT = (
    *("min_probability", "min_precision", "min_recall", "by_frequency", "only"),
    *("favour", "strength"),
)
ADDED = ("label_ids", "labels", "scores", "probabilities")
"""Columns of an answer."""
_opened: dict[tuple[Any, ...], Predictor] = {}
"""The runs of this process: Spark unpickles the function for every task."""
_opening = Lock()


class BatchPredictor:
    """Answers batches of texts. It can be pickled: it holds the path of a run, not the run.

    Each process that calls it opens the run once, and refuses another version of it than the one
    that was there when this was made. The run must be at the same path on all machines.
    """

    def __init__(
        self,
        run: str | PathLike[str],
        *,
        k: int | None = None,
        text_column: str = "text",
        version: str | None = None,
        **options: Any,
    ) -> None:
        """Remember run and options; read the version of the run.

        Args:
            run: The run folder.
            k: Labels a text; default as in `Predictor.predict`.
            text_column: The column with the texts.
            version: The digest in the manifest of the run (`BatchPredictor.version`); default that
                of the run as it is now.
            **options: Those of `Predictor.open`, and of `Predictor.predict` for all texts alike
                (``min_probability``, ``min_precision``, ``min_recall``, ``by_frequency``,
                ``only``, ``favour``, ``strength``). ``threads`` is 1 by default, for the
                encoder and for all else, as a cluster runs a process a core.

        Raises:
            TypeError: An unknown option.
            FileNotFoundError: No finished run there.
            ValueError: It is of another version.
        """
        for name in options:
            if name not in (*_OPEN, *_PREDICT):
                raise TypeError(f"unknown option {name} (known: {', '.join((*_OPEN, *_PREDICT))})")
        self.folder = str(Path(run).absolute())
        self.k, self.text_column = k, text_column
        self._open = {"threads": 1} | {n: v for n, v in options.items() if n in _OPEN}
        self._predict = {n: v for n, v in options.items() if n in _PREDICT}
        found = Run.open(self.folder).state.digest
        self.version = found if version is None else version
        self._check(found)

    def _check(self, digest: str) -> None:
        if digest != self.version:
            raise ValueError(
                f"{self.folder}: version {digest[:12]} of the run, and {self.version[:12]} was "
                "asked for; copy the right one here, or make the BatchPredictor again"
            )

    def predictor(self) -> Predictor:
        """Return the run, opened in this process.

        Raises:
            ValueError: It is of another version, or damaged.
            FileNotFoundError: It is not on this machine.
        """
        key = (self.folder, self.version, *sorted(self._open.items()))
        with _opening:
            if key not in _opened:
                self._check(Run.open(self.folder).state.digest)
                predictor = Predictor.open(self.folder, **self._open)
                self._check(predictor.run.state.digest)
                _opened[key] = predictor
            return _opened[key]

    def __call__(self, batch: Batch) -> Batch:
        """Return a batch with the columns of the answers beside its own.

        ``label_ids``, ``labels`` (their texts), ``scores``, and ``probabilities`` where the run
        has them: a list for each text, best label first.

        Args:
            batch: A dict of arrays, a data frame of pandas, or a table of pyarrow.

        Raises:
            TypeError: The batch is none of them.
            ValueError: It has no column of texts; or as `Predictor.predict`.
        """
        texts = _column(batch, self.text_column)
        columns = self._answers(texts)
        if isinstance(batch, Mapping):
            return {**batch, **columns}  # type: ignore[return-value]  # as it came
        if hasattr(batch, "append_column"):
            import pyarrow as pa

            kinds = dict(
                zip(ADDED, (pa.int32(), pa.string(), pa.float32(), pa.float32()), strict=True)
            )
            table: Any = batch
            for name, rows in columns.items():
                values = pa.array(list(rows), pa.list_(kinds[name]))
                table = table.append_column(name, values)
            done: Batch = table
            return done
        frame: Any = batch
        assigned: Batch = frame.assign(**{name: list(rows) for name, rows in columns.items()})
        return assigned

    def frames(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Answer one batch after the other: what ``mapInPandas`` and ``mapInArrow`` call."""
        for batch in batches:
            yield self(batch)

    @property
    def schema(self) -> str:
        """The columns of an answer as Spark describes them, beside those of the batch."""
        kinds = dict(zip(ADDED, ("int", "string", "float", "float"), strict=True))
        if not self.predictor().has_probabilities:
            del kinds["probabilities"]
        return ", ".join(f"{name} array<{kind}>" for name, kind in kinds.items())

    def _answers(self, texts: list[str]) -> dict[str, Any]:
        predictor = self.predictor()
        answer = predictor.predict(texts, self.k, **self._predict)
        kept = answer.ids >= 0
        columns = {
            "label_ids": [row[there] for row, there in zip(answer.ids, kept, strict=True)],
            "labels": [np.array(row, object) for row in predictor.labels(answer.ids)],
            "scores": [row[there] for row, there in zip(answer.scores, kept, strict=True)],
        }
        if (sure := answer.probabilities) is not None:
            columns["probabilities"] = [row[there] for row, there in zip(sure, kept, strict=True)]
        return {name: _ragged(rows) for name, rows in columns.items()}


def _column(batch: Any, name: str) -> list[str]:
    names = getattr(batch, "column_names", None)  # of pyarrow
    if names is None:
        names = list(batch) if isinstance(batch, Mapping) else getattr(batch, "columns", None)
    if names is None:
        kind = type(batch).__name__
        raise TypeError(f"batch is {kind}; give a dict of columns, a data frame, or a table")
    if name not in list(names):
        raise ValueError(f"no column {name!r} (columns: {', '.join(map(str, names))})")
    return list(listed(batch[name]))


def _ragged(rows: list[Any]) -> Any:
    """Return rows of any lengths as an array of arrays."""
    out = np.empty(len(rows), object)
    for at, row in enumerate(rows):
        out[at] = row
    return out
