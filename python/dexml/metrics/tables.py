"""Scores of one or several systems as a DataFrame, and as tables in Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, TypeAlias

from dexml.metrics.result import Result

Scores: TypeAlias = Result | Mapping[str, float]
"""What `Evaluator.result` or `evaluate` returns."""
Systems: TypeAlias = Scores | Mapping[str, Scores]
"""Scores, or scores by the name of the system."""
Errors: TypeAlias = Mapping[str, float] | Mapping[str, Mapping[str, float]]
"""Standard errors by metric (`Result.standard_errors`), or by system and metric."""


def to_dataframe(scores: Systems) -> Any:
    """Return a ``pandas.DataFrame`` of fractions: a row a system, a column a metric.

    Label groups of a `Result` follow as rows of their own, ``grouping: group``.

    Args:
        scores: A `Result`, a dict of metrics, or a dict with one of these for each system. The row
            of a single system is named ``""``.

    Raises:
        ImportError: pandas is not installed.
        TypeError: `scores` is none of these.
    """
    try:
        pandas = import_module("pandas")
    except ImportError:
        raise ImportError(
            "pandas is not installed; it comes with: pip install pandas (to_markdown and to_latex "
            "need nothing)"
        ) from None
    return pandas.DataFrame.from_dict(_rows(scores), orient="index")


def to_markdown(scores: Systems, *, errors: Errors | None = None, digits: int = 2) -> str:
    """Return a table in Markdown, in percent: a row a system, a column a metric.

    Args:
        scores: As for `to_dataframe`.
        errors: Standard errors, shown behind ``±``.
        digits: Digits after the point.

    Examples:
        >>> print(to_markdown({"ours": {"P@1": 0.5, "P@3": 0.25}, "other": {"P@1": 0.4}}))
        | % | P@1 | P@3 |
        |---|---:|---:|
        | ours | 50.00 | 25.00 |
        | other | 40.00 | - |
    """
    columns, rows = _cells(scores, errors, digits, "-", " ± ")
    lines = [["%", *columns], ["---", *["---:"] * len(columns)]]
    lines += [[name.replace("|", r"\|"), *cells] for name, cells in rows.items()]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    text[1] = text[1].replace(" ", "")
    return "\n".join(text)


def to_latex(scores: Systems, *, errors: Errors | None = None, digits: int = 2) -> str:
    r"""Return a table in LaTeX (booktabs), in percent; arguments as for `to_markdown`.

    Examples:
        >>> print(to_latex({"ours": {"P@1": 0.5}}))
        \begin{tabular}{lr}
        \toprule
        \% & P@1 \\
        \midrule
        ours & 50.00 \\
        \bottomrule
        \end{tabular}
    """
    columns, rows = _cells(scores, errors, digits, "--", r" $\pm$ ")
    lines = [[r"\%", *map(_latex, columns)], *([_latex(n), *cells] for n, cells in rows.items())]
    head, *body = [" & ".join(line) + r" \\" for line in lines]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _systems(scores: Systems) -> dict[str, Scores]:
    if isinstance(scores, Result):
        return {"": scores}
    if not isinstance(scores, Mapping):
        kind = type(scores).__name__
        raise TypeError(f"scores is {kind}; give a Result, a dict of metrics, or a dict of these")
    are_systems = [isinstance(value, Result | Mapping) for value in scores.values()]
    if any(are_systems) and not all(are_systems):
        raise TypeError("scores: numbers and systems in one dict; give a dict of one of them")
    return dict(scores) if any(are_systems) else {"": scores}  # type: ignore[dict-item,arg-type]


def _rows(scores: Systems) -> dict[str, dict[str, float]]:
    """Return the metrics of each system, and of its label groups."""
    rows: dict[str, dict[str, float]] = {}
    for name, system in _systems(scores).items():
        if not isinstance(system, Result):
            rows[name] = dict(system)
            continue
        rows[name] = dict(system.metrics)
        for grouping, groups in system.groups.items():
            for group, result in groups.items():
                label = f"{grouping}: {group}"
                rows[f"{name}, {label}" if name else label] = dict(result.metrics)
    return rows


def _cells(
    scores: Systems, errors: Errors | None, digits: int, missing: str, between: str
) -> tuple[list[str], dict[str, list[str]]]:
    """Return the columns, and the cells of each row."""
    rows = _rows(scores)
    columns = list(dict.fromkeys(metric for metrics in rows.values() for metric in metrics))
    by_row: dict[str, Any] = dict(errors or {})
    if by_row and not any(isinstance(value, Mapping) for value in by_row.values()):
        by_row = {next(iter(rows)): by_row}

    def cell(name: str, metric: str) -> str:
        value = rows[name].get(metric)
        if value is None or value != value:  # NaN: a group without points
            return missing
        error = by_row.get(name, {}).get(metric)
        shown = f"{100 * value:.{digits}f}"
        return shown if error is None else f"{shown}{between}{100 * error:.{digits}f}"

    return columns, {name: [cell(name, metric) for metric in columns] for name in rows}


def _latex(text: str) -> str:
    """Escape what LaTeX takes for commands."""
    for character in r"&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return text.replace("<=", r"$\le$").replace("<", "$<$").replace(">", "$>$")
