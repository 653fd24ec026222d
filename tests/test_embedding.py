"""The page docs/embedding.md: its blocks run, and give what the slow twin gives."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reference
from small import PARTS, TOPICS

PAGE = Path(__file__).parents[1] / "docs" / "embedding.md"
NEEDS = "<!-- needs: sentence-transformers -->\n"
RANKINGS = [[3, 1], [0, 1], [0, 5], []]


def blocks(*, with_model: bool) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(rf"({NEEDS})?```python\n(.*?)```", text, flags=re.S)
    return [block for needs, block in found if with_model or not needs]


def run(page_blocks: Sequence[str]) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in page_blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    return names


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    return run(blocks(with_model=False))


def expected(page: dict[str, Any], rankings: Sequence[Sequence[int]], names: Sequence[str]) -> Any:
    truth = [dict(enumerate(row)) for row in page["y_true"].toarray().tolist()]
    return reference.evaluate(truth, rankings, names, inv_propensity=page["weights"].tolist())


def test_the_page_has_its_blocks() -> None:
    assert len(blocks(with_model=False)) == 5
    assert len(blocks(with_model=True)) == 6


def test_the_first_block(page: dict[str, Any]) -> None:
    rankings = [[label for label in row if label >= 0] for row in page["ids"].tolist()]
    assert page["scores"] == pytest.approx(expected(page, rankings, page["metrics"]))
    counts = np.diff(page["y_train"].tocsc().indptr).tolist()
    assert page["weights"] == pytest.approx(reference.inv_propensity(counts, 6, 0.55, 1.5))


def test_the_stand_in_for_pyxclib(page: dict[str, Any]) -> None:
    for i, name in enumerate(("precision", "ndcg", "psp", "psndcg")):
        kind = ("P", "nDCG", "PSP", "PSnDCG")[i]
        values = expected(page, RANKINGS, [f"{kind}@1", f"{kind}@2"])
        assert page[name] == pytest.approx(list(values.values()))
        assert page["by_ids"][i] == pytest.approx(page[name])
    without_weights = page["xclib_eval"](page["y_true"], page["y_pred"], K=2)
    assert without_weights == pytest.approx(page["by_ids"][:2])
    exclude = page["csr_matrix"](([1.0], ([0], [3])), shape=page["y_true"].shape)
    values = page["xclib_eval"](page["y_true"], page["y_pred"], K=1, exclude=exclude)
    rankings = [[1], *RANKINGS[1:]]
    assert values.ravel() == pytest.approx(
        list(expected(page, rankings, ["P@1", "nDCG@1"]).values())
    )


def test_pecos_and_napkinxc(page: dict[str, Any]) -> None:
    names = page["pecos_scores"]
    assert names == pytest.approx(expected(page, RANKINGS, list(names)))
    assert page["prec"] == [names["P@1"], names["P@2"]]
    assert page["recall"] == [names["R@1"], names["R@2"]]
    names = page["napkin_scores"]
    assert names == pytest.approx(expected(page, RANKINGS, list(names)))
    assert page["padded"]([[4, 2, 0], []], 2).tolist() == [[4, 2], [-1, -1]]


def test_merged_evaluators(page: dict[str, Any]) -> None:
    assert page["result"].metrics == pytest.approx(page["scores"])
    assert page["result"].n_points == 4


def test_the_evaluator_of_sentence_transformers(tiny_encoder: Path) -> None:
    pytest.importorskip("sentence_transformers")
    name = "sentence-transformers/all-MiniLM-L6-v2"
    assert any(name in block for block in blocks(with_model=True))
    page = run([block.replace(name, str(tiny_encoder)) for block in blocks(with_model=True)])

    model = page["SentenceTransformer"](str(tiny_encoder))
    evaluator = page["evaluator"]
    # Words that the tiny vocabulary has, so that no two labels look the same.
    evaluator.point_texts = [f"{topic} a" for topic in TOPICS[:4]]
    evaluator.label_texts = [*TOPICS[:3], *PARTS[:3]]
    points, labels = (
        model.encode(texts, normalize_embeddings=True)
        for texts in (evaluator.point_texts, evaluator.label_texts)
    )
    exclude = page["csr_matrix"](([1.0, 1.0], ([0, 0], [2, 4])), shape=page["y_true"].shape)
    for pairs, excluded in ((None, [set()] * 4), (exclude, [{2, 4}, set(), set(), set()])):
        evaluator.exclude = pairs
        rows = [dict(enumerate(row)) for row in (points @ labels.T).tolist()]
        rankings = [reference.rank(row, drop) for row, drop in zip(rows, excluded, strict=True)]
        values = expected(page, rankings, ["P@1", "P@5"])
        assert evaluator(model) == pytest.approx({f"xmc_{k}": v for k, v in values.items()})
    assert evaluator.primary_metric == "xmc_P@1"
    assert set(page["model_scores"]) == {"xmc_P@1", "xmc_P@5"}
