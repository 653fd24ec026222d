"""All, seen and unseen labels side by side, for a run's members and simpler methods; and a curve.

    python benches/zest_views.py table DATA [--run NAME=RUN ...] [--points 2000] [--encoder MODEL]
    python benches/zest_views.py curve DATA [--run NAME=RUN ...] [--points 2000] --svg FILE

Test part, percent; each view ranks its own labels (`dexml.metrics.views`), and the last column is
R@100 of unseen labels in the whole ranking. A run is taken apart into its members with
``--members``. `words`: tf-idf of label texts, and BM25 where bm25s is installed. The curve adds a
number to the scores of unseen labels and ranks again. docs/experiments/zestxml.md has results.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import data
from dexml.data import Csr
from dexml.metrics import Evaluator, LabelGroups, ViewEvaluator, seen_groups
from dexml.predict.served import open_run, scorers_in
from dexml.report import charts
from dexml.scorers import DenseScorer, Queries
from dexml.scorers.bilinear import BilinearScorer
from dexml.scorers.lexical import LexicalScorer
from dexml.scorers.tree import TreeScorer
from dexml.text.lexical import LexicalIndex, VectorizerSettings, fit_vectorizer
from zest import parts

Search = Callable[[Queries, int, Csr | None, "NDArray[np.bool_] | None"], NDArray[np.int32]]
METRICS = ("P@1", "nDCG@5", "R@100")
BLOCK = 512
NAMES = {
    DenseScorer: "dense",
    LexicalScorer: "words, votes",
    TreeScorer: "label tree",
    BilinearScorer: "pairs of words",
}
SHIFTS = (-4, -3, -2, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6)
"""Added to the scores of a ranker's unseen labels."""
STYLE = """
svg { font-family: sans-serif; font-size: 12px; }
.grid { stroke: #ddd; } .tick { fill: #666; font-size: 11px; } .end { text-anchor: end; }
.middle { text-anchor: middle; } .line { fill: none; stroke: var(--c); stroke-width: 2; }
.dot { fill: var(--c); } .c0 { --c: #2563c9; } .c1 { --c: #d0631b; } .c2 { --c: #1b8a5a; }
.c3 { --c: #8b4bc4; }
"""


def of_scorer(scorer: Any) -> Search:
    """Search with a scorer."""
    return lambda queries, k, exclude, only: scorer.search(queries, k, exclude=exclude, only=only)[
        0
    ]


def of_scores(scores: Callable[[Queries], NDArray[np.float32]]) -> Search:
    """Rank by scores of all labels, (n, L); those that are 0 or below are not found."""

    def search(
        queries: Queries, k: int, exclude: Csr | None, only: NDArray[np.bool_] | None
    ) -> NDArray[np.int32]:
        values = scores(queries).copy()
        if exclude is not None:
            values[exclude.toarray() > 0] = 0
        if only is not None:
            values[:, ~only] = 0
        ids = np.argpartition(-values, k, axis=1)[:, :k].astype(np.int32)
        order = np.lexsort((ids, -np.take_along_axis(values, ids, axis=1)), axis=1)
        ids = np.take_along_axis(ids, order, axis=1)
        return np.where(np.take_along_axis(values, ids, axis=1) > 0, ids, -1)

    return search


def tfidf(texts: Sequence[str], labels: Sequence[str]) -> Search:
    """Search label texts by tf-idf of stems, without any training."""
    settings = VectorizerSettings(stemmer="english", sublinear=True, unit=True)
    vectorizer = fit_vectorizer([*texts, *labels], settings)
    index = LexicalIndex(vectorizer.rows(labels))
    return lambda queries, k, exclude, only: index.search(
        vectorizer.rows(queries.texts), k, exclude=exclude, only=only
    )[0]


def bm25(labels: Sequence[str]) -> Search | None:
    """Search label texts by BM25; None without bm25s."""
    try:
        import bm25s
    except ImportError:
        return None
    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(labels), show_progress=False), show_progress=False)

    def scores(queries: Queries) -> NDArray[np.float32]:
        words = bm25s.tokenize(list(queries.texts), return_ids=False, show_progress=False)
        return np.stack(
            [index.get_scores(own) if own else np.zeros(len(labels), np.float32) for own in words]
        )

    return of_scores(scores)


def zero_shot(model: str, labels: Sequence[str], cache: Path) -> Search:
    """Rank by cosine of an encoder as it is."""
    from dexml.encoder import DualEncoder
    from dexml.train.features import cached_features

    encoder = DualEncoder.load(model)

    def vectors(texts: Sequence[str], side: Any) -> NDArray[np.float32]:
        tokens = encoder.tokenize(list(texts), 64, side=side)
        return np.asarray(
            cached_features(encoder, tokens, cache, desc="encode", progress=True), np.float32
        )

    theirs = vectors(labels, "label")
    return of_scores(lambda queries: 2.0 + vectors(queries.texts, "point") @ theirs.T)


def test_part(folder: Path, n_points: int) -> tuple[list[str], list[str], Csr, data.Part]:
    """Return label texts, training texts and labels, and test points drawn by a hash."""
    labels, texts, y, test = parts(folder, "tst")
    if n_points and n_points < len(test.texts):
        keys = [data.unit_interval("bench zest", text) for text in test.texts]
        rows = np.sort(np.argsort(keys)[:n_points])
        exclude = None if test.exclude is None else test.exclude[rows]
        test = data.Part([test.texts[i] for i in rows], test.y[rows], exclude, None)
    return labels, texts, y, test


def blocks(test: data.Part) -> Iterator[tuple[Queries, Csr, Csr | None]]:
    """Cut the test part; what is computed of a block's texts is shared by the methods."""
    for start in range(0, len(test.texts), BLOCK):
        rows = slice(start, start + BLOCK)
        exclude = None if test.exclude is None else test.exclude[rows]
        yield Queries(test.texts[rows]), test.y[rows], exclude


def table(folder: Path, given: argparse.Namespace) -> None:
    """Print the views of all methods."""
    labels, texts, y, test = test_part(folder, given.points)
    counts = np.bincount(y.indices, minlength=len(labels))
    methods: dict[str, Search] = {}
    if given.words:
        methods["tf-idf of label texts"] = tfidf(texts, labels)
        if (by_words := bm25(labels)) is not None:
            methods["BM25 of label texts"] = by_words
    if given.encoder:
        methods["encoder as it is (zero-shot)"] = zero_shot(given.encoder, labels, given.cache)
    for name, run in (one.split("=", 1) for one in given.run):
        whole = open_run(Path(run)).scorer
        methods[name] = of_scorer(whole)
        for scorer in scorers_in(whole) if given.members else ():
            if scorer is not whole and type(scorer) in NAMES:
                methods[f"{name}: {NAMES[type(scorer)]}"] = of_scorer(scorer)
    apart = {name: ViewEvaluator(counts, METRICS) for name in methods}
    together = {
        name: Evaluator(len(labels), ["R@100"], label_groups={"seen": seen_groups(y)})
        for name in methods
    }
    for queries, truth, exclude in blocks(test):
        for name, search in methods.items():
            for view, mask in apart[name].masks.items():
                ids = search(queries, 100, exclude, None if view == "all" else mask)
                apart[name].update(truth, ids, exclude=exclude, view=view)
                if view == "all":
                    together[name].update(truth, ids, exclude=exclude)
    first = next(iter(apart.values())).result()
    sizes = ", ".join(f"{name} {view.n_points} points" for name, view in first.items())
    print(f"{folder.name}, test part: {sizes}\n")
    columns = [f"{view} {metric}" for view in first for metric in METRICS]
    columns.append("R@100 of unseen labels among all")
    print("| | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for name in methods:
        found = apart[name].result()
        cells = [f"{100 * found[v].metrics[m]:.2f}" for v in first for m in METRICS]
        group = together[name].result().groups["seen"]["unseen (0)"]
        cells.append(f"{100 * group.metrics['R@100']:.2f}" if group.n_points else "-")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def curve(folder: Path, given: argparse.Namespace) -> None:
    """Shift the scores of unseen labels, and draw nDCG@5 of both groups in the whole ranking."""
    labels, _, y, test = test_part(folder, given.points)
    unseen = np.bincount(y.indices, minlength=len(labels)) == 0
    two = LabelGroups(["seen", "unseen"], unseen.astype(np.int64))
    series, rows = [], []
    for name, run in (one.split("=", 1) for one in given.run):
        scorer = open_run(Path(run)).scorer
        step = 0.25 if isinstance(scorer, BilinearScorer) else 1.0
        evaluators = {
            shift: Evaluator(len(labels), ["P@1", "nDCG@5", "R@100"], label_groups={"seen": two})
            for shift in SHIFTS
        }
        for queries, truth, exclude in blocks(test):
            ids, scores = scorer.search(queries, 400, exclude=exclude)
            hit = unseen[np.maximum(ids, 0)] & (ids >= 0)
            for shift, evaluator in evaluators.items():
                order = np.argsort(-(scores + step * shift * hit), axis=1, kind="stable")
                ranked = np.take_along_axis(ids, order, axis=1)[:, :100]
                evaluator.update(truth, np.ascontiguousarray(ranked), exclude=exclude)
        points = []
        for shift, evaluator in evaluators.items():
            result = evaluator.result()
            seen, other = (100 * g.metrics["nDCG@5"] for g in result.groups["seen"].values())
            mean = 2 * seen * other / max(seen + other, 1e-9)
            found = 100 * result.groups["seen"]["unseen"].metrics["R@100"]
            rows.append((name, step * shift, seen, other, mean, found, result.metrics))
            points.append((seen, other, mean))
        best = max(points, key=lambda one: one[2])
        line = [charts.Point(x, z) for x, z, _ in sorted(points)]
        series.append(charts.Series(name, line))
        series.append(charts.Series(f"{name}, best harmonic mean", [charts.Point(*best[:2])]))
    print(f"{folder.name}: nDCG@5 in the whole ranking; shift added to scores of unseen labels\n")
    print("| | shift | seen | unseen | harmonic mean | R@100 of unseen | P@1 | nDCG@5 | R@100 |")
    print("|" + "---|" * 9)
    for name, shift, *groups, metrics in rows:
        cells = " | ".join(f"{one:.2f}" for one in groups)
        whole = " | ".join(f"{100 * value:.2f}" for value in metrics.values())
        print(f"| {name} | {shift:+g} | {cells} | {whole} |")
    if given.svg is not None:
        given.svg.write_text(picture(folder.name, series))


def picture(title: str, series: Sequence[charts.Series]) -> str:
    """Draw the curve, with a legend above it."""
    figure = charts.lines(
        f"{title}: nDCG@5 of unseen labels, %", series, x_name="nDCG@5 of seen labels, %"
    )
    assert figure is not None
    legend = "".join(
        f'<path class="line c{i}" d="M20 {16 + 16 * i}h20"/>'
        f'<text x="46" y="{20 + 16 * i}">{one.name}</text>'
        for i, one in enumerate(series)
    )
    top = 16 * len(series) + 12
    place = f'<svg x="0" y="{top}" width="{charts.WIDTH}" height="{charts.HEIGHT}"'
    size = f"0 0 {charts.WIDTH} {top + charts.HEIGHT}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="white"/>{legend}'
        f"{str(figure.svg).replace('<svg', place, 1)}</svg>\n"
    )


def main() -> None:
    """Run an experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    for action in ("table", "curve"):
        one = actions.add_parser(action)
        one.add_argument("data", type=Path)
        one.add_argument("--run", action="append", default=[], metavar="NAME=RUN")
        one.add_argument("--points", type=int, default=2000, help="0: all")
        if action == "curve":
            one.add_argument("--svg", type=Path)
        else:
            one.add_argument("--members", action="store_true")
            one.add_argument("--words", action="store_true")
            one.add_argument("--encoder", help="score an encoder as it is")
            one.add_argument("--cache", type=Path, default=Path("cache"))
    given = parser.parse_args()
    (curve if given.action == "curve" else table)(given.data, given)


if __name__ == "__main__":
    main()
