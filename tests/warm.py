"""Other processes that start at once: forked from a server that has imported what takes seconds.

For tests of what two processes do, or one after the other. What an import brings along, or how a
command starts, is tested in a fresh interpreter.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from multiprocessing.context import ForkServerContext
from pathlib import Path

PRELOAD = [
    *("dexml.train.run", "dexml.predict", "dexml.commands", "torch._dynamo"),
    *("transformers.models.bert.modeling_bert", "transformers.models.auto.modeling_auto"),
    "transformers.models.auto.tokenization_auto",
]
"""Not hnswlib, which a test does without."""
TIMEOUT = 100


def context() -> ForkServerContext:
    """How to start processes; functions that they run must be at the top of a module."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOAD)
    return found


def run_code(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """As ``python -c CODE ARGUMENTS``."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["-c", *map(str, arguments)]
        process = context().Process(target=_run, args=(code, words, os.getcwd(), folder))
        process.start()
        process.join(TIMEOUT)
        process.kill()
        process.join()
        assert process.exitcode is not None
        out, err = ((Path(folder) / name).read_text() for name in ("out", "err"))
        return subprocess.CompletedProcess(words, process.exitcode, out, err)


def _run(code: str, words: list[str], cwd: str, folder: str) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    sys.argv = words
    exec(code, {"__name__": "__main__"})
