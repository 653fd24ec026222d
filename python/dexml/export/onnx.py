"""The encoder of a run as a model of ONNX: from token ids to vectors, pooling and heads included.

The route is that of PyTorch (`torch.onnx.export` through `torch.export`).

Shapes: B texts, T tokens, D dimensions of an embedding.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import normalize as to_unit

from dexml import console
from dexml.encoder import DualEncoder, pretrained
from dexml.predict import Predictor

MODEL, TOKENIZER = "encoder.onnx", "tokenizer.json"
INPUTS, OUTPUTS = ("input_ids", "attention_mask"), ("query", "label")
_TOLERANCE = 1e-4
"""How far a number of a converted model may be from PyTorch's; both are near 1 in length."""


def to_onnx(predictor: Predictor, folder: Path) -> dict[str, Any]:
    """Write the encoder and its tokenizer, which pads and cuts as the run does.

    The model turns ``input_ids`` and ``attention_mask``, both int64, (B, T), into ``query`` and
    ``label``, float32, (B, D + 1): what a text is searched with, and the vector that a new label
    of this text has. Both are compared with PyTorch first, on texts of several lengths.

    Returns:
        What a reader must know: tokens of a text, prompts.

    Raises:
        ImportError: A package is missing.
        ValueError: PyTorch cannot convert the encoder, or the model computes something else.
    """
    console.require("onnx", "onnx", "onnxscript", "onnxruntime")
    dense = predictor.dense
    encoder = dense.embedder.encoder.float().to("cpu").eval()
    settings = dense.settings
    vectors = _Vectors(encoder, float(settings["unseen_bias"])).eval()
    path = folder / MODEL
    _convert(vectors, path)
    limit = pretrained.token_limit(encoder.transformer, encoder.tokenizer)
    _compare(vectors, path, encoder, limit)
    tokens = min(int(settings["point_tokens"]), limit)
    tokenizer = Tokenizer.from_str(encoder.tokenizer.backend_tokenizer.to_str())
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding(
        pad_id=encoder.tokenizer.pad_token_id or 0, pad_token=encoder.tokenizer.pad_token or ""
    )
    tokenizer.save(str(folder / TOKENIZER))
    return {
        "inputs": list(INPUTS),
        "outputs": list(OUTPUTS),
        "point_tokens": tokens,
        "label_tokens": min(int(settings["label_tokens"]), limit),
        "point_prompt": encoder.prompts.point,
        "label_prompt": encoder.prompts.label,
    }


class _Vectors(nn.Module):
    """Token ids and mask to the vectors of a point and of a new label."""

    def __init__(self, encoder: DualEncoder, bias: float) -> None:
        super().__init__()
        self.encoder, self.bias = encoder, bias

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        encoder = self.encoder
        output = encoder.transformer(input_ids=input_ids, attention_mask=attention_mask)
        states_BTD = output.last_hidden_state.float()
        if encoder.pooling == "cls":
            pooled_BD = states_BTD[:, 0]
        else:
            mask_BT1 = attention_mask.unsqueeze(-1).to(states_BTD.dtype)
            pooled_BD = (states_BTD * mask_BT1).sum(dim=1) / mask_BT1.sum(dim=1).clamp(min=1)
        features_BD = to_unit(pooled_BD, dim=1) if encoder.normalize else pooled_BD
        point_BD, label_BD = encoder(features_BD, "point"), encoder(features_BD, "label")
        one_B1 = torch.ones_like(point_BD[:, :1])
        return torch.cat([point_BD, one_B1], 1), torch.cat([label_BD, self.bias * one_B1], 1)


def _convert(vectors: _Vectors, path: Path) -> None:
    ids = torch.full((2, 5), 3, dtype=torch.int64)  # neither 1 nor equal: sizes would be constants
    sizes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens")}
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the exporter names every package that is not there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                vectors,
                (ids, torch.ones_like(ids)),
                dynamo=True,
                input_names=list(INPUTS),
                output_names=list(OUTPUTS),
                dynamic_shapes=dict.fromkeys(INPUTS, sizes),
                verbose=False,
            )
            assert program is not None
            program.save(str(path))
    except Exception as error:  # of torch, transformers and onnx, some with pages of text
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]
        raise ValueError(f"PyTorch cannot write this encoder as ONNX ({reason})") from None
    finally:
        logging.disable(before)


def _compare(vectors: _Vectors, path: Path, encoder: DualEncoder, limit: int) -> None:
    """Refuse a model that computes something else than PyTorch, with padding and without."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    vocabulary = int(encoder.transformer.get_input_embeddings().weight.shape[0])
    generator = np.random.default_rng(0)
    for n_texts, length in ((1, 1), (3, 7), (2, 40)):
        length = min(length, limit)
        ids = generator.integers(0, vocabulary, (n_texts, length))
        mask = np.ones_like(ids)
        mask[0, (length + 1) // 2 :] = 0
        ours = session.run(list(OUTPUTS), dict(zip(INPUTS, (ids, mask), strict=True)))
        with torch.no_grad():
            theirs = vectors(torch.from_numpy(ids), torch.from_numpy(mask))
        for name, one, other in zip(OUTPUTS, ours, theirs, strict=True):
            off = float(np.abs(one - other.numpy()).max())
            if not off <= _TOLERANCE * max(1.0, float(other.abs().max())):
                raise ValueError(f"the ONNX model computes another {name} than PyTorch (by {off})")
