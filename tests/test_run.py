"""A run's folder: what it may hold, what is read of it, and that edits come into force at once."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

import warm
from dexml.commands.index import main as index_main
from dexml.commands.train import main as train_main
from dexml.console import run
from dexml.files import seal_of
from dexml.predict import Predictor, open_run
from dexml.run import LabelSet, Run, check_texts, encoder_seals, hold
from dexml.run import folder as rundir
from killing import killed_everywhere
from small import forge_info, part_path

ROOT = Path(__file__).parents[1]
SYSTEM = (".DS_Store", ".nfs123", "Thumbs.db", "desktop.ini")


@pytest.fixture(scope="module")
def full_run(tiny_data: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of everything that leaves files: both stages, trackers, an index."""
    out = tmp_path_factory.mktemp("runs") / "run"
    stages = ["--stages", "heads,encoder", "--head-epochs", "3", "--encoder-epochs", "1"]
    more = ["--encoder-layers", "1", "--tensorboard", "--cache-layers", "--seed", "1", "--quiet"]
    places = [str(tiny_data), "--encoder", str(tiny_encoder), "--out", str(out)]
    assert run(train_main, [*places, *stages, *more]) == 0
    assert run(index_main, [str(out), "--quiet"]) == 0
    return out


@pytest.fixture
def copied(run_dir: Path, tmp_path: Path) -> Path:
    """A run with an HNSW index, to be changed."""
    ignored = shutil.ignore_patterns("checkpoint", "cache")
    return Path(shutil.copytree(run_dir, tmp_path / "run", ignore=ignored))


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(paths)}


def test_a_run_holds_nothing_that_is_not_known(full_run: Path) -> None:
    names = {path.name for path in full_run.iterdir()} - {".lock"}
    assert names <= set(rundir._OWN)
    assert set(rundir._OWN) - names <= {"neighbours", "wandb", "tree", "bilinear"}


def test_the_page_names_all_that_a_run_may_hold() -> None:
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    table = page.split("## A run directory")[1].split("\n\n**")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name.strip("`/") for row in rows for name in row.replace(",", " ").split()}
    assert named == set(rundir._OWN)


def test_a_run_is_removed_whole_and_nothing_else(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "features.npy").write_bytes(b"kept")
    folder.mkdir()
    for name in rundir._OWN:
        if name == "cache":
            (folder / name).symlink_to(elsewhere, target_is_directory=True)
        elif "." in name:
            (folder / name).write_text("{}")
        else:
            (folder / name / "inside").mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    (folder / f".{'a' * 16}.new.encoder" / "inside").mkdir(parents=True)  # a kill left it
    (folder / f".{'b' * 16}.new.run.json").write_text("{")
    rundir.remove(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert [path.name for path in elsewhere.iterdir()] == ["features.npy"]


def test_a_kill_while_removing_leaves_a_run_that_can_be_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run.json` goes first: no reader takes the rest for finished; `versions.json` last."""
    for name in ("run.json", "config.toml", "metrics.json", "versions.json"):
        (tmp_path / name).write_text("{}")
    unlink = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.name == "metrics.json":
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        rundir.remove(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["metrics.json", "versions.json"]


def test_a_folder_is_given_as_text_path_or_link(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Place:
        def __fspath__(self) -> str:
            return str(copied)

    (tmp_path / "link").symlink_to(copied, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    for folder in (copied, str(copied), Place(), "run", "link", tmp_path / "link"):
        assert Run.open(folder).folder == copied
        assert open_run(folder).run.folder == copied
    predictor = Predictor(open_run("link"))
    monkeypatch.chdir("/")
    predictor.remove_labels([3])
    predictor.save()
    assert (tmp_path / "link").is_symlink()
    assert not open_run(copied).labels.alive[3]


def test_a_moved_run_finds_its_parts_and_its_data(run_dir: Path, tiny_data: Path) -> None:
    assert Run.open(run_dir).data_dir() == tiny_data
    opened = Run.open(run_dir)
    assert opened.state.path("labels/texts").is_relative_to(run_dir.resolve())


def test_no_run_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such run folder; make one: python -m dexml.t"):
        Run.open(tmp_path / "nothing")
    with pytest.raises(
        FileNotFoundError, match=r"no finished run in it \(no run.json\); not a run"
    ):
        Run.open(tmp_path)
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(
        FileNotFoundError, match=r"continue with python -m dexml\.train .* --resume"
    ):
        Run.open(tmp_path)


def test_every_damaged_or_missing_part_is_named(copied: Path) -> None:
    before = files(copied)
    parts = {str(part["name"]) for part in Run.open(copied).state.parts.values()}
    assert {name.split("/")[0] for name in parts} == {
        *("encoder", "labels", "dense", "index", "calibration")
    }
    for name in sorted(parts):
        content = before[name]
        damaged = bytearray(content)
        damaged[len(content) // 2] ^= 4
        (copied / name).write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged") as error:
            open_run(copied)
        assert str(error.value) == (
            f"{copied / name}: damaged (not the file that was saved); "
            "copy the whole run again, or train again"
        )
        (copied / name).unlink()
        with pytest.raises(FileNotFoundError, match=r"missing; copy the whole run again"):
            open_run(copied)
        (copied / name).write_bytes(content)
    assert files(copied) == before
    text = (copied / "run.json").read_text()
    for position in range(0, len(text), 97):
        broken = text[:position] + chr(ord(text[position]) ^ 1) + text[position + 1 :]
        (copied / "run.json").write_text(broken)
        with pytest.raises(ValueError, match=r"run.json: (damaged|format)"):
            open_run(copied)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (2, "run.json: format 2 of an older dexml; train again"),
        (4, "run.json: format 4 is newer than 3; update dexml"),
    ],
)
def test_a_run_of_another_format_is_refused(copied: Path, version: int, message: str) -> None:
    forge_info(copied, format_version=version)
    before = files(copied)
    for open_it in (Run.open, open_run, Predictor.open):
        with pytest.raises(ValueError, match=message) as error:
            open_it(copied)
        assert "\n" not in str(error.value)
    assert files(copied) == before


def test_what_systems_leave_is_ignored_and_other_files_are_refused_by_name(copied: Path) -> None:
    folders = [copied, *(path for path in copied.rglob("*") if path.is_dir())]
    assert any(path.parent.name == "encoder" for path in folders)
    for place in folders:
        for name in SYSTEM:
            (place / name).write_text("x")
    (copied / "encoder" / "README.md").write_text("my own words")
    (copied / "notes.txt").write_text("beside the folders of parts")
    predictor = Predictor.open(copied)
    predictor.remove_labels([3])
    predictor.save()
    assert Predictor.open(copied).label_set.n_alive == 63
    assert not {Path(name).name for name in encoder_seals(copied)} & {*SYSTEM, "README.md"}
    for name in ("labels/more.txt", "encoder/pytorch_model.bin", "encoder/3_Dense/weights.bin"):
        (copied / name).write_text("x")
        with pytest.raises(ValueError, match=rf"{name}: not a part of a run; remove it, or move"):
            open_run(copied)
        (copied / name).unlink()


def test_the_encoder_is_sealed_with_its_folders(copied: Path) -> None:
    seals = encoder_seals(copied)
    assert "encoder/3_Dense/model.safetensors" in seals
    for name, seal in seals.items():
        assert seal == {"name": name, **seal_of(copied / name)}
    parts = Run.open(copied).state.parts
    assert seals == {role: part for role, part in parts.items() if role.startswith("encoder/")}


def test_an_edit_writes_what_changed_and_leaves_the_rest(copied: Path) -> None:
    assert part_path(copied, "labels/texts") == part_path(copied, "labels/trained")
    before = {name: (copied / name).stat() for name in files(copied)}
    old = Run.open(copied).state.parts
    predictor = Predictor.open(copied)
    predictor.add_labels(["kernel game"])
    predictor.save()
    state = Run.open(copied).state
    changed = {role for role, part in state.parts.items() if part != old[role]}
    assert changed == {
        *("labels/texts", "labels/counts", "labels/alive"),
        *("index/vectors", "index/alive"),
    }
    for role, part in state.parts.items():
        if role not in changed | {"index/nodes"}:  # made anew, with the same content
            now, then = state.path(role).stat(), before[part["name"]]
            assert (now.st_ino, now.st_mtime_ns) == (then.st_ino, then.st_mtime_ns)
    named = {str(part["name"]) for part in state.parts.values()} | {"encoder/README.md"}
    inside = {name for name in files(copied) if "/" in name}
    assert inside == named
    assert LabelSet.restore_trained(state).texts == predictor.label_texts[:64]


def test_a_kill_while_edits_are_saved_leaves_all_as_before_or_all_as_now(copied: Path) -> None:
    """Labels and index agree at every moment; `open_run` refuses what does not fit together."""
    outcomes = []

    def save(folder: Path) -> None:
        predictor = Predictor(open_run(folder))
        predictor.remove_labels([3, 5])
        predictor.save()

    for killed in killed_everywhere(copied, save, every=9):
        labels = open_run(killed).labels
        outcomes.append(labels.n_alive)
        predictor = Predictor(open_run(killed))
        predictor.remove_labels([7])
        predictor.save()
        state = Run.open(killed).state
        inside = {name for name in files(killed) if "/" in name}
        assert inside == {str(p["name"]) for p in state.parts.values()} | {"encoder/README.md"}
        assert not [path for path in killed.iterdir() if ".new." in path.name]
    assert outcomes == sorted(outcomes, reverse=True)
    assert set(outcomes) == {64, 62}


def test_edits_of_two_predictors_and_of_a_run_in_use_are_refused(copied: Path) -> None:
    first, second = Predictor(open_run(copied)), Predictor(open_run(copied))
    first.remove_labels([3])
    second.remove_labels([4])
    first.save()
    before = files(copied)
    with pytest.raises(RuntimeError, match="changed by another process since it was opened"):
        second.save()
    with (
        hold(copied, "python -m dexml.train"),
        pytest.raises(RuntimeError, match=r"in use by process \d+ \(python -m dexml.train, since"),
        hold(copied, "python -m dexml.index"),
    ):
        pass
    assert files(copied) == before


READER = """
import os, sys
import torch, transformers, hnswlib
import dexml.commands.index, dexml.encoder, dexml.predict
from dexml.predict import Predictor
predictor = Predictor.open(sys.argv[1])  # all is imported; now without rights
if os.geteuid() == 0:
    os.setuid(65534)
predictor = Predictor.open(sys.argv[1])
print(predictor.predict(["kernel driver"], 1).ids[0, 0])
predictor.remove_labels([3])
print(predictor.label_set.n_alive)
try:
    predictor.save()
except PermissionError as error:
    print("refused", error.filename)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs permissions of files")
def test_a_run_that_may_only_be_read_is_served(run_dir: Path) -> None:
    expected = Predictor.open(run_dir).predict(["kernel driver"], 1).ids[0, 0]
    with tempfile.TemporaryDirectory() as parent:  # pytest's own may be closed to others
        os.chmod(parent, 0o755)
        ignored = shutil.ignore_patterns("checkpoint", "cache", ".lock")
        folder = Path(shutil.copytree(run_dir, Path(parent) / "run", ignore=ignored))
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = files(folder)
        done = warm.run_code(READER, folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split("\n")[:3] == [str(expected), "63", f"refused {folder / '.lock'}"]
        assert files(folder) == before
        assert not (folder / ".lock").exists()
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)


LABELS = LabelSet.of(["a", "b", "a", "c"], np.array([3, 0, 1, 2]))


def test_ids_of_labels_are_never_given_twice() -> None:
    labels, ids = LABELS.added(["d", "e"])
    assert ids.tolist() == [4, 5]
    assert ids.dtype == np.int32
    labels = labels.removed(np.array([5, 1]))
    labels, ids = labels.added(["e"])
    assert ids.tolist() == [6]
    assert labels.texts == ["a", "b", "a", "c", "d", "e", "e"]
    assert labels.alive.tolist() == [True, False, True, True, True, False, True]
    assert labels.counts.tolist() == [3, 0, 1, 2, 0, 0, 0]
    assert (len(labels), labels.n_alive, labels.n_trained, labels.edits) == (7, 5, 4, 5)
    assert labels.facts() == {"n_labels": 7, "n_trained": 4, "edits": 5}


def test_an_edit_returns_another_set() -> None:
    LABELS.added(["d"])
    LABELS.removed(np.array([0]))
    labels = LABELS.updated(np.array([2, 3]), ["x", "y"])
    assert labels.texts == ["a", "b", "x", "y"]
    assert labels.edits == 2
    assert LABELS.texts == ["a", "b", "a", "c"]
    assert LABELS.alive.all()
    assert LABELS.edits == 0


def test_labels_are_looked_up_by_their_text() -> None:
    assert LABELS.ids_by_text == {"a": [0, 2], "b": [1], "c": [3]}
    labels = LABELS.removed(np.array([0, 1])).updated(np.array([3]), ["a"])
    assert labels.ids_by_text == {"a": [2, 3]}
    assert labels.added(["b"])[0].ids_by_text["b"] == [4]


def test_rows_of_labels_are_checked() -> None:
    labels = LABELS.removed(np.array([1]))
    assert labels.rows([3, 0]).tolist() == [3, 0]
    assert labels.rows([]).tolist() == []
    for ids, message in (
        ([4], "label 4 lies outside 0..3"),
        ([-1], "label -1 lies outside 0..3"),
        ([1], "label 1 was removed before"),
        ([2, 2], "a label is given twice"),
        ([0.0], "ids: float64"),
    ):
        with pytest.raises(ValueError, match=message):
            labels.rows(ids)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("kernel", ValueError, "texts: a single string; give a list of strings"),
        (["a", 3], TypeError, r"texts\[1\] is int; expected a string"),
        (["a", None], TypeError, r"texts\[1\] is NoneType; expected a string"),
        (["a\nb"], ValueError, r"texts\[0\]: holds a line break; a label is one line"),
        (["a", ""], ValueError, r"texts\[1\]: empty; a label needs a text"),
        (["a", " \t"], ValueError, r"texts\[1\]: empty; a label needs a text"),
        (["a\ud800"], ValueError, r"texts\[0\]: not valid Unicode at character 1 \('\\ud800'"),
    ],
)
def test_texts_that_cannot_be_labels_are_refused(
    texts: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_texts(texts)
    with pytest.raises(error, match=message):
        LABELS.added(texts)
    with pytest.raises(error, match=message):
        LABELS.updated(np.arange(len(texts)), texts)


def test_a_data_set_may_have_blank_labels() -> None:
    check_texts(["a", "", "  "], blank=True)
    with pytest.raises(ValueError, match="holds a line break"):
        check_texts(["a", "\n"], blank=True)


@pytest.mark.parametrize(
    ("role", "content", "message"),
    [
        ("labels/texts", b"a\n", "1 lines for 64 labels"),
        ("labels/texts", b"\xff\n" * 64, "damaged .*can't decode"),
        ("labels/alive", b"x", "damaged"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    copied: Path, role: str, content: bytes, message: str
) -> None:
    path = part_path(copied, role)
    path.write_bytes(content)
    forge_info(copied, parts={role: {"name": f"{role}{path.name[-21:]}", **seal_of(path)}})
    with pytest.raises(ValueError, match=message) as error:
        LabelSet.restore(Run.open(copied).state)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", ["a\u2028b", "a\x85b\x0b", "a\rb\r", " a ", "\u4e2d", "a\0b"])
def test_texts_are_kept_as_they_are(copied: Path, text: str) -> None:
    predictor = Predictor(open_run(copied))
    labels, _ = predictor.label_set.added([text])
    parts = labels.parts()
    part = parts["labels/texts"]
    assert part.write(copied / "texts.txt") == (copied / "texts.txt").stat().st_size
    assert (copied / "texts.txt").read_bytes().decode().split("\n")[64] == text
