"""Files and folders that are written beside their name, and what is left if that fails."""

import os
from pathlib import Path
from typing import Literal

import pytest

from dexml.files import beside_name, is_foreign, is_leftover, read_array, replacing


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
    for kind in ("new", "old"):
        write(beside_name(target, kind), folder, "older")
    with replacing(target) as beside:
        write(beside, folder, "new")
    assert content(target) == "new"


def test_what_a_crash_left_is_known_by_its_name() -> None:
    path = Path("folder") / "vectors.npy"
    once = beside_name(path)
    assert once.suffix == ".npy"
    for left in (once, beside_name(path, "old"), beside_name(once)):  # that of `follow_umask`
        assert is_leftover(left.name)
        assert is_leftover(left.name, "vectors")
        assert not is_leftover(left.name, "graph")
        assert not is_foreign(left.name)
    for name in ("vectors.npy", ".vectors.npy", ".123.new.vectors.npy", f".{'g' * 16}.new.x"):
        assert not is_leftover(name)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no" / "file"
    with (
        pytest.raises(FileNotFoundError, match=r"no/file: the folder .*no does not exist"),
        replacing(path),
    ):
        pass


@pytest.mark.skipif(os.name == "nt", reason="there is no umask")
@pytest.mark.parametrize(("mask", "mode"), [(0o027, 0o640), (0o002, 0o664)])
def test_files_follow_the_umask(target: Path, folder: bool, mask: int, mode: int) -> None:
    old = os.umask(mask)
    try:
        with replacing(target) as beside:
            write(beside, folder, "new")
            (beside / "inside" if folder else beside).chmod(0o600)  # as safetensors does
    finally:
        os.umask(old)
    written = target / "inside" if folder else target
    assert written.stat().st_mode & 0o777 == mode


def test_all_that_was_written_is_on_the_disk_before_it_has_its_name(
    target: Path, folder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def note(path: Path) -> None:
        assert content(target) == "old"
        synced.append(path.name)

    monkeypatch.setattr("dexml.files.sync", note)
    with replacing(target) as beside:
        write(beside, folder, "new")
    assert synced == (["inside", beside.name] if folder else [beside.name])


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


def header(text: str, version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text.encode()


GOOD = "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUM",
        b"PK\3\4 an archive",
        header(GOOD) + b"1234567",
        header(GOOD) + b"123456789",
        header(GOOD)[:-9],
        header(GOOD.replace("{", "(")) + b"12345678",  # tokenize.TokenError, from numpy
        header(GOOD.replace("(2,)", "(" * 100)) + b"12345678",
        header(GOOD.replace("2", str(2**60))) + b"12345678",  # more memory than there is
        header(GOOD.replace("2", "-2")) + b"12345678",
        header(GOOD.replace("(2,)", "'2'")) + b"12345678",
        header(GOOD.replace("<i4", "|O")) + b"12345678",
        header(GOOD.replace("<i4", "<i9")) + b"12345678",
        header("[" * 5000) + b"12345678",
        header(GOOD, b"\7\0") + b"12345678",
    ],
)
@pytest.mark.parametrize("mmap_mode", [None, "r"])
def test_an_array_whose_header_or_size_cannot_be_right_is_a_value_error(
    content: bytes, mmap_mode: Literal["r"] | None, tmp_path: Path
) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(header(GOOD) + b"\1\0\0\0\2\0\0\0")
    assert read_array(path, mmap_mode=mmap_mode).tolist() == [1, 2]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x.npy: damaged \("):
        read_array(path, mmap_mode=mmap_mode)
