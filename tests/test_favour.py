"""Rankings for a metric: against slow twins, every possible choice, simulations, and of a run."""

import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array, load_npz

import reference
from dexml import _rust, console, favour, train
from dexml.commands.predict import main as predict_main
from dexml.favour import Fixed, learn, parse, rank_for
from dexml.files import seal_of
from dexml.metrics import evaluate
from dexml.predict import Prediction, Predictor, open_run
from dexml.scorers import Fusion
from dexml.train import TrainSettings
from small import confusing_data, forge_info

TOGETHER = ["macroP", "macroF", "Coverage"]
MACRO = ["macroP@3", "macroR@3", "macroF@3", "Coverage@3"]
N_LABELS = 4

rows = st.lists(
    st.dictionaries(
        st.integers(0, N_LABELS - 1), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
    ),
    min_size=1,
    max_size=4,
)


def matrix(probabilities: Sequence[Mapping[int, float]], n_labels: int = N_LABELS) -> csr_array:
    """Stored entries, zeros included."""
    indptr = np.cumsum([0, *map(len, probabilities)])
    ids = [label for row in probabilities for label in row]
    values = [p for row in probabilities for p in row.values()]
    shape = (len(probabilities), n_labels)
    return csr_array((np.array(values, np.float32), np.array(ids, np.int32), indptr), shape=shape)


def parts(p: csr_array) -> favour.Rows:
    """The arrays of a matrix as `learn` takes them."""
    return (
        p.indptr.astype(np.int64),
        p.indices.astype(np.int32),
        p.data.astype(np.float32),
    )


def sets(ids: NDArray[np.int32]) -> list[set[int]]:
    return [{int(i) for i in row if i >= 0} for row in ids]


@settings(deadline=None)
@given(rows, st.sampled_from(TOGETHER), st.integers(1, 3), st.integers(0, 3))
def test_no_other_labels_of_one_row_are_better(
    probabilities: list[dict[int, float]], kind: str, k: int, seed: int
) -> None:
    expected = [0.0, 0.5, 1.0, 2.0]
    beside = reference.others_expected(probabilities, N_LABELS, expected)
    metric = f"{kind}@{k}"
    ids, gains = rank_for(matrix(probabilities), metric, seed=seed, expected=np.array(expected))
    assert ids.shape == (len(probabilities), k)
    assert (gains[:, 1:] <= gains[:, :-1]).all()
    chosen = sets(ids)

    def worth(chosen: Sequence[set[int]]) -> float:
        return reference.label_worth(kind, probabilities, chosen, N_LABELS, beside)

    own = worth(chosen)
    for row, candidates in enumerate(probabilities):
        for other in itertools.combinations(candidates, min(k, len(candidates))):
            changed = [*chosen[:row], set(other), *chosen[row + 1 :]]
            assert worth(changed) <= own + 1e-5


@settings(deadline=None)
@given(rows, st.sampled_from(TOGETHER))
def test_a_few_seeds_come_close_to_the_best_of_all_choices(
    probabilities: list[dict[int, float]], kind: str
) -> None:
    beside = reference.others_expected(probabilities, N_LABELS, [0.0] * N_LABELS)
    options = [list(itertools.combinations(row, min(1, len(row)))) for row in probabilities]

    def worth(chosen: Sequence[Any]) -> float:
        sets = [set(labels) for labels in chosen]
        return reference.label_worth(kind, probabilities, sets, N_LABELS, beside)

    most = max(worth(chosen) for chosen in itertools.product(*options))
    found = [
        worth(sets(rank_for(matrix(probabilities), f"{kind}@1", seed=seed)[0]))
        for seed in range(20)
    ]
    assert 0.9 * most - 1e-6 <= max(found) <= most + 1e-6


@settings(deadline=None)
@given(rows, st.integers(1, 5))
def test_precision_is_the_ranking_by_probability(
    probabilities: list[dict[int, float]], k: int
) -> None:
    ids, gains = rank_for(matrix(probabilities), f"P@{k}", seed=0)
    for row, own in enumerate(probabilities):
        best = reference.rank(own)[:k]
        assert ids[row].tolist() == best + [-1] * (k - len(best))
        np.testing.assert_allclose(gains[row][: len(best)], [own[label] for label in best])


def test_psp_and_macro_recall_weigh_each_label() -> None:
    probabilities = [{0: 0.5, 1: 0.25, 2: 0.1}, {0: 0.5, 2: 0.25}]
    weights = np.array([1.0, 3.0, 1.0, 1.0])
    ids, gains = rank_for(matrix(probabilities), "PSP@2", seed=0, inv_propensity=weights)
    assert ids.tolist() == [[1, 0], [0, 2]]
    np.testing.assert_allclose(gains, [[0.75, 0.5], [0.5, 0.25]])
    ids, gains = rank_for(matrix(probabilities), "macroR@2", seed=0)
    beside = reference.others_expected(probabilities, N_LABELS, [0.0] * N_LABELS)
    share = [(1 - np.exp(-x)) / x if x > 0 else 1.0 for x in beside]
    for row, own in enumerate(probabilities):
        best = reference.rank({label: p * share[label] for label, p in own.items()})
        assert ids[row].tolist() == best[:2]


def skewed(n: int = 400, n_labels: int = 120, seed: int = 0) -> csr_array:
    """Calibrated probabilities with frequent and rare labels, 15 candidates a row."""
    rng = np.random.default_rng(seed)
    popularity = 1 / np.arange(1, n_labels + 1)
    found = []
    for _ in range(n):
        labels = rng.choice(n_labels, 15, replace=False, p=popularity / popularity.sum())
        p = np.clip(rng.beta(1, 3, 15) * (popularity[labels] ** 0.2), 0, 1)
        found.append(dict(zip(labels.tolist(), p.tolist(), strict=True)))
    return matrix(found, n_labels)


def drawn(p: csr_array, seed: int) -> csr_array:
    """A truth that these probabilities are right about."""
    rng = np.random.default_rng(seed)
    y = p.copy()
    y.data = (rng.random(len(p.data)) < p.data).astype(np.float32)
    y.eliminate_zeros()
    return y


def test_each_ranking_wins_at_its_own_metric() -> None:
    """Against all others, on average over truths that the probabilities are right about."""
    p = skewed()
    weights = np.linspace(1, 6, p.shape[1])
    metrics = ["P@3", "PSP@3", *MACRO]
    ranked = [rank_for(p, m, seed=0, inv_propensity=weights)[0] for m in metrics]
    values = np.zeros((len(metrics), len(metrics)))
    for seed in range(40):
        y = drawn(p, seed)
        for row, ids in enumerate(ranked):
            found = evaluate(y, ids, metrics, inv_propensity=weights)
            values[row] += [found[m] for m in metrics]
    assert np.argmax(values, axis=0).tolist() == list(range(len(metrics)))


@pytest.mark.parametrize("kind", TOGETHER)
def test_the_utility_is_the_metric_to_expect(kind: str) -> None:
    p = skewed(n=150)
    n_labels = p.shape[1]
    ids, _ = rank_for(p, f"{kind}@3", seed=0)
    own = [dict(zip(*row, strict=True)) for row in zip(*_split(p), strict=True)]
    beside = reference.others_expected(own, n_labels, [0.0] * n_labels)
    worth = reference.label_worth(kind, own, sets(ids), n_labels, beside) / n_labels
    found = [evaluate(drawn(p, seed), ids, [f"{kind}@3"])[f"{kind}@3"] for seed in range(200)]
    # For F the random denominator is replaced by its mean, which is a little too careful.
    bound = 0.03 if kind == "macroF" else 0.0
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - worth) <= 4 * error + bound * worth


def _split(p: csr_array) -> tuple[list[list[int]], list[list[float]]]:
    cuts = p.indptr[1:-1]
    return (
        [part.tolist() for part in np.split(p.indices, cuts)],
        [part.tolist() for part in np.split(p.data, cuts)],
    )


def test_strength_leads_from_precision_to_the_metric() -> None:
    p = skewed()
    plain, whole = (sets(rank_for(p, m, seed=0)[0]) for m in ("P@3", "Coverage@3"))
    assert sets(rank_for(p, "Coverage@3", seed=0, strength=1e-9)[0]) == plain
    assert sets(rank_for(p, "Coverage@3", seed=0, strength=1)[0]) == whole
    y = [drawn(p, seed) for seed in range(20)]
    values = []
    for strength in (0.05, 0.5, 1.0):
        ids = rank_for(p, "Coverage@3", seed=0, strength=strength)[0]
        found = [evaluate(truth, ids, ["P@3", "Coverage@3"]) for truth in y]
        values.append([np.mean([one[m] for one in found]) for m in ("P@3", "Coverage@3")])
    precision, coverage = np.array(values).T
    assert (np.diff(precision) < 0).all()
    assert (np.diff(coverage) > 0).all()


def test_the_same_seed_and_any_number_of_threads_give_the_same_bits() -> None:
    p = skewed(n=3000)
    first, again, other = (rank_for(p, "macroF@3", seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()
    rows = parts(p)
    counts = np.arange(p.shape[1])
    fixed = learn(parse("macroF@3"), rows, counts, 5000)
    weights = fixed.worth._asdict() | {"sums": fixed.sums, "given": fixed.given}
    together = weights.pop("together")
    one, seven = (
        _rust.gains_given(rows, p.shape[1], together, **weights, num_threads=n) for n in (1, 7)
    )
    np.testing.assert_array_equal(one, seven)
    np.testing.assert_array_equal(one, fixed.gains(rows))


def learned(metric: str, p: csr_array, y: csr_array | None = None) -> Fixed:
    rows = parts(p)
    counts = np.bincount(drawn(p, 99).indices, minlength=p.shape[1])
    weights = np.linspace(1, 6, p.shape[1])
    right = None if y is None else parts(y)[:2]
    return learn(parse(metric), rows, counts, p.shape[0], right=right, inv_propensity=weights)


@pytest.mark.parametrize("metric", ["PSP@3", *MACRO])
@pytest.mark.parametrize("judged", [False, True])
def test_weights_from_held_out_rows_win_on_others(metric: str, judged: bool) -> None:
    held, other = skewed(n=800), skewed(n=400, seed=5)
    fixed = learned(metric, held, drawn(held, 1) if judged else None)
    rows = parts(other)
    gains = fixed.gains(rows).astype(np.float32)
    ids = _rust.topk_csr(rows[0], rows[1], gains, other.shape[1], 3)[0]
    plain = rank_for(other, "P@3", seed=0)[0]
    weights = np.linspace(1, 6, other.shape[1])
    truths = [drawn(other, seed) for seed in range(20)]
    own, usual = (
        np.mean([evaluate(y, one, [metric], inv_propensity=weights)[metric] for y in truths])
        for one in (ids, plain)
    )
    assert own > usual


def test_what_is_learned_of_a_rare_label_is_half_that_of_its_like() -> None:
    """Of two labels without a training point, one was seen among the held-out rows."""
    p = matrix([{0: 0.9, 1: 0.5}, {0: 0.8}, {0: 0.7}])
    rows = parts(p)
    fixed = learn(parse("Coverage@2"), rows, np.array([9, 0, 0, 0]), 30)
    assert fixed.given.tolist() == pytest.approx([3.0, 2 / 3, 1 / 6, 1 / 6])
    assert fixed.sums[2] == pytest.approx(np.log(0.5) / 6)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("macroQ@5", r"unknown metric 'macroQ@5'; did you mean 'macro.@5'\?; expected one of P@k"),
        ("coverge@5", r"did you mean 'Coverage@5'\?"),
        ("tail", r"unknown metric 'tail'.*expected one of P@k"),
        ("ECE@5", "no ranking is made for ECE@5; expected one of P@k, nDCG@k"),
        ("macroF@0", "k must be in"),
    ],
)
def test_unknown_metrics_are_answered_with_the_known(metric: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"favour: .*{message}"):
        parse(metric)


def test_other_spellings_are_understood() -> None:
    assert str(parse("macro_f1@5")) == "macroF@5"
    assert str(parse("coverage@3", 0.5)) == "Coverage@3 at 0.5"


@pytest.mark.parametrize("strength", [0.0, -1.0, 1.5, float("nan")])
def test_strengths_outside_0_and_1_are_refused(strength: float) -> None:
    with pytest.raises(ValueError, match="expected above 0, and at most 1"):
        parse("macroF@5", strength)


def test_bad_arguments_are_refused() -> None:
    p = matrix([{0: 0.5}])
    with pytest.raises(TypeError, match="favour is int; expected a metric"):
        parse(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="strength is str"):
        parse("P@5", "x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="PSP needs inv_propensity"):
        rank_for(p, "PSP@1", seed=0)
    with pytest.raises(ValueError, match=r"expected: shape \(3,\); expected \(4,\)"):
        rank_for(p, "macroF@1", seed=0, expected=np.ones(3))
    with pytest.raises(ValueError, match=r"probabilities: row 0: score 1\.5 of label 2"):
        rank_for(matrix([{2: 1.5}]), "macroF@1", seed=0)
    with pytest.raises(ValueError, match="together = 'x'; expected nothing, precision"):
        _rust.gains_given(
            (np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)),
            0,
            "x",
            scale=1.0,
            linear=np.zeros(0),
            offsets=np.zeros(0),
            sums=np.zeros(0),
            given=np.zeros(0),
        )


# Of a run.


@pytest.fixture(scope="module")
def confusing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return confusing_data(tmp_path_factory.mktemp("data") / "confusing")


@pytest.fixture(scope="module")
def ranked(confusing: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A light run with a ranker."""
    out = tmp_path_factory.mktemp("runs") / "ranked"
    asked: dict[str, Any] = {"encoder": "none", "quiet": True, "seed": 1, "validation": 0.3}
    train.train(TrainSettings(data_dir=confusing, out=out, propensity_a=0.6, **asked))
    return out


@pytest.fixture
def run(ranked: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(ranked, tmp_path / "run"))


def texts_of(data: Path) -> list[str]:
    return (data / "raw" / "tst_X.txt").read_text().splitlines()


def p_of(found: Prediction) -> NDArray[np.float32]:
    assert found.probabilities is not None
    return found.probabilities


def g_of(found: Prediction) -> NDArray[np.float32]:
    assert found.gains is not None
    return found.gains


def test_psp_ranks_by_weighted_probability_and_keeps_scores(ranked: Path, confusing: Path) -> None:
    predictor, texts = Predictor.open(ranked), texts_of(confusing)
    usual = predictor.predict(texts, 100)
    found = predictor.predict(texts, favour="PSP@5")
    assert found.ids.shape == (len(texts), 5)
    counts = predictor.label_set.counts
    n_points = json.loads((ranked / "run.json").read_text())["propensity"]["n_points"]
    q = np.array(reference.inv_propensity(counts.tolist(), n_points, 0.6, 1.5))
    for row in range(len(texts)):
        there = usual.ids[row] >= 0
        own = dict(
            zip(
                usual.ids[row][there].tolist(),
                zip(p_of(usual)[row].tolist(), usual.scores[row].tolist(), strict=True),
                strict=False,
            )
        )
        gains = {label: float(np.float32(p * q[label])) for label, (p, _) in own.items()}
        assert found.ids[row].tolist() == reference.rank(gains)[:5]
        for column, label in enumerate(found.ids[row].tolist()):
            assert (p_of(found)[row, column], found.scores[row, column]) == own[label]
    assert usual.gains is None


@pytest.mark.parametrize("metric", ["P@5", "nDCG@3", "R@7"])
def test_rankings_by_score_are_the_usual_one(ranked: Path, confusing: Path, metric: str) -> None:
    predictor, texts = Predictor.open(ranked), texts_of(confusing)
    usual = predictor.predict(texts, parse(metric).k)
    found = predictor.predict(texts, favour=metric)
    np.testing.assert_array_equal(found.ids, usual.ids)
    np.testing.assert_array_equal(found.scores, usual.scores)
    assert found.gains is None


@pytest.mark.parametrize("metric", ["PSP@3", *MACRO])
def test_the_answer_to_a_text_does_not_depend_on_others(
    ranked: Path, confusing: Path, metric: str
) -> None:
    predictor, texts = Predictor.open(ranked), texts_of(confusing)
    whole = predictor.predict(texts, favour=metric)
    alone = Predictor.open(ranked).predict(texts[7:8], favour=metric)
    np.testing.assert_array_equal(alone.ids[0], whole.ids[7])
    np.testing.assert_allclose(g_of(alone)[0], g_of(whole)[7], rtol=1e-4)
    assert (np.diff(g_of(whole), axis=1) <= 0).all()


@pytest.mark.parametrize("metric", TOGETHER)
def test_texts_together_are_ranked_as_their_probabilities(
    ranked: Path, confusing: Path, metric: str
) -> None:
    predictor, texts = Predictor.open(ranked), texts_of(confusing)
    usual = predictor.predict(texts, 100)
    there = usual.ids >= 0
    indptr = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
    shape = (len(texts), predictor.n_labels)
    p = csr_array((p_of(usual)[there], usual.ids[there], indptr), shape=shape)
    n_points = json.loads((ranked / "run.json").read_text())["propensity"]["n_points"]
    expected = predictor.label_set.counts * (len(texts) / n_points)
    ids, gains = rank_for(p, f"{metric}@2", seed=0, expected=expected)
    found = predictor.predict(texts, favour=f"{metric}@2", together=True)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(g_of(found), gains)


def test_more_labels_than_the_metric_follow_by_gain(ranked: Path, confusing: Path) -> None:
    predictor, texts = Predictor.open(ranked), texts_of(confusing)
    few = predictor.predict(texts, favour="macroF@2", together=True)
    more = predictor.predict(texts, 6, favour="macroF@2", together=True)
    np.testing.assert_array_equal(more.ids[:, :2], few.ids)
    assert predictor.predict(texts, 1, favour="macroF@2").ids.shape == (len(texts), 1)


def test_cuts_exclusions_and_groups_of_labels_go_with_it(ranked: Path, confusing: Path) -> None:
    predictor, texts = Predictor.open(ranked), texts_of(confusing)[:9]
    asked: dict[str, Any] = {"favour": "macroF@4"}
    whole = predictor.predict(texts, **asked)
    middle = float(np.median(p_of(whole)))
    cut = predictor.predict(texts, min_probability=middle, **asked)
    for row in range(len(texts)):
        kept = p_of(whole)[row] >= np.float32(middle)
        assert cut.ids[row].tolist()[: kept.sum()] == whole.ids[row][kept].tolist()
        assert (cut.ids[row][kept.sum() :] == -1).all()
        assert (g_of(cut)[row][kept.sum() :] == -np.inf).all()
    some = predictor.predict(texts, only=[1, 2, 5], **asked)
    assert set(some.ids.ravel().tolist()) <= {1, 2, 5, -1}
    pairs = csr_array((np.ones(9), (np.arange(9), whole.ids[:, 0])), shape=(9, predictor.n_labels))
    without = predictor.predict(texts, exclude=pairs, **asked)
    assert (without.ids != whole.ids[:, :1]).all()


def test_edits_keep_it_defined(run: Path, confusing: Path) -> None:
    predictor, texts = Predictor.open(run), texts_of(confusing)[:9]
    predictor.predict(texts, favour="macroF@4")
    (new,) = predictor.add_labels([texts[0]])
    predictor.remove_labels([3])
    predictor.add_points(["a point of the new label"], [[int(new)]])
    predictor.save()
    for metric in ("PSP@4", "macroR@4", "macroF@4", "Coverage@4"):
        for together in (False, True):
            found = Predictor.open(run).predict(texts, favour=metric, together=together)
            assert np.isfinite(g_of(found)).all()
            assert 3 not in found.ids
            again = predictor.predict(texts, favour=metric, together=together)
            np.testing.assert_array_equal(again.ids, found.ids)


def without_held(run: Path) -> None:
    """Make it a run of a dexml that kept no held-out answers."""
    path = run / "run.json"
    info = json.loads(path.read_text())
    for role in [role for role in info["parts"] if role.startswith("calibration/held_")]:
        (run / info["parts"].pop(role)["name"]).unlink()
    path.write_text(json.dumps(info))
    forge_info(run, "propensity")


def test_an_old_run_says_what_to_do(run: Path, confusing: Path) -> None:
    texts = texts_of(confusing)
    without_held(run)
    predictor = Predictor.open(run)
    message = r"favour = macroF@3 needs the held-out answers .* train it again, or .*together=True"
    with pytest.raises(ValueError, match=message):
        predictor.predict(texts, favour="macroF@3")
    assert predictor.predict(texts, favour="macroF@3", together=True).gains is not None
    assert predictor.predict(texts, favour="PSP@3").gains is not None


def test_without_probabilities_it_says_why(ranked: Path) -> None:
    opened = open_run(ranked)
    predictor = Predictor(opened, Fusion((opened.scorer,), (2.0,)))
    with pytest.raises(ValueError, match=r"favour needs probabilities, .*another scorer"):
        predictor.predict(["a text"], favour="macroF@3")
    assert predictor.predict(["a text"], favour="P@3").ids.shape == (1, 3)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"together": True}, "together needs favour"),
        ({"strength": 0.5}, "strength needs favour"),
        ({"favour": "macroF@5", "min_precision": 0.5}, "min_precision with favour: what it"),
        ({"favour": "macroF@5", "min_recall": 0.5}, "min_recall with favour: what it promises"),
        ({"favour": "macroF@500"}, r"favour = macroF@500: labels are chosen among the \d+ best"),
        ({"favour": "macroF@5", "k": 500}, r"k = 500: labels are chosen among the \d+ best"),
        ({"favour": "macroG@5"}, r"did you mean 'macro.@5'"),
    ],
)
def test_questions_that_make_no_sense_are_refused(
    ranked: Path, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Predictor.open(ranked).predict(["a text"], **asked)


def test_damaged_held_out_answers_are_refused(run: Path) -> None:
    path = run / "run.json"
    info = json.loads(path.read_text())
    seal = info["parts"]["calibration/held_probabilities"]
    values = np.load(run / seal["name"])
    np.save(run / seal["name"], values[:-1])
    info["parts"]["calibration/held_probabilities"] = seal | seal_of(run / seal["name"])
    path.write_text(json.dumps(info))
    forge_info(run)
    with pytest.raises(ValueError, match="calibration: held-out answers of other sizes"):
        Predictor.open(run)


def call(*words: object) -> int:
    return console.run(predict_main, [str(word) for word in words])


@pytest.mark.parametrize("together", [False, True])
def test_the_command_ranks_and_writes_gains(
    ranked: Path,
    confusing: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    together: bool,
) -> None:
    predictor, out = Predictor.open(ranked), tmp_path / "x.npz"
    found = predictor.predict(texts_of(confusing), 6, favour="macroF@3", together=together)
    words = ["--favour", "macro-f1@3", "-k", 6, *(["--together"] if together else [])]
    assert call(ranked, *words, "--out", out) == 0
    how = "all texts together" if together else "each text for itself"
    assert f"ranked for macroF@3: {how}" in capsys.readouterr().err
    y = csr_array(load_npz(confusing / "Y.tst.npz"))
    metrics = ["macroF@3", "P@1", "P@6"]
    assert evaluate(y, csr_array(load_npz(out)), metrics) == evaluate(y, found.ids, metrics)
    assert call(ranked, *words, "--jsonl") == 0
    lines = [json.loads(line)["labels"] for line in capsys.readouterr().out.splitlines()]
    assert [[label["id"] for label in line] for line in lines] == found.ids.tolist()
    assert call(ranked, *words[:2], "--out", tmp_path / "y.npz") == 0
    assert (np.diff(load_npz(tmp_path / "y.npz").indptr) == 3).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--favour", "macroG@5"], "did you mean 'macro"),
        (["--together"], "--together needs --favour"),
        (["--strength", "0.5"], "--strength needs --favour"),
        (["--favour", "macroF@5", "--strength", "0"], "greater than 0"),
        (["--favour", "macroF@5", "--explain"], "--favour and --explain: give one of them"),
        (["--favour", "macroF@5", "--min-recall", "0.5"], "--min-recall holds for the usual"),
        (["--favour", "macroF@5", "--together", "--block", "9"], "--together and --block"),
        (["--favour", "macroF@5", "--out", "x.npz", "--values", "score"], "loses the order"),
        (["--out", "x.npz", "--values", "gain"], "--values gain needs --favour"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    ranked: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(ranked, *words) == 2
    assert message in capsys.readouterr().err


def test_max_passes_is_enough() -> None:
    """The ascent ends by itself, long before the limit."""
    p = skewed(n=3000)
    rows = parts(p)
    for kind in TOGETHER:
        worth = favour.Worth(
            favour.TOGETHER[kind], 1.0, np.zeros(p.shape[1]), np.full(p.shape[1], 3.0)
        )
        assert favour.climb(rows, 5, worth, seed=0).passes < favour.MAX_PASSES
