"""P@k, nDCG@k, PSP@k and related metrics over sparse label matrices, exact and multithreaded.

`evaluate` scores predictions in one call; an `Evaluator` takes them block by block, scores label
groups, and keeps the values that `Result.intervals` and `compare` need. Formulas and conventions:
``docs/metrics.md``; intervals and tests: ``docs/statistics.md``. Needs only numpy and scipy.

On the command line:

    python -m dexml.metrics PRED [PRED ...] TRUTH [--train Y] [--filter PAIRS]
        [--metrics P@1,nDCG@5,PSP@5] [--per-group frequency] [--views] [--ci]
        [--compare OTHER_PRED]
    python -m dexml.metrics PRED TRUTH --by-label | --confusions [--data DATA_DIR] [--out FILE]
    python -m dexml.metrics audit draw PRED [TRUTH] --out FILE.csv
    python -m dexml.metrics audit read FILE.csv
"""

from dexml.metrics.audit import Audit, Drawn, Precision, draw_audit
from dexml.metrics.compare import Comparison, compare
from dexml.metrics.errors import Confusion, LabelErrors, confusions, label_errors
from dexml.metrics.evaluator import DEFAULT_METRICS, Evaluator, evaluate
from dexml.metrics.labelgroups import (
    GroupResult,
    LabelGroups,
    decile_groups,
    frequency_groups,
    seen_groups,
)
from dexml.metrics.propensity import (
    DEFAULT_CONSTANTS,
    PROPENSITY_CONSTANTS,
    inv_propensity,
    propensity_constants,
)
from dexml.metrics.reliability import Bin, Reliability, reliability
from dexml.metrics.result import Interval, Result
from dexml.metrics.swapped import SwappedWarning
from dexml.metrics.tables import to_dataframe, to_latex, to_markdown
from dexml.metrics.views import View, ViewEvaluator, views

__all__ = [
    "DEFAULT_CONSTANTS",
    "DEFAULT_METRICS",
    "PROPENSITY_CONSTANTS",
    "Audit",
    "Bin",
    "Comparison",
    "Confusion",
    "Drawn",
    "Evaluator",
    "GroupResult",
    "Interval",
    "LabelErrors",
    "LabelGroups",
    "Precision",
    "Reliability",
    "Result",
    "SwappedWarning",
    "View",
    "ViewEvaluator",
    "compare",
    "confusions",
    "decile_groups",
    "draw_audit",
    "evaluate",
    "frequency_groups",
    "inv_propensity",
    "label_errors",
    "propensity_constants",
    "reliability",
    "seen_groups",
    "to_dataframe",
    "to_latex",
    "to_markdown",
    "views",
]
