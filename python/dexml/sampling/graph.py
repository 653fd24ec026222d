"""Label graphs: which labels occur together, by random walks or exact co-occurrence."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import _rust, shown
from dexml.data import Csr, csr_parts, expect_csr, label_parts
from dexml.files import replacing

FORMAT_VERSION = 1
_Arrays = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]


@dataclass(frozen=True, repr=False)
class LabelGraph:
    """Weighted neighbours of each label.

    Build one with `random_walk` or `co_occurrence`, or from a matrix of your own.
    """

    neighbours: Csr
    """Weights, shape (n_labels, n_labels), float32, rows sorted by label. A label without training
    points has an empty row."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Name of the method, and its arguments."""

    def __post_init__(self) -> None:
        expect_csr(self.neighbours, "neighbours")
        n_rows, n_columns = self.neighbours.shape
        if n_rows != n_columns:
            raise ValueError(f"neighbours: shape {self.neighbours.shape}; expected labels x labels")

    def _facts(self) -> dict[str, object]:
        facts: dict[str, object] = {"labels": self.neighbours.shape[0]}
        return facts | {"edges": self.neighbours.nnz} | self.parameters

    def __repr__(self) -> str:
        return shown.line("LabelGraph", self._facts())

    def _repr_html_(self) -> str:
        return shown.html("LabelGraph", self._facts())

    @classmethod
    def random_walk(
        cls,
        y_train: Csr,
        *,
        seed: int,
        n_steps: int = 400,
        restart: float = 0.8,
        top: int = 50,
        weights: Literal["visits", "share"] = "visits",
        min_count: int = 1,
        keep_self: bool = False,
        max_point_labels: int | None = None,
        max_label_points: int | None = None,
        num_threads: int | None = None,
    ) -> LabelGraph:
        """Walk from each label over the bipartite graph of points and labels.

        A step goes from a label to a random point of it and on to a random label of that point, and
        counts a visit of that label. The first step starts at the label itself, and so does each
        later one with probability `restart`; otherwise it starts where the last one ended.

        These are the walks of pyxclib (``xclib.utils.graph.RandomWalk``). The code for extreme
        classification that builds on it uses 400 steps and restart 0.8 (pyxclib's own defaults,
        100 and 0.2, give a global rather than a local graph). It keeps 10 neighbours and the label
        itself; a source of negatives needs more.

        Args:
            y_train: Training matrix, shape (n_points, n_labels); values above 0 are edges.
            seed: The walk from a label depends only on (seed, label) and the matrix.
            n_steps: Steps from each label, at most 65,536.
            restart: Probability of going back to the first label before a step.
            top: Neighbours kept for each label; of equal visits, the smaller ids.
            weights: ``"visits"``, or ``"share"`` for visits divided by `n_steps`.
            min_count: Labels visited less often are dropped.
            keep_self: Whether a label may be its own neighbour.
            max_point_labels: Points with more labels are left out of the matrix.
            max_label_points: Labels with more of the remaining points are nobody's neighbour.
            num_threads: Threads; default all cores. The result does not depend on it.

        Raises:
            ValueError: An argument is out of range, or `y_train` is refused as by
                `dexml.metrics.inv_propensity`.

        Examples:
            >>> y = csr_array(np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], np.float32))
            >>> LabelGraph.random_walk(y, seed=0, n_steps=100).neighbours.nonzero()[1].tolist()
            [1, 0]
        """
        parameters: dict[str, Any] = {
            "n_steps": n_steps,
            "restart": float(restart),
            "top": top,
            "min_count": min_count,
            "keep_self": keep_self,
            "seed": seed,
            "max_point_labels": max_point_labels,
            "max_label_points": max_label_points,
        }
        _one_of("weights", weights, ("visits", "share"))
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must be in 0..2^64 - 1, not {seed}")
        y = label_parts(y_train, "y_train")
        n_labels = y_train.shape[1]
        arrays = _rust.random_walk(y, n_labels, num_threads=num_threads, **parameters)
        if weights == "share":
            indptr, indices, visits = arrays
            arrays = (indptr, indices, visits / np.float32(n_steps))
        method = {"method": "random_walk", "weights": weights}
        return cls(_matrix(arrays, n_labels), method | parameters)

    @classmethod
    def co_occurrence(
        cls,
        y_train: Csr,
        *,
        top: int = 50,
        normalise: Literal["count", "cosine", "jaccard", "probability"] = "cosine",
        min_count: int = 1,
        keep_self: bool = False,
        max_point_labels: int | None = None,
        max_label_points: int | None = None,
        num_threads: int | None = None,
    ) -> LabelGraph:
        """Count for each label the points that it shares with every other label, exactly.

        With c points that have both l and m, and n(l), n(m) points that have each, the weight of
        the edge from l to m is c (``"count"``), c / sqrt(n(l) n(m)) (``"cosine"``),
        c / (n(l) + n(m) - c) (``"jaccard"``), or c / n(l) = P(m | l) (``"probability"``).

        The product of the matrix with itself is never stored: a thread holds 4 bytes a label. A
        point with d labels costs d² steps, so a few points with very many labels may cost more
        than all others. Leave them out with `max_point_labels`.

        Args:
            y_train: Training matrix, shape (n_points, n_labels); values above 0 count.
            top: Neighbours kept for each label, by weight; of equal weights, the smaller ids.
            normalise: The weight of an edge.
            min_count: Labels with fewer points in common are dropped.
            keep_self: Whether a label may be its own neighbour.
            max_point_labels: Points with more labels are left out of the matrix.
            max_label_points: Labels with more of the remaining points are nobody's neighbour.
            num_threads: Threads; default all cores. The result does not depend on it.

        Raises:
            ValueError: An argument is out of range, or `y_train` is refused as by
                `dexml.metrics.inv_propensity`.

        Examples:
            >>> y = csr_array(np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1]], np.float32))
            >>> LabelGraph.co_occurrence(y, normalise="probability").neighbours.toarray()
            array([[0.        , 0.33333334, 0.33333334],
                   [1.        , 0.        , 0.        ],
                   [1.        , 0.        , 0.        ]], dtype=float32)
        """
        parameters: dict[str, Any] = {
            "normalise": normalise,
            "top": top,
            "min_count": min_count,
            "keep_self": keep_self,
            "max_point_labels": max_point_labels,
            "max_label_points": max_label_points,
        }
        y = label_parts(y_train, "y_train")
        n_labels = y_train.shape[1]
        arrays = _rust.co_occurrence(y, n_labels, num_threads=num_threads, **parameters)
        return cls(_matrix(arrays, n_labels), {"method": "co_occurrence"} | parameters)

    def stats(self) -> dict[str, float]:
        """Count labels and edges.

        Returns:
            ``n_labels``, ``n_edges``, ``edges_per_label`` (mean), ``max_edges`` of a label, and
            ``without_neighbours``, the fraction of labels with an empty row.
        """
        n_labels = self.neighbours.shape[0]
        counts = np.diff(self.neighbours.indptr)
        return {
            "n_labels": n_labels,
            "n_edges": int(self.neighbours.nnz),
            "edges_per_label": self.neighbours.nnz / max(n_labels, 1),
            "max_edges": int(counts.max(initial=0)),
            "without_neighbours": float((counts == 0).mean()) if n_labels else 0.0,
        }

    def save(self, path: Path | str) -> None:
        """Write the graph as an ``.npz`` archive; an old file at `path` is replaced at once.

        ``scipy.sparse.load_npz`` reads the archive too. Its array ``graph`` holds format version
        and parameters as JSON.

        Raises:
            ValueError: `path` does not end in ``.npz``, or `load` would refuse the graph (a label
                twice in a row, a weight that is not finite).
        """
        path = Path(path)
        if path.suffix != ".npz":
            raise ValueError(f"{path}: expected a name that ends in .npz")
        matrix = self.neighbours
        indptr, indices, weights = csr_parts(matrix, "neighbours")
        weights = weights.astype(np.float32, copy=False)
        n_labels = matrix.shape[0]
        tidy = _rust.check_csr("neighbours", n_labels, n_labels, indptr, indices, weights)
        matrix = _matrix((indptr, *(tidy or (indices, weights))), n_labels)
        described = {"format_version": FORMAT_VERSION, "parameters": self.parameters}
        with replacing(path) as temporary:
            np.savez(
                temporary,
                format=np.array(b"csr"),
                shape=np.array(matrix.shape),
                data=matrix.data,
                indices=matrix.indices,
                indptr=matrix.indptr,
                _is_array=np.array(True),
                graph=np.array(json.dumps(described)),
            )

    @classmethod
    def load(cls, path: Path | str) -> LabelGraph:
        """Read a graph that `save` wrote. Everything is checked; nothing is unpickled.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a label graph, is damaged, or has a newer format.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        try:
            # Opened here, because np.load leaves a damaged file open.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            described = json.loads(str(arrays["graph"]))
            version, parameters = int(described["format_version"]), dict(described["parameters"])
        except Exception as error:  # on damaged files np.load raises a dozen kinds of errors
            raise ValueError(f"{path}: not a label graph, or damaged ({error})") from None
        if version > FORMAT_VERSION:
            raise ValueError(
                f"{path}: format {version} is newer than {FORMAT_VERSION}; update dexml"
            )
        try:
            rows, columns = (int(side) for side in arrays["shape"])
            if rows != columns:
                raise ValueError(f"{rows} x {columns} is not labels x labels")
            indptr = np.ascontiguousarray(arrays["indptr"], np.int64)
            indices = np.ascontiguousarray(arrays["indices"], np.int32)
            weights = np.ascontiguousarray(arrays["data"], np.float32)
            if _rust.check_csr(str(path), rows, columns, indptr, indices, weights) is not None:
                raise ValueError("rows are not sorted by label")
            return cls(_matrix((indptr, indices, weights), columns), parameters)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: damaged ({error}); build the graph again") from None


def graph_parts(graph: LabelGraph | Csr, n_labels: int) -> _Arrays:
    """Return the arrays of a graph, or of a matrix of weights, as the Rust core takes them."""
    neighbours = graph.neighbours if isinstance(graph, LabelGraph) else graph
    indptr, indices, weights = csr_parts(neighbours, "graph")
    if neighbours.shape != (n_labels, n_labels):
        raise ValueError(f"graph: shape {neighbours.shape}, expected {(n_labels, n_labels)}")
    return indptr, indices, weights.astype(np.float32, copy=False)


def _matrix(arrays: _Arrays, n_labels: int) -> Csr:
    """Build a CSR that shares the arrays; scipy wants one dtype for both index arrays."""
    indptr, indices, weights = arrays
    wide = len(indices) > np.iinfo(np.int32).max
    both = (indices.astype(np.int64), indptr) if wide else (indices, indptr.astype(np.int32))
    matrix = csr_array((weights, *both), shape=(n_labels, n_labels))
    matrix.has_canonical_format = True
    return matrix


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, not {value!r}")
