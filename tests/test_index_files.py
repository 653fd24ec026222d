"""The folder of an index: every damage is found, and a kill leaves the old index whole."""

import hashlib
import json
import shutil
import struct
import subprocess
import sys
from copy import copy
from pathlib import Path

import numpy as np
import pytest

from dexml.files import digest_of, spelled
from dexml.index import LabelIndex, exact_search, labels
from dexml.index.parts import FORMAT
from dexml.sealed import read
from killing import killed_everywhere
from test_index import same, unit


@pytest.fixture(scope="module")
def index() -> LabelIndex:
    made = LabelIndex.build(unit(0, 300), unit(1, 40), search="hnsw", seed=3)
    made.remove_labels([7])
    return made


@pytest.fixture
def folder(index: LabelIndex, tmp_path: Path) -> Path:
    index.save(tmp_path / "index")
    return tmp_path / "index"


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}


def part(folder: Path, role: str) -> Path:
    return read(folder, FORMAT).path(role)


def reseal(folder: Path, role: str, content: bytes, **changes: object) -> None:
    """Put another file in the place of one, with seals that fit: what an attacker can do."""
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256(content).hexdigest()
    old = folder / manifest["parts"][role]["name"]
    name = f"{role}-{digest[:16]}{old.suffix}"
    old.unlink()
    (folder / name).write_bytes(content)
    manifest["parts"][role] = {"name": name, "bytes": len(content), "sha256": digest}
    manifest |= changes
    manifest["digest"] = digest_of(manifest)
    (folder / "manifest.json").write_text(spelled(manifest))


def test_save_and_load(index: LabelIndex, folder: Path) -> None:
    index.save(folder)  # over an older one
    assert len(files(folder)) == 6
    loaded = LabelIndex.load(folder)
    assert loaded.facts == index.facts
    assert loaded.n_labels == 300
    np.testing.assert_array_equal(loaded.vectors, index.vectors)
    np.testing.assert_array_equal(loaded.alive, index.alive)
    for search in ("exact", "hnsw"):
        options = {"search": search}
        same(loaded.search(unit(2, 40), 9, **options), index.search(unit(2, 40), 9, **options))  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"not an index \(no manifest.json there\)"):
        LabelIndex.load(folder.parent)
    assert loaded.add_labels(unit(5, 1)).tolist() == [300]


def test_folders_are_given_as_text_or_path(index: LabelIndex, tmp_path: Path) -> None:
    class Place:
        def __fspath__(self) -> str:
            return str(tmp_path / "b")

    index.save(str(tmp_path / "a"))
    index.save(Place())
    assert LabelIndex.load(str(tmp_path / "a")).n_labels == 300
    assert LabelIndex.load(Place()).n_labels == 300


@pytest.mark.parametrize("search", ["exact", "hnsw"])
def test_an_empty_index_is_saved_too(search: str, tmp_path: Path) -> None:
    made = LabelIndex.build(unit(0, 0), search=search)  # type: ignore[arg-type]
    made.save(tmp_path / "index")
    loaded = LabelIndex.load(tmp_path / "index")
    assert (loaded.search(unit(0, 1), 2)[0] == -1).all()
    loaded.add_labels(unit(0, 1))
    loaded.save(tmp_path / "index")
    assert LabelIndex.load(tmp_path / "index").search(unit(0, 1), 2)[0].tolist() == [[0, -1]]


def test_saving_writes_only_what_changed(folder: Path) -> None:
    index = LabelIndex.load(folder)
    index.add_labels(unit(5, 1))
    before = {p.name: p.stat().st_ino for p in folder.iterdir()}
    index.save(folder)
    parts = read(folder, FORMAT).parts
    kept = {role for role, seal in parts.items() if before.get(seal["name"])}
    assert kept == {"graph", "nodes", "queries"}
    assert before[parts["graph"]["name"]] == part(folder, "graph").stat().st_ino
    assert len(files(folder)) == 6


def test_same_edits_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        made = LabelIndex.build(unit(0, 300), unit(1, 20), search="hnsw", seed=1)
        made.save(tmp_path / name)
        made = LabelIndex.load(tmp_path / name)
        made.add_labels(unit(2, 1500))
        made.remove_labels([4, 1700])
        made.save(tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_every_damage_is_found_before_anything_reads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a damaged file was read")

    monkeypatch.setattr("hnswlib.Index", never)
    monkeypatch.setattr("dexml.sealed.state.np.load", never)
    for path in [p for p in folder.iterdir() if p.name != ".lock"]:
        whole = path.read_bytes()
        sample = {*range(0, len(whole), max(1, len(whole) // 20)), len(whole) - 1, 0, 8, 9}
        if path.name == "manifest.json":
            sample = set(range(0, len(whole), 3))
        for place in sorted(sample):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << place % 8
            longer = whole[:place] + b" " + whole[place:]
            for damaged in (bytes(flipped), whole[:place], longer):
                path.write_bytes(damaged)
                with pytest.raises(ValueError, match=r"not the file that was saved|damaged|format"):
                    LabelIndex.load(folder)
        path.write_bytes(whole)


def test_swapped_missing_and_foreign_files_are_refused(folder: Path, tmp_path: Path) -> None:
    other = LabelIndex.build(unit(9, 300), search="hnsw", seed=3)
    other.save(tmp_path / "other")
    for role in read(folder, FORMAT).parts:
        path = part(folder, role)
        whole = path.read_bytes()
        path.unlink()
        with pytest.raises(FileNotFoundError, match=f"{path.name}: missing; build the index again"):
            LabelIndex.load(folder)
        theirs = part(tmp_path / "other", role).read_bytes()
        if theirs != whole:
            path.write_bytes(theirs)
            with pytest.raises(ValueError, match="not the file that was saved"):
                LabelIndex.load(folder)
        path.write_bytes(whole)
    for name in ("vectors.pkl", "notes.txt", "graph-0.hnsw"):
        (folder / name).write_text("x")
        with pytest.raises(ValueError, match=f"{name}: not a part of an index; remove it"):
            LabelIndex.load(folder)
        (folder / name).unlink()
    LabelIndex.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 4}, "format 4 is newer than 3; update dexml"),
        ({"format_version": 2}, "format 2 of an older dexml; build the index again"),
        ({"format_version": True}, "damaged"),
        ({"kind": "ivf"}, "values out of range"),
        ({"n_labels": -1}, "values out of range"),
        ({"n_labels": 299}, "damaged"),
        ({"n_alive": 300}, "damaged"),
        ({"dim": 11}, "damaged"),
        ({"m": 17}, r"place of vectors|bytes a node"),
        ({"seed": "3"}, "seed is not of type int"),
        ({"unknown": 1}, "fields of an index: .*, unknown"),
        ({"parts": {}}, r"manifest.json: damaged \(no vectors\)"),
        ({"recalls": []}, "a graph without a measured recall"),
        ({"recalls": [{"k": 1}]}, "damaged"),
    ],
)
def test_manifests_that_do_not_fit_are_refused(
    folder: Path, change: dict[str, object], message: str
) -> None:
    manifest = json.loads((folder / "manifest.json").read_text()) | change
    manifest["digest"] = digest_of(manifest)
    (folder / "manifest.json").write_text(spelled(manifest))
    with pytest.raises(ValueError, match=message) as error:
        LabelIndex.load(folder)
    assert "\n" not in str(error.value)
    assert "index" in str(error.value)


RECORD = 4 + 8 * 16 + 4 * 12 + 8
CRAFTED = {
    "count": (16, "<Q", 301, "nodes: 301, not 300"),
    "lowest level": (0, "<Q", 8, "lowest level: 8"),
    "record": (24, "<Q", 10**9, "bytes a node"),
    "numbers": (32, "<Q", 0, "place of numbers"),
    "vectors": (40, "<Q", 0, "place of vectors"),
    "levels": (48, "<i", 60, "levels"),
    "negative levels": (48, "<i", -5, "levels"),
    "entry": (52, "<I", 300, "entry at node 300"),
    "links": (56, "<Q", 1000, "links: 1000"),
    "links below": (64, "<Q", 1000, "links in the lowest level"),
    "M": (72, "<Q", 1000, "M: 1000"),
    "capacity": (8, "<Q", 10, "capacity 10"),
    "too many links": (96 + 5 * RECORD, "<H", 33, "a node with 33 links"),
    "deleted": (96 + 5 * RECORD + 2, "<B", 1, "flags"),
    "link out": (96 + 5 * RECORD + 4, "<I", 300, "a link to node 300 of 300"),
    "number": (96 + 6 * RECORD - 8, "<Q", 2**40, "not numbered from 0"),
    "higher size": (96 + 300 * RECORD, "<I", 17, "bytes of higher levels"),
    "cut": (None, "", 0, "damaged"),
    "longer": (None, "<Q", 0, "bytes too many"),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_graphs_are_refused_before_hnswlib_reads(
    folder: Path, index: LabelIndex, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, form, value, message = CRAFTED[case]
    content = bytearray(part(folder, "graph").read_bytes())
    if place is None:
        content = content + struct.pack(form, value) if form else content[:-9]
    else:
        content[place : place + struct.calcsize(form)] = struct.pack(form, value)
    reseal(folder, "graph", bytes(content))
    monkeypatch.setattr("hnswlib.Index", None)
    with pytest.raises(ValueError, match=message):
        LabelIndex.load(folder)


def test_a_link_to_a_node_below_its_level_is_refused(folder: Path, index: LabelIndex) -> None:
    content = bytearray(part(folder, "graph").read_bytes())
    place, levels = 96 + 300 * RECORD, {}
    for node in range(300):
        (length,) = struct.unpack_from("<I", content, place)
        levels[node] = (place + 4, length // (4 + 4 * 16))
        place += 4 + length
    low = next(n for n, (_, level) in levels.items() if level == 0)
    high = next(p for p, level in levels.values() if level > 0)
    assert struct.unpack_from("<H", content, high)[0] > 0
    struct.pack_into("<I", content, high + 4, low)
    reseal(folder, "graph", bytes(content))
    with pytest.raises(ValueError, match="a link of level 1 leads to a node below it"):
        LabelIndex.load(folder)


def test_other_crafted_files_are_refused(folder: Path, index: LabelIndex) -> None:
    import io

    def npy(array: np.ndarray, *, pickle: bool = False) -> bytes:
        file = io.BytesIO()
        np.save(file, array, allow_pickle=pickle)
        return file.getvalue()

    table = np.load(part(folder, "nodes"))
    outside, twice, dead = table.copy(), table.copy(), table.copy()
    outside[3, 0], twice[3, 0], dead[7, 1] = 300, 4, 1
    bad = np.asarray(index.vectors).copy()
    bad[5, 5] = np.nan
    for role, content, message in (
        ("vectors", npy(np.array([{}]), pickle=True), "damaged"),
        ("vectors", npy(unit(0, 300).astype(np.float64)), "float64 of shape"),
        ("vectors", npy(bad), "row 5 holds NaN"),
        ("vectors", b"\x93NUMPY\x01\x00", "damaged"),
        ("alive", npy(np.ones(299, np.bool_)), "damaged"),
        ("alive", npy(np.ones(300, np.bool_)), "300 labels, not 299"),
        ("nodes", npy(outside), "a node of a label that does not exist"),
        ("nodes", npy(twice), "two nodes of a label"),
        ("nodes", npy(dead), "one of a removed label"),
    ):
        crafted = folder.with_name("crafted")
        shutil.copytree(folder, crafted)
        reseal(crafted, role, content)
        with pytest.raises(ValueError, match=message):
            LabelIndex.load(crafted)
        shutil.rmtree(crafted)


def test_a_kill_while_saving_leaves_the_old_index_or_the_new_one(folder: Path) -> None:
    old, outcomes = files(folder), []

    def save(folder: Path) -> None:
        index = LabelIndex.load(folder)
        index.add_labels(np.ones((1500, 12), np.float32))
        index.remove_labels([0])
        index.update_labels([1], np.ones((1, 12), np.float32))
        index.save(folder)

    for killed in killed_everywhere(folder, save, every=5):
        index = LabelIndex.load(killed)
        outcomes.append(index.n_labels)
        if index.n_labels == 300:
            assert old.items() <= files(killed).items()
        index.add_labels(unit(0, 1))
        index.save(killed)  # goes on, and clears what was left
        assert len(files(killed)) == 6
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {300, 1800}


def test_saving_refuses_to_write_over_what_is_not_an_index(
    index: LabelIndex, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match=r"thesis.tex, which is not a part of an index"):
        index.save(tmp_path / "mine")
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="not a folder"):
        index.save(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        index.save(tmp_path / "no" / "index")


def test_an_index_of_format_2_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    for role in ("vectors.npy", "alive.npy", "queries.npy", "labels.txt", "graph.hnsw"):
        stem, suffix = role.split(".")
        (folder / f"{stem}-{'0' * 16}.{suffix}").write_text("x")
    (folder / "manifest.json").write_text(json.dumps({"format_version": 2}))
    with pytest.raises(ValueError, match="format 2 of an older dexml; build the index again"):
        LabelIndex.load(folder)
    LabelIndex.build(unit(0, 9)).save(folder)
    named = [seal["name"] for seal in read(folder, FORMAT).parts.values()]
    assert sorted(files(folder)) == sorted([*named, "manifest.json"])
    # Format 1 had files that could be anyone's: they are not removed, and not sealed in.
    (folder / "vectors.npy").write_text("x")
    with pytest.raises(FileExistsError, match=r"holds vectors.npy, which is not a part"):
        LabelIndex.build(unit(0, 9)).save(folder)


def test_two_editors_do_not_overwrite_each_other(folder: Path) -> None:
    a, b = LabelIndex.load(folder), LabelIndex.load(folder)
    a.remove_labels([1])
    b.remove_labels([2])
    a.save(folder)
    with pytest.raises(RuntimeError, match="changed by another process"):
        b.save(folder)
    a.remove_labels([3])
    a.save(folder)
    assert np.flatnonzero(~LabelIndex.load(folder).alive).tolist() == [1, 3, 7]


def test_a_reader_during_saves_gets_a_whole_index(folder: Path) -> None:
    code = """
import sys
from copy import copy
from pathlib import Path
import numpy as np
from dexml.index import LabelIndex
index = LabelIndex.load(Path(sys.argv[1]))
for step in range(40):
    index.update_labels([5], np.full((1, 12), step, np.float32))
    index.save(Path(sys.argv[1]))
"""
    writer = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    seen = []
    while writer.poll() is None:
        index = LabelIndex.load(folder)
        seen.append(float(index.vectors[5, 0]))
        same(
            index.search(unit(2, 3), 5, search="exact"),
            exact_search(unit(2, 3), index.vectors, 5, only=index.alive),
        )
    assert writer.returncode == 0
    assert len(seen) > 1


def test_a_graph_whose_last_insert_came_from_a_copy_that_was_dropped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edit that fails half way has put labels into the shared graph that do not exist."""
    monkeypatch.setattr(labels, "PENDING", 10)
    index = LabelIndex.load(folder)
    copy(index).add_labels(unit(5, 20))
    index.remove_labels([8])
    index.save(folder)
    loaded = LabelIndex.load(folder)
    assert loaded.n_labels == 300
    ids = loaded.add_labels(unit(6, 20))
    expected = exact_search(unit(2, 30), loaded.vectors, 5, only=loaded.alive)
    same(loaded.search(unit(2, 30), 5, search="hnsw"), expected)
    assert ids.tolist() == list(range(300, 320))
