"""Label vectors with an HNSW graph over them: approximate search with a measured recall."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dexml import _rust
from dexml.data import Csr, pair_parts
from dexml.files import replacing
from dexml.index.exact import Found, exact_search

FORMAT_VERSION = 1
MAX_EF = 4096
"""Beyond this, comparing all labels is the better search."""
RECALL_QUERIES = 1000


@dataclass(frozen=True)
class Manifest:
    """What an index folder says of itself (``manifest.json``)."""

    format_version: int
    n_labels: int
    dim: int
    m: int
    ef_construction: int
    ef: int
    seed: int
    recall: float
    recall_k: int
    recall_queries: int
    encoder: str
    files: dict[str, dict[str, Any]]


class LabelIndex:
    """Label vectors with an HNSW graph over them (inner product)."""

    def __init__(self, vectors: NDArray[np.float32], graph: Any, manifest: Manifest) -> None:
        self.vectors = vectors
        self.manifest = manifest
        self._graph = graph

    @classmethod
    def build(
        cls,
        vectors: NDArray[np.float32],
        queries: NDArray[np.float32],
        *,
        encoder: str = "",
        m: int = 16,
        ef_construction: int = 200,
        k: int = 10,
        recall: float = 0.99,
        seed: int = 0,
        progress: bool = False,
    ) -> LabelIndex:
        """Build the graph, then raise ``ef`` until `queries` find `recall` of the exact top k.

        The graph is built by one thread: insertion in several is not reproducible.

        Args:
            vectors: Label vectors, shape (L, D), float32.
            queries: Points to measure the recall with, shape (n, D); at most 1,000 are used.
            encoder: Fingerprint of the encoder that made the vectors.
            m: Links of a node.
            ef_construction: Candidates while building.
            k: Recall is measured for the k best labels.
            recall: Wanted recall@k.
            seed: Seed of the graph's levels.
            progress: Show a bar.
        """
        import hnswlib

        if len(vectors) == 0:
            raise ValueError("no label vectors to index")
        graph = hnswlib.Index(space="ip", dim=vectors.shape[1])
        graph.init_index(len(vectors), M=m, ef_construction=ef_construction, random_seed=seed)
        with tqdm(total=len(vectors), desc="index", unit="label", disable=not progress) as bar:
            for start in range(0, len(vectors), 1000):
                block = vectors[start : start + 1000]
                graph.add_items(block, np.arange(start, start + len(block)), num_threads=1)
                bar.update(len(block))
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            n_labels=len(vectors),
            dim=vectors.shape[1],
            m=m,
            ef_construction=ef_construction,
            ef=max(64, 2 * k),
            seed=seed,
            recall=0.0,
            recall_k=min(k, len(vectors)),
            recall_queries=0,
            encoder=encoder,
            files={},
        )
        index = cls(vectors, graph, manifest)
        index._raise_ef(queries[:RECALL_QUERIES], recall)
        return index

    def _raise_ef(self, queries: NDArray[np.float32], wanted: float) -> None:
        k = self.manifest.recall_k
        _, truth = exact_search(queries, self.vectors, k)
        ef = self.manifest.ef
        while True:
            self.manifest = replace(self.manifest, ef=ef)
            _, found = self.search(queries, k)
            # By score, not by id: of labels with one text any is as good as the other.
            measured = float((found >= truth[:, -1:] - 1e-6).mean()) if truth.size else 1.0
            self.manifest = replace(self.manifest, recall=measured, recall_queries=len(queries))
            if measured >= wanted or ef >= min(MAX_EF, self.manifest.n_labels):
                return
            ef *= 2

    def search(self, queries: NDArray[np.float32], k: int, *, exclude: Csr | None = None) -> Found:
        """Find about the k best labels of each query; shapes and padding as `exact_search`."""
        n_labels = self.manifest.n_labels
        if queries.ndim != 2 or queries.shape[1] != self.manifest.dim:
            raise ValueError(
                f"queries {queries.shape}; the index has {self.manifest.dim} dimensions"
            )
        pairs = pair_parts(exclude, (len(queries), n_labels), "exclude")
        ids = np.full((len(queries), k), -1, np.int32)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for start in range(0, len(queries), 256):
            rows = slice(start, min(start + 256, len(queries)))
            window = None
            extra = 0
            if pairs is not None:
                window = (pairs[0][start : rows.stop + 1], pairs[1])
                extra = int(np.diff(window[0]).max())
            ids[rows], scores[rows] = self._search_block(queries[rows], k, extra, window)
        return ids, scores

    def _search_block(
        self,
        queries: NDArray[np.float32],
        k: int,
        extra: int,
        pairs: tuple[NDArray[np.int64], NDArray[np.int32]] | None,
    ) -> Found:
        """Fetch `extra` more than k, so that k remain without the excluded `pairs`.

        (A filter inside hnswlib would run Python code for every node.)
        """
        n_labels = self.manifest.n_labels
        wanted = min(k + extra, n_labels)
        ef = self.manifest.ef if k <= self.manifest.recall_k else 3 * k
        self._graph.set_ef(min(n_labels, max(self.manifest.ef, ef, wanted)))
        try:
            labels, _ = self._graph.knn_query(queries, k=wanted)
        except RuntimeError:  # the graph reaches fewer than `wanted` nodes from here
            return _rust.topk_dense(queries @ self.vectors.T, k, pairs)
        # Scores are computed afresh, so that both searches give the same numbers.
        labels = labels.astype(np.int32)
        found = np.einsum("qd,qkd->qk", queries, self.vectors[labels])
        indptr = np.arange(len(queries) + 1, dtype=np.int64) * wanted
        return _rust.topk_csr(indptr, labels.ravel(), found.ravel(), n_labels, k, pairs)

    def save(self, folder: Path) -> None:
        """Write the index as a folder, beside `folder` and renamed over an older one."""
        with replacing(folder) as beside:
            beside.mkdir()
            np.save(beside / "vectors.npy", self.vectors)
            self._graph.save_index(str(beside / "graph.hnsw"))
            files = {name: _seal(beside / name) for name in ("vectors.npy", "graph.hnsw")}
            self.manifest = replace(self.manifest, files=files)
            text = json.dumps(self.manifest.__dict__, indent=2) + "\n"
            (beside / "manifest.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, *, encoder: str | None = None) -> LabelIndex:
        """Open an index folder; sizes and SHA-256 are checked before hnswlib reads a byte.

        Args:
            folder: Written by `save`.
            encoder: Fingerprint the index must carry, if given.

        Raises:
            ValueError: Damaged, of a newer version, or of another encoder.
        """
        import hnswlib

        manifest = _read_manifest(folder)
        for name in ("vectors.npy", "graph.hnsw"):
            if manifest.files.get(name) != _seal(folder / name):
                raise ValueError(
                    f"{folder / name}: not the file that was saved; build the index again"
                )
        if encoder is not None and manifest.encoder != encoder:
            raise ValueError(f"{folder}: made by another encoder; run python -m dexml.index again")
        vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
        if vectors.shape != (manifest.n_labels, manifest.dim) or vectors.dtype != np.float32:
            raise ValueError(f"{folder}: damaged ({vectors.shape} is not what the manifest says)")
        graph = hnswlib.Index(space="ip", dim=manifest.dim)
        graph.load_index(str(folder / "graph.hnsw"), max_elements=manifest.n_labels)
        return cls(vectors, graph, manifest)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / "manifest.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format_version"]
        if version > FORMAT_VERSION:
            raise ValueError(
                f"{path}: format {version} is newer than {FORMAT_VERSION}; update dexml"
            )
        manifest = Manifest(**content)
        for field in fields(Manifest):
            kind: Any = {"int": int, "float": int | float, "str": str}.get(str(field.type), dict)
            if not isinstance(getattr(manifest, field.name), kind):
                raise TypeError(f"{field.name} is not {field.type}")
        return manifest
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged ({error}); build the index again") from None


def _seal(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
