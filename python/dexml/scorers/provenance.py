"""What a member was fitted from, as a hash, so that a growing run need not fit it again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from dexml.data import Csr


def source_of(
    settings: Mapping[str, Any], seed: int, tokens: Sequence[bytes], features: Sequence[Csr], y: Csr
) -> str:
    """Hash all that a member is fitted from; another version of dexml may fit another one.

    Args:
        settings: Of the fit, as JSON could hold them.
        seed: Of the fit.
        tokens: Vocabularies, each as its tokens.
        features: Rows of features, CSR.
        y: Labels of the points; the pattern counts, values do not.

    Returns:
        A SHA-256: equal hashes, equal members.
    """
    version = ""
    with suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version("dexml-xmc")
    about = [version, settings, seed, *(matrix.shape for matrix in (*features, y))]
    digest = hashlib.sha256(json.dumps(about).encode())
    digest.update(b"\0".join(tokens))
    arrays = [array for one in features for array in (one.indptr, one.indices, one.data)]
    for array in (*arrays, y.indptr, y.indices):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
