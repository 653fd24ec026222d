"""Sealed folders: all of a save comes into force or nothing, and every damage is found."""

import errno
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dexml import locks
from dexml.files import digest_of, seal_of, spelled, write_text
from dexml.sealed import LOCK, Format, Home, Part, Sealed, array_part, load, read
from killing import killed_everywhere

FORMAT = Format("thing.json", "a thing", 5, "make it again", "make a new one")
WHOLE = Format("thing.json", "a thing", 5, "make it again", "make a new one", whole=True)


@dataclass
class Thing:
    """Arrays and a text in a sealed folder; `same` is the text under a second role."""

    numbers: np.ndarray
    text: str
    home: Home = field(default_factory=Home)

    def parts(self) -> dict[str, Part]:
        text = Part(lambda path: write_text(path, self.text), ".txt", (self.text,))
        return {"a/numbers": array_part(self.numbers), "b/text": text, "b/same": text}

    def save(self, folder: Path, kind: Format = FORMAT, **rest: Any) -> None:
        self.home.save(folder, kind, {"n": len(self.numbers)}, self.parts(), **rest)

    @classmethod
    def load(cls, folder: Path, kind: Format = FORMAT) -> "Thing":
        def build(state: Sealed) -> Thing:
            n = state.facts["n"]
            numbers = state.array("a/numbers", np.int64, (n,), mmap_mode="r")
            thing = cls(numbers, state.path("b/text").read_text())
            thing.home.note(state, thing.parts())
            return thing

        return load(folder, kind, build)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Thing(np.arange(5), "one").save(tmp_path / "thing")
    return tmp_path / "thing"


def files(folder: Path) -> dict[str, bytes]:
    """All files but the lock, by their names in the folder."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(paths)}


def forge(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest, with a digest that fits."""
    content = json.loads((folder / "thing.json").read_text())
    change(content)
    (folder / "thing.json").write_text(spelled(content | {"digest": digest_of(content)}))


def test_what_is_saved_is_read_again(folder: Path) -> None:
    thing = Thing.load(folder)
    assert thing.numbers.tolist() == [0, 1, 2, 3, 4]
    assert thing.text == "one"
    assert len(files(folder)) == 3


def test_a_part_is_written_when_its_source_changed_and_removed_when_it_is_old(
    folder: Path,
) -> None:
    before = {name: (folder / name).stat() for name in files(folder)}
    thing = Thing.load(folder)
    thing.text = "two"
    thing.save(folder)
    after = read(folder, FORMAT).parts
    assert after["b/text"] == after["b/same"]
    assert set(files(folder)) == {"thing.json", *(str(part["name"]) for part in after.values())}
    numbers = after["a/numbers"]["name"]
    stat = (folder / numbers).stat()
    assert (stat.st_ino, stat.st_mtime_ns) == (before[numbers].st_ino, before[numbers].st_mtime_ns)
    thing.numbers = np.arange(6)  # a second save from the same home
    thing.save(folder)
    assert Thing.load(folder).numbers.tolist() == [0, 1, 2, 3, 4, 5]
    assert len(files(folder)) == 3


def test_a_kill_at_any_step_leaves_the_old_state_or_the_new_one(folder: Path) -> None:
    old, seen = files(folder), []

    def save(copy: Path) -> None:
        thing = Thing.load(copy)
        thing.numbers, thing.text = np.arange(100), "two"
        thing.save(copy)

    for copy in killed_everywhere(folder, save):
        thing = Thing.load(copy)
        state = (len(thing.numbers), thing.text)
        assert state in ((5, "one"), (100, "two"))
        if state == (5, "one"):
            assert old.items() <= files(copy).items()
        seen.append(state)
        thing.text = "three"
        thing.save(copy)  # goes on, and clears what was left
        assert Thing.load(copy).text == "three"
        assert len(files(copy)) == 3
    assert seen == sorted(seen)
    assert set(seen) == {(5, "one"), (100, "two")}


def test_a_kill_during_the_first_save_leaves_nothing_or_all(tmp_path: Path) -> None:
    def save(copy: Path) -> None:
        parts = {"numbers": array_part(np.arange(5)), "more": array_part(np.arange(6))}
        Home().save(copy, WHOLE, {}, parts)

    (tmp_path / "empty").mkdir()
    outcomes = []
    for copy in killed_everywhere(tmp_path / "empty", save):
        outcomes.append((copy / "thing.json").exists())
        if outcomes[-1]:
            read(copy, WHOLE).check_all()
        save(copy)
        read(copy, WHOLE).check_all()
        assert len(files(copy)) == 3
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}


@pytest.mark.parametrize("function", ["os.fsync", "os.replace", "Path.chmod", "os.fdopen"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_an_error_at_any_step_leaves_the_old_state_or_the_new_one(
    folder: Path, function: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thing itself knows which one it is: it can be saved again."""
    owner, name = {"os": os, "Path": Path}[function.split(".")[0]], function.split(".")[1]
    original = getattr(owner, name)
    for step in range(1, 40):
        thing = Thing.load(folder)
        old, calls = thing.text, 0

        def fail(*args: Any, step: int = step, **rest: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                raise error
            return original(*args, **rest)

        thing.text = f"{step} {function}"
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            try:
                thing.save(folder)
            except type(error):
                assert Thing.load(folder).text in (old, thing.text)
        thing.save(folder)
        assert Thing.load(folder).text == thing.text
        assert len(files(folder)) == 3
        if calls < step:
            return
    raise AssertionError("the save never went through")


def test_a_reader_always_sees_one_whole_state(folder: Path) -> None:
    code = """
import sys
from pathlib import Path
import numpy as np
from test_sealed import Thing
folder = Path(sys.argv[1])
thing = Thing.load(folder)
for step in range(100):
    thing.numbers, thing.text = np.full(5, step), str(step)
    thing.save(folder)
"""
    Thing(np.full(5, 0), "0").save(folder)
    paths = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], env=os.environ | {"PYTHONPATH": paths}
    )
    seen = []
    while writer.poll() is None:
        thing = Thing.load(folder)
        assert thing.numbers.tolist() == [int(thing.text)] * 5
        seen.append(int(thing.text))
    assert writer.returncode == 0
    assert len(set(seen)) > 1
    assert seen == sorted(seen)


def test_a_mapped_part_outlives_the_save_that_replaces_it(folder: Path) -> None:
    reader = Thing.load(folder)
    writer = Thing.load(folder)
    writer.numbers = np.zeros(5, np.int64)
    writer.save(folder)
    assert reader.numbers.tolist() == [0, 1, 2, 3, 4]


def test_of_two_savers_the_second_is_refused(folder: Path) -> None:
    first, second = Thing.load(folder), Thing.load(folder)
    first.text = second.text = "mine"
    first.save(folder)
    before = files(folder)
    with pytest.raises(RuntimeError, match="thing: changed by another process since it was opened"):
        second.save(folder)
    assert files(folder) == before
    first.text = "mine again"
    first.save(folder)
    second.save(folder.with_name("elsewhere"))
    assert Thing.load(folder.with_name("elsewhere")).text == "mine"


def test_a_save_waits_for_another_one_but_not_for_ever(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thing = Thing.load(folder)
    thing.text = "two"
    with locks.hold(folder / LOCK, "x", "training"):
        timer = threading.Timer(0.2, lambda: None)
        timer.start()
        monkeypatch.setattr("dexml.sealed.home.WAIT", 0.1)
        with pytest.raises(RuntimeError, match=r"thing: in use by process \d+ \(training, since "):
            thing.save(folder)
        timer.join()
        thing.save(folder, lock=False)  # for the holder itself
    held = threading.Event()

    def hold() -> None:
        with locks.hold(folder / LOCK, "x", "saving"):
            held.set()
            threading.Event().wait(0.2)

    monkeypatch.setattr("dexml.sealed.home.WAIT", 10)
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    thing.text = "three"
    thing.save(folder)
    thread.join()
    assert Thing.load(folder).text == "three"


def test_a_writer_that_writes_less_than_it_says_is_noticed(folder: Path) -> None:
    before, thing = files(folder), Thing.load(folder)
    short = Part(lambda path: path.write_bytes(b"12") + 3, ".txt", ("new",))
    with pytest.raises(OSError, match=r"b/text: cut short at 2 of 5 bytes; is the disk full"):
        thing.home.save(folder, FORMAT, {"n": 5}, {"b/text": short})
    nothing = Part(lambda path: None, ".txt", ("new",))
    with pytest.raises(FileNotFoundError):
        thing.home.save(folder, FORMAT, {"n": 5}, {"b/text": nothing})
    assert files(folder) == before


LIMITED = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from scipy.sparse import csr_array
from dexml import data
from dexml.files import write_text
from dexml.index import LabelIndex
from dexml.sealed import Format, Home, Part, array_part
from dexml.files import write_array

folder, kind = Path(sys.argv[1]), sys.argv[2]
vectors = np.random.default_rng(0).normal(size=(3000, 16)).astype(np.float32)

def safetensors(path):
    from safetensors.numpy import save_file
    save_file({"a": vectors}, path)

def graph(path):
    from dexml.index.parts import as_parts
    index = LabelIndex.build(vectors[:500], search="hnsw")
    index.parts()["graph"].write(path)

writers = {
    "npy": lambda path: write_array(path, vectors),
    "txt": lambda path: write_text(path, "a text" * 5000),
    "npz": lambda path: data.save_labels(path, csr_array(vectors)),
    "safetensors": safetensors,
    "hnsw": graph,
}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    part = Part(writers[kind], "." + kind, (kind,))
    Home().save(folder, Format("thing.json", "a thing", 5, "x", "x"), {}, {"a/b": part})
except Exception as error:
    print("noticed:", error)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("kind", ["npy", "txt", "npz", "safetensors", "hnsw"])
def test_a_file_that_is_cut_short_is_noticed_before_it_is_sealed(folder: Path, kind: str) -> None:
    before = files(folder)
    for limit in (4096, 20_000):
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, str(folder), kind, str(limit)],
            capture_output=True,
            text=True,
        )
        assert re.match("noticed: .*(cut short|File too large|as a whole)", done.stdout), done
        assert files(folder) == before
    Thing.load(folder)


@pytest.mark.skipif(os.name == "nt", reason="there is no umask")
@pytest.mark.parametrize(("mask", "mode"), [(0o027, 0o640), (0o002, 0o664)])
def test_files_follow_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    from safetensors.numpy import save_file
    from scipy.sparse import csr_array

    from dexml import data

    def tensors(path: Path) -> None:
        save_file({"a": np.zeros(3)}, path)

    def pairs(path: Path) -> None:
        data.save_labels(path, csr_array(np.eye(3, dtype=np.float32)))

    old = os.umask(mask)
    try:
        more = {
            "a/table": Part(tensors, ".safetensors", ("t",)),
            "a/pairs": Part(pairs, ".npz", ("p",)),
        }
        parts = Thing(np.arange(3), "x").parts() | more
        Home().save(tmp_path / "thing", FORMAT, {}, parts)
    finally:
        os.umask(old)
    paths = [path for path in (tmp_path / "thing").rglob("*") if path.is_file()]
    assert len(paths) == 6
    assert {path.stat().st_mode & 0o777 for path in paths} == {mode}
    folders = [path for path in (tmp_path / "thing").rglob("*") if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o777 & ~mask}


@pytest.mark.parametrize("kind", [FORMAT, WHOLE], ids=["parts", "whole"])
def test_what_systems_leave_in_folders_is_ignored(folder: Path, kind: Format) -> None:
    for place in (folder, folder / "a", folder / "b"):
        for name in (".DS_Store", ".nfs0123", "Thumbs.db", "desktop.ini", "._text"):
            (place / name).write_text("x")
        (place / ".Trash").mkdir()
        (place / ".Trash" / "file").write_text("x")
    thing = Thing.load(folder, kind)
    thing.text = "two"
    thing.save(folder, kind)
    assert Thing.load(folder, kind).text == "two"


def test_a_foreign_file_among_the_parts_is_refused_by_name(folder: Path) -> None:
    (folder / "notes.txt").write_text("beside the folders of parts")
    Thing.load(folder)
    with pytest.raises(ValueError, match=r"notes.txt: not a part of a thing; remove it, or move"):
        Thing.load(folder, WHOLE)
    (folder / "b" / "inner").mkdir()
    (folder / "b" / "inner" / "model.pkl").write_text("x")
    with pytest.raises(ValueError, match=r"b/inner/model.pkl: not a part of a thing"):
        Thing.load(folder)


def test_a_save_does_not_begin_in_a_folder_of_something_else(tmp_path: Path) -> None:
    thing = Thing(np.arange(3), "x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match=r"holds thesis.tex, which is not a part of a thing"):
        thing.save(tmp_path / "mine", WHOLE)
    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="file: not a folder; choose another place"):
        thing.save(tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="link: a link that leads nowhere"):
        thing.save(tmp_path / "link")
    with pytest.raises(FileNotFoundError):
        thing.save(tmp_path / "no" / "thing")


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << position % 8
    path.write_bytes(content)


def test_every_flipped_cut_or_longer_file_is_found(folder: Path) -> None:
    for name, whole in files(folder).items():
        for position in range(0, len(whole), 4):
            flip(folder / name, position)
            with pytest.raises(ValueError, match=r"damaged|format"):
                Thing.load(folder)
            for content in (whole[:position], whole[:position] + b" " + whole[position:]):
                (folder / name).write_bytes(content)
                with pytest.raises(ValueError, match=r"damaged|format"):
                    Thing.load(folder)
            (folder / name).write_bytes(whole)
    Thing.load(folder)


def named(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["parts"]["b/text"].update(name=name)


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "older": (lambda c: c.update(format_version=4), "format 4 of an older dexml; make a new one"),
    "newer": (lambda c: c.update(format_version=6), "format 6 is newer than 5; update dexml"),
    "no version": (lambda c: c.pop("format_version"), r"damaged \(no 'format_version'\)"),
    "a version that is true": (lambda c: c.update(format_version=True), "damaged"),
    "no parts": (lambda c: c.pop("parts"), r"damaged \(no 'parts'\)"),
    "parts in a list": (lambda c: c.update(parts=[]), r"thing.json: damaged \(no a/numbers\)"),
    "parts in a text": (lambda c: c.update(parts="parts"), "damaged"),
    "a seal with more": (lambda c: c["parts"]["b/text"].update(more=1), "no proper seal of b/text"),
    "a seal with less": (lambda c: c["parts"]["b/text"].pop("bytes"), "no proper seal of b/text"),
    "a size that is a text": (lambda c: c["parts"]["b/text"].update(bytes="3"), "no proper seal"),
    "a hash of capitals": (lambda c: c["parts"]["b/text"].update(sha256="A" * 64), "no proper"),
    "a hash that is none": (lambda c: c["parts"]["b/text"].update(sha256=None), "damaged"),
    "name above": (named("../text.txt"), "no proper seal of b/text"),
    "name above, inside": (named("b/../../text.txt"), "no proper seal of b/text"),
    "name from the root": (named("/etc/passwd"), "no proper seal of b/text"),
    "name with backslash": (named("..\\text.txt"), "no proper seal of b/text"),
    "name on a drive": (named("C:text.txt"), "no proper seal of b/text"),
    "name with a zero": (named("b/te\0xt"), "no proper seal of b/text"),
    "empty name": (named(""), "no proper seal of b/text"),
    "the folder itself": (named("."), "no proper seal of b/text"),
    "two slashes": (named("b//text.txt"), "no proper seal of b/text"),
    "a number as a name": (lambda c: c["parts"]["b/text"].update(name=3), "damaged"),
    "a role above": (
        lambda c: c["parts"].update({"../x/y": c["parts"]["b/text"]}),
        r"no proper seal of \.\./x/y",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_manifest_that_cannot_be_right_is_refused_in_one_line(folder: Path, case: str) -> None:
    change, message = WRONG[case]
    forge(folder, change)
    before = files(folder)
    with pytest.raises(ValueError, match=message) as error:
        Thing.load(folder)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{folder / 'thing.json'}: ")
    assert files(folder) == before


def test_a_manifest_that_is_none_is_refused(folder: Path) -> None:
    path = folder / "thing.json"
    for text in ("", "{", "[]", "3", "null", "[" * 10**6, "\xff", '{"a": 1}', "9" * 5000):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=r"thing.json: damaged \(.*\); make it again"):
            Thing.load(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"thing: not a thing \(no thing.json there\)"):
        Thing.load(folder)
    with pytest.raises(FileNotFoundError, match="not a thing"):
        Thing.load(folder / "nowhere")


def test_a_missing_part_is_named(folder: Path) -> None:
    for role, part in read(folder, FORMAT).parts.items():
        path = folder / part["name"]
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(FileNotFoundError, match=f"{path.name}: missing; make it again"):
            Thing.load(folder)
        path.write_bytes(content)
        assert read(folder, FORMAT).check(role) == path
    with pytest.raises(ValueError, match=r"thing.json: damaged \(no b/other\)"):
        read(folder, FORMAT).check("b/other")


def test_an_array_of_another_kind_is_refused(folder: Path) -> None:
    state = read(folder, FORMAT)
    for dtype, shape, message in (
        (np.int32, (5,), r"int64 of shape \(5,\), expected int32 \(5,\)"),
        (np.int64, (4,), r"expected int64 \(4,\)"),
        (np.int64, (None, 2), r"expected int64 \('any', 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            state.array("a/numbers", dtype, shape)
    with pytest.raises(ValueError, match="damaged"):
        state.array("b/text", np.int64, (5,))
    with pytest.raises(ValueError, match="no a/other"):
        state.array("a/other", np.int64, (5,))


def test_a_thing_opened_through_a_link_knows_its_own_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parent / "link").symlink_to(folder, target_is_directory=True)
    thing = Thing.load(folder.parent / "link")
    assert thing.home.state is not None
    assert thing.home.state.folder == folder
    other = Thing.load(folder)
    other.text = "two"
    other.save(folder.parent / "link")
    with pytest.raises(RuntimeError, match="changed by another process"):
        thing.save(folder)
    monkeypatch.chdir(folder.parent)
    thing = Thing.load(Path("thing"))
    monkeypatch.chdir("/")
    thing.text = "three"
    thing.save(folder)
    assert Thing.load(folder).text == "three"
    assert (folder.parent / "link").is_symlink()


def test_facts_are_those_that_a_reader_finds(tmp_path: Path) -> None:
    home = Home()
    facts = {"tuple": (1, 2), "numbers": {10: "a", 9: "b"}, "text": "ä", "inf": float("inf")}
    home.save(tmp_path / "thing", FORMAT, facts, {"a": array_part(np.arange(3))})
    state = read(tmp_path / "thing", FORMAT)
    assert home.state == state
    assert state.facts["numbers"] == {"10": "a", "9": "b"}


def test_files_that_belong_to_nobody_are_removed_but_only_where_parts_are(folder: Path) -> None:
    """What processes that were killed left: also of roles that the thing no longer has."""
    zeros, token = "0" * 16, "a" * 16
    gone = [
        f"b/old_role-{zeros}.txt",
        f"b/.{token}.new.text.txt",
        f"a/.{token}.new.numbers.npy",
        f".{token}.new.thing.json",
        f".{token}.old.b",
    ]
    kept = [f"other-{zeros}.txt", f".{token}.new.mine.npz", "c/notes.txt"]
    (folder / "c").mkdir()
    for name in (*gone, *kept):
        (folder / name).write_text("x")
    thing = Thing.load(folder)
    thing.text = "two"
    thing.save(folder)
    assert set(files(folder)) - set(kept) == {
        "thing.json",
        *(str(part["name"]) for part in read(folder, FORMAT).parts.values()),
    }
    assert set(kept) <= set(files(folder))


def test_parts_with_names_of_their_own_are_kept_as_they_are(folder: Path) -> None:
    """An encoder: its files have the names that other programs look for."""
    (folder / "whole" / "inner").mkdir(parents=True)
    (folder / "whole" / "inner" / "weights.bin").write_bytes(b"123")
    name = "whole/inner/weights.bin"
    keep = {name: {"name": name, **seal_of(folder / name)}}
    thing = Thing.load(folder)
    thing.home.save(folder, FORMAT, {"n": 5}, thing.parts(), keep=keep)
    thing = Thing.load(folder)
    assert thing.home.state is not None
    assert thing.home.state.check(name).read_bytes() == b"123"
    (folder / name).write_bytes(b"124")
    with pytest.raises(ValueError, match=r"weights.bin: damaged \(not the file that was saved\)"):
        Thing.load(folder)


def test_what_cannot_be_removed_does_not_make_a_save_fail(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows a file that somebody has open."""
    thing = Thing.load(folder)
    thing.text = "two"

    def busy(path: Path) -> None:
        raise PermissionError(f"{path}: in use")

    with monkeypatch.context() as patch:
        patch.setattr("dexml.sealed.home.remove", busy)
        thing.save(folder)
    assert Thing.load(folder).text == "two"
    assert len(files(folder)) == 4
    thing.text = "three"
    thing.save(folder)
    assert len(files(folder)) == 3


def test_folders_that_cannot_be_synced_are_no_hindrance(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def some(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", some)
    thing = Thing.load(folder)
    thing.text = "two"
    thing.save(folder)
    assert Thing.load(folder).text == "two"
