"""The texts of one question, with every representation of them made once, on demand."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
OnProgress = Callable[[int], object]
"""Called with the number of texts whenever some more are done."""


class Queries:
    """Texts that are asked about, or that become points or labels.

    Scorers that need the same representation (tokens, embeddings, tf-idf) share it through `once`.
    """

    def __init__(self, texts: Sequence[str], on_progress: OnProgress | None = None) -> None:
        """Keep the texts; nothing is computed yet."""
        self.texts = list(texts)
        self.on_progress = on_progress
        self._made: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self.texts)

    def once(self, key: Hashable, make: Callable[[Queries], T]) -> T:
        """What `make` gives for these texts; later calls with the same key give it again.

        Args:
            key: Names the representation and what makes it, such as an encoder object.
            make: Makes it.
        """
        if key not in self._made:
            self._made[key] = make(self)
        result: T = self._made[key]
        return result
