"""What a run keeps of the points that vote: read back as it was, refused when it does not fit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dexml import sealed
from dexml.files import digest_of, spelled
from dexml.index import exact_search
from dexml.scorers import PointMemory
from dexml.sealed import Format, Home, Sealed
from test_neighbours import D, L, N, label_vectors, sparse, unit, with_one

FORMAT = Format("run.json", "a folder of points", 1, "train again", "update")


def saved(memory: PointMemory, folder: Path, home: Home | None = None) -> Path:
    """Save a memory alone, as a run does with everything else."""
    facts = {"neighbours": memory.facts()}
    (home or Home()).save(folder, FORMAT, facts, memory.parts())
    return folder


def restored(folder: Path, n_labels: int = L, dim: int = D) -> PointMemory:
    def build(state: Sealed) -> PointMemory:
        state.check_all()
        return PointMemory.restore(state, n_labels, dim)

    return sealed.load(folder, FORMAT, build)


def file_of(folder: Path, role: str) -> Path:
    return folder / str(json.loads((folder / "run.json").read_text())["parts"][role]["name"])


def memory_of(seed: int = 1, n: int = N) -> PointMemory:
    return PointMemory.of(unit(seed, n), sparse(3, n), weight=0.4, neighbours=9, temperature=0.3)


@pytest.mark.parametrize("added", [0, 11])
@pytest.mark.parametrize("first", [0, N])
def test_saved_and_restored(first: int, added: int, tmp_path: Path) -> None:
    memory = memory_of(n=first)
    if added:
        memory = memory.with_points(unit(8, added), sparse(9, added))
    again = restored(saved(memory, tmp_path / "run"))
    assert again.settings == memory.settings
    assert (again.n_points, again.n_labels) == (first + added, L)
    queries, vectors = with_one(unit(0, 25)), label_vectors()
    hits = exact_search(queries, vectors, 8)
    a, b = (m.mix(queries, hits, vectors, 8) for m in (memory, again))
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_allclose(a[1], b[1], rtol=1e-6)
    assert again.with_points(unit(7, 2), sparse(6, 2)).n_points == first + added + 2


def test_vectors_are_mapped_and_not_loaded(tmp_path: Path) -> None:
    held: Any = restored(saved(memory_of(), tmp_path / "run")).points.base
    assert not held.flags.writeable
    while not isinstance(held, np.memmap):
        held = held.base
        assert held is not None


def test_only_what_has_changed_is_written_again(tmp_path: Path) -> None:
    folder, home, memory = tmp_path / "run", Home(), memory_of()
    saved(memory, folder, home)
    files = {role: file_of(folder, role) for role in memory.parts()}
    inodes = {role: path.stat().st_ino for role, path in files.items()}
    saved(memory.with_settings(1, 5, 0.1), folder, home)  # other numbers, the same files
    assert {role: file_of(folder, role).stat().st_ino for role in files} == inodes
    assert restored(folder).settings.neighbours == 5
    saved(memory.with_points(unit(7, 2), sparse(6, 2)), folder, home)
    assert not any(path.exists() for path in files.values())  # the old ones are removed
    assert len(list((folder / "neighbours").iterdir())) == 2


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"n_points": N + 1}, r"float32 of shape \(60, 6\), expected float32 \(61, 'any'\)"),
        ({"n_points": "60"}, "no proper 'neighbours.n_points'"),
        ({"weight": -1}, "weight = -1; it must be finite and at least 0"),
        ({"weight": "x"}, "no proper 'neighbours.weight'"),
        ({"weight": float("nan")}, "no proper 'neighbours.weight'"),
        ({"temperature": 0}, "temperature = 0; it must be finite and above 0"),
        ({"neighbours": True}, "no proper 'neighbours.neighbours'"),
    ],
)
def test_numbers_that_cannot_be_right_are_refused(
    facts: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = saved(memory_of(), tmp_path / "run")
    content = json.loads((folder / "run.json").read_text())
    content["neighbours"] |= facts
    content["digest"] = digest_of(content)
    (folder / "run.json").write_text(spelled(content))
    with pytest.raises(ValueError, match=message) as caught:
        restored(folder)
    assert str(caught.value).endswith("; train again")


def test_points_that_do_not_fit_the_run_are_refused(tmp_path: Path) -> None:
    folder = saved(memory_of(), tmp_path / "run")
    assert restored(folder, n_labels=L + 3).n_labels == L  # labels may have been added since
    with pytest.raises(ValueError, match="points with 40 labels and 6 dimensions for 39 labels"):
        restored(folder, n_labels=L - 1)
    with pytest.raises(ValueError, match="6 dimensions for 40 labels of 7"):
        restored(folder, dim=D + 1)


@pytest.mark.parametrize("role", ["neighbours/points", "neighbours/positives"])
def test_a_part_that_is_not_listed_or_of_another_kind_is_refused(role: str, tmp_path: Path) -> None:
    folder = saved(memory_of(), tmp_path / "run")
    whole = json.loads((folder / "run.json").read_text())
    (other,) = {"neighbours/points", "neighbours/positives"} - {role}
    for parts in (
        {other: whole["parts"][other]},
        dict.fromkeys([role, other], whole["parts"][other]),
    ):
        content = whole | {"parts": parts}
        content["digest"] = digest_of(content)
        (folder / "run.json").write_text(spelled(content))
        with pytest.raises(ValueError, match="train again"):
            restored(folder)


@pytest.mark.parametrize("role", ["neighbours/points", "neighbours/positives", "run.json"])
def test_a_damaged_file_is_refused(role: str, tmp_path: Path) -> None:
    """Cut short, and with one bit flipped at many positions."""
    folder = saved(memory_of(), tmp_path / "run")
    path = folder / "run.json" if role == "run.json" else file_of(folder, role)
    whole = path.read_bytes()
    damaged = [whole[:-1], b""]
    for at in range(0, len(whole), max(1, len(whole) // 40)):
        damaged.append(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path.name}: (damaged|format)"):
            restored(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=path.name):
        restored(folder)
