"""What a person can do about a full disk or a full memory."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError


@contextmanager
def advising(out: Path) -> Iterator[None]:
    """Turn errors of a full disk or memory into one line that says what to change.

    `out` is the run directory, for errors that do not name a file.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC and "No space left on device" not in str(error):
            raise
        raise OSError(
            f"{error.filename or out}: the disk is full; make room or lower --keep-checkpoints, "
            "and go on with --resume"
        ) from None
    except (MemoryError, RuntimeError, SafetensorError) as error:
        text = str(error)
        if "No space left on device" in text:
            raise OSError(f"{out}: the disk is full; make room and go on with --resume") from None
        if isinstance(error, torch.OutOfMemoryError) or "CUDA out of memory" in text:
            where = "the device"
        elif isinstance(error, MemoryError) or "not enough memory" in text:
            where = "this machine"
        else:
            raise
        raise RuntimeError(
            f"out of memory on {where}; lower --keep-tokens (and go on with --resume), or start "
            "with lower --micro-tokens, --encoder-batch-size, --joint-batch-size or "
            "--head-batch-size, or drawn instead of all negatives"
        ) from None
