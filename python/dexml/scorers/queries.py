"""The texts of one question, and results that several scorers share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
OnProgress = Callable[[int], object]
"""Called with the number of texts whenever some more are done."""


class Once:
    """Computes each result once and keeps it. For one thread."""

    def __init__(self) -> None:
        """Start without results."""
        self._results: dict[Hashable, Any] = {}

    def __call__(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the result that is kept under `key`, or what `make` returns.

        Args:
            key: Names the result. Contains the objects that it depends on, such as the encoder:
                as part of a key they stay alive, so that no other object can get their identity.
            make: Computes the result.
        """
        if key not in self._results:
            self._results[key] = make()
        result: T = self._results[key]
        return result

    def __contains__(self, key: Hashable) -> bool:
        """Whether a result is kept under `key`."""
        return key in self._results


class Queries:
    """Texts to find labels for, or texts of new points.

    Attributes:
        texts: The texts.
        on_progress: Called with the number of texts whenever some more are encoded.
        once: Keeps representations of the texts (tokens, embeddings, tf-idf), so that scorers
            that need the same one share it.
    """

    def __init__(self, texts: Sequence[str], on_progress: OnProgress | None = None) -> None:
        """Keep the texts; nothing is computed yet."""
        self.texts = list(texts)
        self.on_progress = on_progress
        self.once = Once()

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, rows: slice) -> Queries:
        """Some of the texts, nothing computed yet."""
        return Queries(self.texts[rows], self.on_progress)
