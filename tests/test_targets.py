"""Where writers write: behind links, into pipes and devices, and never a file over a folder."""

import ast
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from dexml import data, files
from dexml.files import is_leftover, replacing
from dexml.sampling import LabelGraph

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs links and pipes")

Y = csr_array(np.eye(3, dtype=np.float32))
WRITERS: dict[str, Callable[[Path], object]] = {
    "texts.txt": lambda path: data.save_texts(path, ["a", "b"]),
    "labels.txt": lambda path: data.save_labels(path, Y),
    "labels.txt.gz": lambda path: data.save_labels(path, Y),
    "labels.npz": lambda path: data.save_labels(path, Y),
    "bow.txt": lambda path: data.save_bow(path, Y, Y),
    "pairs.txt": lambda path: data.save_pairs(path, Y),
    "scores.npz": lambda path: data.save_scores(path, Y),
    "graph.npz": lambda path: LabelGraph(Y).save(path),
    "content.json": lambda path: files.write_json(path, {"a": 1}),
    "bytes.bin": lambda path: files.write_bytes(path, b"123"),
}


@pytest.fixture(params=WRITERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def expected(name: str, tmp_path: Path) -> bytes:
    (tmp_path / "plain").mkdir()
    WRITERS[name](tmp_path / "plain" / name)
    return (tmp_path / "plain" / name).read_bytes()


def test_links_are_followed_and_stay(name: str, expected: bytes, tmp_path: Path) -> None:
    far = tmp_path / "far"
    far.mkdir()
    (tmp_path / name).symlink_to(Path("far") / "old")
    (tmp_path / f"second-{name}").symlink_to(tmp_path / name)
    (tmp_path / f"nothing-{name}").symlink_to(far / "new")
    for link, target in ((name, "old"), (f"second-{name}", "old"), (f"nothing-{name}", "new")):
        if target == "old":
            (far / "old").write_text("old")
        WRITERS[name](tmp_path / link)
        assert (tmp_path / link).is_symlink()
        assert (far / target).read_bytes() == expected
    assert sorted(os.listdir(far)) == ["new", "old"]


def test_a_pipe_stays_a_pipe(name: str, expected: bytes, tmp_path: Path) -> None:
    pipe, read = tmp_path / name, list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    WRITERS[name](pipe)
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    reader.join(60)
    assert read == [expected]
    assert sorted(os.listdir(tmp_path)) == sorted([name, "plain"])


def test_a_device_stays_a_device(name: str, tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / name, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # as /dev/null
        (tmp_path / name).write_bytes(b"x")
    except PermissionError:
        pytest.skip("no device can be made here")
    WRITERS[name](tmp_path / name)
    assert stat.S_ISCHR((tmp_path / name).lstat().st_mode)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_an_open_file_gets_the_bytes_behind_what_is_there(
    name: str, expected: bytes, tmp_path: Path
) -> None:
    with (tmp_path / "out").open("wb") as file:
        file.write(b"before")
        file.flush()
        (tmp_path / name).symlink_to(f"/proc/self/fd/{file.fileno()}")
        WRITERS[name](tmp_path / name)
    assert (tmp_path / "out").read_bytes() == b"before" + expected
    assert sorted(os.listdir(tmp_path)) == sorted([name, "out", "plain"])


def test_a_file_is_never_put_in_the_place_of_a_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").write_text("x")
    with pytest.raises(IsADirectoryError, match=f"{name}: is a folder; give a file"):
        WRITERS[name](tmp_path / name)
    assert (tmp_path / name / "mine").read_text() == "x"
    assert os.listdir(tmp_path) == [name]


def test_a_folder_is_never_put_in_the_place_of_a_file(tmp_path: Path) -> None:
    for name in ("file", "pipe"):
        (tmp_path / name).write_text("x") if name == "file" else os.mkfifo(tmp_path / name)
        with (
            pytest.raises(NotADirectoryError, match=f"{name}: is not a folder; give a folder"),
            replacing(tmp_path / name) as beside,
        ):
            beside.mkdir()
    assert (tmp_path / "file").read_text() == "x"
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]


def test_a_folder_behind_a_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "old").write_text("x")
    (tmp_path / "link").symlink_to("far")
    with replacing(tmp_path / "link") as beside:
        beside.mkdir()
        (beside / "new").write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert os.listdir(tmp_path / "far") == ["new"]
    assert sorted(os.listdir(tmp_path)) == ["far", "link"]


def test_what_cannot_be_written_to_is_refused(name: str, tmp_path: Path) -> None:
    import socket

    (tmp_path / name).symlink_to(name)
    with pytest.raises(OSError, match=name):
        WRITERS[name](tmp_path / name)
    (tmp_path / name).unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / name))
        with pytest.raises(OSError, match="a block device or a socket; give the name of a file"):
            WRITERS[name](tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / "no" / "folder")
    with pytest.raises(FileNotFoundError, match=rf"{name}: the folder .*/no does not exist"):
        WRITERS[name](tmp_path / name)


def test_only_one_file_of_the_package_renames() -> None:
    """So that one rule holds for all writers."""
    package = Path(files.__file__).parent
    allowed = {"files.py", "sealed/home.py"}  # a part's name is its content: nothing is replaced
    for path in package.rglob("*.py"):
        if path.relative_to(package).as_posix() in allowed:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute):
                continue
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            assert node.attr not in ("mkstemp", "mkdtemp", "rename"), f"{path}:{node.lineno}"
            assert (owner, node.attr) != ("os", "replace"), f"{path}:{node.lineno}"


def test_writers_of_many_threads_never_meet(name: str, tmp_path: Path) -> None:
    """All write to one path: each call succeeds, and the file is that of one of them."""
    WRITERS[name](tmp_path / name)
    expected = (tmp_path / name).read_bytes()
    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(WRITERS[name], tmp_path / name) for _ in range(60)]:
            done.result()
    assert (tmp_path / name).read_bytes() == expected
    assert os.listdir(tmp_path) == [name]


def test_a_file_is_that_of_one_writer_whoever_else_writes(tmp_path: Path) -> None:
    texts = [[f"writer {w}"] * 2000 for w in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for done in [
            pool.submit(data.save_texts, tmp_path / "x", texts[i % 6]) for i in range(180)
        ]:
            done.result()
            assert data.load_texts(tmp_path / "x") in texts
    assert os.listdir(tmp_path) == ["x"]


KILLED = """
import resource, signal, sys
import numpy as np
from scipy.sparse import csr_array
from dexml import data
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
y = csr_array(np.random.default_rng(0).random((1000, 1000), np.float32))
if sys.argv[1].endswith(".txt"):
    data.save_labels(sys.argv[1], y)
else:
    data.save_scores(sys.argv[1], y, compressed=False)
"""


@pytest.mark.parametrize("name", ["labels.txt", "scores.npz"])
def test_what_a_killed_writer_of_the_core_leaves_is_known_by_its_name(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / name)], check=False)
    assert done.returncode == -signal.SIGXFSZ
    assert (tmp_path / name).read_text() == "old"
    (left,) = set(os.listdir(tmp_path)) - {name}
    assert is_leftover(left, name)
