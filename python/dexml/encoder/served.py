"""An encoder as it is served without torch: tokenizer, engine and heads, all from its folder.

Shapes: N texts, H dimensions of features, D of embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import console
from dexml.encoder.engine import Form, OnBatch, to_unit
from dexml.encoder.engine_openvino import FOLDER, MODEL, NAME, OpenVino, read
from dexml.encoder.modules import Modules, Side, read_modules
from dexml.files import read_json
from dexml.text.tokenizing import check_vocabulary
from dexml.text.tokens import Tokens, tokenize

FACTS = f"{FOLDER}/dexml.json"
"""Beside the model; sentence-transformers ignores it."""
FORMAT = 1
_BLOCK = 65_536
"""Texts whose head is applied at a time."""


def is_exported(folder: Path) -> bool:
    """Whether an encoder's folder can be opened here."""
    return (folder / FACTS).is_file() and (folder / MODEL).is_file()


class ServedEncoder:
    """What `dexml.encoder.DualEncoder` computes, from the same folder, without torch."""

    def __init__(self, engine: OpenVino, tokenizer: Any, described: Modules, limit: int) -> None:
        """Put an encoder together; `open` does it for a folder.

        Args:
            engine: Computes features.
            tokenizer: Of the tokenizers library.
            described: What the folder says besides the transformer.
            limit: Tokens of a text that the model has positions for.
        """
        self.engine = engine
        self._tokenizer, self._limit = tokenizer, limit
        self._normalize, self._heads = described.normalize, described.weights
        self.prompts = described.prompts

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        form: Form = "float32",
        threads: int | None = None,
        check: Callable[[], object] | None = None,
    ) -> ServedEncoder:
        """Open a folder that `dexml.encoder.engine_export.write` has completed.

        Args:
            folder: The encoder's folder.
            form: The numbers to multiply.
            threads: Cores that one call uses at most; default all that this process may use.
            check: Called first; raises if a file is not the one that was saved.

        Raises:
            ImportError: A package is missing.
            ValueError: A file is damaged or of a newer dexml, a head does not fit the transformer,
                or the tokenizer knows more tokens than the model has embeddings.
        """
        console.require("serve", NAME, "tokenizers", "safetensors")
        from tokenizers import Tokenizer

        if check is not None:
            check()
        facts = read_json(folder / FACTS)
        if facts.get("format_version") != FORMAT:
            raise ValueError(f"{folder / FACTS}: not of format {FORMAT}; update dexml")
        described = read_modules(folder)
        if described is None:
            raise ValueError(f"{folder}: no modules.json; not an encoder that dexml has saved")
        engine = OpenVino(
            read(folder / MODEL),
            form,
            pooling=described.pooling,
            normalize=described.normalize,
            threads=threads,
        )
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        n_embeddings = read_json(folder / "config.json").get("vocab_size")
        if isinstance(n_embeddings, int):
            check_vocabulary(tokenizer, n_embeddings, folder)
        for weight in described.weights:
            if weight.shape[1:] != (engine.width,):
                raise ValueError(
                    f"{folder}: a head of shape {weight.shape} does not fit a width of "
                    f"{engine.width}"
                )
        return cls(engine, tokenizer, described, int(facts["token_limit"]))

    @property
    def dim(self) -> int:
        """D, the number of dimensions of an embedding."""
        return len(self._heads[0]) if self._heads else self.engine.width

    def tokenize(self, texts: Sequence[str], max_tokens: int, side: Side = "point") -> Tokens:
        """Tokenise texts behind the prompt of their side, cut to `max_tokens` and the limit."""
        limit, prompt = min(max_tokens, self._limit), self.prompts.of(side)
        return tokenize(self._tokenizer, texts, limit, prompt=prompt)

    def embed(
        self,
        features: NDArray[np.float32],
        side: Side = "point",
        residual: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Return embeddings (N, D) of features (N, H), or vectors of labels with a residual.

        Args:
            features: Features of texts.
            side: ``point`` or ``label``; they differ only with two heads.
            residual: Added to the embedding before it gets unit length, shape (N, D).
        """
        projected = features
        if self._heads:
            projected = features @ self._heads[0 if side == "point" else -1].T
        if residual is not None:
            projected = projected + residual
        # Without a head the features have their length already.
        unit = self._normalize and (bool(self._heads) or residual is not None)
        return to_unit(projected) if unit else projected

    def encode(
        self,
        tokens: Tokens,
        side: Side = "point",
        residual: NDArray[np.float32] | None = None,
        on_batch: OnBatch | None = None,
    ) -> NDArray[np.float32]:
        """Return the embeddings (N, D) of tokenised texts; arguments as in `embed`."""
        features = self.engine.features(tokens, on_batch)
        out = np.empty((len(tokens), self.dim), np.float32)
        for start in range(0, len(tokens), _BLOCK):
            rows = slice(start, start + _BLOCK)
            more = None if residual is None else residual[rows]
            out[rows] = self.embed(features[rows], side, more)
        return out
