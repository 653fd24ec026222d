"""Packed attention: texts of any lengths, one after the other, none of which attends to another.

In a bidirectional model, transformers 5 cannot keep packed texts apart: it ignores boundaries given
by ``position_ids``, and the states come out wrong. So the boundaries go to an attention function of
our own, which is registered with transformers. Shapes: B texts, T tokens of all of them together, A
heads, H dimensions of a state, E of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

NAME = "dexml_packed"
PACKABLE = ("bert", "camembert", "distilbert", "roberta", "xlm-roberta")
"""Kinds of models in which only attention mixes tokens, and is called through the interface."""


def packed_states(transformer: Any, ids_T: Tensor, lengths_B: Tensor) -> Tensor:
    """Return the last hidden states (T, H) of packed texts, each as if it were encoded alone.

    The first call replaces the attention of `transformer` by a function that packs if it gets
    lengths and otherwise calls torch's own, so that other calls return what they did before. Packed
    attention has no dropout on its weights, not even in training mode. The CUDA kernel cannot do
    it, and a model should not train differently on different devices.

    Args:
        transformer: A model of a kind in `PACKABLE`.
        ids_T: Token ids of all texts, one after the other.
        lengths_B: Number of tokens of each text, at least 1; on a CPU or on the device of `ids_T`.

    Raises:
        ValueError: The kind of model is not in `PACKABLE`, or the lengths do not add up to T.
    """
    check_packable(transformer)
    lengths = [int(n) for n in lengths_B.tolist()]
    if sum(lengths) != len(ids_T) or min(lengths, default=1) < 1:
        raise ValueError(
            f"packed: {len(lengths)} lengths (least {min(lengths, default=0)}) sum to "
            f"{sum(lengths)}, there are {len(ids_T)} tokens"
        )
    if not lengths:
        return torch.zeros(0, transformer.config.hidden_size, device=ids_T.device)
    _use_packing(transformer)
    output = transformer(
        input_ids=ids_T.unsqueeze(0),
        position_ids=_positions(transformer, ids_T, lengths).unsqueeze(0),
        packed_lengths=lengths,
    )
    states: Tensor = output.last_hidden_state[0]
    return states


def check_packable(transformer: Any) -> None:
    """Raise unless texts can be packed for this kind of model.

    Raises:
        ValueError: The kind of model is not in `PACKABLE`, or it is a decoder.
    """
    kind = transformer.config.model_type
    if kind not in PACKABLE or getattr(transformer.config, "is_decoder", False):
        raise ValueError(
            f"{type(transformer).__name__}: texts cannot be packed for models of kind {kind}; "
            f"known are {', '.join(PACKABLE)}; use batches of one exact length"
        )


def pooled(states_TH: Tensor, lengths_B: Tensor, mode: str) -> Tensor:
    """Pool packed states to (B, H): the mean over each text, or its first state."""
    lengths_B = lengths_B.to(states_TH.device, non_blocking=True)
    if mode == "cls":
        return states_TH[lengths_B.cumsum(0) - lengths_B]
    texts_B = torch.arange(len(lengths_B), device=states_TH.device)
    text_T = torch.repeat_interleave(texts_B, lengths_B, output_size=len(states_TH))
    sums = states_TH.new_zeros(len(lengths_B), states_TH.shape[1])
    return sums.index_add(0, text_T, states_TH) / lengths_B.unsqueeze(1)


def _positions(transformer: Any, ids_T: Tensor, lengths: list[int]) -> Tensor:
    """Return positions (T,) that restart with each text, as the model itself counts them."""
    padding = getattr(transformer.embeddings.position_embeddings, "padding_idx", None)
    if padding is None:
        positions = torch.cat([torch.arange(n) for n in lengths])
        return positions.to(ids_T.device, non_blocking=True)
    counted = (ids_T != padding).long()  # RoBERTa does not count a padding id, even inside a text
    parts = [part.cumsum(0) * part + padding for part in counted.split(lengths)]
    return torch.cat(parts)


def _use_packing(transformer: Any) -> None:
    if transformer.config._attn_implementation == NAME:
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    transformer.set_attn_implementation(NAME)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed_lengths: list[int] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute attention as transformers calls it: (1, A, T, E) -> (1, T, A, E)."""
    if packed_lengths is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output, None
    usual = scaling is None or scaling == query.shape[-1] ** -0.5
    if query.is_cuda and usual and query.dtype in (torch.bfloat16, torch.float16):
        return _varlen(query, key, value, packed_lengths), None
    parts = [
        scaled_dot_product_attention(q, k, v, scale=scaling)
        for q, k, v in zip(
            *(tensor.split(packed_lengths, dim=2) for tensor in (query, key, value)), strict=True
        )
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _varlen(query: Tensor, key: Tensor, value: Tensor, lengths: list[int]) -> Tensor:
    """Compute the same with one kernel for all texts (flash attention), half precision on CUDA."""
    from torch.nn.attention.varlen import varlen_attn

    ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    ends = ends.to(query.device, non_blocking=True)
    q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
    output: Any = varlen_attn(q, k, v, ends, ends, max(lengths), max(lengths))
    packed: Tensor = output.unsqueeze(0)
    return packed
