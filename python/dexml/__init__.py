"""Dual encoders for extreme multi-label classification (XMC).

- `dexml.data`: data sets, label matrices, texts.
- `dexml.metrics`: exact metrics, intervals and paired tests.
- `dexml.sampling` and `dexml.topk`: negatives, label graphs, rankings.
- `dexml.favour`: the labels that are best for a metric, from probabilities.
- `dexml.losses`: losses over all labels or a pool.
- `dexml.model`: the text encoder.
- `dexml.index`: exact and approximate search over vectors that change.
- `dexml.train`: the training, also ``python -m dexml.train``.
- `dexml.predict`: a trained run that answers, also ``python -m dexml.predict``.
- `dexml.XmcClassifier`: all of this in the conventions of scikit-learn (extra ``sklearn``).

`dexml.data`, `dexml.metrics`, `dexml.sampling`, `dexml.topk` and `dexml.favour` need only numpy and
scipy. The rest needs the extra ``train``.
``python -m dexml.demo`` runs the whole job on real data; ``dexml`` and ``python -m dexml`` list all
commands. The manual is in ``docs/``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dexml.classifier import XmcClassifier as XmcClassifier

__version__ = "0.1.0"
"""Of the package and of its Rust core; ``Cargo.toml`` has the same."""


def __getattr__(name: str) -> Any:
    """Import `XmcClassifier` when it is asked for: the package itself needs numpy alone."""
    if name == "XmcClassifier":
        from dexml.classifier import XmcClassifier

        return XmcClassifier
    raise AttributeError(f"module 'dexml' has no attribute '{name}'")
