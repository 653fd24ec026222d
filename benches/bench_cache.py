"""CPU seconds for features of a data set that shares most of its texts with an earlier one.

    python benches/bench_cache.py DATA_DIR [--texts 2000] [--tokens 32] [--others 0.1]

The first data set is some training points, the second the same with a part of them replaced by
others, in another order. The second one is encoded with an empty cache, with the cache of the
first, and once more; one thread, so that CPU time counts. The bits are compared. Needs the extra
``dev``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from dexml.data import load_texts
from dexml.encoder import DualEncoder, Tokens
from dexml.encoder.engine_export import converted
from dexml.encoder.engine_openvino import forms
from dexml.encoder.pretrained import MINILM
from dexml.train.features import cached_features


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--encoder", default=MINILM)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--others", type=float, default=0.1, help="share of texts that are new")
    parser.add_argument("--form", default="bfloat16" if "bfloat16" in forms() else "float32")
    given = parser.parse_args(argv)

    encoder = DualEncoder.load(given.encoder).eval()
    encoder.engine = converted(encoder, threads=1).with_form(given.form)
    texts = np.array(load_texts(given.data_dir / "raw" / "trn_X.txt"), object)
    generator, n_others = np.random.default_rng(0), round(given.others * given.texts)
    rows = generator.permutation(len(texts))[: given.texts + n_others]
    first, second = (
        encoder.tokenize(list(texts[some]), given.tokens)
        for some in (rows[: given.texts], generator.permutation(rows[n_others:]))
    )
    assert encoder.engine.steady  # compiles; a training does it once
    with tempfile.TemporaryDirectory() as folder:
        cold, whole = _timed(encoder, second, Path(folder) / "cold")
        _timed(encoder, first, Path(folder) / "warm")
        warm, found = _timed(encoder, second, Path(folder) / "warm")
        again, once_more = _timed(encoder, second, Path(folder) / "warm")
    if not (np.array_equal(whole, found) and np.array_equal(whole, once_more)):
        raise SystemExit("the features differ")
    print(f"{given.texts:,} texts, {n_others:,} of them new, {given.form}, one thread")
    print(f"  empty cache {cold:.2f} CPU s, cache of the first {warm:.2f}, again {again:.2f}")


def _timed(encoder: DualEncoder, tokens: Tokens, cache: Path) -> tuple[float, NDArray[np.float32]]:
    start = time.process_time()
    found = cached_features(encoder, tokens, cache, desc="texts", progress=False)
    return time.process_time() - start, found


if __name__ == "__main__":
    main()
