"""Files of the LF layout: what is accepted, and what each fault is called."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csc_array, csr_array, random_array, save_npz

from dexml import data
from dexml.console import run
from dexml.data import __main__ as command


def make(seed: int = 0, shape: tuple[int, int] = (9, 6)) -> csr_array:
    y = csr_array(random_array(shape, density=0.3, rng=seed, format="csr"), dtype=np.float32)
    y.sort_indices()
    return y


def assert_equal(a: csr_array, b: csr_array) -> None:
    assert a.shape == b.shape
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("name", ["y.txt", "y.npz"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    y = make()
    data.save_labels(tmp_path / name, y)
    loaded = data.load_labels(tmp_path / name)
    assert_equal(loaded, y)
    assert loaded.dtype == np.float32
    assert loaded.indices.dtype == loaded.indptr.dtype == np.int32
    assert [p.name for p in tmp_path.iterdir()] == [name]  # nothing is left beside


def test_saving_takes_any_sparse_matrix_and_refuses_what_cannot_be_loaded(tmp_path: Path) -> None:
    dense = np.array([[0, 2, 0], [1, 0, 3]])
    for name in ("y.txt", "y.npz"):
        for y in (csr_array(dense), csc_array(dense), csr_array(dense.astype(np.float64))):
            data.save_labels(tmp_path / name, y)
            assert_equal(data.load_labels(tmp_path / name), csr_array(dense.astype(np.float32)))
        with pytest.raises(ValueError, match="not finite"):
            data.save_labels(tmp_path / name, csr_array(np.array([[np.nan]])))
        with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
            data.save_labels(tmp_path / "nowhere" / "y.npz", csr_array(dense))


def test_text_and_npz_agree(debtags_mini: Path) -> None:
    for part in ("trn", "tst"):
        assert_equal(
            data.load_labels(debtags_mini / f"{part}_X_Y.txt"),
            data.load_labels(debtags_mini / f"Y.{part}.npz"),
        )


def test_arrays_are_shared_with_scipy(tmp_path: Path) -> None:
    data.save_labels(tmp_path / "y.txt", make())
    y = data.load_labels(tmp_path / "y.txt")
    assert np.shares_memory(csr_array(y).data, y.data)
    assert y.has_canonical_format


def test_npz_rows_are_sorted_with_their_values(tmp_path: Path) -> None:
    y = csr_array((np.array([5.0, 3.0]), np.array([4, 1]), np.array([0, 2])), shape=(1, 6))
    save_npz(tmp_path / "y.npz", y)
    loaded = data.load_labels(tmp_path / "y.npz")
    assert loaded.indices.tolist() == [1, 4]
    assert loaded.data.tolist() == [3.0, 5.0]


def test_scores_keep_their_dtype(tmp_path: Path) -> None:
    save_npz(tmp_path / "s.npz", csr_array(np.array([[1.0, 1.0 + 1e-12]])))
    assert data.load_scores(tmp_path / "s.npz").dtype == np.float64


def with_arrays(path: Path, **changes: object) -> None:
    y = make()
    arrays = {
        "format": np.array(b"csr"),
        "shape": np.array(y.shape),
        "indptr": y.indptr,
        "indices": y.indices,
        "data": y.data,
    } | changes
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": np.array(b"coo")}, "format is 'coo', expected 'csr'"),
        ({"format": None}, "array 'format' is missing; not a scipy CSR archive"),
        ({"indices": None}, "array 'indices' is missing"),
        ({"shape": np.array([9])}, "bad shape; expected two numbers"),
        ({"shape": np.array([8, 6])}, "do not make 8 rows"),
        ({"shape": np.array([9, 3])}, r"label 5 out of range \(n_labels = 3\)"),
        ({"shape": np.array([9, 2**31])}, "2147483648 labels"),
        ({"indices": -np.ones(16, np.int32)}, "row 0: label -1 out of range"),
        (
            {"indptr": np.full(10, 3, np.int32)},
            "row 0: indptr decreases or points outside the 16 stored",
        ),
        ({"data": np.full(16, np.nan, np.float32)}, "not finite"),
        ({"indices": np.zeros(16, np.int32)}, "duplicate label 0"),
        ({"data": np.array([object()])}, "damaged or not a scipy"),
        ({"data": np.float32(1)}, "not one-dimensional"),
        ({"data": np.full(16, 1e300)}, "not finite"),
        (
            {"indptr": np.array([0, 2**63 - 1, -2, *[16] * 7]), "shape": np.array([9, 6])},
            "indptr decreases",
        ),
    ],
)
def test_bad_npz_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with_arrays(tmp_path / "y.npz", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        data.load_labels(tmp_path / "y.npz")
    assert "y.npz" in str(caught.value)


def test_every_truncation_of_an_npz_is_refused(tmp_path: Path) -> None:
    save_npz(tmp_path / "y.npz", make())
    whole = (tmp_path / "y.npz").read_bytes()
    for size in range(0, len(whole), 37):
        (tmp_path / "cut.npz").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged or not a scipy"):
            data.load_labels(tmp_path / "cut.npz")


def test_texts_split_on_newline_only(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes("a\u2028b\r\n  c \n\nd\x0ce".encode())
    assert data.load_texts(tmp_path / "x.txt") == ["a\u2028b", "c", "", "d\x0ce"]
    (tmp_path / "x.txt").write_bytes(b"good\nbad \xff\n")
    with pytest.raises(ValueError, match=r"x\.txt:2: not UTF-8"):
        data.load_texts(tmp_path / "x.txt")


def test_dataset(tiny_data: Path) -> None:
    dataset = data.load_dataset(tiny_data)
    assert len(dataset.train_texts) == dataset.y_train.shape[0] == 300
    assert dataset.y_test.shape == (80, 64)
    assert dataset.exclude_train is None
    assert dataset.exclude_test is not None
    assert dataset.exclude_test.nnz == 20
    assert dataset.train_groups is None


@pytest.fixture
def copy(tiny_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_data, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("raw/trn_X.txt", lambda s: s[:-10], None),
        ("raw/trn_X.txt", lambda s: s[: s[:-1].rfind(b"\n") + 1], "299 lines, but .*300 rows"),
        ("raw/Y.txt", lambda s: b"", "empty; expected a label text a line"),
        ("raw/Y.txt", lambda s: s + b"one more\n", "64 labels, but .* has 65 lines"),
        ("filter_labels_test.txt", lambda s: s + b"80 1\n", r"filter_labels_test.txt:21: .*80"),
        ("filter_labels_test.txt", lambda s: b"", None),
    ],
)
def test_faults_of_a_folder(copy: Path, file: str, change, message: str | None) -> None:  # type: ignore[no-untyped-def]
    path = copy / file
    path.write_bytes(change(path.read_bytes()))
    if message is None:
        data.load_dataset(copy)
        return
    with pytest.raises(ValueError, match=message):
        data.load_dataset(copy)


def test_missing_files_are_named(copy: Path) -> None:
    (copy / "Y.tst.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither Y\.tst\.npz nor tst_X_Y\.txt"):
        data.load_part(copy, "tst", 64)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        data.load_label_texts(copy / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        data.load_labels(copy / "none.npz")


def test_a_data_set_from_python(tmp_path: Path) -> None:
    labels = ["kernel", "printer\n driver", "music"]
    train = (["plays  songs", "prints\ton paper", "nothing"], [[2], [1, 0], []])
    test = (["songs"], csr_array(np.array([[0.0, 0, 1]])))
    data.save_dataset(tmp_path / "new" / "set", labels, train, test)
    found = data.load_dataset(tmp_path / "new" / "set")
    assert found.label_texts == ["kernel", "printer driver", "music"]
    assert found.train_texts == ["plays songs", "prints on paper", "nothing"]
    assert found.y_train.toarray().tolist() == [[0, 0, 1], [1, 1, 0], [0, 0, 0]]
    assert found.y_test.toarray().tolist() == [[0, 0, 1]]
    data.save_dataset(tmp_path / "alone", labels, train)
    assert not list((tmp_path / "alone").rglob("*tst*"))
    with pytest.raises(FileExistsError, match="alone: exists already"):
        data.save_dataset(tmp_path / "alone", labels, train)


@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        ((["a"], [[0], [1]]), ValueError, "1 texts and trn labels: labels for 2 of them"),
        (
            (["a"], csr_array((1, 2))),
            ValueError,
            r"trn labels \(1, 2\), but there are 3 label texts",
        ),
        ((["a"], csr_array((2, 3))), ValueError, r"1 texts and trn labels \(2, 3\) for 3 labels"),
        ((["a", "b"], [[0], [3]]), ValueError, r"trn labels\[1\]: label 3 out of range \(n_labels"),
        ((["a"], [[-1]]), ValueError, r"trn labels\[0\]: label -1 out of range"),
        ((["a"], [[1, 2, 1]]), ValueError, r"trn labels\[0\]: duplicate label 1"),
        ((["a"], [[0.5]]), ValueError, r"trn labels\[0\]: holds 0.5 of type float; expected label"),
        ((["a"], [["x"]]), ValueError, r"trn labels\[0\]: holds 'x' of type str; expected label"),
        (("a", [[0]]), TypeError, "trn texts is a single string; give a list"),
        ((["a"], ["x"]), TypeError, r"trn labels\[0\] is str; expected a list of label ids"),
        ((["a"], np.eye(3)[:1]), TypeError, "trn labels is ndarray; give a sparse matrix"),
        ((["a", 7], [[0], [1]]), TypeError, r"trn texts\[1\] is int; expected a string"),
        ((["\ud800"], [[0]]), ValueError, "trn_X.txt: text 0 is not Unicode"),
    ],
)
def test_what_makes_no_data_set(
    tmp_path: Path, train: tuple[list[str], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        data.save_dataset(tmp_path / "set", ["x", "y", "z"], train)
    assert not list(tmp_path.iterdir())


def test_training_part_alone_opens_no_test_file(copy: Path) -> None:
    for path in [*copy.glob("*tst*"), *copy.glob("raw/tst*"), copy / "filter_labels_test.txt"]:
        path.unlink()
    assert data.load_part(copy, "trn", 64).y.shape == (300, 64)


def test_validation_mask_is_the_documented_hash() -> None:
    keys = [f"key {i}" for i in range(500)] + ["key 3"]
    mask = data.validation_mask(keys, 0.1)
    for key, chosen in zip(keys, mask, strict=True):
        digest = hashlib.sha256(b"validation\0" + key.encode()).digest()
        assert chosen == (int.from_bytes(digest[:8], "big") < 0.1 * 2**64)
    assert mask[3] == mask[-1]
    assert 30 <= mask.sum() <= 70
    assert not data.validation_mask(keys, 0.0).any()


def test_csr_parts_refuse_what_they_cannot_hold() -> None:
    with pytest.raises(ValueError, match="y: expected a scipy CSR array, not csc_array"):
        data.csr_parts(csc_array(np.eye(3)), "y")
    wide = csr_array(
        (np.ones(1), np.array([7], np.int64), np.array([0, 1], np.int64)), shape=(1, 9)
    )
    wide.indices = np.array([2**32 + 1], np.int64)
    with pytest.raises(ValueError, match=r"y: a label id lies outside 0\.\.8"):
        data.csr_parts(wide, "y")


def test_tiny_positive_float64_truth_stays_positive() -> None:
    _, _, values = data.truth_parts(csr_array(np.array([[1e-300, 2.0]])), "y")
    assert (values > 0).all()


def test_command(tiny_data: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command.main, ["check", str(tiny_data)]) == 0
    assert run(command.main, ["check", str(tiny_data / "Y.trn.npz")]) == 0
    (copy / "Y.tst.npz").write_bytes(b"no")
    assert run(command.main, ["check", str(copy)]) == 1
    assert "Y.tst.npz: damaged" in capsys.readouterr().err
    assert run(command.main, ["convert", str(copy)]) == 2


def test_values_that_float32_loses_are_not_saved(tmp_path: Path) -> None:
    y = csr_array(np.array([[0, 1.0, 0], [2.0, 0, 1e-50]]))
    for name in ("y.txt", "y.npz"):
        with pytest.raises(
            ValueError, match=r"y: row 1: value 1e-50 is too small for float32 \(label 2\)"
        ):
            data.save_labels(tmp_path / name, y)
        assert not (tmp_path / name).exists()
