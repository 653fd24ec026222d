"""Matrices in files: every format, packed or not, damaged, repaired, interrupted."""

import gzip
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array, load_npz, save_npz

from dexml import _rust, data
from dexml.data.matrices import counted_pairs

NAMES = ["y.txt", "y.txt.gz", "y.txt.zst", "y.npz"]
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def assert_equal(a: csr_array, b: csr_array) -> None:
    assert a.shape == b.shape
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@st.composite
def matrices(draw: st.DrawFn, n_rows: int | None = None) -> csr_array:
    n_labels = draw(st.sampled_from([1, 2, 9, 2_000_000]))
    row = st.dictionaries(st.integers(0, n_labels - 1), FLOATS, max_size=6)
    least, most = (0, 6) if n_rows is None else (n_rows, n_rows)
    drawn = draw(st.lists(row, min_size=least, max_size=most))
    rows = [dict(sorted(r.items())) for r in drawn]
    return csr_array(
        (
            np.array([v for r in rows for v in r.values()], np.float32),
            np.array([label for r in rows for label in r], np.int32),
            np.cumsum([0, *map(len, rows)], dtype=np.int32),
        ),
        shape=(len(rows), n_labels),
    )


def slow_text(y: csr_array) -> str:
    """LF text as anyone would write it."""
    lines = [f"{y.shape[0]} {y.shape[1]}"]
    for row in range(y.shape[0]):
        span = slice(y.indptr[row], y.indptr[row + 1])
        entries = zip(y.indices[span].tolist(), y.data[span], strict=True)
        lines.append(" ".join(f"{label}:{np.float32(value)}" for label, value in entries))
    return "\n".join(lines) + "\n"


@given(y=matrices(), name=st.sampled_from(NAMES))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, y: csr_array, name: str) -> None:
    path = tmp_path_factory.mktemp("round") / name
    data.save_labels(path, y)
    first = path.read_bytes()
    loaded = data.load_labels(path)
    assert_equal(loaded, y)
    data.save_labels(path, loaded)
    assert path.read_bytes() == first
    path.with_name("slow.txt").write_text(slow_text(y))
    assert_equal(data.load_labels(path.with_name("slow.txt")), y)
    if name == "y.npz":
        read = load_npz(path)
        assert isinstance(read, csr_array)
        assert_equal(read, y)
    elif name == "y.txt.gz":
        assert gzip.decompress(first).startswith(b"%d %d\n" % y.shape)


@given(st.data())
def test_bags_of_words(tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject) -> None:
    n_rows = draw.draw(st.integers(0, 5))
    features, labels = draw.draw(matrices(n_rows)), draw.draw(matrices(n_rows))
    for suffix in ("", ".gz", ".zst"):
        path = tmp_path_factory.mktemp("bow") / f"x.txt{suffix}"
        data.save_bow(path, features, labels)
        found = data.load_bow(path)
        assert_equal(found[0], features)
        labels.data[:] = 1
        assert_equal(found[1], labels)


@given(matrices())
def test_pairs(tmp_path_factory: pytest.TempPathFactory, y: csr_array) -> None:
    for suffix in ("", ".gz", ".zst"):
        path = tmp_path_factory.mktemp("pairs") / f"filter.txt{suffix}"
        data.save_pairs(path, y)
        found = data.load_pairs(path, y.shape)
        y.data[:] = 1
        assert_equal(found, y)


def test_names_may_be_bytes_and_suffixes_of_any_case(tmp_path: Path) -> None:
    y = csr_array(np.eye(3, dtype=np.float32))
    name = os.fsencode(tmp_path / "y.NPZ")
    data.save_labels(name, y)  # type: ignore[arg-type]
    assert_equal(load_npz(tmp_path / "y.NPZ"), y)
    for load in (data.load_labels, data.load_scores):
        assert_equal(load(name), y)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not int"):
        data.load_labels(3)  # type: ignore[arg-type]


def test_repeated_pairs_are_merged_and_counted(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("1 0\n0 2\n1 0\n1 0\n")
    pairs, n_repeated = counted_pairs(tmp_path / "pairs.txt", (2, 3))
    assert n_repeated == 2
    assert_equal(pairs, data.load_pairs(tmp_path / "pairs.txt", (2, 3)))
    assert pairs.toarray().tolist() == [[0, 0, 1], [1, 0, 0]]


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    three, two = csr_array(np.eye(3)), csr_array(np.eye(2))
    with pytest.raises(ValueError, match="labels: 2 rows, expected 3"):
        data.save_bow(tmp_path / "x.txt", three, two)
    with pytest.raises(ValueError, match=r"features: row 0: value is not finite \(label 0\)"):
        data.save_bow(tmp_path / "x.txt", csr_array(np.array([[np.inf]])), csr_array(np.eye(1)))
    for save in (data.save_labels, data.save_pairs, data.save_scores):
        with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist"):
            save(tmp_path / "nowhere" / "y.npz", three)
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist"):
        data.save_bow(tmp_path / "nowhere" / "x.txt", three, three)
    for save in (data.save_labels, data.save_pairs, data.save_scores):
        with pytest.raises(ValueError, match=r"(y|pairs): expected a scipy CSR array, not ndarray"):
            save(tmp_path / "y.npz", np.eye(3))
        with pytest.raises(IsADirectoryError, match="is a folder; give a file"):
            save(tmp_path, three)
    with pytest.raises(ValueError, match="y: values of dtype complex128; give real numbers"):
        data.save_labels(tmp_path / "y.npz", three * 1j)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("indices", [np.int32, np.int64])
@pytest.mark.parametrize(
    "values", ["?", "i1", "<i2", ">i4", "<i8", "u1", "<u2", "<u4", "<u8", "<f2", "<f4", ">f8"]
)
def test_archives_of_numpy(
    tmp_path: Path, compressed: bool, indices: type[np.integer], values: str
) -> None:
    """Every dtype, also those that scipy itself does not write."""
    expected = csr_array(np.array([[0, 1, 1], [1, 0, 0]], np.float32))
    arrays = {
        "format": np.array("csr" if compressed else b"csr"),
        "shape": np.array(expected.shape),
        "indptr": expected.indptr.astype(indices),
        "indices": expected.indices.astype(indices),
        "data": expected.data.astype(values),
    }
    (np.savez_compressed if compressed else np.savez)(tmp_path / "y.npz", **arrays)
    assert_equal(data.load_labels(tmp_path / "y.npz"), expected)
    scores = data.load_scores(tmp_path / "y.npz")
    assert_equal(scores, expected)
    dtype = np.dtype(values)
    wide = dtype.itemsize > (4 if dtype.kind == "f" else 2)
    assert scores.dtype == (np.float64 if wide else np.float32)


@pytest.mark.parametrize("compressed", [False, True])
def test_archives_of_scipy(tmp_path: Path, compressed: bool) -> None:
    y = csr_array(np.array([[0, 1, 2.5], [1, 0, 0]]))
    save_npz(tmp_path / "y.npz", y, compressed=compressed)
    assert_equal(data.load_labels(tmp_path / "y.npz"), y.astype(np.float32))


def test_scores_are_kept_to_the_last_bit(tmp_path: Path) -> None:
    scores = csr_array(np.array([[1.0, 1 + 1e-12, np.inf], [-np.inf, 0, 1e-310]]))
    for compressed in (False, True):
        data.save_scores(tmp_path / "s.npz", scores, compressed=compressed)
        assert_equal(data.load_scores(tmp_path / "s.npz"), scores)
        assert_equal(load_npz(tmp_path / "s.npz"), scores)


def address(array: NDArray[np.generic]) -> int:
    return int(array.__array_interface__["data"][0])


@pytest.mark.parametrize("name", NAMES)
def test_scipy_takes_the_arrays_without_a_copy(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.save_labels(tmp_path / name, csr_array(np.eye(9)))
    seen = []
    load = _rust.load_labels

    def spy(*args: str, **options: bool) -> object:
        loaded = load(*args, **options)  # type: ignore[call-overload]
        seen.append(loaded[0])
        return loaded

    monkeypatch.setattr(_rust, "load_labels", spy)
    y = data.load_labels(tmp_path / name)
    _, _, indices, values = seen[0]
    assert (address(y.indices), address(y.data)) == (address(indices), address(values))
    assert y.indices.dtype == y.indptr.dtype == np.int32
    again = csr_array(y)
    assert (address(again.indices), address(again.data)) == (address(y.indices), address(y.data))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_repair(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"y.txt{suffix}"
    text = b"2 5\n3:1 9:1 0:2 3:0.5\n1:inf -1:1\n"
    path.write_bytes(gzip.compress(text) if suffix else text)
    with pytest.raises(ValueError, match=r":2: label 9 out of range \(n_labels = 5\)"):
        data.load_labels(path)
    y, repairs = data.repair_labels(path)
    np.testing.assert_array_equal(y.toarray(), [[2, 0, 0, 1.5, 0], [0] * 5])
    assert repairs == data.Repairs(
        duplicates=1,
        out_of_range=2,
        not_finite=1,
        rows_sorted=1,
        first=(
            f"{path}:2: label 9 out of range (n_labels = 5)",
            f"{path}:2: duplicate label 3",
            f"{path}:3: value is not finite (label 1)",
            f"{path}:3: bad label '-1' (column 7)",
        ),
    )
    assert repairs.n_entries == 4
    with pytest.warns(UserWarning, match="repaired: 1 duplicates summed, 2 entries out of range"):
        assert_equal(data.load_labels(path, repair=True), y)
    data.save_labels(path, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_equal(data.load_labels(path, repair=True), y)


def test_repair_of_archives_and_bags_of_words(tmp_path: Path) -> None:
    y = csr_array(
        (np.array([1.0, 2.0, np.nan, 4.0]), np.array([2, 0, 1, 2]), np.array([0, 4])), shape=(1, 9)
    )
    save_npz(tmp_path / "y.npz", y)
    found, repairs = data.repair_labels(tmp_path / "y.npz")
    assert (found.indices.tolist(), found.data.tolist()) == ([0, 2], [2.0, 5.0])
    assert (repairs.duplicates, repairs.not_finite) == (1, 1)
    assert repairs.first[0].endswith("y.npz: row 0: value is not finite (label 1)")
    (tmp_path / "x.txt").write_text("1 5 4\n3,3,9 1:1 1:1\n")
    features, labels, repairs = data.repair_bow(tmp_path / "x.txt")
    assert (features.data.tolist(), labels.data.tolist()) == ([2.0], [1.0])
    assert repairs.first[1].endswith("x.txt:2: duplicate label 3")
    with pytest.warns(UserWarning, match="repaired: 2 duplicates summed"):
        data.load_bow(tmp_path / "x.txt", repair=True)


@pytest.mark.parametrize("name", ["y.txt.gz", "y.txt.zst"])
def test_damaged_streams(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data.save_labels(path, csr_array(np.eye(99)))
    whole = path.read_bytes()
    kind = "gzip" if name.endswith("gz") else "zstd"
    for size in range(4, len(whole), 7):
        path.write_bytes(whole[:size])
        for load in (data.load_labels, data.load_bow, data.load_scores, data.load_texts):
            with pytest.raises(ValueError, match=rf"{name}: damaged or not a {kind} stream \("):
                load(path)
    with pytest.raises(ValueError, match=rf"{name}: damaged or not a {kind} stream"):
        data.load_pairs(path, (99, 99))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_packed_data_sets(tiny_data: Path, tmp_path: Path, suffix: str) -> None:
    packed = tmp_path / "packed"
    (packed / "raw").mkdir(parents=True)
    whole = data.load_dataset(tiny_data)
    for part, y in (("trn", whole.y_train), ("tst", whole.y_test)):
        data.save_labels(packed / f"{part}_X_Y.txt{suffix}", y)
    for name in ("raw/Y.txt", "raw/trn_X.txt", "raw/tst_X.txt", "filter_labels_test.txt"):
        if suffix == ".gz":
            path = packed / f"{name}.gz"
            path.write_bytes(gzip.compress((tiny_data / name).read_bytes()))
        else:  # texts of both kinds in one folder
            (packed / name).write_bytes((tiny_data / name).read_bytes())
    found = data.load_dataset(packed)
    assert found.train_texts == whole.train_texts
    assert_equal(found.y_test, whole.y_test)
    assert found.exclude_test is not None
    assert whole.exclude_test is not None
    assert_equal(found.exclude_test, whole.exclude_test)


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["y.txt", "y.txt.gz"])
def test_ctrl_c_during_a_load(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    n_rows = 1_000_000
    text = b"1:1.0000000000000000001 2:1.000000000000000000001\n" * n_rows
    packed = gzip.compress(text, 1) if name.endswith("gz") else text
    header = b"%d 9\n" % (40 * n_rows)
    path.write_bytes(gzip.compress(header) if name.endswith("gz") else header)
    with path.open("ab") as file:
        for _ in range(40 if name.endswith("gz") else 8):
            file.write(packed)
    # A job in the background of a shell ignores Ctrl-C, and so would its children.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from dexml import data; print('go', flush=True); data.load_labels(sys.argv[1])"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"go\n"
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert b"KeyboardInterrupt" in errors
    assert child.returncode in (-signal.SIGINT, 130, 1)
