"""The loss of a step, from what the settings name.

Shapes: B points, K candidates, D dimensions.
"""

from __future__ import annotations

from torch import Tensor

from dexml import losses
from dexml.losses import Options
from dexml.train.problem import Model
from dexml.train.schedule import LossPart
from dexml.train.settings import TrainSettings


def objective(
    loss: LossPart,
    model: Model,
    points_BD: Tensor,
    labels_KD: Tensor,
    positives: tuple[Tensor, Tensor],
    ignore: tuple[Tensor, Tensor] | None,
    bias: Tensor,
    log_weight: Tensor | None,
    settings: TrainSettings,
    options: Options,
) -> Tensor:
    """Compute the loss of these embeddings: scalar, the mean over the points.

    Args:
        loss: The loss of this step.
        model: Has the scale and the offset, for a loss that learns them; their gradients are reset.
        points_BD: Embeddings of the points.
        labels_KD: Embeddings of the candidates (of this process).
        positives: ``(indptr, indices)``, B rows, ids among all candidates.
        ignore: Likewise.
        bias: Logit of each candidate of this process, (K,).
        log_weight: Log of the weight of each as a negative, (K,), for a loss that takes it.
        settings: The settings of the run.
        options: How to compute it.
    """
    model.log_scale.grad = model.offset.grad = None
    temperature = _temperature(loss, model, settings)
    on_offer = {
        "k": loss.k,
        "alpha": settings.alpha,
        "margin": settings.margin / temperature,
        "log_scale": model.log_scale,
        "offset": model.offset,
        "negative_log_weight": log_weight,
    }
    function = getattr(losses, loss.loss.function)
    value: Tensor = function(
        points_BD,
        labels_KD,
        positives,
        ignore=ignore,
        temperature=temperature,
        label_bias=bias,
        **{name: on_offer[name] for name in loss.loss.takes},
        **options,
    )
    return value


def beats_text(
    loss: LossPart,
    model: Model,
    points_BD: Tensor,
    labels_KD: Tensor,
    texts_KD: Tensor,
    positives: tuple[Tensor, Tensor],
    settings: TrainSettings,
    options: Options,
) -> Tensor:
    """Compute the term with which labels beat their texts: scalar, the mean over the points.

    The mean over the positives of a point of ``max(0, <x, t> - <x, v> + margin) / temperature``,
    with the vector v of the label and the vector t of its text, which is a constant here: what the
    label gains must not be the text's loss. Source: PRIME, NAACL 2025.

    Args:
        loss: The loss of this step, which has the temperature.
        model: As for `objective`, and so are all others.
        points_BD: Embeddings of the points.
        labels_KD: Vectors of the candidates (of this process).
        texts_KD: Vectors of their texts alone.
        positives: ``(indptr, indices)``, B rows, ids among all candidates.
        settings: The settings of the run.
        options: How to compute it.
    """
    temperature = _temperature(loss, model, settings)
    gain_KD = labels_KD - texts_KD.detach()
    margin = settings.margin / temperature
    value: Tensor = losses.positive_hinge(
        points_BD, gain_KD, positives, margin=margin, temperature=temperature, **options
    )
    return value


def _temperature(loss: LossPart, model: Model, settings: TrainSettings) -> float:
    """What divides the dot products.

    After a loss that has learned the scale, others go on with what it has learned, as it is served.
    """
    if loss.loss.learns_scale:
        return settings.temperature
    return model.served_temperature(settings.temperature)
