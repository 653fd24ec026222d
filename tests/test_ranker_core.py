"""The ranker of the Rust core: against a slow twin in numpy, and on odd input."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dexml import _rust

Floats = NDArray[np.float64]
Model = tuple[NDArray[np.float32], ...]

OPTIONS: dict[str, Any] = {
    "hidden": 16,
    "n_members": 1,
    "epochs": 15,
    "batch": 32,
    "learning_rate": 0.01,
    "decay": 0.1,
    "seed": 0,
}


def fit(scene: dict[str, Any], **options: Any) -> Any:
    return _rust.fit_ranker(**scene, **{**OPTIONS, **options})


def scene(n_queries: int = 40, n_features: int = 6, seed: int = 0) -> dict[str, Any]:
    """Queries of 0 to 30 candidates, whose positives have a large x0 and an x1 close to 1."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 31, n_queries)
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    features = rng.normal(size=(indptr[-1], n_features)).astype(np.float32)
    features[:, -1] = 3.5
    utility = features[:, 0] - 2 * np.abs(features[:, 1] - 1)
    return {"features": features, "indptr": indptr, "positive": utility > 0.3}


class Twin:
    """One member, trained by the formulas in float64, all queries in each step."""

    def __init__(self, start: Model) -> None:
        mean, deviation, *arrays = (array.astype(np.float64) for array in start)
        self.mean, self.deviation = mean, deviation
        self.params = [array[0].copy() for array in arrays]

    def scores(self, x: Floats, params: list[Floats] | None = None) -> Floats:
        w, v, weights, bias = params or self.params
        z = x @ weights.T + bias
        tanh = np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))
        scores: Floats = x @ w + (0.5 * z * (1 + tanh)) @ v
        return scores

    def standardised(self, features: NDArray[np.float32]) -> Floats:
        return np.clip((features - self.mean) / self.deviation, -5, 5)

    def loss(self, scene: dict[str, Any], params: list[Floats]) -> float:
        scores = self.scores(self.standardised(scene["features"]), params)
        weights = scene.get("weights", np.ones(len(scores)))
        losses = []
        for first, end in zip(scene["indptr"], scene["indptr"][1:], strict=False):
            s, y, g = scores[first:end], scene["positive"][first:end], weights[first:end]
            if y.any() and not y.all():
                others = np.exp(s[~y][None] - s[y][:, None]).sum(1)
                losses.append((g[y] * np.log1p(others)).mean())
        return float(np.mean(losses))

    def gradient(self, scene: dict[str, Any]) -> list[Floats]:
        """Central differences: slow, and obviously the gradient of the loss above."""
        gradients = []
        for i, array in enumerate(self.params):
            gradient = np.zeros_like(array)
            for at in np.ndindex(array.shape):
                losses = []
                for step in (1e-5, -1e-5):
                    params = [p.copy() for p in self.params]
                    params[i][at] += step
                    losses.append(self.loss(scene, params))
                gradient[at] = (losses[0] - losses[1]) / 2e-5
            gradients.append(gradient)
        return gradients

    def train(self, scene: dict[str, Any], steps: int, rate: float, decay: float) -> None:
        moments = [(np.zeros_like(p), np.zeros_like(p)) for p in self.params]
        for step in range(steps):
            now = rate * (1 - step / steps)
            for p, (m, s), g in zip(self.params, moments, self.gradient(scene), strict=True):
                m += 0.1 * (g - m)
                s += 0.001 * (g * g - s)
                p *= 1 - now * decay
                hat = np.sqrt(s / (1 - 0.999 ** (step + 1))) + 1e-8
                p -= now * m / (1 - 0.9 ** (step + 1)) / hat


@pytest.mark.parametrize("hidden", [0, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_training_agrees_with_the_twin(hidden: int, weighted: bool) -> None:
    """All queries in one step, so that their order does not count; the start is read off."""
    data = scene(12, n_features=4)
    if weighted:
        rng = np.random.default_rng(1)
        data["weights"] = rng.uniform(0.5, 3, len(data["positive"])).astype(np.float32)
    options = {"hidden": hidden, "batch": 100, "learning_rate": 0.05}
    start = fit(data, epochs=0, **options)
    assert not start[2].any()
    assert not start[3].any()
    twin = Twin(start)
    twin.train(data, 6, rate=0.05, decay=0.1)
    model = fit(data, epochs=6, **options)
    for array, expected in zip(model[2:], twin.params, strict=True):
        # Adam divides by the size of the gradient, which enlarges the error of differences.
        np.testing.assert_allclose(array[0], expected, atol=2e-4)
    x = twin.standardised(data["features"])
    np.testing.assert_allclose(
        _rust.score_ranker(model, data["features"]), twin.scores(x), atol=2e-3
    )


def test_a_step_is_the_mean_over_its_queries() -> None:
    """Copies of one query: the batches (3, 3, 1) all have the gradient of the query."""
    one = scene(3)
    first, end = one["indptr"][1:3]
    features, positive = one["features"][first:end], one["positive"][first:end]
    size = end - first
    data = {
        "features": np.tile(features, (7, 1)),
        "indptr": np.arange(8, dtype=np.int64) * size,
        "positive": np.tile(positive, 7),
    }
    in_batches = fit(data, hidden=0, epochs=2, batch=3)
    alone = {"features": features, "indptr": np.array([0, size]), "positive": positive}
    whole = fit(alone, hidden=0, epochs=6)
    for a, b in zip(in_batches, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def hits_at_1(data: dict[str, Any], scores: NDArray[np.float32]) -> float:
    hits = [
        data["positive"][first + scores[first:end].argmax()]
        for first, end in zip(data["indptr"], data["indptr"][1:], strict=False)
        if data["positive"][first:end].any()
    ]
    return float(np.mean(hits))


def test_hidden_units_learn_what_a_linear_ranker_cannot() -> None:
    train, test = scene(400), scene(400, seed=1)
    hits = {}
    for hidden in (0, 16):
        model = fit(train, hidden=hidden, n_members=3, epochs=60)
        hits[hidden] = hits_at_1(test, _rust.score_ranker(model, test["features"]))
    assert hits[16] > 0.9
    assert hits[16] > hits[0] + 0.1


def test_non_negative_weights() -> None:
    data = scene(100)
    data["features"][:, 2] = -data["features"][:, 0]
    model = fit(data, hidden=0, non_negative=True)
    assert (model[2] >= 0).all()
    assert model[2][0, 0] > 0.01
    assert model[2][0, 2] == 0
    assert fit(data, hidden=0)[2][0, 2] < 0


def test_sampled_negatives_teach_nearly_the_same() -> None:
    data = scene(n_queries=200)
    whole, sampled = (fit(data, hidden=4, epochs=8, sampled=s) for s in (False, True))
    a, b = (_rust.score_ranker(model, data["features"]) for model in (whole, sampled))
    assert not np.array_equal(a, b)
    assert np.linalg.norm(a - b) < 0.15 * np.linalg.norm(a - a.mean())
    one = fit(data, epochs=1, sampled=True)  # the first epoch looks at all
    for sampled, whole in zip(one, fit(data, epochs=1), strict=True):
        np.testing.assert_array_equal(sampled, whole)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    data = scene(70)
    options = {"n_members": 3, "epochs": 3, "sampled": True}
    models = [fit(data, **options, num_threads=n) for n in (1, 2, 7)]
    features = np.tile(data["features"], (3, 1))[:-1]
    scores = [_rust.score_ranker(models[0], features, num_threads=n) for n in (1, 2, 7)]
    for model, score in zip(models, scores, strict=True):
        for a, b in zip(model, models[0], strict=True):
            assert a.tobytes() == b.tobytes()
        assert score.tobytes() == scores[0].tobytes()


def test_seeds_and_members_differ_and_members_are_averaged() -> None:
    data = scene()
    model = fit(data, n_members=2, epochs=2)
    assert (model[4][0] != model[4][1]).any()
    assert (fit(data, n_members=2, epochs=2, seed=1)[4] != model[4]).any()
    np.testing.assert_array_equal(fit(data, n_members=1, epochs=2)[4][0], model[4][0])
    parts = [
        _rust.score_ranker(
            (*model[:2], *(np.ascontiguousarray(array[i : i + 1]) for array in model[2:])),
            data["features"],
        )
        for i in range(2)
    ]
    np.testing.assert_allclose(
        _rust.score_ranker(model, data["features"]), np.mean(parts, 0), rtol=1e-5, atol=1e-6
    )


def test_the_score_of_a_pair_does_not_depend_on_its_neighbours() -> None:
    data = scene()
    model = fit(data, epochs=2)
    scores = _rust.score_ranker(model, data["features"])
    for i in (0, 1, 2, 3, 101):
        alone = _rust.score_ranker(model, data["features"][i : i + 1])
        assert alone[0] == scores[i]
    assert _rust.score_ranker(model, data["features"][:0]).shape == (0,)


@pytest.mark.parametrize("weighted", [False, True])
def test_some_queries_teach_as_they_would_alone(weighted: bool) -> None:
    """Not in their order, and so that 11 features fill no whole chunk."""
    data = scene(30, n_features=11)
    if weighted:
        data["weights"] = np.linspace(0.5, 2, len(data["positive"]), dtype=np.float32)
    some = np.array([7, 2, 3, 28, 11, 19, 0, 25])
    spans = [np.arange(*data["indptr"][query : query + 2]) for query in some]
    pairs = np.concatenate(spans)
    alone = {name: array[pairs] for name, array in data.items() if name != "indptr"}
    alone["indptr"] = np.cumsum([0, *(len(span) for span in spans)])
    options = {"epochs": 4, "batch": 3, "sampled": True}
    for a, b in zip(fit({**data, "queries": some}, **options), fit(alone, **options), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("query", [-1, 40])
def test_queries_that_there_are_not(query: int) -> None:
    with pytest.raises(ValueError, match=f"queries must be queries of the candidates, not {query}"):
        fit({**scene(40), "queries": np.array([3, query])})


def test_queries_that_teach_nothing_are_left_out() -> None:
    """No positive, no negative, one candidate, no candidate: only mean and deviation see them."""
    data = scene(20)
    features, positive = data["features"], data["positive"]
    more = {
        "features": np.concatenate([features, features[:7]]),
        "indptr": np.concatenate([data["indptr"], data["indptr"][-1] + np.array([3, 5, 6, 6, 7])]),
        "positive": np.concatenate([positive, [False] * 3, [True] * 2, [True], [False]]),
    }
    moved = fit(more, hidden=0, epochs=4, batch=100)
    plain = fit(data, hidden=0, epochs=4, batch=100)
    assert (moved[0] != plain[0]).any()
    np.testing.assert_allclose(moved[2], plain[2], atol=0.01)


def test_huge_values_stay_finite() -> None:
    data = scene()
    data["features"] *= np.array([1e38, 1, 1e-44, 1e30, 1, 1], np.float32)
    data["features"][0, 0] = np.finfo(np.float32).max
    model = fit(data)
    assert all(np.isfinite(array).all() for array in model)
    assert np.isfinite(_rust.score_ranker(model, data["features"])).all()


def changed(**changes: Any) -> dict[str, Any]:
    return {**scene(5), **changes}


def with_value(value: float) -> NDArray[np.float32]:
    features: NDArray[np.float32] = scene(5)["features"]
    features[3, 2] = value
    return np.asarray(features, np.float32)


ONE = np.ones(len(scene(5)["positive"]), np.float32)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (changed(features=with_value(np.nan)), {}, r"features: row 3: .* \(feature 2\)"),
        (changed(features=with_value(-np.inf)), {}, r"features: row 3: .* \(feature 2\)"),
        (changed(positive=ONE < 0), {}, "a query with both a positive and a negative"),
        (changed(positive=ONE > 0), {}, "a query with both a positive and a negative"),
        (changed(features=np.zeros((0, 2), np.float32)), {}, "features: 0 rows, but positive"),
        (changed(features=ONE[:, None][:, :0].copy()), {}, "n_features must be at least 1"),
        (changed(indptr=np.array([0, 5, 2, len(ONE)])), {}, "candidates: row 1: indptr decreases"),
        (changed(indptr=np.array([1, len(ONE)])), {}, "candidates: row 0: indptr"),
        (changed(indptr=np.array([0, 7])), {}, f"positive: {len(ONE)} pairs, expected 7"),
        (changed(indptr=np.array([0, -7])), {}, "candidates: row 0: indptr"),
        (changed(indptr=np.zeros(0, np.int64)), {}, "candidates: indptr is empty"),
        (changed(weights=ONE[1:]), {}, f"weights: {len(ONE) - 1} pairs"),
        (changed(weights=-ONE), {}, r"weights must be finite and above 0, not -1 \(pair "),
        (changed(weights=ONE * np.inf), {}, "weights must be finite and above 0, not inf"),
        (changed(), {"n_members": 0}, "n_members must be in 1..=1024"),
        (changed(), {"n_members": 2**60}, "n_members must be in 1..=1024"),
        (changed(), {"batch": 0}, "batch must be at least 1"),
        (changed(), {"hidden": -1}, "hidden must not be negative"),
        (changed(), {"learning_rate": np.nan}, "learning_rate must be finite and above 0"),
        (changed(), {"learning_rate": 1e200}, "learning_rate .* overflows"),
        (changed(), {"decay": -1.0}, "decay must be finite and at least 0"),
        (changed(), {"non_negative": True}, "hidden must be 0 for non-negative weights"),
    ],
)
def test_bad_training_input(data: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(data, **options)


def test_what_no_machine_has_is_an_error() -> None:
    with pytest.raises(MemoryError):
        fit(scene(), hidden=2**60)


@pytest.mark.parametrize(
    ("at", "change", "message"),
    [
        (0, lambda a: a[1:].copy(), r"mean: shape \[5\], expected \[6\]"),
        (1, lambda a: a * 0, r"deviation must be finite and above 0, not 0 \(value 0\)"),
        (2, lambda a: a * np.float32(np.nan), "linear must be finite, not NaN"),
        (2, lambda a: a[:0].copy(), "output: shape"),
        (4, lambda a: a[:, :2].copy(), r"weights: shape \[1, 2, 6\], expected \[1, 16, 6\]"),
        (5, lambda a: a[:, :2].copy(), "bias: shape"),
    ],
)
def test_a_bad_model_is_refused(at: int, change: Any, message: str) -> None:
    data = scene(5)
    model = list(fit(data, epochs=1))
    model[at] = change(model[at])
    with pytest.raises(ValueError, match=message):
        _rust.score_ranker(tuple(model), data["features"])


def test_bad_features_are_named_when_scoring() -> None:
    data = scene()
    model = fit(data, epochs=1)
    features = np.tile(data["features"], (5, 1))
    features[1501, 4] = np.nan
    with pytest.raises(ValueError, match=r"features: row 1501: .* \(feature 4\)"):
        _rust.score_ranker(model, features)
    with pytest.raises(ValueError, match="features: shape"):
        _rust.score_ranker(model, features[:, :3].copy())
