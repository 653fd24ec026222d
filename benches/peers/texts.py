"""Competitors that load and save label text."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array, csr_matrix, load_npz, save_npz

from peers.jobs import Case, Competitor, Job, Task, Values, csr_values, digest


def _lf(case: Case) -> str:
    return str(case.folder / "lf" / "text.txt")


def _bow(case: Case) -> str:
    return str(case.folder / "bow" / "text.txt")


def _bow_values(out: Any) -> Values:
    features, labels = out
    return {**csr_values(features, "features "), "labels pattern": csr_values(labels)["pattern"]}


def dexml_lf(case: Case) -> Job:
    from dexml.data import load_labels

    return Job(lambda: load_labels(_lf(case)), csr_values)


def dexml_bow(case: Case) -> Job:
    from dexml import data

    load_bow: Any = data.load_bow  # type: ignore[attr-defined,unused-ignore]
    return Job(lambda: load_bow(_bow(case)), _bow_values)


def napkinxc_lf(case: Case) -> Job:
    from napkinxc.datasets import load_libsvm_file

    def values(features: Any) -> Values:
        return csr_values(_with_columns(features, case.size.n_labels))

    return Job(lambda: load_libsvm_file(_lf(case), labels_format="list")[0], values)


def napkinxc_bow(labels_format: str) -> Any:
    def prepare(case: Case) -> Job:
        from napkinxc.datasets import load_libsvm_file

        def values(out: Any) -> Values:
            features = _with_columns(out[0], case.size.bow_features)
            return _bow_values((features, _label_matrix(out[1], case.size.n_labels)))

        return Job(lambda: load_libsvm_file(_bow(case), labels_format=labels_format), values)

    return prepare


def _with_columns(y: Any, n_columns: int) -> csr_matrix:
    """The shape of napkinXC and scikit-learn ends at the largest id seen."""
    return csr_matrix((y.data, y.indices, y.indptr), shape=(y.shape[0], n_columns))


def _label_matrix(rows: Any, n_labels: int) -> csr_matrix:
    if hasattr(rows, "indptr"):
        return _with_columns(rows, n_labels)
    counts = [len(row) for row in rows]
    ids = np.fromiter((int(label) for row in rows for label in row), np.int32)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    return csr_matrix((np.ones(len(ids), np.float32), ids, indptr), shape=(len(counts), n_labels))


def sklearn_lf(case: Case) -> Job:
    from sklearn.datasets import load_svmlight_file

    def run() -> Any:
        with Path(_lf(case)).open("rb") as file:
            n_labels = int(file.readline().split()[1])
            return load_svmlight_file(
                file, n_features=n_labels, dtype=np.float32, multilabel=True, zero_based=True
            )[0]

    return Job(run, csr_values)


def sklearn_bow(case: Case) -> Job:
    from sklearn.datasets import load_svmlight_file

    def run() -> Any:
        with Path(_bow(case)).open("rb") as file:
            n_features = int(file.readline().split()[1])
            return load_svmlight_file(
                file, n_features=n_features, dtype=np.float32, multilabel=True, zero_based=True
            )

    def values(out: Any) -> Values:
        return _bow_values((out[0], _label_matrix(out[1], case.size.n_labels)))

    return Job(run, values)


def omikuji_bow(case: Case) -> Job:
    """The loader inside `Model.train_on_data`; its data set cannot be looked into."""
    from omikuji import _libomikuji, _ThreadPoolHandle

    lib, ffi = _libomikuji.lib, _libomikuji.ffi
    pool = _ThreadPoolHandle(case.threads)

    def run() -> Any:
        found = lib.load_omikuji_data_set(ffi.new("char[]", _bow(case).encode()), pool.ptr)
        if found == ffi.NULL:
            raise RuntimeError("omikuji could not load the file")
        return ffi.gc(found, lib.free_omikuji_data_set)

    return Job(run, lambda out: {})


def pyxclib_lf(case: Case) -> Job:
    from xclib.data.data_utils import read_sparse_file

    return Job(
        lambda: read_sparse_file(_lf(case), dtype=np.float32, zero_based=True, force_header=True),
        csr_values,
    )


def pyxclib_bow(case: Case) -> Job:
    from xclib.data.data_utils import read_data

    def values(out: Any) -> Values:
        labels = _label_matrix(out[1], case.size.n_labels)
        return _bow_values((_with_columns(out[0], case.size.bow_features), labels))

    return Job(lambda: read_data(_bow(case)), values)


def scipy_npz(case: Case) -> Job:
    y = case.matrix("lf", case.size.n_labels)
    path = case.folder / "lf" / "same.npz"
    if not path.exists():
        save_npz(path, y, compressed=False)
    return Job(lambda: load_npz(path), csr_values)


def _saving(case: Case, save: Any) -> Job:
    """Save into a scratch file; the bytes are compared."""
    y = case.matrix("lf", case.size.n_labels)
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "text.txt"

    def values(out: Any) -> Values:
        text = np.frombuffer(path.read_bytes(), np.uint8)
        return {"text": digest(text)}

    return Job(lambda: save(path, y), values, clean=folder.cleanup)


def dexml_save(case: Case) -> Job:
    from dexml.data import save_labels

    return _saving(case, lambda path, y: save_labels(path, csr_array(y)))


def python_save(case: Case) -> Job:
    def save(path: Path, y: csr_matrix) -> None:
        ids, values, indptr = y.indices.tolist(), y.data.tolist(), y.indptr.tolist()
        with path.open("w") as file:
            file.write(f"{y.shape[0]} {y.shape[1]}\n")
            for start, stop in pairwise(indptr):
                row = (f"{ids[i]}:{values[i]}" for i in range(start, stop))
                file.write(" ".join(row) + "\n")

    return _saving(case, save)


def sklearn_save(case: Case) -> Job:
    from sklearn.datasets import dump_svmlight_file

    def save(path: Path, y: csr_matrix) -> None:
        with path.open("wb") as file:
            file.write(b"%d %d\n" % y.shape)
            dump_svmlight_file(y, np.zeros(y.shape[0]), file, zero_based=True)

    return _saving(case, save)


def pyxclib_save(case: Case) -> Job:
    from xclib.data.data_utils import write_sparse_file

    return _saving(case, lambda path, y: write_sparse_file(y, str(path)))


TASKS = (
    Task(
        "load-lf",
        "Load LF text",
        ("lf",),
        lambda case: (case.folder / "lf" / "text.txt").stat().st_size,
        "MB/s",
        (
            Competitor("dexml", "dexml", dexml_lf, "checked CSR", threaded=True),
            Competitor("napkinXC", "napkinxc", napkinxc_lf, "CSR", tolerance=1e-6),
            Competitor("scikit-learn", "sklearn", sklearn_lf, "CSR, shape given"),
            Competitor("pyxclib", "xclib", pyxclib_lf, "CSR"),
            Competitor(
                "scipy load_npz", "scipy", scipy_npz, "the matrix from a binary file", floor=True
            ),
        ),
        scale=1e6,
    ),
    Task(
        "load-bow",
        "Load bag-of-words text",
        ("bow",),
        lambda case: (case.folder / "bow" / "text.txt").stat().st_size,
        "MB/s",
        (
            Competitor(
                "dexml", "dexml.data:load_bow", dexml_bow, "two checked CSR", threaded=True,
                tolerance=1e-6,
            ),
            Competitor(
                "napkinXC, csr", "napkinxc", napkinxc_bow("csr_matrix"), "two CSR", tolerance=1e-6
            ),
            Competitor(
                "napkinXC, list", "napkinxc", napkinxc_bow("list"), "CSR and lists", tolerance=1e-6
            ),
            Competitor(
                "omikuji", "omikuji", omikuji_bow, "its own rows", threaded=True,
                differs={"*": "its data set cannot be looked into, so nothing is compared"},
            ),
            Competitor(
                "scikit-learn", "sklearn", sklearn_bow, "CSR and tuples", tolerance=1e-6
            ),
            Competitor("pyxclib", "xclib", pyxclib_bow, "CSR and tuples", tolerance=1e-6),
        ),
        scale=1e6,
    ),
    Task(
        "save-lf",
        "Save LF text",
        ("lf",),
        lambda case: (case.folder / "lf" / "text.txt").stat().st_size,
        "MB/s",
        (
            Competitor("dexml", "dexml", dexml_save, "beside, then renamed", threaded=True),
            Competitor("Python", "python", python_save, "a join a row"),
            Competitor(
                "scikit-learn", "sklearn", sklearn_save, "svmlight: a `0` before each row",
                differs={"text": "writes a target before each row, and 1 for 1.0"},
            ),
            Competitor("pyxclib", "xclib", pyxclib_save, "a format call an entry"),
        ),
        scale=1e6,
    ),
)  # fmt: skip
