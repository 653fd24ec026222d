"""Files of answers: JSON lines, CSV, Parquet, and CSR scores.

Each is made of data files that grow block by block (`dexml.commands.partial`), and is put in its
place when all texts are answered.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import console
from dexml.commands.partial import NPZ_FILES, Partial, finish_npz, npz_parts
from dexml.commands.show import as_json, csr_parts, marks_of
from dexml.files import move_to, replacing, write_bytes
from dexml.predict import Prediction

SUFFIXES = (".npz", ".jsonl", ".csv", ".parquet")
ROWS = "rows.jsonl"
CSV_ROWS = "rows.csv"
ARROW = "rows.arrow"
ABOUT = b"dexml"
"""Key of the metadata of a Parquet file under which `Output.about` lies, as JSON."""
_ROW_GROUP = 65_536
"""Rows that are packed together in a Parquet file."""


@dataclass(frozen=True)
class Output:
    """How answers become the bytes of a file.

    Attributes:
        suffix: One of `SUFFIXES`.
        label_texts: Names of the labels, by id.
        n_labels: Columns of an ``.npz``.
        probabilities: Whether answers have probabilities.
        values: What an ``.npz`` holds: ``score``, ``probability`` or ``gain``.
        first: The number of the first text, which is not 0 in a shard.
        about: What the metadata of a Parquet file says.
    """

    suffix: str
    label_texts: Sequence[str]
    n_labels: int
    probabilities: bool
    values: str = "score"
    first: int = 0
    about: Mapping[str, Any] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the data files."""
        if self.suffix == ".npz":
            return NPZ_FILES
        return {".jsonl": (ROWS,), ".csv": (CSV_ROWS,), ".parquet": (ARROW,)}[self.suffix]

    def parts(self, texts: Sequence[str], answer: Prediction, partial: Partial) -> dict[str, bytes]:
        """Return bytes for the data files: some more texts with their answers."""
        if self.suffix == ".npz":
            base = partial.size(NPZ_FILES[1]) // 4 if partial.rows else None
            scores = answer.scores
            if self.values == "probability" and answer.probabilities is not None:
                scores = answer.probabilities
            elif self.values == "gain" and answer.gains is not None:
                scores = answer.gains
            return npz_parts(*csr_parts(answer.ids, scores), base)
        if self.suffix == ".jsonl":
            marks = marks_of(answer)
            lines = as_json(texts, *answer, self.label_texts, answer.probabilities, marks)
            return {ROWS: lines.encode("utf-8")}
        if self.suffix == ".csv":
            head = "" if partial.rows else self._csv_head()
            lines = self._csv(self.first + partial.rows, texts, answer)
            return {CSV_ROWS: (head + lines).encode("utf-8")}
        head_bytes = b"" if partial.rows else self._schema().serialize().to_pybytes()
        return {ARROW: head_bytes + self._arrow(texts, answer)}

    def finish(self, out: Path, partial: Partial) -> None:
        """Put the file in its place, made of the data files."""
        folder = partial.folder
        if self.suffix == ".npz":
            finish_npz(out, folder, self.n_labels)
        elif self.suffix == ".parquet":
            self._parquet(out, folder / ARROW)
        elif self.suffix == ".csv" and not partial.rows:
            write_bytes(out, self._csv_head().encode())
        else:
            move_to(folder / self.names[0], out)

    def _csv_head(self) -> str:
        more = ["probability"] if self.probabilities else []
        return _csv_lines([["row", "text", "rank", "label_id", "label", "score", *more]])

    def _csv(self, first: int, texts: Sequence[str], answer: Prediction) -> str:
        """Write a line for each text and label; a text without labels has none."""
        rows: list[list[object]] = []
        for row, text in enumerate(texts):
            for rank, i in enumerate(answer.ids[row].tolist()):
                if i < 0:
                    break
                line = [first + row, text, rank + 1, i, self.label_texts[i]]
                line.append(str(answer.scores[row, rank]))
                if answer.probabilities is not None:
                    line.append(str(answer.probabilities[row, rank]))
                rows.append(line)
        return _csv_lines(rows)

    def _schema(self) -> Any:
        import pyarrow as pa

        fields = [
            ("text", pa.string()),
            ("labels", pa.list_(pa.string())),
            ("label_ids", pa.list_(pa.int32())),
            ("scores", pa.list_(pa.float32())),
        ]
        if self.probabilities:
            fields.append(("probabilities", pa.list_(pa.float32())))
        return pa.schema(fields, {ABOUT: json.dumps(self.about or {}).encode()})

    def _arrow(self, texts: Sequence[str], answer: Prediction) -> bytes:
        """Return the bytes of a batch of rows, as they stand in a stream of Arrow."""
        import pyarrow as pa

        kept = answer.ids >= 0
        offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
        ids = answer.ids[kept]
        columns = [
            pa.array(texts, pa.string()),
            _lists(offsets, pa.array([self.label_texts[i] for i in ids.tolist()], pa.string())),
            _lists(offsets, pa.array(ids)),
            _lists(offsets, pa.array(answer.scores[kept])),
        ]
        if self.probabilities:
            assert answer.probabilities is not None
            columns.append(_lists(offsets, pa.array(answer.probabilities[kept])))
        batch = pa.record_batch(columns, schema=self._schema())
        content: bytes = batch.serialize().to_pybytes()
        return content

    def _parquet(self, out: Path, rows: Path) -> None:
        """Pack the rows, some at a time."""
        import pyarrow as pa
        from pyarrow import parquet

        schema = self._schema()
        with replacing(out) as beside, parquet.ParquetWriter(beside, schema) as writer:
            if rows.stat().st_size == 0:  # no texts
                return
            with pa.OSFile(str(rows)) as file:
                waiting: list[Any] = []
                for batch in pa.ipc.open_stream(file):
                    waiting.append(batch)
                    if sum(len(one) for one in waiting) >= _ROW_GROUP:
                        writer.write_table(pa.Table.from_batches(waiting, schema))
                        waiting = []
                if waiting:
                    writer.write_table(pa.Table.from_batches(waiting, schema))


def check_suffix(out: Path) -> None:
    """End the command if the name of an output says no kind, or its package is missing."""
    if out.suffix not in SUFFIXES:
        known = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        console.usage_error(f"--out {out}: the name must end in {known}")
    if out.suffix == ".parquet":
        console.require("tables", "pyarrow")


def _csv_lines(rows: Sequence[Sequence[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _lists(offsets: NDArray[np.int32], values: Any) -> Any:
    import pyarrow as pa

    return pa.ListArray.from_arrays(pa.array(offsets), values)
