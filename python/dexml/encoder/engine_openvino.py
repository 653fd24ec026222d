"""OpenVINO behind the encoder: a transformer compiled for this processor, without torch.

A model is kept in float32; bfloat16 and int8 are made from it when it is compiled. Texts go in
batches of one exact length, so nothing is padded. With one form, features have the same bits for
any number of threads, and in any batch if the engine is `steady` (tested). Shapes: N texts, B texts
of a batch, T tokens, H dimensions of features.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import console
from dexml.encoder.cores import usable_cores
from dexml.encoder.engine import Form, OnBatch, pooled
from dexml.encoder.engine_steady import is_steady
from dexml.encoder.modules import PoolingMode
from dexml.forks import end_without_destructors, pin, renew_in_child
from dexml.text.tokens import Tokens

NAME = "openvino"
FOLDER = "openvino"
MODEL = f"{FOLDER}/openvino_model.xml"
"""Where sentence-transformers looks for the model in an encoder's folder, too."""
BATCH_TOKENS = 1024
"""Tokens of a batch. From 500 on a core is busy; less memory stays in its cache."""
_BULK = 4
"""Batches a thread from which on each thread takes batches of its own."""
_GROUP = 128
"""Activations of a token that share a scale in int8: fewer are more exact and slower."""


def version() -> str:
    """The version of the library."""
    import openvino

    return str(openvino.get_version())


def forms() -> tuple[Form, ...]:
    """Return the forms that the library computes on this processor without emulating them."""
    able = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    names: dict[Form, str] = {"float32": "FP32", "bfloat16": "BF16", "int8": "INT8"}
    return tuple(form for form, name in names.items() if name in able)


def processor() -> str:
    """The name of the processor, and what it computes: virtual machines give many one name."""
    return f"{_core().get_property('CPU', 'FULL_DEVICE_NAME')} ({', '.join(forms())})"


class OpenVino:
    """Computes features with OpenVINO. Several threads may use it at once."""

    name = NAME

    def __init__(
        self,
        model: Any,
        form: Form = "float32",
        *,
        pooling: PoolingMode,
        normalize: bool,
        threads: int | None = None,
    ) -> None:
        """Prepare a model; it is compiled with the first text.

        Args:
            model: A model of openvino (`read`, `dexml.encoder.engine_export.converted`).
            form: The numbers to multiply.
            pooling: ``mean`` over all tokens, or the first token (``cls``).
            normalize: Whether features have unit length.
            threads: Cores that one call uses at most; default `usable_cores`. Calls of several
                threads use more: together up to `usable_cores`.
        """
        self.form, self.model = form, model
        self.threads = usable_cores() if threads is None else threads
        if _forked:
            self.threads = 1
        self._pooling, self._normalize = pooling, normalize
        self._compiled: dict[bool, Any] = {}
        self._begin()
        renew_in_child(self, OpenVino._inherit)

    def _begin(self) -> None:
        self._compiling = threading.Lock()
        self._compiled = {}
        self._requests = threading.local()  # a request serves one thread

    def _inherit(self) -> None:
        """In a forked process, leave alone what was compiled, and compile again when asked.

        Its threads are not there: computing waits for them for ever, and so does destroying it,
        when the process ends as well.
        """
        pin((self._compiled, self._requests, self._compiling))
        self.threads = 1
        self._begin()

    @property
    def width(self) -> int:
        """H, the dimensions of features."""
        return int(self.model.output(0).get_partial_shape()[2].get_length())

    @property
    def fingerprint(self) -> str:
        """What the bits of features depend on, beside weights and token ids."""
        return f"{NAME} {version()}, {self.form}, {processor()}"

    @cached_property
    def steady(self) -> bool:
        """Whether features of a text have the same bits in any batch, by a trial of some seconds.

        They have, but for int8 with encoders of a few dimensions.
        """
        return is_steady(self)

    def with_form(self, form: Form) -> OpenVino:
        """Return an engine for the same model in another form."""
        return OpenVino(
            self.model,
            form,
            pooling=self._pooling,
            normalize=self._normalize,
            threads=self.threads,
        )

    def features(self, tokens: Tokens, on_batch: OnBatch | None = None) -> NDArray[np.float32]:
        """Return features (N, H), float32, in the order of the texts.

        Equal texts are encoded once. `on_batch` may be called from other threads, one at a time.
        """
        out = np.empty((len(tokens), self.width), np.float32)
        first = tokens.first_equal()
        rows = np.flatnonzero(first == np.arange(len(tokens)))
        batches = tokens.batches(BATCH_TOKENS, rows)
        bulk = self.threads > 1 and len(batches) >= _BULK * self.threads
        counting = threading.Lock()

        def encode(batch: NDArray[np.int64]) -> None:
            out[batch] = self._encode(tokens.array(batch), alone=bulk)
            if on_batch is not None:
                with counting:
                    on_batch(batch)

        for _ in _spread(encode, batches, self.threads if bulk else 1):
            pass
        again = np.flatnonzero(first != np.arange(len(tokens)))
        out[again] = out[first[again]]
        if len(again) and on_batch is not None:
            on_batch(again)
        return out

    def prepare(self) -> None:
        """Compile the model now rather than with the first text."""
        self._compile(self.threads == 1)

    def _encode(self, ids_BT: NDArray[np.int64], *, alone: bool) -> NDArray[np.float32]:
        """Encode one batch; `alone`: with one thread."""
        alone = alone or self.threads == 1
        request = getattr(self._requests, f"request{alone:d}", None)
        if request is None:
            request = self._compile(alone).create_infer_request()
            setattr(self._requests, f"request{alone:d}", request)
        given = {0: ids_BT, 1: np.ones_like(ids_BT)}
        # Nothing is copied: pooling reads the states before the request is used again.
        states_BTH = request.infer(given, share_inputs=True, share_outputs=True)[0]
        return pooled(states_BTH, self._pooling, self._normalize)

    def _compile(self, alone: bool) -> Any:
        """Compile the model for calls that use one thread, or all threads of a call."""
        with self._compiling:
            if alone not in self._compiled:
                threads = 1 if alone else self.threads
                streams = max(1, max(usable_cores(), self.threads) // threads)
                model = quantized(self.model) if self.form == "int8" else self.model
                self._compiled[alone] = _core().compile_model(
                    model, "CPU", _settings(self.form, streams, threads)
                )
            return self._compiled[alone]


def read(path: Path) -> Any:
    """Read a model that `dexml.encoder.engine_export.write` has written.

    Only from files whose digests were checked. Libraries of custom operators are never loaded.

    Raises:
        ImportError: The library is missing.
        ValueError: The library cannot read it; the message names the file.
    """
    console.require("serve", NAME)
    try:
        return _core().read_model(path)
    except RuntimeError as error:
        raise ValueError(f"{path}: cannot be read by OpenVINO ({_first_line(error)})") from None


def quantized(model: Any) -> Any:
    """Return a copy of a model whose weight matrices are int8, with a scale for each output.

    Activations are quantised while it runs, `_GROUP` of a token at a time, so that the features of
    a text do not depend on its batch.
    """
    from openvino import opset13 as ops

    model = model.clone()
    for node in list(model.get_ops()):
        if node.get_type_name() != "MatMul" or not node.get_attributes()["transpose_b"]:
            continue
        constant = node.input(1).get_source_output().get_node()
        if constant.get_type_name() != "Constant" or len(constant.get_output_shape(0)) != 2:
            continue
        weight = np.asarray(constant.get_data(), np.float32)
        scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True) / 127, np.float32(1e-30))
        small = ops.constant(np.rint(weight / scale).astype(np.int8))
        whole = ops.multiply(ops.convert(small, "f32"), ops.constant(scale.astype(np.float32)))
        node.input(1).replace_source_output(whole.output(0))
    return model


def _settings(form: Form, streams: int, threads: int) -> dict[str, Any]:
    half = form != "float32" and "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if _forked:
        streams = 0  # on the thread that calls: the library hands out threads it no longer has
    return {
        "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP if form == "int8" else 0,
        # Always given: the library's own choices look at the machine, not at the container.
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": max(1, streams) * threads,
        "ENABLE_CPU_PINNING": False,
    }


def _spread(work: Any, batches: list[NDArray[np.int64]], threads: int) -> Iterator[None]:
    """Do the work of all batches, with some threads."""
    if threads == 1:
        yield from map(work, batches)
        return
    pool = ThreadPoolExecutor(threads)
    try:
        yield from pool.map(work, batches)
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C or an error, the rest is not computed


_cores: list[Any] = []
_forked: list[bool] = []
"""Not empty in a process that was forked from one that has used the library."""


def _core() -> Any:
    """The library's entry, made once: it looks for devices."""
    if not _cores:
        import openvino

        _cores.append(openvino.Core())
        if _forked:
            pin(_cores[0])  # destroyed, it would wait for threads that it has from the parent
        renew_in_child(_core, _leave_cores)
    return _cores[0]


def _leave_cores(_: object) -> None:
    """In a forked process, begin with a new entry; the old one is never destroyed."""
    pin(tuple(_cores))
    _cores.clear()
    if not _forked:
        _forked.append(True)
        end_without_destructors()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160]
