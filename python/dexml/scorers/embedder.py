"""The encoder of a run as a scorer uses it: loaded late, shared by threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dexml import console
from dexml.encoder.engine import EngineName, Form, check_engine
from dexml.forks import renew_in_child
from dexml.scorers.queries import OnProgress, Queries

if TYPE_CHECKING:  # loaded with the first text: some commands need no encoder, others no torch
    from dexml.encoder import DualEncoder, LabelTable, Side
    from dexml.encoder.served import ServedEncoder

Precision = Literal["auto", "float32", "bfloat16", "int8"]


class KnownVectors:
    """Stands for an embedder where the vectors of all texts that will come are known."""

    def __init__(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep the vectors (n, D + 1) of `texts`; equal texts have equal vectors."""
        self._row = {text: row for row, text in enumerate(texts)}
        self._vectors = vectors

    def points(self, queries: Queries, max_tokens: int) -> NDArray[np.float32]:
        """Look the texts up."""
        return self._vectors[[self._row[text] for text in queries.texts]]


class Embedder:
    """Makes vectors of texts. Loads the encoder for the first one; several threads may use it.

    On a CPU an engine without torch is used where the run has been exported for it and its library
    is installed; else torch.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        precision: Precision = "auto",
        engine: EngineName = "auto",
        chosen: Mapping[str, Any] | None = None,
        check: Callable[[], object] | None = None,
    ) -> None:
        """Remember what to load; nothing is read yet.

        Args:
            folder: The encoder's folder.
            device: ``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes CUDA if there is one.
            threads: CPU threads of a call. For torch a setting of the whole process; None leaves
                that alone, and gives an engine all cores that this process may use.
            precision: Of the transformer; ``auto``: bfloat16 on CUDA; with an engine as `chosen`;
                else float32. ``int8`` needs an engine.
            engine: ``torch``, ``openvino``, or ``auto``: see above.
            chosen: What training chose, section ``engine`` of the manifest: ``form``, ...
            check: Called before the files of an engine are read; raises if they were changed.

        Raises:
            ValueError: An unknown precision or engine.
        """
        if precision not in get_args(Precision):
            known = ", ".join(get_args(Precision))
            raise ValueError(f"precision = {precision!r}; expected one of {known}")
        check_engine(engine)
        if precision == "int8" and engine == "torch":
            raise ValueError("precision = 'int8': torch has none here; leave the engine out")
        self._folder, self._device, self._threads = folder, device, threads
        self._precision, self._engine, self._check = precision, engine, check
        self._chosen = dict(chosen or {})
        self._encoder: DualEncoder | None = None
        self._served: ServedEncoder | None = None
        self._torch_only: bool | None = None
        self._renew()
        renew_in_child(self, Embedder._renew)

    def _renew(self) -> None:
        """Make the locks; again in a forked process, where those of other threads stay locked."""
        self._loading = Lock()
        # Maximal length and padding are state of the tokenizer; changing them while another thread
        # tokenises raises "Already borrowed". The lock costs little: tokenising a text takes
        # 0.05 ms, encoding it some 10 ms.
        self._tokenizing = Lock()

    @property
    def encoder(self) -> DualEncoder:
        """The encoder with torch, in eval mode on its device; the first call loads it."""
        with self._loading:
            if self._encoder is None:
                from dexml.encoder import DualEncoder, torch_device  # names the extra if it must

                target = torch_device(self._device)
                if self._threads is not None:
                    import torch

                    torch.set_num_threads(self._threads)
                self._encoder = self._loaded(DualEncoder).to(target).eval()
            from dexml.encoder.forked import settle

            settle(self._encoder.device)
            return self._encoder

    def _loaded(self, kind: type[DualEncoder]) -> DualEncoder:
        """Load the folder, which the libraries refuse with many kinds of errors."""
        try:
            return kind.load(str(self._folder))
        except (ImportError, MemoryError):
            raise
        except Exception as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"{self._folder}: cannot be opened as an encoder ({why})") from error

    @property
    def precision(self) -> Form:
        """The precision of the transformer, with ``auto`` resolved."""
        if (served := self.served) is not None:
            return served.engine.form
        if self._precision == "auto":
            # On a CPU bfloat16 was measured 1.5 times slower than float32.
            return "bfloat16" if self.encoder.device.type == "cuda" else "float32"
        return self._precision

    @property
    def device(self) -> str:
        """The kind of device: ``cpu``, ``cuda``."""
        return "cpu" if self.served is not None else self.encoder.device.type

    @property
    def engine(self) -> Literal["torch", "openvino"]:
        """What computes the transformer."""
        return "torch" if self.served is None else "openvino"

    def note(self) -> str:
        """Say what encodes texts, in which form, and what the validation part said of that form."""
        from dexml.scorers.forms import said_of

        if (served := self.served) is None:
            return f"torch, {self.precision} on {self.device}"
        threads = served.engine.threads
        said = said_of(self.precision, self._chosen)
        return f"OpenVINO, {self.precision}, {threads} thread{'s' * (threads > 1)} a call{said}"

    @property
    def served(self) -> ServedEncoder | None:
        """The encoder without torch, or None if torch is used; the first call loads it.

        Raises:
            ImportError: Neither of them is installed, or not the one that was asked for.
            ValueError: The run was not exported for the engine that was asked for, or this
                processor does not multiply the precision.
        """
        with self._loading:
            if self._torch_only is None:
                self._torch_only = self._needs_torch()
            if self._torch_only:
                return None
            if self._served is None:
                from dexml.encoder.served import ServedEncoder
                from dexml.scorers.forms import form_here, if_worth_it, is_timed

                form, note = form_here(self._precision, self._chosen)
                served = ServedEncoder.open(
                    self._folder, form=form, threads=self._threads, check=self._check
                )
                if is_timed(self._precision, self._chosen):
                    served.engine, slow = if_worth_it(served.engine, self._chosen)
                    note = note or slow
                self._served = served
                if note:
                    console.say(f"note: {note}")
            return self._served

    def prepare(self, *, alone: bool) -> None:
        """Load and compile the encoder now rather than with the first text, if it is an engine.

        torch waits for that text: how many threads it uses is a matter of the thread that asks.

        Args:
            alone: This process does nothing else now. If it does, an encoder whose forms would be
                timed is left for later.
        """
        from dexml.scorers.forms import is_timed

        with self._loading:
            if self._torch_only is None:
                self._torch_only = self._needs_torch()
        if self._torch_only or (not alone and is_timed(self._precision, self._chosen)):
            return
        if (served := self.served) is not None:
            served.engine.prepare()

    def _needs_torch(self) -> bool:
        """Decide between torch and the engine; imports torch only to ask for CUDA."""
        from dexml.encoder.served import is_exported

        if self._engine == "torch":
            return True
        on_cpu = self._device == "cpu" or (self._device == "auto" and not _has_cuda())
        exported = is_exported(self._folder)
        if self._engine == "openvino":
            if not exported:
                raise ValueError(
                    f"{self._folder}: not exported for OpenVINO; python -m dexml.index RUN "
                    "--export does it"
                )
            if not on_cpu and self._device != "auto":
                raise ValueError(f"device = {self._device!r}: OpenVINO computes on the CPU here")
            console.require("serve", "openvino")
            return False
        if exported and on_cpu and console.is_installed("openvino"):
            return False
        if self._precision == "int8":
            raise ValueError(
                "precision = 'int8' needs a run that is exported for OpenVINO, that library, and "
                "a CPU"
            )
        if not console.is_installed("torch"):
            extra = "serve" if exported and on_cpu else "train"
            console.require(extra, "openvino" if extra == "serve" else "torch")
        form = self._chosen.get("form", "float32")
        if exported and on_cpu and form != "float32":
            console.say(
                f"note: OpenVINO is not installed; torch encodes in float32, training used {form}"
            )
        return True

    def points(self, queries: Queries, max_tokens: int) -> NDArray[np.float32]:
        """Embed texts to search with.

        Texts that another scorer has embedded already are not embedded again.

        Args:
            queries: The texts.
            max_tokens: Tokens of a text at most.

        Returns:
            Shape (n, D + 1), float32; the last dimension is 1, which meets a label's bias.
        """
        return queries.once(
            (self, "points", max_tokens),
            lambda: self._points(queries, max_tokens),
        )

    def _points(self, queries: Queries, max_tokens: int) -> NDArray[np.float32]:
        texts, on_progress = queries.texts, queries.on_progress
        if (served := self.served) is not None:
            return self._encode_served(served, texts, max_tokens, "point", None, on_progress)
        return self._encode(texts, max_tokens, None, on_progress)

    def labels(
        self,
        texts: list[str],
        max_tokens: int,
        residual: NDArray[np.float32],
        bias: NDArray[np.float32] | float,
        on_progress: OnProgress | None = None,
    ) -> NDArray[np.float32]:
        """Make vectors of labels to search in.

        Args:
            texts: Texts of labels.
            max_tokens: Tokens of a text at most.
            residual: What training added to each, shape (n, D); 0 for a new label.
            bias: The last dimension, shape (n,) or one for all.
            on_progress: Called with the number of texts whenever some more are done.

        Returns:
            Shape (n, D + 1), float32.
        """
        if (served := self.served) is not None:
            vectors = self._encode_served(served, texts, max_tokens, "label", residual, on_progress)
            vectors[:, -1] = bias
            return vectors
        import torch

        from dexml.encoder import LabelTable

        dim = self.encoder.dim
        table = LabelTable(torch.zeros(len(texts), dtype=torch.int64), dim)
        with torch.no_grad():
            table.residual.copy_(torch.from_numpy(residual))
        vectors = self._encode(texts, max_tokens, table, on_progress)
        vectors[:, -1] = bias
        return vectors

    def _encode_served(
        self,
        served: ServedEncoder,
        texts: list[str],
        max_tokens: int,
        side: Side,
        residual: NDArray[np.float32] | None,
        on_progress: OnProgress | None,
    ) -> NDArray[np.float32]:
        """Encode points, or labels with their residuals; without torch. The last dimension is 1."""
        with self._tokenizing:
            tokens = served.tokenize(texts, max_tokens, side)
        out = np.ones((len(texts), served.dim + 1), np.float32)
        done = None if on_progress is None else (lambda rows: on_progress(len(rows)))
        out[:, :-1] = served.encode(tokens, side, residual, done)
        return out

    def _encode(
        self,
        texts: list[str],
        max_tokens: int,
        table: LabelTable | None,
        on_progress: OnProgress | None,
    ) -> NDArray[np.float32]:
        """Encode points, or labels with their `table`; with torch.

        The loop of `DualEncoder.encode`, but it leaves alone the state of the encoder that
        threads share. The last dimension stays 1.
        """
        import torch

        from dexml.encoder import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS, autocast

        encoder, device = self.encoder, self.encoder.device
        precision = self.precision
        assert precision != "int8"  # `_needs_torch` has refused it
        budget = GPU_BATCH_TOKENS if device.type == "cuda" else CPU_BATCH_TOKENS
        with torch.inference_mode():
            with self._tokenizing:
                side: Side = "point" if table is None else "label"
                tokens = encoder.tokenize(texts, max_tokens, side=side)
            table = None if table is None else table.to(device)
            out = np.ones((len(texts), encoder.dim + 1), np.float32)
            for rows in tokens.batches(budget):
                with autocast(device, precision):
                    features = encoder.features(tokens.tensor(rows, device))
                features = features.float()
                if table is None:
                    vectors = encoder(features, side="point")
                else:
                    vectors = table(encoder, features, rows)
                out[rows, :-1] = vectors.cpu().numpy()
                if on_progress is not None:
                    on_progress(len(rows))
        return out


def _has_cuda() -> bool:
    """Whether torch would find a GPU of NVIDIA; torch is imported only if there may be one."""
    if not console.is_installed("torch"):
        return False
    if sys.platform == "darwin":
        return False
    nodes = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")
    if sys.platform == "linux" and not any(map(os.path.exists, nodes)):
        return False
    import torch

    return torch.cuda.is_available()
