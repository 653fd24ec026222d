"""What an index says of itself: kind, sizes, parameters, measured recall."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal


@dataclass(frozen=True)
class Recall:
    """Recall@k measured against exact search, and the `ef` it was measured at."""

    k: int
    ef: int
    recall: float
    wanted: float
    queries: int

    @property
    def reached(self) -> bool:
        """Whether the graph finds as much as was asked for."""
        return self.recall >= self.wanted


@dataclass(frozen=True)
class IndexFacts:
    """What an index is, apart from its vectors."""

    kind: Literal["exact", "hnsw"]
    n_labels: int
    n_alive: int
    dim: int
    m: int
    ef_construction: int
    seed: int
    recalls: tuple[Recall, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return asdict(self) | {"recalls": [asdict(row) for row in self.recalls]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> IndexFacts:
        """Check names and types of everything, and read it.

        Raises:
            ValueError: Something is missing, unknown, or of another type.
        """
        if not isinstance(content, Mapping):
            raise ValueError("facts of an index that are not an object")
        kinds: dict[str, type] = {f.name: int for f in fields(cls)} | {"kind": str, "recalls": list}
        if content.keys() != kinds.keys():
            raise ValueError(f"fields of an index: {', '.join(content)}")
        for name, kind in kinds.items():
            if type(content[name]) is not kind:
                raise ValueError(f"{name} is not of type {kind.__name__}")
        if content["kind"] not in ("exact", "hnsw") or any(
            content[name] < 0 for name in ("n_labels", "n_alive", "seed")
        ):
            raise ValueError("values out of range")
        if content["kind"] == "hnsw" and not content["recalls"]:
            raise ValueError("a graph without a measured recall")
        try:
            recalls = tuple(Recall(**row) for row in content["recalls"])
        except TypeError as error:
            raise ValueError(f"recalls: {error}") from None
        for row in recalls:
            whole = all(type(v) is int and v >= 0 for v in (row.k, row.ef, row.queries))
            if not whole or not all(isinstance(v, int | float) for v in (row.recall, row.wanted)):
                raise ValueError("recalls")
        return cls(**(dict(content) | {"recalls": recalls}))
