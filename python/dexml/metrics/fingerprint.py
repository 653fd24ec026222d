"""A hash of the truth, by which `compare` sees whether two results are of the same points."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_SHIFT = np.uint64(31)


class TruthFingerprint:
    """A 64-bit hash of the positives of a stream of rows.

    The hash of a row is the sum of the hashes of its positives, so the order of entries does not
    matter. The rows are the digits of a number to a fixed base modulo 2^64, so the cut into blocks
    does not matter either, and two streams can be joined. It detects accidents, not attacks.
    """

    def __init__(self) -> None:
        self._value = np.zeros(1, np.uint64)
        self._n_rows = 0

    def add(
        self, indptr: NDArray[np.int64], indices: NDArray[np.int32], data: NDArray[Any]
    ) -> None:
        """Add the rows of a CSR matrix; values above 0 are positives."""
        n_rows = len(indptr) - 1
        hashes = (indices.astype(np.uint64) + np.uint64(1)) * _BASE
        hashes = (hashes ^ (hashes >> _SHIFT)) * _MIX
        sums = np.zeros(len(hashes) + 1, np.uint64)
        np.cumsum(np.where(data > 0, hashes ^ (hashes >> _SHIFT), 0), out=sums[1:])
        rows = sums[indptr[1:]] - sums[indptr[:-1]]  # modulo 2^64, like all sums here
        self._append((rows[::-1] * _powers(n_rows)).sum(keepdims=True), n_rows)

    def join(self, other: TruthFingerprint) -> None:
        """Append the rows of `other`."""
        self._append(other._value, other._n_rows)

    def _append(self, value: NDArray[np.uint64], n_rows: int) -> None:
        factor = np.array([pow(int(_BASE), n_rows, 2**64)], np.uint64)
        self._value = self._value * factor + value
        self._n_rows += n_rows

    def hex(self) -> str:
        """Return the 64 bits as 16 hexadecimal digits."""
        return f"{int(self._value[0]):016x}"


def _powers(n: int) -> NDArray[np.uint64]:
    """Return powers 0 to n - 1 of the base, modulo 2^64."""
    factors = np.full(n, _BASE)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)
