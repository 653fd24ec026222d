"""The command's output: groups, compressed input, outputs that are gone on with, little memory."""

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import warm
from dexml import data
from dexml.commands import outputs, partial
from dexml.commands import predict as command
from dexml.commands.inputs import count_lines, open_texts, read_group
from dexml.commands.show import as_table, csr_parts, fit
from dexml.console import run
from dexml.predict import Predictor
from dexml.run import LabelSet
from small import part_path

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def opened(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is opened once for all tests that ask for it in the usual way."""
    kept = _cache.setdefault(run_dir, Predictor.open(run_dir, search="exact", threads=1))
    original = Predictor.open

    def open_once(folder: Path, **given: Any) -> Predictor:
        usual = given.get("search", "auto") == "auto" and given.get("precision", "auto") == "auto"
        return kept if Path(folder) == run_dir and usual else original(folder, **given)

    monkeypatch.setattr(Predictor, "open", staticmethod(open_once))


_cache: dict[Path, Predictor] = {}


@pytest.fixture
def texts_file(tmp_path: Path, tiny_data: Path) -> Path:
    path = tmp_path / "texts.txt"
    texts = data.load_dataset(tiny_data).test_texts
    path.write_text("".join(f"{t}\n" for t in texts[:23]))
    return path


def answer(run_dir: Path, texts: Path, out: Path, *more: str) -> int:
    return run(
        command.main,
        [str(run_dir), str(texts), "--out", str(out), "--block", "4", "-k", "3", *more],
    )


class Stop(RuntimeError):
    """Ends a run in the middle."""


def stop_after(blocks: int, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    left = [blocks]
    original = Predictor.predict

    def predict(self: Predictor, *args: Any, **given: Any) -> Any:
        if left[0] == 0:
            raise error
        left[0] -= 1
        return original(self, *args, **given)

    monkeypatch.setattr(Predictor, "predict", predict)


@pytest.mark.parametrize("suffix", ["jsonl", "npz", "csv", "parquet"])
@pytest.mark.parametrize("error", [Stop("stopped"), KeyboardInterrupt()])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    run_dir: Path,
    texts_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    suffix: str,
    error: BaseException,
) -> None:
    whole, out = tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
    assert answer(run_dir, texts_file, whole) == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_after(3, patch, error)
        assert answer(run_dir, texts_file, out) in (1, 130)
    assert "12 texts are answered and kept; --resume goes on" in capsys.readouterr().err
    assert not out.exists()
    assert json.loads((tmp_path / f"out.{suffix}.partial/state.json").read_text())["rows"] == 12
    with pytest.MonkeyPatch.context() as patch:  # 23 texts, 12 done: 3 blocks are left
        stop_after(3, patch, Stop())
        assert answer(run_dir, texts_file, out, "--resume") == 0
    assert "12 texts are answered already" in capsys.readouterr().err
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [out.name, whole.name, texts_file.name]
    )


@pytest.mark.skipif(os.name == "nt", reason="needs links and pipes")
@pytest.mark.parametrize("suffix", ["jsonl", "npz", "csv", "parquet"])
def test_links_and_pipes_as_outputs_stay_what_they_are(
    run_dir: Path, texts_file: Path, tmp_path: Path, suffix: str
) -> None:
    whole = tmp_path / f"whole.{suffix}"
    assert answer(run_dir, texts_file, whole) == 0
    (tmp_path / "far").mkdir()
    link, pipe = tmp_path / f"link.{suffix}", tmp_path / f"pipe.{suffix}"
    link.symlink_to(tmp_path / "far" / "target")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(3, patch, Stop())
        assert answer(run_dir, texts_file, link) == 1
    assert [p.name for p in (tmp_path / "far").iterdir()] == ["target.partial"]
    assert answer(run_dir, texts_file, link, "--resume") == 0
    assert link.is_symlink()
    assert [p.name for p in (tmp_path / "far").iterdir()] == ["target"]
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    assert answer(run_dir, texts_file, pipe) == 0
    reader.join(60)
    assert pipe.is_fifo()
    assert read == [link.read_bytes()] == [whole.read_bytes()]
    names = [whole.name, link.name, pipe.name, texts_file.name, "far"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    assert answer(run_dir, texts_file, tmp_path / f"folder.{suffix}") == 0
    (tmp_path / f"folder.{suffix}").unlink()
    (tmp_path / f"folder.{suffix}").mkdir()
    assert answer(run_dir, texts_file, tmp_path / f"folder.{suffix}") == 1


KILLED = """
import os, signal, sys
from dexml.console import run
from dexml.predict import Predictor
from dexml.commands import predict as command, partial

partial.COMMIT_SECONDS = 0
original, left = Predictor.predict, [4]  # the first warms up

def predict(self, *args, **given):
    left[0] -= 1
    if left[0] < 0:
        for file in (f for f in open_files if not f.closed):
            file.write(b"half a row that no state knows"); file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *args, **given)

open_files = []
entered = partial.Partial.__enter__

def enter(self):
    entered(self)
    open_files.extend(self._files.values())
    return self

partial.Partial.__enter__ = enter
Predictor.predict = predict
sys.exit(run(command.main, sys.argv[1:]))
"""


def test_a_killed_run_goes_on_to_the_same_bytes(
    run_dir: Path, texts_file: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert answer(run_dir, texts_file, whole, "--quiet") == 0
    arguments = [run_dir, texts_file, "--out", out, "--block", "4", "-k", "3", "--threads", "1"]
    done = warm.run_code(KILLED, *arguments)
    assert done.returncode == -9, done.stderr
    assert not out.exists()
    assert answer(run_dir, texts_file, out, "--resume", "--quiet") == 0
    assert out.read_bytes() == whole.read_bytes()


def test_without_resume_an_unfinished_output_is_begun_anew(
    run_dir: Path, texts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(2, patch, Stop())
        assert answer(run_dir, texts_file, out) == 1
    assert answer(run_dir, texts_file, out) == 0
    assert "an unfinished output, begun anew (no --resume)" in capsys.readouterr().err
    assert len(out.read_text().splitlines()) == 23
    assert answer(run_dir, texts_file, out, "--resume") == 0  # nothing unfinished: all of it
    assert "0 texts are answered already" in capsys.readouterr().err


def test_a_run_that_fails_at_once_leaves_nothing(
    run_dir: Path, texts_file: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(0, patch, Stop())
        assert answer(run_dir, texts_file, tmp_path / "out.npz") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["texts.txt"]


def test_a_failed_run_leaves_the_old_output(
    run_dir: Path, texts_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(1, patch, Stop())
        assert answer(run_dir, texts_file, out) == 1
    assert out.read_text() == "old"


@pytest.fixture
def unfinished(
    run_dir: Path, texts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An output that stopped after 8 of 23 texts."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(2, patch, Stop())
        assert answer(run_dir, texts_file, tmp_path / "out.jsonl", "--quiet") == 1
    return tmp_path / "out.jsonl"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-k", "4"], "begun with k = 3, now 4; ask the same"),
        (["--block", "5"], "begun with block = 4, now 5"),
        (["--only", "ONLY"], "begun with labels = null, now "),
        (
            ["--precision", "bfloat16"],
            'begun with scorer = {"device": "cpu", "precision": "float32", "engine": ',
        ),
        (["--search", "hnsw"], 'begun with search = "exact, 64 labels", now "HNSW'),
    ],
)
def test_another_question_is_not_gone_on_with(
    run_dir: Path,
    texts_file: Path,
    unfinished: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    group = unfinished.with_name("only.txt")
    group.write_text("3\n")
    more = [str(group) if m == "ONLY" else m for m in more]
    assert answer(run_dir, texts_file, unfinished, "--resume", "--quiet", *more) == 1
    assert message in capsys.readouterr().err
    assert unfinished.with_name("out.jsonl.partial").is_dir()


def test_other_texts_are_not_gone_on_with(
    run_dir: Path, texts_file: Path, unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = texts_file.read_text().splitlines(keepends=True)
    texts_file.write_text("".join([*lines[:7], "another\n", *lines[8:]]))
    assert answer(run_dir, texts_file, unfinished, "--resume", "--quiet") == 1
    assert "the first 8 texts are not those it holds answers to" in capsys.readouterr().err
    texts_file.write_text("".join(lines[:5]))
    assert answer(run_dir, texts_file, unfinished, "--resume", "--quiet") == 1
    assert "holds answers to 8 texts, and now there are 5" in capsys.readouterr().err
    texts_file.write_text("".join([*lines[:8], "later lines may change\n"]))
    assert answer(run_dir, texts_file, unfinished, "--resume", "--quiet") == 0
    assert len(unfinished.read_text().splitlines()) == 9


@pytest.mark.parametrize("damage", ["rows", "state", "json", "version", "types"])
def test_a_damaged_partial_output_is_refused(
    run_dir: Path,
    texts_file: Path,
    unfinished: Path,
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    folder = unfinished.with_name("out.jsonl.partial")
    state = json.loads((folder / "state.json").read_text())
    if damage == "rows":
        (folder / "rows.jsonl").write_bytes(b"short")
    elif damage == "json":
        (folder / "state.json").write_text("{")
    else:
        change = {"state": {"rows": -1}, "version": {"format_version": 9}, "types": {"bytes": 3}}
        (folder / "state.json").write_text(json.dumps(state | change[damage]))
    assert answer(run_dir, texts_file, unfinished, "--resume", "--quiet") == 1
    err = capsys.readouterr().err
    assert "damaged" in err or "not of this version" in err
    assert answer(run_dir, texts_file, unfinished, "--quiet") == 0


def test_a_full_disk_at_the_end_loses_no_answer(
    run_dir: Path, texts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answers are complete and their files closed when the archive is made of them."""

    def full(*_: Any) -> None:
        raise OSError("no space left")

    out, whole = tmp_path / "out.npz", tmp_path / "whole.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "finish_npz", full)
        assert answer(run_dir, texts_file, out) == 1
    shown = capsys.readouterr().err
    assert "error: no space left" in shown
    assert "23 texts are answered and kept" in shown
    with pytest.MonkeyPatch.context() as patch:
        stop_after(0, patch, Stop())
        assert answer(run_dir, texts_file, out, "--resume", "--quiet") == 0
    assert answer(run_dir, texts_file, whole, "--quiet") == 0
    assert out.read_bytes() == whole.read_bytes()


def test_a_run_that_was_edited_is_another_question(
    run_dir: Path, texts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_copy, out = tmp_path / "run", tmp_path / "out.jsonl"
    shutil.copytree(run_dir, run_copy, ignore=shutil.ignore_patterns("checkpoint", "cache"))
    with pytest.MonkeyPatch.context() as patch:
        stop_after(3, patch, Stop())  # one of them warms up
        assert answer(run_copy, texts_file, out, "--quiet") == 1
    predictor = Predictor.open(run_copy)
    predictor.update_labels([3], ["another text"])  # as many labels as before
    predictor.save()
    assert answer(run_copy, texts_file, out, "--resume", "--quiet") == 1
    assert 'begun with run.json = "' in capsys.readouterr().err


def test_nothing_kept_is_said_when_there_is_nothing_to_resume(
    run_dir: Path, texts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl.partial").mkdir()  # of a run that was killed before its first answers
    assert answer(run_dir, texts_file, out, "--resume") == 0
    assert "begun anew (none of its answers were kept)" in capsys.readouterr().err


def test_bad_utf8_names_its_line_and_keeps_what_was_done(
    run_dir: Path, texts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = texts_file.read_bytes()
    lines = good.splitlines(keepends=True)
    texts_file.write_bytes(b"".join([*lines[:9], b"b\xe4d\n", *lines[10:]]))
    out = tmp_path / "out.jsonl"
    assert answer(run_dir, texts_file, out) == 1
    err = capsys.readouterr().err
    assert "texts.txt:10: not UTF-8" in err
    assert "8 texts are answered and kept" in err
    texts_file.write_bytes(good)
    assert answer(run_dir, texts_file, out, "--resume") == 0
    assert len(out.read_text().splitlines()) == 23


def stored_zstd(content: bytes) -> bytes:
    """A zstd frame (RFC 8878) with its content as it is, in one raw block."""
    head = b"\x28\xb5\x2f\xfd" + b"\xa0" + len(content).to_bytes(4, "little")
    return head + (len(content) << 3 | 1).to_bytes(3, "little") + content


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_compressed_texts(run_dir: Path, texts_file: Path, tmp_path: Path, kind: str) -> None:
    packed = tmp_path / f"texts.txt.{kind}"
    if kind == "gz":
        with gzip.open(packed, "wb") as file:  # two members
            file.write(texts_file.read_bytes()[:40])
        with gzip.open(packed, "ab") as file:
            file.write(texts_file.read_bytes()[40:])
    else:
        packed.write_bytes(stored_zstd(texts_file.read_bytes()))
    plain, out = tmp_path / "plain.jsonl", tmp_path / "out.jsonl"
    assert answer(run_dir, texts_file, plain, "--quiet") == 0
    assert answer(run_dir, packed, out, "--quiet") == 0
    assert out.read_bytes() == plain.read_bytes()


def test_a_damaged_gzip_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.gz"
    whole = gzip.compress(b"a text\n" * 10_000)
    for damaged in (whole[:-9], whole[:30] + b"\xff" * 8 + whole[38:], whole[:-5] + b"12345"):
        path.write_bytes(damaged)
        with (
            pytest.raises(ValueError, match=r"t\.gz: damaged or not a gzip stream"),
            open_texts(path) as texts,
        ):
            list(texts)


@pytest.mark.parametrize(
    ("content", "lines"),
    [(b"", 0), (b"a", 1), (b"a\n", 1), (b"\n\n", 2), (b"a\nb" * 10**6, 10**6 + 1)],
)
def test_lines_are_counted_as_they_are_read(tmp_path: Path, content: bytes, lines: int) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(content)
    assert count_lines(path) == lines
    with open_texts(path) as texts:
        assert sum(1 for _ in texts) == lines
    path.write_bytes(gzip.compress(content))
    assert count_lines(path) is None


def test_a_pipe_is_read_once(run_dir: Path, texts_file: Path, tmp_path: Path) -> None:
    plain, out, pipe = tmp_path / "plain.npz", tmp_path / "out.npz", tmp_path / "pipe"
    os.mkfifo(pipe)
    assert answer(run_dir, texts_file, plain, "--quiet") == 0
    with subprocess.Popen(["cp", str(texts_file), str(pipe)]):
        assert answer(run_dir, pipe, out) == 0
    assert out.read_bytes() == plain.read_bytes()


def test_groups_by_text_and_id(
    run_dir: Path, texts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = part_path(run_dir, "labels/texts").read_text().splitlines()
    only, without = tmp_path / "only.txt", tmp_path / "without.txt"
    only.write_text(f"3\n{names[9]}\n\n12\n")
    without.write_text(f"{names[12]}\n40\n")
    out = tmp_path / "out.npz"
    assert answer(run_dir, texts_file, out, "--only", str(only), "--quiet") == 0
    assert data.load_scores(out).shape == (23, 64)
    assert set(data.load_scores(out).indices.tolist()) == {3, 9, 12}
    both = ["--only", str(only), "--without", str(without), "--quiet"]
    assert answer(run_dir, texts_file, out, *both) == 0
    assert set(data.load_scores(out).indices.tolist()) == {3, 9}
    assert answer(run_dir, texts_file, out, "--without", str(without), "-k", "64", "--quiet") == 0
    assert set(data.load_scores(out).indices.tolist()) == set(range(64)) - {12, 40}
    for content, message in (
        ("3\n64\n", "only.txt:2: label 64 out of range (n_labels = 64)"),
        (f"{names[9][:-1]}\n", f"only.txt:1: no label has the text or id '{names[9][:-1]}'; did"),
    ):
        only.write_text(content)
        assert answer(run_dir, texts_file, out, "--only", str(only), "--quiet") == 1
        assert message in capsys.readouterr().err


def test_a_removed_label_is_in_no_group(tmp_path: Path) -> None:
    path = tmp_path / "only.txt"
    labels = LabelSet.of(["a", "b", "a", "c"], np.zeros(4, np.int64)).removed(np.array([0, 3]))
    for content, mask in (("a\n", [2]), ("b\n2\n", [1, 2])):
        path.write_text(content)
        assert np.flatnonzero(read_group(path, labels)).tolist() == mask
    for content, message in (
        ("1\n0\n", "only.txt:2: label 0 was removed"),
        ("c\n", "no label has"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_group(path, labels)


def test_labels_added_later_do_not_widen_the_answer_for_test_points(
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, out = tmp_path / "before.npz", tmp_path / "out.npz"
    assert run(command.main, [str(run_dir), "--out", str(before), "--quiet"]) == 0
    edited = Predictor.open(run_dir, search="exact")
    edited.add_labels(["kernel driver", "mail"])
    monkeypatch.setattr(Predictor, "open", staticmethod(lambda *_, **__: edited))
    assert run(command.main, [str(run_dir), "--out", str(out)]) == 0
    assert "labels added since the training are left out: 2" in capsys.readouterr().err
    a, b = data.load_scores(before), data.load_scores(out)
    assert a.shape == b.shape
    np.testing.assert_allclose(a.toarray(), b.toarray(), atol=1e-6)


def test_json_lines_on_stdout(
    run_dir: Path, texts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    assert answer(run_dir, texts_file, out, "--quiet") == 0
    arguments = [str(run_dir), str(texts_file), "--jsonl", "-k", "3", "--block", "4"]
    assert run(command.main, arguments) == 0
    assert capsys.readouterr().out == out.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jsonl", "--out", "x.jsonl"], "--jsonl is for stdout"),
        (["--resume"], "--resume needs --out"),
        (["--block", "0"], "block = '0'"),
    ],
)
def test_wrong_use(
    run_dir: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(command.main, [str(run_dir), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_no_texts_at_all(run_dir: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_bytes(b"")
    assert answer(run_dir, empty, tmp_path / "out.npz", "--quiet") == 0
    assert data.load_scores(tmp_path / "out.npz").shape == (0, 64)
    assert answer(run_dir, empty, tmp_path / "out.jsonl", "--quiet") == 0
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_someone_who_types_is_answered_line_by_line(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Typed(io.RawIOBase):
        """Gives the second line only when the first is answered."""

        def __init__(self) -> None:
            self.lines = [b"kernel driver\n", b"mail server\n"]

        def readable(self) -> bool:
            return True

        def readline(self, size: int | None = -1, /) -> bytes:
            if len(self.lines) == 1:
                assert capsys.readouterr().out.startswith("kernel driver\n")
            return self.lines.pop(0) if self.lines else b""

    class Terminal:
        buffer = Typed()

        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    assert run(command.main, [str(run_dir), "-", "-k", "2", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("mail server\n")


def test_the_table_fits_the_terminal() -> None:
    ids = np.array([[3, 10, -1]], np.int32)
    scores = np.array([[1.25, 0.5, -np.inf]], np.float32)
    names = [f"label {i} " + "x" * 30 for i in range(11)]
    shown = as_table(["a long text " * 4], ids, scores, names, 30).splitlines()
    assert shown == [
        "a long text a long text a lon…",
        "    1.250   3  label 3 xxxxxx…",
        "    0.500  10  label 10 xxxxx…",
    ]
    full = as_table(["a"], ids, scores, names).splitlines()
    assert full[1] == f"    1.250   3  {names[3]}"
    assert fit("日本語", 6) == "日本語"
    assert fit("日本語x", 6) == "日本…"
    assert fit("ab\x1b[31m", 80) == "ab\ufffd[31m"
    assert fit("abc", 3) == "abc"


def test_csr_parts_sort_ids_and_drop_padding() -> None:
    ids = np.array([[5, 2, -1], [-1, -1, -1], [0, 9, 4]], np.int32)
    scores = np.array([[3, 2, -np.inf], [-np.inf] * 3, [9, 8, 7]], np.float32)
    counts, flat, values = csr_parts(ids, scores)
    assert counts.tolist() == [2, 0, 3]
    assert flat.tolist() == [2, 5, 0, 4, 9]
    assert values.tolist() == [2, 3, 9, 7, 8]


MANY = """
import resource, sys
import numpy as np
from dexml.console import run
from dexml.predict import Predictor
from dexml.commands import predict as command
from dexml.scorers import Embedder

opened = []
original = Predictor.open

def open_limited(*args, **given):
    if opened:
        return opened[0]
    predictor = original(*args, **given)
    opened.append(predictor)
    vectors = np.random.default_rng(0).normal(size=(4096, 17)).astype(np.float32)
    Embedder.points = lambda self, queries, _: vectors[: len(queries)]
    predictor.predict(["x"] * 4096, 10)
    used = next(int(s.split()[1]) << 10 for s in open("/proc/self/status") if "VmData" in s)
    resource.setrlimit(resource.RLIMIT_DATA, (used + (20 << 20),) * 2)
    return predictor

Predictor.open = open_limited
for out, k in (("out.npz", "10"), ("out.jsonl", "1")):
    arguments = [*sys.argv[1:], "--out", out, "-k", k]
    if code := run(command.main, arguments):
        sys.exit(code)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_half_a_million_texts_in_little_memory(run_dir: Path, tmp_path: Path) -> None:
    """20 MiB of allocations beyond the opened run; the answers would take 44 MB and more.

    The encoder is a stub here: its blocks are of one size whatever the length of the input.
    """
    (tmp_path / "texts.txt").write_bytes(b"kernel driver\n" * 500_000)
    done = subprocess.run(
        [sys.executable, "-c", MANY, str(run_dir), "texts.txt", "--threads", "1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = data.load_scores(tmp_path / "out.npz")
    assert found.shape == (500_000, 64)
    assert found.nnz == 5_000_000
    with (tmp_path / "out.jsonl").open("rb") as file:
        assert sum(1 for _ in file) == 500_000


def test_large_archives_are_stored_and_hold_the_same(
    run_dir: Path, texts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / "packed.npz", tmp_path / "stored.npz"]
    for out, limit in zip(files, (23 * 3, 23 * 3 - 1), strict=True):
        monkeypatch.setattr(partial, "PACK_UP_TO", limit)
        assert answer(run_dir, texts_file, out, "--quiet") == 0
    packed, stored = (zipfile.ZipFile(f).getinfo("data.npy") for f in files)
    assert (packed.compress_type, stored.compress_type) == (8, 0)
    a, b = (data.load_scores(f) for f in files)
    assert (a != b).nnz == 0
