"""The command: python -m dexml.merge PART ... --out FILE."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic_settings import CliPositionalArg
from scipy.sparse import csr_array, vstack

from dexml import config, console, topk
from dexml.commands.outputs import ABOUT, check_suffix
from dexml.config import Settings
from dexml.data import load_labels, save_labels
from dexml.files import replacing

_ROWS = 4096
"""Rows of a Parquet file that are read at a time."""
_GROUP = "labels"
"""What was asked of ``--only`` and ``--without``; parts of other labels differ in it."""


class MergeSettings(Settings):
    """Put the outputs of python -m dexml.predict --shard together, in the order of the texts.

    Parquet files say which part they are, and are checked: all parts are there, once, and answer
    the same question. Parts of other kinds are joined in the order in which they are named.
    """

    parts: CliPositionalArg[list[Path]] = Field(description="the outputs of the parts")
    out: Path = Field(description="the whole; of the same kind as the parts")
    by_label: bool = Field(
        False,
        description="the parts answer the same texts with other labels (--only, --without): keep "
        "the best of all; Parquet",
    )


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.merge``."""
    settings = config.parse(MergeSettings, argv, "python -m dexml.merge")
    parts, out = list(settings.parts), settings.out
    check_suffix(out)
    for path in parts:
        if path.suffix != out.suffix:
            console.usage_error(f"{path}: another kind of file than --out {out}")
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
    if settings.by_label and out.suffix != ".parquet":
        console.usage_error("--by-label reads Parquet: make the parts with --out x.parquet")
    if out.resolve() in [path.resolve() for path in parts]:
        console.usage_error(f"--out {out}: is one of the parts")
    if settings.by_label:
        n_rows = _by_label(parts, out)
    elif out.suffix == ".parquet":
        n_rows = _parquet(parts, out)
    elif out.suffix == ".npz":
        n_rows = _npz(parts, out)
    else:
        _lines(parts, out)
        n_rows = None
    if not settings.quiet:
        texts = "" if n_rows is None else f"{n_rows} texts, "
        console.say(f"{texts}{len(parts)} parts: {out}")


def _lines(parts: Sequence[Path], out: Path) -> None:
    """Join text files; of CSV files, the header of the first stays."""
    head = b""
    with replacing(out) as beside, beside.open("wb") as whole:
        for number, path in enumerate(parts):
            with path.open("rb") as part:
                if out.suffix == ".csv":
                    own = part.readline()
                    if number == 0:
                        head = own
                        whole.write(own)
                    elif own != head:
                        raise ValueError(
                            f"{path}:1: the header is not that of {parts[0]}; parts of one "
                            "question have the same columns"
                        )
                shutil.copyfileobj(part, whole)


def _npz(parts: Sequence[Path], out: Path) -> int:
    """Put matrices of scores below one another."""
    matrices = [load_labels(path) for path in parts]
    for path, matrix in zip(parts, matrices, strict=True):
        if matrix.shape[1] != matrices[0].shape[1]:
            raise ValueError(
                f"{path}: {matrix.shape[1]} labels, but {parts[0]} has {matrices[0].shape[1]}"
            )
    whole = csr_array(vstack(matrices, format="csr"))
    save_labels(out, whole)
    return int(whole.shape[0])


def _parquet(parts: Sequence[Path], out: Path) -> int:
    """Join Parquet files in the order of their shards."""
    from pyarrow import parquet

    files = [_opened(path) for path in parts]
    abouts = [_about(file, path) for file, path in zip(files, parts, strict=True)]
    _check_asked(abouts, parts, but=())
    n = abouts[0]["shards"]
    order = sorted(range(len(parts)), key=lambda at: abouts[at]["shard"])
    found = [abouts[at]["shard"] for at in order]
    for at, number in zip(order, found, strict=True):
        if found.count(number) > 1:
            raise ValueError(f"{parts[at]}: part {number} of {n} is given twice")
    if missing := sorted(set(range(n)) - set(found)):
        raise ValueError(f"{parts[0]}: of {n} parts, {_listed(missing)} missing")
    rows = 0
    for at in order:
        if abouts[at]["first"] != rows:
            raise ValueError(
                f"{parts[at]}: begins with text {abouts[at]['first']}, but the parts before it end "
                f"with {rows}: they answer other texts"
            )
        rows += files[at].metadata.num_rows
    whole = abouts[0] | {"shard": 0, "shards": 1, "first": 0}
    schema = files[0].schema_arrow.with_metadata({ABOUT: json.dumps(whole).encode()})
    with replacing(out) as beside, parquet.ParquetWriter(beside, schema) as writer:
        for at in order:
            for group in range(files[at].num_row_groups):
                table = files[at].read_row_group(group)
                writer.write_table(table.replace_schema_metadata(schema.metadata))
    return rows


def _by_label(parts: Sequence[Path], out: Path) -> int:
    """Keep the best labels of each text, of all that the parts name."""
    import pyarrow as pa
    from pyarrow import parquet

    files = [_opened(path) for path in parts]
    abouts = [_about(file, path) for file, path in zip(files, parts, strict=True)]
    _check_asked(abouts, parts, but=(_GROUP,))
    if any(about.get("ranked") for about in abouts):
        raise ValueError(
            f"{parts[0]}: answers of a ranker, whose scores depend on the other candidates; "
            "ask for all labels at once"
        )
    counts: list[int] = [file.metadata.num_rows for file in files]
    if len(set(counts)) > 1:
        raise ValueError(f"{parts[counts.index(max(counts))]}: the parts answer other texts")
    k = int(abouts[0]["asked"]["k"])
    whole = abouts[0] | {"asked": abouts[0]["asked"] | {_GROUP: None}}
    schema = files[0].schema_arrow.with_metadata({ABOUT: json.dumps(whole).encode()})
    with replacing(out) as beside, parquet.ParquetWriter(beside, schema) as writer:
        streams = [file.iter_batches(batch_size=_ROWS) for file in files]
        for batches in zip(*streams, strict=True):
            texts = batches[0].column("text")
            for path, batch in zip(parts, batches, strict=True):
                if batch.column("text") != texts:
                    raise ValueError(f"{path}: answers other texts than {parts[0]}")
            best = _merged(batches, k)
            columns = {name: best[name] for name in schema.names if name != "text"}
            arrays = [
                texts if name == "text" else pa.array(columns[name], schema.field(name).type)
                for name in schema.names
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return counts[0]


def _merged(batches: Sequence[Any], k: int) -> dict[str, list[list[Any]]]:
    """Merge rows of several parts; `dexml.topk.merge` says which labels are best."""
    padded = [_padded(batch) for batch in batches]
    ids, _ = topk.merge([ids for ids, _ in padded], [scores for _, scores in padded], k)
    columns = [c for c in batches[0].schema.names if c not in ("text", "label_ids")]
    out: dict[str, list[list[Any]]] = {name: [] for name in ("label_ids", *columns)}
    lists = [{name: batch.column(name).to_pylist() for name in out} for batch in batches]
    for row, best in enumerate(ids.tolist()):
        kept = [i for i in best if i >= 0]
        out["label_ids"].append(kept)
        for name in columns:
            known = {
                i: value
                for part in lists
                for i, value in zip(part["label_ids"][row], part[name][row], strict=True)
            }
            out[name].append([known[i] for i in kept])
    return out


def _padded(batch: Any) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return ids and scores of rows as arrays (n, width), padded with -1 and -inf."""
    lists = batch.column("label_ids")
    starts = np.asarray(lists.offsets)
    counts = np.diff(starts)
    width = int(counts.max(initial=0)) or 1
    there = np.arange(width) < counts[:, None]
    ids = np.full(there.shape, -1, np.int32)
    scores = np.full(there.shape, -np.inf, np.float32)
    ids[there] = np.asarray(lists.flatten())
    scores[there] = np.asarray(batch.column("scores").flatten())
    return ids, scores


def _opened(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: damaged or no Parquet file ({reason})") from None


def _about(file: Any, path: Path) -> dict[str, Any]:
    """Read what a part says of itself."""
    try:
        about: dict[str, Any] = json.loads((file.schema_arrow.metadata or {})[ABOUT])
        whole = all(isinstance(about[name], int) for name in ("shard", "shards", "first"))
        whole = whole and isinstance(about["asked"], dict)
    except (KeyError, ValueError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"{path}: not an output of python -m dexml.predict")
    return about


def _check_asked(
    abouts: Sequence[dict[str, Any]], parts: Sequence[Path], but: Sequence[str]
) -> None:
    """Refuse parts that answer other questions than the first."""
    first = abouts[0]
    for about, path in zip(abouts, parts, strict=True):
        asked = first["asked"] | about["asked"]
        differing = [n for n in asked if first["asked"].get(n) != about["asked"].get(n)]
        if about["shards"] != first["shards"]:
            raise ValueError(
                f"{path}: one of {about['shards']} parts, but {parts[0]} is one of "
                f"{first['shards']}"
            )
        if wrong := [name for name in differing if name not in but]:
            hint = "; --by-label merges parts of other labels" if wrong == [_GROUP] else ""
            raise ValueError(f"{path}: another {wrong[0]} was asked than for {parts[0]}{hint}")


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
    return f"{shown} {'is' if len(numbers) == 1 else 'are'}"
