"""From a transformer of torch to a model of OpenVINO, and into an encoder's folder.

The route is the library's own frontend for PyTorch, called directly: `openvino.convert_model` does
the same and reports its use over the network. Needs torch.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dexml import console
from dexml.encoder import pretrained
from dexml.encoder.engine_openvino import FOLDER, MODEL, NAME, OpenVino, version
from dexml.encoder.model import DualEncoder
from dexml.encoder.served import FACTS, FORMAT
from dexml.files import write_json

_LEAST_COSINE = 0.9999
_LENGTHS = (1, 2, 7, 64)
"""Tokens of the texts on which a converted model is compared with torch, as far as they fit."""
_ODD_TEXTS = (
    "",
    " ",
    "a",
    "Ünïcode, ЖЗ 漢字 🙂 \u200b",
    "x" * 300,
    "two  blanks\tand a tab",
    "[SEP] <s>",
)


class NotExportable(Exception):
    """An encoder cannot be converted; the message says why."""


def converted(encoder: DualEncoder, *, threads: int | None = None) -> OpenVino:
    """Convert the transformer of an encoder as it is now, and compare both on random token ids.

    Args:
        encoder: On a CPU or a GPU; it is left as it is.
        threads: Cores that one call of the engine uses at most; default `usable_cores`.

    Returns:
        The engine, in float32.

    Raises:
        ImportError: The library is missing.
        NotExportable: The library cannot convert it, or the result computes something else.
    """
    console.require("serve", NAME)
    was_training, device = encoder.training, encoder.device
    encoder.eval().to("cpu")
    try:
        model = _model(encoder.transformer)
        engine = OpenVino(
            model, pooling=encoder.pooling, normalize=encoder.normalize, threads=threads
        )
        _compare(encoder, engine)
    finally:
        encoder.train(was_training).to(device)
    return engine


def write(encoder: DualEncoder, engine: OpenVino, folder: Path, inside: Path | None = None) -> None:
    """Write a converted model into the folder where `DualEncoder.save` has written its encoder.

    Args:
        encoder: The encoder.
        engine: Its transformer, converted.
        folder: Its folder.
        inside: Where to write instead of `FOLDER` in it, to be renamed to that.

    Raises:
        NotExportable: The tokenizer in the folder gives other token ids than the encoder's.
    """
    import openvino
    from tokenizers import Tokenizer

    limit = pretrained.token_limit(encoder.transformer, encoder.tokenizer)
    alone = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts, whole = list(_ODD_TEXTS), encoder.tokenizer.backend_tokenizer
    for tokenizer in (alone, whole):
        tokenizer.no_padding()
        tokenizer.no_truncation()
    if [e.ids for e in alone.encode_batch(texts)] != [e.ids for e in whole.encode_batch(texts)]:
        raise NotExportable("its tokenizer.json gives other token ids than transformers")
    inside = folder / FOLDER if inside is None else inside
    inside.mkdir(exist_ok=True)
    openvino.save_model(engine.model, inside / Path(MODEL).name, compress_to_fp16=False)
    write_json(
        inside / Path(FACTS).name,
        {
            "format_version": FORMAT,
            "openvino": version(),
            "width": encoder.width,
            "token_limit": min(limit, 1 << 30),
        },
    )


class _States(nn.Module):
    """Token ids and mask to token states: what sentence-transformers expects of such a model."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        output = self.transformer(input_ids=input_ids, attention_mask=attention_mask)
        states: Tensor = output.last_hidden_state
        return states


def _model(transformer: Any) -> Any:
    try:
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

        # Neither 1 nor equal sizes: a tracer would take them for constants.
        ids = torch.full((2, 5), 3, dtype=torch.int64)
        with warnings.catch_warnings(), _quiet(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")  # tracing is deprecated; there is no successor yet
            decoder = TorchScriptPythonDecoder(
                _States(transformer), example_input=(ids, torch.ones_like(ids))
            )
            frontend = FrontEndManager().load_by_framework("pytorch")
            model = frontend.convert(frontend.load(decoder))
    except Exception as error:  # of torch, transformers and the library, some with pages of text
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:120]
        raise NotExportable(f"OpenVINO cannot convert it ({reason})") from None
    model.output(0).set_names({"last_hidden_state"})
    return model


class _quiet:
    """Silences loggers: a tracer of transformers' code warns of constants that are none."""

    def __enter__(self) -> None:
        self._before = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self._before)


def _compare(encoder: DualEncoder, engine: OpenVino) -> None:
    """Refuse a model that computes something else than torch, or breaks on some length."""
    from dexml.text.tokens import Tokens

    limit = pretrained.token_limit(encoder.transformer, encoder.tokenizer)
    vocabulary = int(encoder.transformer.get_input_embeddings().weight.shape[0])
    padding = getattr(encoder.transformer.config, "pad_token_id", None)
    allowed = np.setdiff1d(np.arange(vocabulary), [] if padding is None else [padding])
    lengths = np.repeat([n for n in _LENGTHS if n <= limit], 2)
    ids = np.random.default_rng(0).choice(allowed, lengths.sum()).astype(np.int32)
    tokens = Tokens(ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    try:
        ours = engine.features(tokens)
    except RuntimeError as error:
        raise NotExportable(f"OpenVINO cannot compute it ({str(error)[:120]!r})") from None
    theirs = encoder.encode_features(tokens, precision="float32")
    products = (ours * theirs).sum(axis=1)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    if not (products >= _LEAST_COSINE * norms).all():
        raise NotExportable("the converted model computes other vectors")
