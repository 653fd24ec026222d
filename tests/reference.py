"""Slow, obvious twins of the Rust routines, in plain Python.

They follow the definitions word for word and share no code with what they check.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set


def rank(
    scores: Mapping[int, float], exclude: Set[int] = frozenset(), ties: str = "smaller"
) -> list[int]:
    """Labels by falling score, equal scores by smaller label, without the excluded ones."""
    sign = {"smaller": 1, "larger": -1}[ties]
    kept = [label for label in scores if label not in exclude]
    return sorted(kept, key=lambda label: (-scores[label], sign * label))


def drop_pairs(
    ranked: Sequence[Sequence[int]], exclude: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Return what is left of each row."""
    rows = zip(ranked, exclude, strict=True)
    return [[label for label in row if label not in excluded] for row, excluded in rows]


def inv_propensity(counts: Sequence[int], n_points: int, a: float, b: float) -> list[float]:
    c = (math.log(n_points) - 1) * (b + 1) ** a
    return [1 + c * (count + b) ** -a for count in counts]


def discount(r: int) -> float:
    return 1 / math.log2(r + 1)


def ideal_dcg(m: int) -> float:
    return sum(discount(r) for r in range(1, m + 1))


def row_terms(
    metric: str,
    truth: Mapping[int, float],
    ranking: Sequence[int],
    inv_propensity: Sequence[float] | None = None,
    psndcg: str = "xclib",
) -> tuple[float, float]:
    """Numerator and denominator of one row; the denominator of a mean is 1."""
    kind, _, cut = metric.partition("@")
    k = int(cut)
    positives = {label for label, value in truth.items() if value > 0}
    n = len(positives)
    hits = [(r, label) for r, label in enumerate(ranking[:k], start=1) if label in positives]
    if kind == "P":
        return len(hits) / k, 1.0
    if kind == "R":
        return len(hits) / max(n, 1), 1.0
    if kind == "Success":
        return float(bool(hits)), 1.0
    if kind == "MRR":
        return (1 / hits[0][0] if hits else 0.0), 1.0
    if kind == "nDCG":
        return (sum(discount(r) for r, _ in hits) / ideal_dcg(min(k, n)) if hits else 0.0), 1.0

    assert inv_propensity is not None
    if n == 0:
        return 0.0, 0.0
    best = sorted((inv_propensity[label] for label in positives), reverse=True)[:k]
    if kind in ("PSP", "PSR"):
        divisor = k if kind == "PSP" else n
        return sum(inv_propensity[label] for _, label in hits) / divisor, sum(best) / divisor
    assert kind == "PSnDCG"
    norm = ideal_dcg(min(k, n)) if psndcg == "xclib" else ideal_dcg(k)
    dcg = sum(inv_propensity[label] * discount(r) for r, label in hits)
    ideal = sum(weight * discount(r) for r, weight in enumerate(best, start=1))
    return dcg / norm, ideal / norm


def label_wise(
    metric: str,
    y_true: Sequence[Mapping[int, float]],
    rankings: Sequence[Sequence[int]],
    labels: Iterable[int],
) -> float:
    """A mean over labels: Coverage, macroP, macroR or macroF; every row counts."""
    kind, _, cut = metric.partition("@")
    values = []
    for label in labels:
        positive = [row.get(label, 0) > 0 for row in y_true]
        predicted = [label in ranking[: int(cut)] for ranking in rankings]
        n_hits = sum(p and q for p, q in zip(positive, predicted, strict=True))
        numerator, denominator = {
            "Coverage": (n_hits > 0, 1),
            "macroP": (n_hits, sum(predicted)),
            "macroR": (n_hits, sum(positive)),
            "macroF": (2 * n_hits, sum(predicted) + sum(positive)),
        }[kind]
        values.append(numerator / denominator if denominator else 0.0)
    return sum(values) / len(values) if values else math.nan


def evaluate(
    y_true: Sequence[Mapping[int, float]],
    rankings: Sequence[Sequence[int]],
    metrics: Sequence[str],
    inv_propensity: Sequence[float] | None = None,
    empty_rows: str = "zero",
    psndcg: str = "xclib",
) -> dict[str, float]:
    """Every metric over all rows; NaN if there is nothing to divide by."""
    values = {}
    for metric in metrics:
        numerator = denominator = 0.0
        for truth, ranking in zip(y_true, rankings, strict=True):
            empty = not any(value > 0 for value in truth.values())
            if empty and empty_rows == "skip":
                continue
            row = row_terms(metric, truth, ranking, inv_propensity, psndcg)
            numerator += row[0]
            denominator += row[1]
        values[metric] = numerator / denominator if denominator else math.nan
    return values


Rows = Sequence[Set[int]]


def degree_caps(
    points: Rows, n_labels: int, max_point: int | None, max_label: int | None
) -> tuple[list[Set[int]], list[Set[int]], set[int]]:
    """Points without the large ones, points of each label, labels that may be a neighbour."""
    kept = [row if max_point is None or len(row) <= max_point else frozenset() for row in points]
    of_label = [{p for p, row in enumerate(kept) if label in row} for label in range(n_labels)]
    neighbours = {
        label for label in range(n_labels) if max_label is None or len(of_label[label]) <= max_label
    }
    return list(kept), list(of_label), neighbours


def co_occurrence(
    points: Rows,
    n_labels: int,
    normalise: str,
    *,
    top: int,
    min_count: int = 1,
    keep_self: bool = False,
    max_point: int | None = None,
    max_label: int | None = None,
) -> list[dict[int, float]]:
    """Weights of the neighbours of each label."""
    _, of_label, neighbours = degree_caps(points, n_labels, max_point, max_label)
    rows = []
    for label, mine in enumerate(of_label):
        row = {}
        for other in neighbours:
            theirs = of_label[other]
            both = len(mine & theirs)
            if both < max(min_count, 1) or (other == label and not keep_self):
                continue
            row[other] = {
                "count": both,
                "cosine": both / math.sqrt(len(mine) * len(theirs)),
                "jaccard": both / len(mine | theirs),
                "probability": both / len(mine),
            }[normalise]
        best = sorted(row, key=lambda other: (-row[other], other))[:top]
        rows.append({other: row[other] for other in best})
    return rows


def expected_visits(
    points: Rows,
    n_labels: int,
    n_steps: int,
    restart: float,
    max_point: int | None = None,
    max_label: int | None = None,
) -> list[list[float]]:
    """Exact mean visits of walks from each label: the distribution of the walk, step by step."""
    kept, of_label, neighbours = degree_caps(points, n_labels, max_point, max_label)
    reached = [sorted(row & neighbours) for row in kept]

    def step(at: Mapping[int, float]) -> dict[int, float]:
        after: dict[int, float] = {}
        for label, chance in at.items():
            bridges = [p for p in of_label[label] if reached[p]]
            for p in bridges:
                for other in reached[p]:
                    share = chance / len(bridges) / len(reached[p])
                    after[other] = after.get(other, 0.0) + share
        return after

    rows = []
    for label in range(n_labels):
        visits = [0.0] * n_labels
        first = step({label: 1.0})
        at = first
        for _ in range(n_steps if first else 0):
            for other, chance in at.items():
                visits[other] += chance
            on = step(at)
            at = {
                other: restart * first.get(other, 0.0) + (1 - restart) * on.get(other, 0.0)
                for other in {*first, *on}
            }
        rows.append(visits)
    return rows


def chances_without_replacement(
    weights: Mapping[int, float], n: int
) -> dict[frozenset[int], float]:
    """Chance of each set of n labels drawn one after the other, by weight among those left."""
    if n == 0 or not weights:
        return {frozenset(): 1.0}
    total = sum(weights.values())
    chances: dict[frozenset[int], float] = {}
    for label, weight in weights.items():
        rest = {other: w for other, w in weights.items() if other != label}
        for drawn, chance in chances_without_replacement(rest, n - 1).items():
            both = drawn | {label}
            chances[both] = chances.get(both, 0.0) + weight / total * chance
    return chances


def label_worth(
    kind: str,
    probabilities: Sequence[Mapping[int, float]],
    chosen: Sequence[Set[int]],
    n_labels: int,
    beside: Sequence[float],
) -> float:
    """What a mean over labels is expected to be, times the labels, where hits are independent.

    macroF: with 1 + beside[l] in place of the right rows of label l, of which one is a hit.
    """
    total = 0.0
    for label in range(n_labels):
        own = [p[label] for p, labels in zip(probabilities, chosen, strict=True) if label in labels]
        if kind == "macroP":
            total += sum(own) / len(own) if own else 0.0
        elif kind == "macroF":
            total += 2 * sum(own) / (len(own) + 1 + beside[label])
        else:
            total += 1 - math.prod(1 - p for p in own)
    return total


def others_expected(
    probabilities: Sequence[Mapping[int, float]], n_labels: int, expected: Sequence[float]
) -> list[float]:
    """Right rows of each label to expect beside a right one."""
    beside = []
    for label in range(n_labels):
        own = [row[label] for row in probabilities if label in row]
        mine = sum(p * p for p in own) / sum(own) if sum(own) > 0 else 0.0
        beside.append(max(sum(own) - mine, expected[label], 0.0))
    return beside


def label_counts_of(
    truth: Sequence[Set[int]], ranked: Sequence[Sequence[int]], n_labels: int, k: int
) -> list[tuple[int, int, int]]:
    """Positives, predictions within k and hits of each label."""
    counts = [[0, 0, 0] for _ in range(n_labels)]
    for true, labels in zip(truth, ranked, strict=True):
        for label in true:
            counts[label][0] += 1
        for label in labels[:k]:
            counts[label][1] += 1
            counts[label][2] += label in true
    return [(a, b, c) for a, b, c in counts]


def confusions_of(
    truth: Sequence[Set[int]],
    ranked: Sequence[Sequence[int]],
    excluded: Sequence[Set[int]],
    k: int,
) -> dict[tuple[int, int], list[int]]:
    """Points by pair: a positive that is not within k, and a label within k that is none."""
    found: dict[tuple[int, int], list[int]] = {}
    for point, (true, labels, out) in enumerate(zip(truth, ranked, excluded, strict=True)):
        for right in true - set(labels[:k]) - out:
            for wrong in set(labels[:k]) - true:
                found.setdefault((right, wrong), []).append(point)
    return found


def balanced_clusters(
    vectors: Sequence[Sequence[float]], size: int, starts: Callable[[int, int, int], Sequence[int]]
) -> list[int]:
    """Recursive spherical 2-means in halves, point by point.

    `starts(first, last, n)` names the two of a part's n points that are the first centres.
    """
    n_clusters = -(-len(vectors) // size)
    cluster = [0] * len(vectors)

    def unit_mean(rows: Iterable[int]) -> list[float]:
        total = [math.fsum(values) for values in zip(*(vectors[i] for i in rows), strict=True)]
        length = math.hypot(*total)
        return [value / length for value in total] if length else total

    def split(first: int, last: int, rows: list[int]) -> None:
        if last - first <= 1:
            for row in rows:
                cluster[row] = first
            return
        middle = (first + last) // 2
        n_left = middle * len(vectors) // n_clusters - first * len(vectors) // n_clusters
        a, b = (list(vectors[rows[i]]) for i in starts(first, last, len(rows)))
        left: list[int] = []
        for _ in range(8):
            gain = {
                i: sum(x * (p - q) for x, p, q in zip(vectors[i], a, b, strict=True)) for i in rows
            }
            now = sorted(sorted(rows, key=lambda i: (-gain[i], i))[:n_left])
            if now == left:
                break
            left = now
            a, b = unit_mean(left), unit_mean(i for i in rows if i not in left)
        split(first, middle, left)
        split(middle, last, [i for i in rows if i not in left])

    split(0, n_clusters, list(range(len(vectors))))
    return cluster
