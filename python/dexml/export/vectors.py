"""The label vectors of a run, and their way into numpy, FAISS, LanceDB and Qdrant.

A label's score for a text is the dot product of both vectors, bias included: the last dimension.
Each store gives the ids that the run's own exact search gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dexml import console, files
from dexml.predict import Predictor
from dexml.predict.served import dense_of

TABLE = "labels"
"""Name of the table of LanceDB and of the collection of Qdrant."""
_BLOCK = 4096
"""Vectors that are given to a store at a time."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """The labels that are alive, and their vectors.

    Attributes:
        ids: Label ids, int32, shape (n,), ascending.
        vectors: Shape (n, D + 1), float32.
        texts: Texts of the labels.
        counts: Training points of each label, int64.
    """

    ids: NDArray[np.int32]
    vectors: NDArray[np.float32]
    texts: list[str]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, predictor: Predictor) -> Vectors:
        """Take them from a run, as they are at this moment.

        Raises:
            ValueError: A light run, which has no vectors.
        """
        if dense_of(predictor.scorer) is None:
            raise ValueError(
                f"{predictor.run.folder}: a light run has no vectors; train with an encoder for "
                "them"
            )
        labels, dense = predictor.label_set, predictor.dense
        ids = np.flatnonzero(labels.alive).astype(np.int32)
        texts = [labels.texts[i] for i in ids.tolist()]
        return cls(ids, dense.index.vectors[ids], texts, labels.counts[ids])

    @property
    def dim(self) -> int:
        """D + 1."""
        return int(self.vectors.shape[1])


def to_numpy(given: Vectors, folder: Path) -> None:
    """Write ``vectors.npy`` and ``ids.npy``; row i of one belongs to entry i of the other."""
    files.write_array(folder / "vectors.npy", given.vectors)
    files.write_array(folder / "ids.npy", given.ids)


def to_faiss(given: Vectors, folder: Path) -> None:
    """Write ``index.faiss``: exact search by dot product that answers label ids."""
    console.require("faiss", "faiss")
    import faiss

    index = faiss.IndexIDMap2(faiss.IndexFlatIP(given.dim))
    index.add_with_ids(np.ascontiguousarray(given.vectors), given.ids.astype(np.int64))
    faiss.write_index(index, str(folder / "index.faiss"))


def to_lancedb(given: Vectors, folder: Path) -> None:
    """Write a database with the table ``labels``: id, text, count, vector."""
    console.require("lancedb", "lancedb", "pyarrow")
    import lancedb
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(given.vectors).ravel())
    table = pa.table(
        {
            "id": pa.array(given.ids),
            "text": pa.array(given.texts, pa.string()),
            "count": pa.array(given.counts),
            "vector": pa.FixedSizeListArray.from_arrays(flat, given.dim),
        }
    )
    lancedb.connect(str(folder)).create_table(TABLE, table)


def to_qdrant(given: Vectors, folder: Path) -> None:
    """Write a database of Qdrant's local mode with the collection ``labels``."""
    console.require("qdrant", "qdrant_client")
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(folder))
    try:
        config = models.VectorParams(size=given.dim, distance=models.Distance.DOT)
        client.create_collection(TABLE, vectors_config=config)
        for start in range(0, len(given.ids), _BLOCK):
            part = slice(start, start + _BLOCK)
            payloads = [
                {"text": text, "count": count}
                for text, count in zip(given.texts[part], given.counts[part].tolist(), strict=True)
            ]
            batch = models.Batch(
                ids=given.ids[part].tolist(), vectors=given.vectors[part].tolist(),
                payloads=payloads,
            )  # fmt: skip
            client.upsert(TABLE, points=batch)
    finally:
        client.close()
