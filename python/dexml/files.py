"""Files and folders that are written beside their name and renamed, so that each is whole.

One rule for all writers, here and in the Rust core (``docs/formats.md``): links are followed; a
regular file or a folder is replaced as a whole; a pipe, a character device or an open file
(``/dev/stdout``) stays what it is, and finished bytes are written into it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

_CHUNK = 2**24
"""Bytes of an array that are written at a time."""
_BESIDE = re.compile(r"(?:\.[0-9a-f]{16}\.(?:new|old)\.)+(.*)", re.DOTALL)
_SYSTEM = re.compile(r"\..*|Thumbs\.db|[Dd]esktop\.ini|__MACOSX|@eaDir|System Volume Information")
"""Names that systems and editors leave in folders by themselves: hidden files above all."""


_LINKS = 40
"""Links that are followed one after the other, as Linux does."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; at the end, rename it to `path`.

    Works for files and folders. If the block fails, or writes nothing, `path` stays as it was and
    nothing is left behind. The temporary name is unique across threads and machines, and keeps the
    suffix of `path`, on which some writers insist. What was written gets the permissions that the
    umask gives to new files, whatever the writer did.

    If `path` is a link, what it leads to is made or replaced, and the link stays. If it is a pipe,
    a character device or an open file, the finished file is copied into it.

    Raises:
        FileNotFoundError: The folder of `path` is missing, or the block wrote nothing.
        IsADirectoryError: The block wrote a file, and `path` is a folder.
        NotADirectoryError: The block wrote a folder, and `path` is something else.
        OSError: Links lead in a circle, or `path` is a block device or a socket.
    """
    target = target_of(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {target.parent} does not exist")
    if is_stream(target):
        with tempfile.TemporaryDirectory() as folder:
            beside = Path(folder) / path.name
            yield beside
            _check_kind(beside, path)
            _copy_into(beside, target)
        return
    beside = beside_name(target.with_name(path.name))
    try:
        yield beside
        _check_kind(beside, path)
        follow_umask(beside)
        sync_all(beside)
        if target.is_dir():  # A folder cannot be renamed over one that holds files.
            _swap(beside, target, beside_name(target, "old"))
        else:
            os.replace(beside, target)
    finally:
        remove(beside)


def target_of(path: Path) -> Path:
    """Follow links to what a writer makes or replaces; it need not exist.

    A name of an open file (``/dev/stdout`` leads to ``/proc/self/fd/1``) is where this ends: what
    is behind it may have no name.

    Raises:
        OSError: Links lead in a circle.
    """
    target = path
    for _ in range(_LINKS):
        if not target.is_symlink() or _is_open_file(target):
            return target
        target = target.parent / os.readlink(target)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def is_stream(target: Path) -> bool:
    """Whether a writer puts its bytes into what is there: a pipe, a character device, an open file.

    Args:
        target: Not a link (`target_of`).

    Raises:
        OSError: A block device or a socket.
    """
    if _is_open_file(target):
        return True
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        return True
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return False
    raise OSError(f"{target}: a block device or a socket; give the name of a file")


def _is_open_file(path: Path) -> bool:
    """Whether a path is one of those that name a file by the number under which it is open."""
    folder = path.parent.resolve()
    return folder.name == "fd" and folder.parts[1] in ("proc", "dev")


def _copy_into(new: Path, target: Path) -> None:
    """Write the bytes of a file into a pipe, a device or an open file, behind what is there."""
    with new.open("rb") as source, target.open("ab") as stream:
        shutil.copyfileobj(source, stream, _CHUNK)


@contextmanager
def named_for_core(path: Path) -> Iterator[Path]:
    """Give the path that a writer of the Rust core is to get for `path`.

    The core follows the same rule. But while it waits for whoever reads a pipe, Ctrl-C would not
    reach it; so the bytes for pipes go through `replacing`.
    """
    if is_stream(target_of(path)):
        with replacing(path) as beside:
            yield beside
    else:
        yield path


def move_to(new: Path, path: Path) -> None:
    """Put a finished file in the place of `path`, as `replacing` does."""
    target = target_of(path)
    if is_stream(target):
        _copy_into(new, target)
        new.unlink()
    else:
        os.replace(new, target)


def _check_kind(beside: Path, path: Path) -> None:
    """Refuse to put nothing anywhere, a file in the place of a folder, and a folder elsewhere."""
    if not beside.exists():
        raise FileNotFoundError(f"{path}: nothing was written")
    if path.is_dir() and not beside.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; give a file")
    if beside.is_dir() and path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path}: is not a folder; give a folder")


def beside_name(path: Path, kind: str = "new") -> Path:
    """A hidden name in the folder of `path` that nobody else uses, with the suffix of `path`."""
    return path.with_name(f".{secrets.token_hex(8)}.{kind}.{path.name}")


def is_leftover(name: str, stem: str = "") -> bool:
    """Whether a killed process left this name beside a file whose name begins with `stem`."""
    match = _BESIDE.fullmatch(name)
    return match is not None and match[1].startswith(stem)


def is_foreign(name: str) -> bool:
    """Whether a name is neither hidden nor one that systems leave in folders by themselves."""
    return not _SYSTEM.fullmatch(name)


def _swap(beside: Path, path: Path, old: Path) -> None:
    """Put `beside` in the place of the folder `path`, which is removed only after that."""
    try:
        os.rename(path, old)
        os.replace(beside, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.rename(old, path)
        raise
    remove(old)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def follow_umask(path: Path) -> None:
    """Give a new file, or all files in a new folder, the permissions of any other new file.

    Some writers (safetensors) make files that only their owner can read.
    """
    if os.name == "nt":
        return
    probe = beside_name(path)  # The umask itself cannot be read without changing it for a moment.
    handle = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)
        probe.unlink()
    for entry in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if entry.is_file() and not entry.is_symlink():
            entry.chmod(mode)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside `path` and rename it, so that `path` is whole at any moment."""
    with replacing(path) as beside:
        beside.write_bytes(content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as indented JSON, beside and renamed."""
    write_bytes(path, spelled(content).encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: Damaged, or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged ({error})") from None
    except RecursionError:
        raise ValueError(f"{path}: damaged (nested too deeply)") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a JSON object")
    return content


def write_array(path: Path, array: NDArray[Any]) -> int:
    """Write an array as ``.npy``, in place, and return the bytes that the file must have.

    `numpy.save` hands the array to C, where an error at the end of the file goes unnoticed; here
    every write is checked.
    """
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        size = file.tell() + array.nbytes
        content = array.reshape(-1).view(np.uint8)
        for start in range(0, array.nbytes, _CHUNK):
            file.write(content[start : start + _CHUNK].data)
    return size


def read_array(path: Path, *, mmap_mode: Literal["r", "c"] | None = None) -> NDArray[Any]:
    """Read an ``.npy`` file, never unpickled.

    `numpy.load` raises a dozen kinds of errors for headers that are damaged, and takes whatever
    memory they ask for; here the header is held against the size of the file first.

    Raises:
        ValueError: Damaged, or something else; the message names the file.
    """
    try:
        with path.open("rb") as file:
            _check_header(file, path.stat().st_size)
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: damaged ({error})") from None
    assert isinstance(array, np.ndarray)  # the magic bytes say so
    return array


def _check_header(file: BinaryIO, size: int) -> None:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    expected = math.prod(shape) * dtype.itemsize
    if size - file.tell() != expected and not dtype.hasobject:  # those are refused anyway
        raise ValueError(f"{size - file.tell()} bytes behind the header, not {expected}")


def write_text(path: Path, text: str) -> int:
    """Write a text as UTF-8, in place, and return the bytes that the file must have."""
    return path.write_bytes(text.encode())


def seal_of(path: Path) -> dict[str, Any]:
    """``bytes`` and ``sha256`` (in hexadecimal) of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def is_sealed(path: Path, seal: Mapping[str, Any]) -> bool:
    """Whether a file has the ``bytes`` and ``sha256`` of a seal; the size is looked at first."""
    if path.stat().st_size != seal["bytes"]:
        return False
    return bool(seal_of(path)["sha256"] == seal["sha256"])


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object without its ``digest``, in one spelling."""
    rest = {name: value for name, value in content.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def spelled(content: Mapping[str, Any]) -> str:
    """The one spelling of a JSON file of ours: no byte of it may differ."""
    return json.dumps(content, indent=2) + "\n"


def sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    is_folder = path.is_dir()
    if os.name == "nt" and is_folder:
        return
    handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot do it for folders.
        if not is_folder or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def sync_all(path: Path) -> None:
    """Wait until the disk has a file, or a folder with everything in it."""
    if path.is_dir():
        for entry in path.rglob("*"):
            sync(entry)
    sync(path)
