"""What takes the place of a file or a folder, and what is left when it cannot."""

import os
from pathlib import Path

import pytest

from dexml.files import replacing


def write(path: Path, folder: bool, text: str) -> None:
    if folder:
        path.mkdir()
        (path / "inside").write_text(text)
    else:
        path.write_text(text)


def content(path: Path) -> str:
    return (path / "inside" if path.is_dir() else path).read_text()


@pytest.fixture(params=[False, True], ids=["file", "folder"])
def folder(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def target(tmp_path: Path, folder: bool) -> Path:
    write(tmp_path / "target", folder, "old")
    return tmp_path / "target"


def test_the_new_one_takes_the_place(target: Path, folder: bool) -> None:
    for text in ("new", "newer"):
        with replacing(target) as beside:
            write(beside, folder, text)
            assert content(target) != text
        assert content(target) == text
    assert list(target.parent.iterdir()) == [target]


def test_what_a_crash_left_is_no_hindrance(target: Path, folder: bool) -> None:
    write(target.with_name(f".{os.getpid()}.old.target"), folder, "older")
    with replacing(target) as beside:
        write(beside, folder, "new")
    assert content(target) == "new"


def test_a_block_that_fails_changes_nothing(target: Path, folder: bool) -> None:
    def fail() -> None:
        with replacing(target) as beside:
            write(beside, folder, "half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert content(target) == "old"
    assert list(target.parent.iterdir()) == [target]


def test_a_block_that_writes_nothing_changes_nothing(target: Path) -> None:
    with pytest.raises(FileNotFoundError, match="target: nothing was written"), replacing(target):
        pass
    assert content(target) == "old"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
def test_a_rename_that_fails_changes_nothing(
    target: Path, folder: bool, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("dexml.files.os.replace", fail)
    with pytest.raises(type(error)), replacing(target) as beside:
        write(beside, folder, "new")
    assert content(target) == "old"
    assert list(target.parent.iterdir()) == [target]
