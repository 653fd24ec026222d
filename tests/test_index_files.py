"""The folder of an index: every damage is found, and a kill leaves the old index whole."""

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dexml.files import digest_of, spelled
from dexml.index import LabelIndex, exact_search, sealed
from test_index import same, unit


@pytest.fixture(scope="module")
def index() -> LabelIndex:
    texts = [f"label {i}" for i in range(300)]
    made = LabelIndex.build(
        unit(0, 300), unit(1, 40), texts=texts, search="hnsw", encoder="abc", seed=3
    )
    made.remove_labels([7])
    return made


@pytest.fixture
def folder(index: LabelIndex, tmp_path: Path) -> Path:
    index.save(tmp_path / "index")
    return tmp_path / "index"


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}


def reseal(folder: Path, role: str, content: bytes, **changes: object) -> None:
    """Put another file in the place of one, with seals that fit: what an attacker can do."""
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256(content).hexdigest()
    (folder / manifest["files"][role]["name"]).unlink()
    name = f"{role}-{digest[:16]}.{sealed.ROLES[role]}"
    (folder / name).write_bytes(content)
    manifest["files"][role] = {"name": name, "bytes": len(content), "sha256": digest}
    manifest |= changes
    manifest["digest"] = digest_of(manifest)
    (folder / "manifest.json").write_text(spelled(manifest))


def test_save_and_load(index: LabelIndex, folder: Path) -> None:
    index.save(folder)  # over an older one
    assert len(files(folder)) == 7
    loaded = LabelIndex.load(folder, encoder="abc")
    assert loaded.manifest == index.manifest
    assert loaded.texts == index.texts
    assert loaded.n_labels == 300
    for search in ("exact", "hnsw"):
        options = {"search": search}
        same(loaded.search(unit(2, 40), 9, **options), index.search(unit(2, 40), 9, **options))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="made by another encoder"):
        LabelIndex.load(folder, encoder="xyz")
    with pytest.raises(FileNotFoundError, match="no index there"):
        LabelIndex.load(folder.parent)
    assert loaded.add_labels(["new"], unit(5, 1)).tolist() == [300]


@pytest.mark.parametrize("search", ["exact", "hnsw"])
def test_an_empty_index_is_saved_too(search: str, tmp_path: Path) -> None:
    made = LabelIndex.build(unit(0, 0), texts=[], search=search)  # type: ignore[arg-type]
    made.save(tmp_path / "index")
    loaded = LabelIndex.load(tmp_path / "index")
    assert (loaded.search(unit(0, 1), 2)[0] == -1).all()
    loaded.add_labels(["a"], unit(0, 1))
    loaded.save(tmp_path / "index")
    assert LabelIndex.load(tmp_path / "index").search(unit(0, 1), 2)[0].tolist() == [[0, -1]]


def test_saving_writes_only_what_changed(folder: Path) -> None:
    index = LabelIndex.load(folder)
    index.add_labels(["new"], unit(5, 1))
    before = {p.name: p.stat().st_ino for p in folder.iterdir()}
    index.save(folder)
    roles = index.manifest.files
    kept = {role for role, seal in roles.items() if before.get(seal["name"])}
    assert kept == {"graph", "nodes", "queries"}
    assert before[roles["graph"]["name"]] == (folder / roles["graph"]["name"]).stat().st_ino
    assert len(files(folder)) == 7


def test_same_edits_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        made = LabelIndex.build(unit(0, 300), unit(1, 20), search="hnsw", seed=1)
        made.save(tmp_path / name)
        made = LabelIndex.load(tmp_path / name)
        made.add_labels(None, unit(2, 1500))
        made.remove_labels([4, 1700])
        made.save(tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_every_damage_is_found_before_anything_reads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a damaged file was read")

    monkeypatch.setattr("dexml.index.graph.hnswlib.Index", never)
    monkeypatch.setattr("dexml.index.folders.np.load", never)
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


def test_swapped_missing_and_foreign_files_are_refused(
    index: LabelIndex, folder: Path, tmp_path: Path
) -> None:
    other = LabelIndex.build(unit(9, 300), texts=index.texts, search="hnsw", encoder="abc", seed=3)
    other.save(tmp_path / "other")
    for role, seal in index.manifest.files.items():
        path = folder / seal["name"]
        whole = path.read_bytes()
        path.unlink()
        with pytest.raises(FileNotFoundError, match=f"the {role} of the index are not there"):
            LabelIndex.load(folder)
        theirs = (tmp_path / "other" / other.manifest.files[role]["name"]).read_bytes()
        if theirs != whole:
            path.write_bytes(theirs)
            with pytest.raises(ValueError, match="not the file that was saved"):
                LabelIndex.load(folder)
        path.write_bytes(whole)
    for name in ("vectors.pkl", "notes.txt", "graph-0.hnsw"):
        (folder / name).write_text("x")
        with pytest.raises(ValueError, match=f"{name} is no part of the index"):
            LabelIndex.load(folder)
        (folder / name).unlink()
    LabelIndex.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 3}, "format 3 is newer than 2; update dexml"),
        ({"format_version": 1}, "format 1 of an older dexml; build"),
        ({"format_version": True}, "damaged"),
        ({"kind": "ivf"}, "values out of range"),
        ({"n_labels": -1}, "values out of range"),
        ({"n_labels": 299}, "damaged"),
        ({"n_alive": 300}, "damaged"),
        ({"dim": 11}, "damaged"),
        ({"m": 17}, r"place of vectors|bytes a node"),
        ({"encoder": 3}, "encoder is not of type str"),
        ({"unknown": 1}, "unknown fields"),
        ({"files": {}}, "files of roles"),
        ({"recalls": [{"k": 1}]}, "damaged"),
    ],
)
def test_manifests_that_do_not_fit_are_refused(
    folder: Path, change: dict[str, object], message: str
) -> None:
    manifest = json.loads((folder / "manifest.json").read_text()) | change
    manifest["digest"] = digest_of(manifest)
    (folder / "manifest.json").write_text(spelled(manifest))
    with pytest.raises(ValueError, match=message):
        LabelIndex.load(folder)
    for text in ("{", "[]", "[" * 10**6, "\xff"):
        (folder / "manifest.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match="damaged"):
            LabelIndex.load(folder)


def test_names_in_a_manifest_cannot_lead_out_of_the_folder(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["alive"]["name"] = "../../alive.npy"
    manifest["digest"] = digest_of(manifest)
    (folder / "manifest.json").write_text(spelled(manifest))
    with pytest.raises(ValueError, match="file of the alive"):
        LabelIndex.load(folder)


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
    content = bytearray((folder / index.manifest.files["graph"]["name"]).read_bytes())
    if place is None:
        content = content + struct.pack(form, value) if form else content[:-9]
    else:
        content[place : place + struct.calcsize(form)] = struct.pack(form, value)
    reseal(folder, "graph", bytes(content))
    monkeypatch.setattr("dexml.index.graph.hnswlib.Index", None)
    with pytest.raises(ValueError, match=message):
        LabelIndex.load(folder)


def test_a_link_to_a_node_below_its_level_is_refused(folder: Path, index: LabelIndex) -> None:
    content = bytearray((folder / index.manifest.files["graph"]["name"]).read_bytes())
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

    table = np.load(folder / index.manifest.files["nodes"]["name"])
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
        ("labels", b"a\n", "1 lines for 300 labels"),
        ("nodes", npy(outside), "a node stands for no label"),
        ("nodes", npy(twice), "two nodes stand for a label"),
        ("nodes", npy(dead), "one for a removed label"),
    ):
        copy = folder.with_name("copy")
        shutil.copytree(folder, copy)
        reseal(copy, role, content)
        with pytest.raises(ValueError, match=message):
            LabelIndex.load(copy)
        shutil.rmtree(copy)


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from dexml.index import LabelIndex, sealed
folder, point = Path(sys.argv[1]), int(sys.argv[2])
index = LabelIndex.load(folder)
index.add_labels(["new"] * 1500, np.ones((1500, 12), np.float32))
index.remove_labels([0])
index.update_labels([1], ["changed"], np.ones((1, 12), np.float32))
step = 0
def dying(function):
    def call(*args, **kwargs):
        global step
        for _ in range(2):  # before the call and after it
            step += 1
            if step == point:
                os._exit(9)
            if _ == 0:
                result = function(*args, **kwargs)
        return result
    return call
sealed.synced, sealed.put, sealed.os.replace = map(dying, (sealed.synced, sealed.put, os.replace))
Path.unlink = dying(Path.unlink)
index.save(folder)
print("saved", step)
"""


def test_a_kill_while_saving_leaves_the_old_index_or_the_new_one(
    folder: Path, tmp_path: Path
) -> None:
    old = files(folder)
    outcomes, point = [], 1
    while True:
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(copy), str(point)], capture_output=True, text=True
        )
        found = LabelIndex.load(copy)
        assert found.n_labels in (300, 1800)
        outcomes.append(found.n_labels)
        if found.n_labels == 300:
            assert old.items() <= files(copy).items()
        found.add_labels(["one more"], unit(0, 1))
        found.save(copy)  # goes on, and clears what was left
        assert len(files(copy)) == 7
        if done.returncode == 0:
            total = int(done.stdout.split()[1])
            break
        assert done.returncode == 9, done.stderr
        shutil.rmtree(copy)
        point += 7
    assert outcomes == sorted(outcomes)
    assert outcomes[0] == 300
    assert outcomes[-1] == 1800
    assert total < point


def test_saving_refuses_to_write_over_what_is_no_index(
    index: LabelIndex, tmp_path: Path, folder: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match=r"thesis.tex, which is no part of an index"):
        index.save(tmp_path / "mine")
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="not a folder"):
        index.save(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        index.save(tmp_path / "no" / "index")
    old = tmp_path / "old"  # of format 1
    old.mkdir()
    for name in ("vectors.npy", "graph.hnsw", "manifest.json"):
        (old / name).write_text("{}")
    LabelIndex.build(unit(0, 9)).save(old)
    named = [seal["name"] for seal in LabelIndex.load(old).manifest.files.values()]
    assert sorted(files(old)) == sorted([*named, "manifest.json"])


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
from pathlib import Path
import numpy as np
from dexml.index import LabelIndex
index = LabelIndex.load(Path(sys.argv[1]))
for step in range(40):
    index.update_labels([5], ["x"], np.full((1, 12), step, np.float32))
    index.save(Path(sys.argv[1]))
"""
    writer = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    reads = 0
    while writer.poll() is None:
        found = LabelIndex.load(folder)
        reads += 1
        same(
            found.search(unit(2, 3), 5, search="exact"),
            exact_search(unit(2, 3), found.vectors, 5, only=found.alive),
        )
    assert writer.returncode == 0
    assert reads > 0
    assert os.path.isdir(folder)
