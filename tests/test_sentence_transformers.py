"""The evaluator and the rows for data sets of sentence-transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dexml import data
from dexml.metrics import evaluate

pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
pytestmark = pytest.mark.filterwarnings("default")  # of other libraries


@pytest.fixture(scope="module")
def model(tiny_encoder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_encoder), device="cpu")


@pytest.fixture(scope="module")
def dataset(tiny_data: Path) -> data.Dataset:
    return data.load_dataset(tiny_data)


def test_the_evaluator_scores_all_labels(model: Any, dataset: data.Dataset) -> None:
    from dexml.integrations.sentence_transformers import XmcEvaluator

    metrics = ("P@1", "nDCG@5")
    evaluator = XmcEvaluator(
        dataset.test_texts, dataset.label_texts, dataset.y_test, metrics,
        exclude=dataset.exclude_test, name="test",
    )  # fmt: skip
    found = evaluator(model)
    points = model.encode(list(dataset.test_texts), normalize_embeddings=True)
    labels = model.encode(list(dataset.label_texts), normalize_embeddings=True)
    scores = points @ labels.T
    if dataset.exclude_test is not None:
        scores[dataset.exclude_test.nonzero()] = -np.inf
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :5].astype(np.int32)
    expected = evaluate(dataset.y_test, ids, metrics, exclude=dataset.exclude_test)
    assert evaluator.primary_metric == "test_P@1"
    assert found == pytest.approx({f"test_{name}": v for name, v in expected.items()})


def test_rows_hold_all_labels_of_a_point_and_no_wrong_negative(
    model: Any, dataset: data.Dataset
) -> None:
    from dexml.integrations.sentence_transformers import shortlist, training_columns

    texts, names, y = dataset.train_texts, dataset.label_texts, dataset.y_train
    hard = shortlist(model, texts, names, y, k=8)
    columns = training_columns(
        texts, names, y, n_negatives=3, seed=0, sources="shortlist", shortlist=hard
    )
    assert list(columns) == [
        "point",
        "positive",
        "negative_1",
        "negative_2",
        "negative_3",
        "labels",
    ]
    assert len(columns["point"]) == y.nnz
    row = 0
    for point in range(len(texts)):
        own = y.indices[y.indptr[point] : y.indptr[point + 1]].tolist()
        for label in sorted(own):
            assert columns["point"][row] == texts[point]
            assert columns["positive"][row] == names[label]
            ids = [i for i in columns["labels"][row] if i >= 0]
            assert (ids[0], sorted(ids)) == (label, sorted(own))
            for column in ("negative_1", "negative_2", "negative_3"):
                assert names.index(columns[column][row]) in set(hard[point].tolist()) - set(own)
            row += 1
    with pytest.raises(ValueError, match="has fewer labels left to draw from"):
        training_columns(texts, names, y, n_negatives=64, seed=0)


def test_their_trainer_takes_loss_rows_and_evaluator(
    tiny_encoder: Path, dataset: data.Dataset, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    pytest.importorskip("accelerate", reason="needs accelerate")
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    from dexml.integrations.sentence_transformers import XmcEvaluator, training_columns
    from dexml.losses import InBatchLoss, softmax

    own = SentenceTransformer(str(tiny_encoder), device="cpu")
    texts, names = dataset.train_texts[:64], dataset.label_texts
    rows = training_columns(texts, names, dataset.y_train[:64], n_negatives=1, seed=0)
    evaluator = XmcEvaluator(dataset.test_texts, names, dataset.y_test, ["P@5"])
    before = evaluator(own)["P@5"]
    trainer = SentenceTransformerTrainer(
        model=own,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=6,
            per_device_train_batch_size=16,
            learning_rate=3e-3,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            use_cpu=True,
        ),
        train_dataset=datasets.Dataset.from_dict(rows),
        loss=InBatchLoss(own, softmax, temperature=0.1),
        evaluator=evaluator,
    )
    trainer.train()
    assert trainer.evaluate()["eval_P@5"] > before
