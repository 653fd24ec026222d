"""Statistics of a label matrix."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dexml.data.parts import Csr

QUANTILES = (0.5, 0.9, 0.99)


def describe(y: Csr) -> dict[str, float]:
    """Describe a matrix: its shape, its entries, positives a point, and how often labels occur.

    A value above 0 is a positive. Quantiles are over all points, or over the labels with a point.
    """
    n_points, n_labels = y.shape
    positive = y.data > 0
    counts = np.bincount(y.indices[positive], minlength=n_labels)
    ends = np.concatenate([[0], np.cumsum(positive)])[y.indptr]
    per_point = np.diff(ends)
    stats: dict[str, float] = {
        "points": n_points,
        "labels": n_labels,
        "entries": int(y.nnz),
        "entries not positive": int(y.nnz - positive.sum()),
        "positives a point, mean": round(float(per_point.mean()), 4) if n_points else 0.0,
    }
    stats |= _quantiles("positives a point", per_point)
    stats["points without a positive"] = int((per_point == 0).sum())
    stats["labels without a point"] = int((counts == 0).sum())
    used = counts[counts > 0]
    stats["points a used label, mean"] = round(float(used.mean()), 4) if len(used) else 0.0
    return stats | _quantiles("points a used label", used)


def _quantiles(name: str, values: np.ndarray) -> dict[str, float]:
    quantiles: dict[str, float] = {}
    for share in QUANTILES:
        # inverted_cdf gives a value that occurs, so that counts stay whole numbers.
        at = np.quantile(values, share, method="inverted_cdf") if len(values) else 0
        quantiles[f"{name}, {share:.0%}"] = int(at)
    return quantiles | {f"{name}, most": int(values.max()) if len(values) else 0}


def table(described: Mapping[str, Mapping[str, float]]) -> str:
    """Lay out descriptions: one column a matrix, one line a figure."""
    names = list(described)
    rows = [["", *names]]
    for key in described[names[0]]:
        cells = [described[name][key] for name in names]
        rows.append([key, *(f"{c:,.2f}" if isinstance(c, float) else f"{c:,}" for c in cells)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
