"""The folder of a memory of points: refused when damaged, whole at any moment, two savers told."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dexml.files import digest_of, seal_of, spelled
from dexml.index import exact_search
from dexml.index.sealed import MANIFEST
from dexml.scorers import PointMemory, load_memory, save_memory
from dexml.scorers.memory_files import GRAPH, LABELS, POINTS
from test_memory_points import D, N, label_vectors, sparse, unit, with_one


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != ".lock"}


def place_of(folder: Path, role: str) -> Path:
    if role == MANIFEST:
        return folder / MANIFEST
    return folder / str(json.loads((folder / MANIFEST).read_text())["files"][role]["name"])


def memory_of(seed: int = 1, *, graph: bool = False) -> PointMemory:
    memory = PointMemory(unit(seed, N), sparse(3, N), weight=0.4)
    if graph:
        memory.build_graph(seed=0, recall=1.0)
    return memory


@pytest.mark.parametrize("graph", [False, True])
def test_saved_and_loaded(graph: bool, tmp_path: Path) -> None:
    queries, vectors = with_one(unit(0, 25)), label_vectors()
    memory = PointMemory(unit(1, N), sparse(3, N), weight=0.4, neighbours=9, temperature=0.3)
    if graph:
        memory.build_graph(seed=0, recall=1.0)
    memory.add_points(unit(8, 11), sparse(9, 11))
    folder = tmp_path / "memory"
    save_memory(memory, folder, encoder="E")
    roles = {POINTS, LABELS, *([GRAPH] if graph else [])}
    assert {name.split("-")[0] for name in names(folder)} == {*roles, MANIFEST}
    again = load_memory(folder, encoder="E")
    assert again.settings == memory.settings
    found = exact_search(queries, vectors, 8)
    for a, b in zip(
        memory.mix(queries, found, vectors, 8), again.mix(queries, found, vectors, 8), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    again.add_points(unit(7, 2), sparse(6, 2))
    again.remove_labels([1])
    assert again.n_points == N + 13


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    memory, folder = PointMemory(unit(1, N), sparse(3, N), weight=0.4), tmp_path / "memory"
    save_memory(memory, folder, encoder="E")
    with pytest.raises(ValueError, match="made by another encoder"):
        load_memory(folder, encoder="F")
    content = json.loads((folder / MANIFEST).read_text())
    wrong: list[dict[str, Any]] = [
        {"n_points": N + 1},
        {"dim": D + 1},
        {"weight": -1},
        {"weight": "x"},
        {"files": {}},
        {"files": content["files"] | {"points": content["files"]["labels"]}},
    ]
    for changes in wrong:
        changed = content | changes
        changed["digest"] = digest_of(changed)
        (folder / MANIFEST).write_bytes(spelled(changed).encode())
        with pytest.raises(ValueError, match="damaged memory of training points"):
            load_memory(folder)
    for version in (1, 9):
        (folder / MANIFEST).write_bytes(spelled(content | {"format_version": version}).encode())
        with pytest.raises(ValueError, match=f"format {version}, but this dexml reads 2; train"):
            load_memory(folder)


@pytest.mark.parametrize("name", [POINTS, LABELS, MANIFEST])
def test_a_damaged_memory_is_refused(name: str, tmp_path: Path) -> None:
    """Cut short, and with one bit flipped at many places."""
    folder = tmp_path / "memory"
    save_memory(PointMemory(unit(1, N), sparse(3, N), weight=0.4), folder)
    path = place_of(folder, name)
    whole = path.read_bytes()
    damaged = [whole[:-1], b""]
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        damaged.append(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged memory of training points|update dexml"):
            load_memory(folder)


@pytest.mark.parametrize("change", ["missing", "another's", "damaged"])
def test_the_graph_over_the_points_is_sealed_too(change: str, tmp_path: Path) -> None:
    for seed, name in ((1, "memory"), (2, "other")):
        save_memory(memory_of(seed, graph=True), tmp_path / name)
    graph = place_of(tmp_path / "memory", GRAPH)
    if change == "damaged":
        vectors = next(graph.glob("vectors-*"))
        vectors.write_bytes(vectors.read_bytes()[:-1] + b"x")
    else:
        shutil.rmtree(graph)
    if change == "another's":
        shutil.copytree(place_of(tmp_path / "other", GRAPH), graph)
    with pytest.raises(ValueError, match=r"damaged memory of training points .*; train again"):
        load_memory(tmp_path / "memory")


@pytest.mark.parametrize("role", [POINTS, LABELS, MANIFEST])
def test_a_missing_file_is_named(role: str, tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    save_memory(memory_of(), folder)
    path = place_of(folder, role)
    path.unlink()
    message = "no memory there" if role == MANIFEST else f"{path.name} is not there"
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_memory(folder)


@pytest.mark.parametrize("graph", [False, True])
def test_two_savers_do_not_overwrite_each_other(graph: bool, tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    save_memory(memory_of(graph=graph), folder)
    first, second = load_memory(folder), load_memory(folder)
    first.add_points(unit(7, 2), sparse(6, 2))
    save_memory(first, folder)
    first.add_points(unit(8, 3), sparse(5, 3))
    save_memory(first, folder)  # it knows of its own
    second.add_points(unit(9, 1), sparse(8, 1))
    with pytest.raises(RuntimeError, match="memory: changed by another process since it was op"):
        save_memory(second, folder)
    assert load_memory(folder).n_points == N + 5
    save_memory(second, tmp_path / "elsewhere")
    assert load_memory(tmp_path / "elsewhere").n_points == N + 1
    save_memory(memory_of(), folder)  # not made of the one that is there: takes its place
    assert load_memory(folder).n_points == N
    with pytest.raises(RuntimeError, match="changed by another process"):
        save_memory(first.with_settings(1, 5, 0.1), folder)
    save_memory(load_memory(folder).with_settings(1, 5, 0.1), folder)
    assert load_memory(folder).settings.neighbours == 5


def test_saving_leaves_no_file_behind_and_keeps_the_graph_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    memory = memory_of(graph=True)
    for _ in range(2):
        save_memory(memory, folder)
        memory.add_points(unit(7, 2), sparse(6, 2))
    before, graph = names(folder), place_of(folder, GRAPH)
    inode = next(graph.glob("vectors-*")).stat().st_ino
    again = load_memory(folder)
    again.add_points(unit(7, 2), sparse(6, 2))
    save_memory(again, folder)
    assert place_of(folder, GRAPH) == graph
    assert next(graph.glob("vectors-*")).stat().st_ino == inode
    assert len(names(folder)) == len(before) == 4
    memory.build_graph(seed=0)
    save_memory(memory, tmp_path / "new")
    save_memory(memory, tmp_path / "new")
    assert len(names(tmp_path / "new")) == 4
    assert load_memory(tmp_path / "new").n_points == N + 4


def test_saving_refuses_to_write_over_what_is_no_memory(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(FileExistsError, match=r"holds thesis.txt, which is no part of a memory"):
        save_memory(memory_of(), tmp_path / "mine")
    with pytest.raises(FileExistsError, match=r"thesis.txt: not a folder"):
        save_memory(memory_of(), tmp_path / "mine" / "thesis.txt")


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from dexml import files
from dexml.index import sealed, memory_files
from dexml.scorers import load_memory, save_memory
from scipy.sparse import csr_array
folder, point = Path(sys.argv[1]), int(sys.argv[2])
memory = load_memory(folder)
memory.add_points(np.ones((2, 6), np.float32), csr_array(np.ones((2, 40), np.float32)))
memory.build_graph(seed=1)
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
os.replace = dying(os.replace)
files.shutil.rmtree = dying(files.shutil.rmtree)
memory_files.data.save_labels = dying(memory_files.data.save_labels)
memory_files.np.save = dying(np.save)
Path.unlink = dying(Path.unlink)
save_memory(memory, folder)
print("saved", step)
"""


def test_a_kill_while_saving_leaves_the_old_memory_or_the_new_one(tmp_path: Path) -> None:
    folder, copy = tmp_path / "memory", tmp_path / "copy"
    save_memory(memory_of(graph=True), folder)
    outcomes, point = [], 1
    while True:
        shutil.copytree(folder, copy)
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(copy), str(point)], capture_output=True, text=True
        )
        found = load_memory(copy)
        outcomes.append(found.n_points)
        found.add_points(unit(0, 1), sparse(1, 1))
        save_memory(found, copy)  # goes on, and clears what was left
        assert len(names(copy)) == 4
        if done.returncode == 0:
            total = int(done.stdout.split()[1])
            break
        assert done.returncode == 9, done.stderr
        shutil.rmtree(copy)
        point += 5
    assert outcomes == sorted(outcomes)
    assert {*outcomes} == {N, N + 2}
    assert outcomes.count(N) > 3
    assert total < point


def test_a_reader_meets_a_save_and_gets_a_whole_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, memory = tmp_path / "memory", memory_of()
    save_memory(memory, folder)
    saves: list[Path] = []

    def late(path: Path) -> dict[str, Any]:
        """Between the manifest and the files, the first three times."""
        if len(saves) < 3:
            saves.append(path)
            memory.add_points(unit(7, 2), sparse(6, 2))
            with monkeypatch.context() as patch:
                patch.setattr("dexml.scorers.memory_files.seal_of", seal_of)
                save_memory(memory, folder)
        return seal_of(path)

    monkeypatch.setattr("dexml.scorers.memory_files.seal_of", late)
    assert load_memory(folder).n_points == N + 6
    assert len(saves) == 3
