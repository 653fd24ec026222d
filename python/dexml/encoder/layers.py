"""Find, freeze, split and compile the blocks of a transformer."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

SPLITTABLE = {
    "bert": "encoder.layer",
    "camembert": "encoder.layer",
    "distilbert": "transformer.layer",
    "modernbert": "layers",
    "mpnet": "encoder.layer",
    "roberta": "encoder.layer",
    "xlm-roberta": "encoder.layer",
}
"""Path to the blocks in each kind of model that `lower` and `upper` can split.

All are tested except CamemBERT and XLM-R, whose code is RoBERTa's.
"""


def blocks(transformer: nn.Module) -> nn.ModuleList:
    """Return the list of transformer blocks, lowest first.

    Raises:
        ValueError: The model has no list of ``num_hidden_layers`` modules.
    """
    depth = int(transformer.config.num_hidden_layers)  # type: ignore[union-attr,arg-type]
    for module in transformer.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ValueError(f"{type(transformer).__name__}: has no list of {depth} layers")


def upper_layers(transformer: nn.Module, n: int) -> list[nn.Module]:
    """Return the last `n` transformer blocks, without the embeddings.

    Raises:
        ValueError: `n` is not in 1..depth.
    """
    layers = list(blocks(transformer))
    depth = len(layers)
    if not 1 <= n <= depth:
        raise ValueError(f"{n} upper layers; this encoder has {depth}: give 1..{depth}")
    return layers[depth - n :]


def freeze_embeddings(transformer: Any) -> None:
    """Exclude the word embeddings, most of a small encoder's weights, from training."""
    transformer.get_input_embeddings().requires_grad_(False)


def lower(transformer: Any, ids: Tensor, n: int) -> Tensor:
    """Return hidden states (B, T, H) of token ids (B, T) below the last `n` blocks.

    Raises:
        ValueError: `n` is not in 1..depth, or this kind of model is not in `SPLITTABLE`.
    """
    path = _path_to_blocks(transformer, n)
    view = _with_blocks(transformer, path, blocks(transformer)[: len(blocks(transformer)) - n])
    if getattr(view, "final_norm", None) is not None:  # it belongs after the last block
        view.final_norm = nn.Identity()
    return _states(view(input_ids=ids))


def upper(transformer: Any, hidden: Tensor, n: int) -> Tensor:
    """Return the last hidden states (B, T, H) from the states (B, T, H) of `lower` for this `n`.

    Raises:
        ValueError: `n` is not in 1..depth, or this kind of model is not in `SPLITTABLE`.
    """
    path = _path_to_blocks(transformer, n)
    view = _with_blocks(transformer, path, blocks(transformer)[len(blocks(transformer)) - n :])
    view.embeddings = _PassThrough()
    return _states(view(inputs_embeds=hidden))


def compile_blocks(transformer: nn.Module, backend: str = "inductor") -> None:
    """Compile each block in place with `torch.compile`, for batches of any shape.

    Blocks are compiled rather than the whole model because they share one compiled form. Weights,
    names and saved files stay as they are.
    """
    for block in blocks(transformer):
        block.compile(backend=backend, dynamic=True)


class _PassThrough(nn.Module):
    """Takes the place of the embeddings and returns its input."""

    def forward(self, input_ids: Any = None, inputs_embeds: Any = None, *_: Any, **__: Any) -> Any:
        return inputs_embeds


def _path_to_blocks(transformer: Any, n: int) -> list[str]:
    kind = transformer.config.model_type
    if kind not in SPLITTABLE:
        raise ValueError(
            f"{type(transformer).__name__}: models of kind {kind} cannot be split; known are "
            f"{', '.join(SPLITTABLE)}"
        )
    depth = len(blocks(transformer))
    if not 1 <= n <= depth:
        raise ValueError(f"n = {n} upper blocks; this model has {depth}: give 1..{depth}")
    return SPLITTABLE[kind].split(".")


def _with_blocks(module: Any, path: list[str], chosen: nn.ModuleList) -> Any:
    """Return a copy of `module` that shares all weights and has only the blocks `chosen`.

    It copies rather than changes the module and back, because other threads may be using it.
    """
    view = copy.copy(module)
    view._modules = dict(module._modules)
    first, *inner = path
    view._modules[first] = _with_blocks(getattr(module, first), inner, chosen) if inner else chosen
    return view


def _states(output: Any) -> Tensor:
    states: Tensor = output.last_hidden_state
    return states
