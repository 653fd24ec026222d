"""A header may claim more labels than there is memory for: an exception, and no abort."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("resource")

SETUP = """
import resource
import numpy as np
from scipy.sparse import csr_array
from dexml import data, metrics
from dexml.sampling import LabelGraph, NegativeSampler

used = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if "VmSize" in line)
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)
y = data.load_labels({path!r})
assert y.shape == (3, 2**31 - 1), y.shape
negatives = dict(n_negatives=1, num_threads=2)
try:
    {call}
except MemoryError as error:
    print("MemoryError:", error)
"""
CALLS = {
    "counts": "metrics.inv_propensity(y)",
    "means over labels": "metrics.evaluate(y, y, ['macroP@1', 'Coverage@1'], num_threads=2)",
    "walks": "LabelGraph.random_walk(y, seed=0, num_threads=2)",
    "co-occurrence": "LabelGraph.co_occurrence(y, num_threads=2)",
    "frequency": "NegativeSampler(y, sources={'frequency': 1.0}, **negatives)",
    "shortlist": "NegativeSampler(y, sources={'shortlist': 1.0}, shortlist=y, **negatives)",
}


@pytest.fixture
def huge(tmp_path: Path) -> Path:
    path = tmp_path / "h.txt"
    path.write_text(f"3 {2**31 - 1}\n0:1 7:1\n\n7:1\n")
    return path


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_claims_beyond_memory_raise(huge: Path, call: str) -> None:
    code = SETUP.format(path=str(huge), call=call)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    # The core's words, or numpy's where the result is an array of numpy.
    said = ("MemoryError: out of memory: ", "MemoryError: Unable to allocate ")
    assert done.stdout.startswith(said), (done.stdout, done.stderr)
