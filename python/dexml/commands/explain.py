"""Explanations for people (a table a label) and for machines (JSON lines)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice

from dexml.commands.show import fit
from dexml.predict.explanation import Explanation, Neighbours, SharedWords, WordPairs
from dexml.scorers.meanings import Group
from dexml.text.bilinear.features import OWN

WIDTH = 100
"""Columns where the terminal does not say how many it has."""
NAMED, LINE = 5, 70
"""Words that are named in a line at most, and the characters that they may take."""
POINTS = 4
"""Points that are named of each kind."""


def as_json(text: str, explanations: Sequence[Explanation]) -> str:
    """Write one text as a JSON object on a line, as without explanations but with more keys."""
    labels = [one.as_json() for one in explanations]
    return json.dumps({"text": text, "labels": labels}, ensure_ascii=False) + "\n"


def as_tables(text: str, explanations: Sequence[Explanation], width: int | None = None) -> str:
    """Write a text, and for each label why it has its score.

    Args:
        text: What was asked.
        explanations: Of the labels.
        width: Columns; longer lines are cut. Default 100.
    """
    width = width or WIDTH
    lines = [text]
    for one in explanations:
        lines += ["", *_head(one, width), "", *_parts(one), *_shared(one)]
        for neighbours in one.neighbours:
            lines += _points(neighbours)
    return "".join(f"{fit(line, width)}\n" for line in [*lines, ""])


def _head(one: Explanation, width: int) -> list[str]:
    """Say which label it is, and where it stands."""
    place = "not ranked" if one.rank is None else f"{one.rank} of {one.n_ranked}"
    id_ = f"(id {one.label_id})"
    sure = "" if one.probability is None else f"  right with {100 * one.probability:.1f} %"
    label = fit(one.label_text, max(1, width - len(place) - len(id_) - len(sure) - 3))
    line = f"{place}  {label} {id_}{sure}"
    if one.rank is not None:
        return [line]
    why = "no scorer knows it" if not one.evidence else "nothing proposes it for this text"
    return [line, f"  {why}; {one.n_ranked} labels are ranked"]


def _parts(one: Explanation) -> list[str]:
    """Lay out what the score is the sum of, the largest part first."""
    if not one.evidence:
        return []
    rows = [
        (str(group), f"{part:+.2f}", _why(one, group))
        for group, part in sorted(one.parts.items(), key=lambda item: -item[1])
    ]
    ranked = one.start != 0.0
    if ranked:
        rows.append(("average candidate", f"{one.start:+.2f}", f"of {one.n_ranked} for this text"))
    total = one.start + sum(one.parts.values())
    named = "score" if one.score is not None else "score, if ranked"
    rows.append((named, f"{total:.2f}" if one.score is None else f"{one.score:.2f}", ""))
    names = max(len(row[0]) for row in rows)
    values = max(len(row[1]) for row in rows)
    return [f"  {name:{names}}  {value:>{values}}  {why}".rstrip() for name, value, why in rows]


def _why(one: Explanation, group: Group) -> str:
    """Say in a few words what a part of the score comes from."""
    by = {Group.BY_MEANING: "meaning", Group.BY_WORDS: "words"}.get(group)
    for neighbours in one.neighbours:
        if neighbours.by == by:
            if not neighbours.n_with_label:
                return f"none of the {neighbours.n_voters} nearest points has it"
            have = "has" if neighbours.n_with_label == 1 else "have"
            return (
                f"{neighbours.n_with_label} of the {neighbours.n_voters} nearest points {have} "
                f"it, with {100 * neighbours.share:.0f} % of the vote"
            )
    if group == Group.FREQUENCY:
        have = "training point has it" if one.n_points == 1 else "training points have it"
        return f"{one.n_points or 'no'} {have}"
    if group == Group.WORDS and one.words:
        total = {shared.feature: shared.total for shared in one.words}
        return (
            f"likeness: its text {total['text']:.2f}, pieces of words {total['name']:.2f}, "
            f"its points {total['centroid']:.2f}"
        )
    first = next(e for e in one.evidence if e.group == group)
    return f"{first.meaning}: {_value(first.value)}"


def _value(value: float | None) -> str:
    if value is None:
        return "not known"
    return "below 0.01" if 0 < value < 0.005 else f"{value:.2f}"


def _shared(one: Explanation) -> list[str]:
    """Name the words that matched, and the learned pairs of words."""
    by = {shared.feature: shared for shared in one.words}
    rows = []
    if by:
        rows += [
            ("shared with its text", _named(by["text"], by["name"].pieces)),
            ("shared with its points", _named(by["centroid"], by["centroid"].pieces)),
        ]
    if one.pairs is not None:
        rows.append(("learned pairs", _paired(one.pairs)))
    return ["", *(f"  {name:22}  {named}" for name, named in rows)] if rows else []


def _named(shared: SharedWords, pieces: float) -> str:
    """Name the words with the largest parts, as many as a line holds."""
    last = [f"pieces of words {pieces:.2f}"] if pieces >= 0.005 else []
    return _line(
        (f"{m.term} {m.part:.2f}" for m in shared.terms if m.kind == "word" and m.part >= 0.005),
        last,
    )


def _paired(pairs: WordPairs) -> str:
    """Name the largest pairs of a word of the text and one of the label."""
    large = (one for one in pairs.terms if abs(one.part) >= 0.005)
    return _line(f"{one.word} → {_label_word(one.label_word)} {one.part:+.2f}" for one in large)


def _label_word(name: str) -> str:
    return "the label itself" if name.startswith(OWN) else name


def _line(terms: Iterable[str], last: Sequence[str] = ()) -> str:
    """Join the first terms, as many as a line holds, and the last ones."""
    named: list[str] = []
    for term in islice(terms, NAMED):
        if named and len(", ".join([*named, term, *last])) > LINE:
            break
        named.append(term)
    return ", ".join([*named, *last]) or "nothing"


def _points(neighbours: Neighbours) -> list[str]:
    """List the points that vote most, those with the label first."""
    named = sorted(neighbours.points, key=lambda voter: (not voter.has_label, -voter.share))
    with_label = [voter for voter in named if voter.has_label][: POINTS - 1]
    others = [voter for voter in named if not voter.has_label][: POINTS - len(with_label)]
    if not named:
        return []
    lines = ["", f"  has it   vote  cosine  nearest points by {neighbours.by}"]
    for voter in [*with_label, *others]:
        text = f"point {voter.row}" if voter.text is None else voter.text
        has = "yes" if voter.has_label else "no"
        lines.append(f"  {has:6}  {100 * voter.share:3.0f} %  {voter.cosine:6.2f}  {text}")
    return lines
