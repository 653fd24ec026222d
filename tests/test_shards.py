"""Files answered in parts, on several machines, and put together."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dexml import data
from dexml.commands.merge import main as merge
from dexml.commands.predict import main as predict
from dexml.console import run
from dexml.predict import Predictor

KINDS = ["jsonl", "npz", "csv", "parquet"]
N = 4


@pytest.fixture
def texts(tmp_path: Path, tiny_data: Path) -> Path:
    path = tmp_path / "texts.txt"
    lines = data.load_dataset(tiny_data).test_texts[:23]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def answer(run_dir: Path, texts: Path | None, out: Path, *more: str) -> int:
    given = [str(run_dir), *([str(texts)] if texts else [])]
    options = ("--quiet", "-k", "5", "--block", "4")
    return run(predict, [*given, "--out", str(out), *options, *more])


def parts_of(run_dir: Path, texts: Path | None, folder: Path, kind: str) -> list[Path]:
    parts = [folder / f"part-{i}.{kind}" for i in range(N)]
    for i, part in enumerate(parts):
        assert answer(run_dir, texts, part, "--shard", f"{i}/{N}") == 0
    return parts


def read(path: Path) -> Any:
    """The content of an output, with scores apart."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".csv":
        return list(csv.DictReader(path.read_text().splitlines()))
    if path.suffix == ".npz":
        matrix = data.load_labels(path)
        return matrix.indptr.tolist(), matrix.indices.tolist(), matrix.data.tolist()
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    return parquet.read_table(path).to_pylist()


@pytest.mark.parametrize("kind", KINDS)
def test_parts_put_together_are_the_whole(
    light_run: Path, texts: Path, tmp_path: Path, kind: str
) -> None:
    whole, merged = tmp_path / f"whole.{kind}", tmp_path / f"merged.{kind}"
    assert answer(light_run, texts, whole) == 0
    parts = parts_of(light_run, texts, tmp_path, kind)
    if kind == "parquet":  # they know their order
        parts = parts[::-1]
    assert run(merge, [*map(str, parts), "--out", str(merged)]) == 0
    assert read(merged) == read(whole)


def test_parts_of_the_test_points_and_of_packed_texts(
    light_run: Path, texts: Path, tmp_path: Path
) -> None:
    """The filter pairs of a point go with it."""
    packed = tmp_path / "texts.txt.gz"
    packed.write_bytes(gzip.compress(texts.read_bytes()))
    for number, given in enumerate((None, packed)):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert answer(light_run, given, folder / "whole.npz") == 0
        parts = parts_of(light_run, given, folder, "npz")
        sizes = [data.load_labels(part).shape[0] for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert run(merge, [*map(str, parts), "--out", str(folder / "merged.npz")]) == 0
        assert read(folder / "merged.npz") == read(folder / "whole.npz")


def test_more_parts_than_texts(light_run: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("kernel driver\n")
    parts = parts_of(light_run, texts, tmp_path, "parquet")
    out = tmp_path / "all.parquet"
    assert run(merge, [*map(str, parts), "--out", str(out), "--quiet"]) == 0
    assert [row["text"] for row in read(out)] == ["kernel driver"]


def test_a_part_goes_on_where_it_stopped(
    light_run: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, whole = tmp_path / "part.parquet", tmp_path / "whole.parquet"
    shard = ("--shard", "1/2")
    assert answer(light_run, texts, whole, *shard) == 0
    original, left = Predictor.predict, [3]

    def stops(self: Predictor, *args: Any, **given: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("stopped")
        return original(self, *args, **given)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predict", stops)
        assert answer(light_run, texts, part, *shard) == 1
    assert not part.exists()
    assert answer(light_run, texts, part, "--shard", "0/2", "--resume") == 1  # another part
    assert answer(light_run, texts, part, *shard, "--resume") == 0
    assert read(part) == read(whole)


def test_rows_of_csv_are_numbered_through(light_run: Path, texts: Path, tmp_path: Path) -> None:
    parts = parts_of(light_run, texts, tmp_path, "csv")
    rows = [int(line["row"]) for part in parts for line in read(part)]
    assert sorted(set(rows)) == list(range(23))
    first = read(parts[0])[0]
    assert list(first) == [
        *("row", "text", "rank", "label_id", "label", "score"),
        *(["probability"] if "probability" in first else []),
    ]


def test_parquet_has_labels_as_strings_and_trains_a_run(
    run_dir: Path, texts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    assert answer(run_dir, texts, out, "--search", "exact") == 0
    predictor = Predictor.open(run_dir, search="exact", threads=1)
    lines = texts.read_text().splitlines()
    ids, scores = predictor.predict(lines, 5)
    rows = read(out)
    assert [row["text"] for row in rows] == lines
    assert [row["label_ids"] for row in rows] == ids.tolist()
    assert [row["labels"] for row in rows] == predictor.labels(ids)
    np.testing.assert_allclose([row["scores"] for row in rows], scores, atol=1e-6)
    again = data.from_table(out)
    assert again.train_texts == lines
    assert again.y_train.nnz == 5 * len(lines)


def test_a_cut_leaves_rows_empty(light_run: Path, texts: Path, tmp_path: Path) -> None:
    predictor = Predictor.open(light_run)
    if not predictor.has_probabilities:
        pytest.skip("too few held-out texts for probabilities")
    out = tmp_path / "out.parquet"
    assert answer(light_run, texts, out, "--min-probability", "0.999999") == 0
    assert all(len(row["labels"]) == len(row["probabilities"]) for row in read(out))


def test_labels_in_parts_are_merged_exactly(run_dir: Path, texts: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    parts = []
    for part in range(3):
        group, out = tmp_path / f"group-{part}.txt", tmp_path / f"labels-{part}.parquet"
        group.write_text("".join(f"{i}\n" for i in range(64) if i % 3 == part))
        assert answer(run_dir, texts, out, "--only", str(group)) == 0
        parts.append(out)
    whole, merged = tmp_path / "whole.parquet", tmp_path / "merged.parquet"
    assert answer(run_dir, texts, whole, "--search", "exact") == 0
    assert run(merge, [*map(str, parts), "--out", str(merged), "--by-label"]) == 0
    ours, theirs = read(merged), read(whole)
    assert [row["label_ids"] for row in ours] == [row["label_ids"] for row in theirs]
    assert [row["labels"] for row in ours] == [row["labels"] for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one["scores"], other["scores"], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts, whole: parts[:3], "of 4 parts, 3 is missing"),
        (lambda parts, whole: [*parts, parts[1]], "part 1 of 4 is given twice"),
        (lambda parts, whole: [*parts[:3], whole], "one of 1 parts"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    light_run: Path,
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Any,
    message: str,
) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    parts, whole = parts_of(light_run, texts, tmp_path, "parquet"), tmp_path / "whole.parquet"
    assert answer(light_run, texts, whole) == 0
    out = tmp_path / "out.parquet"
    assert run(merge, [*map(str, change(parts, whole)), "--out", str(out)]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_parts_of_another_question_are_refused(
    light_run: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    parts = parts_of(light_run, texts, tmp_path, "parquet")
    out = ["--out", str(tmp_path / "out.parquet")]
    assert answer(light_run, texts, parts[2], "--shard", f"2/{N}", "-k", "3") == 0
    assert run(merge, [*map(str, parts), *out]) == 1
    assert "part-2.parquet: another k was asked than for " in capsys.readouterr().err
    parts[2].write_bytes(parts[2].read_bytes()[:200])
    assert run(merge, [*map(str, parts), *out]) == 1
    assert "part-2.parquet: damaged or no Parquet file" in capsys.readouterr().err


def test_labels_of_a_ranker_are_not_merged(
    light_run: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its scores of a label depend on the other candidates."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    part = tmp_path / "part.parquet"
    assert answer(light_run, texts, part) == 0
    about = json.loads(parquet.read_schema(part).metadata[b"dexml"])
    assert about["ranked"] is (Predictor.open(light_run).scorer.network is not None)  # type: ignore[attr-defined]
    table = parquet.read_table(part)
    metadata = {b"dexml": json.dumps(about | {"ranked": True}).encode()}
    parquet.write_table(table.replace_schema_metadata(metadata), part)
    out = tmp_path / "out.parquet"
    assert run(merge, [str(part), str(part), "--out", str(out), "--by-label"]) == 1
    assert "whose scores depend on the other candidates" in capsys.readouterr().err


@pytest.mark.parametrize("shard", ["4/4", "1", "-1/4", "1/0", "a/b"])
def test_a_wrong_shard_is_refused(
    light_run: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], shard: str
) -> None:
    assert answer(light_run, texts, tmp_path / "x.csv", f"--shard={shard}") == 2
    assert "expected I/N" in capsys.readouterr().err


def test_vectors_of_texts_are_what_the_index_is_searched_with(run_dir: Path) -> None:
    predictor = Predictor.open(run_dir, search="exact", threads=1)
    texts = ["kernel driver a", "mail server"]
    vectors = predictor.encode(texts)
    dense = predictor.dense
    assert vectors.shape == (2, dense.dim + 1)
    assert vectors[:, -1].tolist() == [1, 1]
    ids, _ = dense.index.search(vectors, 5)
    assert ids.tolist() == predictor.predict(texts, 5).ids.tolist()


def test_a_light_run_has_no_vectors(light_run: Path) -> None:
    with pytest.raises(ValueError, match="a light run has no vectors"):
        Predictor.open(light_run).encode(["a"])
