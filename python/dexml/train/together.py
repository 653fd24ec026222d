"""Settings of a training that need others, or exclude them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dexml.train.schedule import parse_loss, trains_table

if TYPE_CHECKING:
    from dexml.train.settings import TrainSettings


def check_together(settings: TrainSettings) -> None:
    """Check settings that make sense alone, and not with what others say.

    Raises:
        ValueError: They do not go together; the message says what to change.
    """
    for part in parse_loss(settings.loss):
        if settings.positives_per_point and part.loss.all_positives:
            raise ValueError(
                f"{part.loss.name} with --positives-per-point would train the positives that "
                "are not drawn as negatives; leave it 0"
            )
    for name in ("compile", "cache_layers"):
        if settings.packed and getattr(settings, name):
            raise ValueError(f"--packed and --{name.replace('_', '-')} exclude each other")
    if settings.cache_layers and not settings.encoder_layers:
        raise ValueError("--cache-layers needs frozen layers: give --encoder-layers")
    for name in ("label_clusters", "beat_text"):
        if getattr(settings, name) and not trains_table(settings.stages):
            raise ValueError(
                f"--{name.replace('_', '-')} is about what labels learn beyond their texts; give "
                "it a stage that trains that, heads or joint"
            )
    if settings.beat_text and not (settings.residual_lr or settings.label_clusters):
        raise ValueError("--beat-text needs labels that learn: give --residual-lr above 0")
