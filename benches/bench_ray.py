"""Two workers of Ray Data against one: `BatchPredictor` in `map_batches`, workers that stay.

    python benches/bench_ray.py RUN TEXTS [--texts 20000] [--rounds 3]

Each worker has one thread, and has opened the run before time counts; the texts are those of the
file, repeated. Prints wall seconds from the first batch that begins to the last that ends, texts a
second while all workers are at work, and CPU seconds of the batches. Rounds take turns: one worker,
two workers.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

import numpy as np
import ray

from dexml import data
from dexml.predict import BatchPredictor

BATCH = 256


class Timed:
    """Answers batches, and says when and at what cost."""

    def __init__(self, run: str) -> None:
        self.answer = BatchPredictor(run, k=10)
        self.answer({"text": ["a first text opens the run"]})

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        began, cpu = time.time(), time.process_time()
        answers: Any = self.answer(batch)
        n = len(batch["text"])
        spent = {"began": began, "ended": time.time(), "cpu": time.process_time() - cpu}
        return {
            "pid": np.full(n, os.getpid()),
            "best": np.array([ids[0] for ids in answers["label_ids"]]),
            "first": np.arange(n) == 0,
            **{name: np.full(n, value) for name, value in spent.items()},
        }


def once(run: str, texts: list[str], workers: int) -> dict[str, float]:
    """Answer the texts with so many workers."""
    rows = ray.data.from_items(
        [{"text": text} for text in texts], override_num_blocks=max(1, len(texts) // BATCH)
    )
    table = rows.map_batches(
        Timed,
        fn_constructor_args=(run,),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=workers),
    ).to_pandas()
    batches = table[table["first"]]
    # Workers begin apart from each other: from the last that began to the first that ended.
    spans = batches.groupby("pid").agg(began=("began", "min"), ended=("ended", "max"))
    begun, ended = spans["began"].max(), spans["ended"].min()
    inside = (table["began"] >= begun) & (table["ended"] <= ended)
    return {
        "workers": len(spans),
        "texts": len(table),
        "wall": float(table["ended"].max() - table["began"].min()),
        "together": float(inside.sum() / (ended - begun)),
        "cpu": float(batches["cpu"].sum()),
    }


def main() -> None:
    """Print a line of JSON for each number of workers and each round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run")
    parser.add_argument("texts")
    parser.add_argument("--texts", type=int, default=20_000, dest="n_texts")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    known = list(data.load_texts(args.texts))
    texts = (known * (1 + args.n_texts // len(known)))[: args.n_texts]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    for _ in range(args.rounds):
        for workers in (1, 2):
            print(json.dumps(once(args.run, texts, workers)), flush=True)


if __name__ == "__main__":
    main()
