"""Measure how long a run takes to open and to answer: wall and CPU time, text after text.

    python docs/examples/latency.py RUN [TEXTS.txt] [--search hnsw] [--threads 1] [--engine torch]

Without TEXTS, it asks the test points of the run's data set. `benches/search.py` measures single
steps (tokenise, encode, search) and other tools.
"""

import time

_STARTED = time.perf_counter(), time.process_time()

import argparse  # noqa: E402
from collections.abc import Callable  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

from dexml.data import load_texts  # noqa: E402
from dexml.predict import Predictor  # noqa: E402


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main(argv: list[str] | None = None) -> None:
    """Print the times."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("texts", type=Path, nargs="?")
    parser.add_argument("--search", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--n", type=int, default=300, help="number of texts to ask")
    arguments = parser.parse_args(argv)
    imported = time.perf_counter() - _STARTED[0], time.process_time() - _STARTED[1]
    opened: list[Predictor] = []
    opening = timed(
        lambda: opened.append(
            Predictor.open(
                arguments.run,
                search=arguments.search,
                threads=arguments.threads,
                engine=arguments.engine,
            )
        )
    )
    (predictor,) = opened
    path = arguments.texts or predictor.run.data_dir() / "raw" / "tst_X.txt"
    texts = load_texts(path)[: arguments.n]
    first = timed(lambda: predictor.predict(texts[:1], 10))
    each = np.array([timed(lambda text=text: predictor.predict([text], 10)) for text in texts])  # type: ignore[misc]
    print(f"search: {predictor.search_note()}")
    print(f"encoder: {predictor.encoder_note()}")
    print(f"{'':16}{'wall':>10}{'CPU':>10}")
    for name, (wall, cpu) in (("import", imported), ("open", opening), ("first call", first)):
        print(f"{name:16}{1e3 * wall:7.1f} ms{1e3 * cpu:7.1f} ms")
    for name, q in (("least", 0.0), ("p50", 0.5), ("p99", 0.99)):
        wall, cpu = 1e3 * np.quantile(each, q, axis=0)
        print(f"{'one text, ' + name:16}{wall:7.1f} ms{cpu:7.1f} ms")
    block = timed(lambda: predictor.predict(texts, 10))
    print(f"{len(texts)} texts at once: {block[1] / len(texts) * 1e3:.2f} ms of CPU a text")
    with ThreadPoolExecutor(2) as pool:
        together = timed(lambda: list(pool.map(lambda text: predictor.predict([text], 10), texts)))
    print(f"two threads, one text a call: {len(texts) / together[0]:.0f} texts a second")


if __name__ == "__main__":
    main()
