"""A save that is killed before each of its steps on the disk."""

import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

_STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}
"""Audit events; Python raises them before it does the thing. ``os.replace`` is a rename."""


def killed_everywhere(
    folder: Path, save: Callable[[Path], None], *, every: int = 1
) -> Iterator[Path]:
    """Run ``save(copy)`` in forked processes that are killed before step 1, 2, 3, ...

    Yields:
        The copy of `folder`; at last that of a save that went through.
    """
    copy, step, through = folder.with_name("killed"), 1, False
    while not through:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy, symlinks=True)
        through = _run(lambda: save(copy), step)
        yield copy
        step += every
    assert step > 20, "hardly any steps: is the hook in place?"


def _run(save: Callable[[], None], step: int) -> bool:
    """Whether `save` went through in a fork that dies before its `step`-th step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which we do not need
        child = os.fork()
    if child == 0:
        try:
            _die_before(step)
            save()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.__stderr__, flush=True)
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), code
    return code == 0


def _die_before(step: int) -> None:
    count = 0

    def hook(event: str, _: object) -> None:
        nonlocal count
        if event in _STEPS:
            count += 1
            if count == step:
                os._exit(9)

    sys.addaudithook(hook)
