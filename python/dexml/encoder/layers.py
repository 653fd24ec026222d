"""The blocks of a transformer: found, frozen, split in a lower and an upper part, compiled."""

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
"""Where the blocks lie in each kind of model that `lower` and `upper` are known to hold for.

Tested, but for CamemBERT and XLM-R, whose code is RoBERTa's.
"""


def blocks(transformer: nn.Module) -> nn.ModuleList:
    """Return the list of transformer blocks, lowest first.

    Raises:
        ValueError: The model holds no list of ``num_hidden_layers`` modules.
    """
    depth = int(transformer.config.num_hidden_layers)  # type: ignore[union-attr,arg-type]
    for module in transformer.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ValueError(f"{type(transformer).__name__}: no list of {depth} layers found in it")


def upper_layers(transformer: nn.Module, n: int) -> list[nn.Module]:
    """Return the last `n` transformer blocks, without the embeddings.

    Raises:
        ValueError: There are not so many.
    """
    found = list(blocks(transformer))
    if not 1 <= n <= len(found):
        raise ValueError(f"{n} upper layers; this encoder has {len(found)}: give 1..{len(found)}")
    return found[len(found) - n :]


def freeze_embeddings(transformer: Any) -> None:
    """Take the word embeddings out of training: most of a small encoder's weights."""
    transformer.get_input_embeddings().requires_grad_(False)


def lower(transformer: Any, ids: Tensor, n: int) -> Tensor:
    """Hidden states (B, T, H) of token ids (B, T) after all but the last `n` blocks.

    Raises:
        ValueError: `n` is not in 1..depth, or the kind of model is not known here.
    """
    places = _places(transformer, n)
    view = _with_blocks(transformer, places, blocks(transformer)[: len(blocks(transformer)) - n])
    if getattr(view, "final_norm", None) is not None:  # it belongs behind the last block
        view.final_norm = nn.Identity()
    return _states(view(input_ids=ids))


def upper(transformer: Any, hidden: Tensor, n: int) -> Tensor:
    """Last hidden states (B, T, H) from the states (B, T, H) that `lower` gave for this `n`.

    Raises:
        ValueError: `n` is not in 1..depth, or the kind of model is not known here.
    """
    places = _places(transformer, n)
    view = _with_blocks(transformer, places, blocks(transformer)[len(blocks(transformer)) - n :])
    view.embeddings = _Given()
    return _states(view(inputs_embeds=hidden))


def compile_blocks(transformer: nn.Module, backend: str = "inductor") -> None:
    """Compile each block in place with `torch.compile`, for batches of any shape.

    The blocks share one compiled form, which is why they are compiled and not the whole; weights,
    names and saved files stay as they are.
    """
    for block in blocks(transformer):
        block.compile(backend=backend, dynamic=True)


class _Given(nn.Module):
    """Stands in the place of the embeddings and gives what it is given."""

    def forward(self, input_ids: Any = None, inputs_embeds: Any = None, *_: Any, **__: Any) -> Any:
        return inputs_embeds


def _places(transformer: Any, n: int) -> list[str]:
    kind = transformer.config.model_type
    if kind not in SPLITTABLE:
        raise ValueError(
            f"{type(transformer).__name__}: not known how to split a {kind} model; known are "
            f"{', '.join(SPLITTABLE)}"
        )
    depth = len(blocks(transformer))
    if not 1 <= n <= depth:
        raise ValueError(f"n = {n} upper blocks; this model has {depth}: give 1..{depth}")
    return SPLITTABLE[kind].split(".")


def _with_blocks(module: Any, places: list[str], chosen: nn.ModuleList) -> Any:
    """A copy of `module` that shares all weights and has only the blocks `chosen`.

    A copy and not a change with a change back: other threads may be encoding with it.
    """
    view = copy.copy(module)
    view._modules = dict(module._modules)
    inner = places[1:]
    view._modules[places[0]] = (
        _with_blocks(getattr(module, places[0]), inner, chosen) if inner else chosen
    )
    return view


def _states(output: Any) -> Tensor:
    states: Tensor = output.last_hidden_state
    return states
