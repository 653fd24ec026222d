"""Trainings in which filter pairs take positives: counted, and refused if none is left."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array, save_npz

from dexml import data, train
from dexml.commands.train import main as train_main
from dexml.console import run
from dexml.data import Part
from dexml.data.__main__ import main as data_main
from dexml.train import TrainSettings
from small import train_settings, write_tiny_data
from train_parts import start_of

WAYS: dict[str, dict[str, Any]] = {
    "light": {},
    "heads": {},
    "encoder": {"stages": "encoder", "encoder_epochs": 1},
    "both, with a ranker": {"stages": "heads,encoder", "encoder_epochs": 1, "ranker": "auto"},
    "one step of a plan": {"plan": True},
}


def settings_of(data: Path, encoder: Path, out: Path, way: str, **more: Any) -> TrainSettings:
    encoder = Path("none") if way == "light" else encoder
    return train_settings(data, encoder, out, **(WAYS[way] | more))


def take_all(folder: Path, part: str = "trn") -> int:
    """Write filter pairs that take every positive of a part; return how many there are."""
    y = data.load_labels(folder / f"Y.{part}.npz")
    name = {"trn": "train", "tst": "test"}[part]
    data.save_pairs(folder / f"filter_labels_{name}.txt", y)
    return int(y.nnz)


def emptied(folder: Path, part: str = "trn") -> None:
    y = data.load_labels(folder / f"Y.{part}.npz")
    save_npz(folder / f"Y.{part}.npz", csr_array(y.shape, dtype=np.float32))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", ["no positive", "all taken"])
def test_a_training_without_positives_is_refused_and_writes_nothing(
    tmp_path: Path, tiny_encoder: Path, way: str, fault: str
) -> None:
    folder, out = write_tiny_data(tmp_path / "data"), tmp_path / "run"
    if fault == "no positive":
        emptied(folder)
        message = "the training part has no positive pair of a point and a label"
    else:
        message = f"the filter pairs take all {take_all(folder)} positive pairs of the training"
    settings = settings_of(folder, tiny_encoder, out, way)
    with pytest.raises(ValueError, match=message):
        train.train(settings)
    assert not out.exists()


def test_the_command_refuses_it_in_one_line(
    tmp_path: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tiny_data(tmp_path / "data")
    take_all(folder)
    words = [str(folder), "--encoder", str(tiny_encoder), "--quiet"]
    for more in (["--out", str(tmp_path / "run")], ["--plan"]):
        assert run(train_main, [*words, *more]) == 1
        shown = capsys.readouterr()
        assert shown.out == ""
        *before, last = shown.err.splitlines()
        assert all(line.startswith("reading ") for line in before)
        assert last.startswith(f"error: {folder}: the filter pairs take all ")
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_go_on_without_positives(tmp_path: Path, tiny_encoder: Path) -> None:
    folder, out = write_tiny_data(tmp_path / "data"), tmp_path / "run"
    train.train(train_settings(folder, tiny_encoder, out, head_epochs=1))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    emptied(folder)
    for switch in ("resume", "overwrite"):
        settings = train_settings(folder, tiny_encoder, out, head_epochs=1, **{switch: True})
        with pytest.raises(ValueError, match="no positive pair"):
            train.train(settings)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("way", ["light", "heads"])
def test_what_filter_pairs_take_is_counted(
    tmp_path: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    folder = write_tiny_data(tmp_path / "data")
    pairs = {}
    for part, name in (("trn", "train"), ("tst", "test")):
        y = data.load_labels(folder / f"Y.{part}.npz")
        few = y[:5].indices
        rows = np.repeat(np.arange(5), np.diff(y[:5].indptr))
        pairs[part] = (len(few), y.nnz)
        lines = [f"{row} {label}\n" for row, label in zip(rows, few, strict=True)]
        (folder / f"filter_labels_{name}.txt").write_text("".join([*lines, "9 63\n"]))
        assert load_part_counts(folder, part) == pairs[part]
    settings = settings_of(folder, tiny_encoder, tmp_path / "run", way, quiet=False)
    train.train(settings)
    err = capsys.readouterr().err
    assert "filter pairs take {} of the {} positive pairs of the training".format(
        *pairs["trn"]
    ) in (err)
    assert "filter pairs take {} of the {} positives of the test".format(*pairs["tst"]) in err
    assert run(data_main, ["check", str(folder)]) == 0
    assert "filter_labels_train.txt: takes {} of the {} positive".format(*pairs["trn"]) in (
        capsys.readouterr().err
    )


def load_part_counts(folder: Path, part: str) -> tuple[int, int]:
    return data.load_part(folder, part, 64).filtered()


def test_a_test_part_without_positives_is_not_scored(
    tmp_path: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tiny_data(tmp_path / "data")
    n = take_all(folder, "tst")
    settings = settings_of(folder, tiny_encoder, tmp_path / "run", "light")
    assert train.train(settings.model_copy(update={"quiet": False})) is None
    assert f"no test scores (filter pairs take all {n} positives of" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_points_to_select_on_leave_positives_to_train_on(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    folder = write_tiny_data(tmp_path / "data")
    texts = data.load_texts(folder / "raw" / "trn_X.txt")
    y = data.load_labels(folder / "Y.trn.npz").toarray()
    y[~data.validation_mask(texts, 0.1)] = 0
    save_npz(folder / "Y.trn.npz", csr_array(y))
    changes = {"head_epochs": 1, "groups": "file"}  # each point for itself
    job = start_of(train_settings(folder, tiny_encoder, tmp_path / "run", **changes))
    assert job.name == "all points"
    assert job.problem.y[job.rows].nnz > 0


def test_pairs_count_whatever_their_value_and_stored_zeros_do_not() -> None:
    y = csr_array(np.array([[2.0, 1.0], [0.0, 0.5]], np.float32))
    y.data[1] = 0  # (0, 1)
    pairs = csr_array((np.array([7.0, 0.0]), [0, 1], [0, 1, 2]), shape=(2, 2))
    part = Part(["a", "b"], y, pairs, None)
    assert part.filtered() == (2, 2)
    assert part.positives().nnz == 0
    assert Part(["a", "b"], y, None, None).positives().toarray().tolist() == [[1, 0], [0, 1]]
    assert json.dumps(part.filtered())  # plain numbers
