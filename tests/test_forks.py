"""Processes that are forked from one that has opened a run: they answer, edit, save and end."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dexml import forks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

SCRIPT = """
import os, signal, sys, threading, warnings
import numpy as np
from dexml.predict import Predictor

warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
run, engine, busy = sys.argv[1:]
predictor = Predictor.open(run, engine=engine, search="exact")
words = "kernel driver printer library music player network editor game server font theme".split()
# Of many lengths, so that several threads have batches of their own.
# A parent that has closed a run, and has one open.
predictor.predict(["kernel"], 3)
threads = 2 if engine == "openvino" else None
predictor = Predictor.open(run, engine=engine, search="exact", threads=threads)
texts = [" ".join(words[i % 12] for i in range(n, 2 * n)) for n in range(1, 40)] * 3
expected = predictor.predict(texts, 3)

def ask():
    found = predictor.predict(texts, 3)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)

def ask_from_a_thread():
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()

def edit_and_save():
    new = predictor.add_labels(["a label of the child"])
    assert new[0] in predictor.predict(["a label of the child"], predictor.n_labels).ids
    predictor.save()

def fork_again():
    ask()
    forked(ask)

def forked(work):
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a child that waits for ever is killed, which is seen below
        work()
        sys.exit(0)  # as a worker of a server ends: what is destroyed must not wait either
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, (work.__name__, code)

going = True
def keep_asking():
    while going:
        predictor.predict(texts[:9], 3)

threads = [threading.Thread(target=keep_asking) for _ in range(int(busy))]
for thread in threads:
    thread.start()
for work in (ask, ask_from_a_thread, lambda: None, fork_again, edit_and_save):
    forked(work)
going = False
for thread in threads:
    thread.join()
ask()
print("done")
"""


@pytest.fixture(scope="module")
def exported(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, with its encoder for OpenVINO too."""
    pytest.importorskip("openvino", reason="needs openvino")
    from dexml.commands.index import main
    from dexml.console import run

    folder = tmp_path_factory.mktemp("exported") / "run"
    shutil.copytree(run_dir, folder)
    assert run(main, [str(folder), "--export", "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def light(tiny_data: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from dexml import train
    from small import train_settings

    out = tmp_path_factory.mktemp("light") / "run"
    train.train(train_settings(tiny_data, Path("none"), out, ranker="auto"))
    return out


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kind", "busy"),
    [("light", 0), ("light", 2), ("torch", 0), ("openvino", 0)],
    ids=["light", "light, beside threads that ask", "torch", "OpenVINO"],
)
def test_forked_processes_answer_edit_save_and_end(
    kind: str, busy: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = {"light": "light", "torch": "run_dir", "openvino": "exported"}[kind]
    shutil.copytree(request.getfixturevalue(source), tmp_path / "run")
    engine = "auto" if kind == "light" else kind
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "run"), engine, str(busy)],
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    note = "note: forked after an encoder was loaded, so torch computes with 1 thread here"
    assert (note in done.stderr) == (kind == "torch")


THREADS = """
import sys, threading
from pathlib import Path
from dexml.commands.train import main as train
from dexml.commands.predict import main as predict
from dexml.commands.index import main as index
from dexml.predict import Predictor

data, run = sys.argv[1:]
train([data, "--out", run, "--encoder", "none", "--quiet", "--validation", "0.3"])
predict([run, "--out", run + ".npz", "--quiet"])
predictor = Predictor.open(run)
predictor.predict(["kernel driver"] * 300, 5)
predictor.explain_best("kernel driver", 2)
predictor.add_labels(["another"])
predictor.save()
own = {str(thread.native_id) for thread in threading.enumerate()}
tasks = [task for task in Path("/proc/self/task").iterdir() if task.name not in own]
names = [(task / "comm").read_text().strip() for task in tasks]
print([name for name in names if not name.startswith("dexml-")])
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_the_core_has_no_threads_but_those_of_its_pools(tiny_data: Path, tmp_path: Path) -> None:
    """Others, of rayon's global pool, would be waited for in a forked process for ever."""
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", THREADS, str(tiny_data), str(tmp_path / "run")],
        env=os.environ | one,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_encoder_on_a_gpu_is_refused_in_a_forked_process() -> None:
    code = """
import os, sys
import torch
from dexml.encoder import forked
forked.watch()
forked.settle(torch.device("cuda", 0))  # here it is fine
if os.fork() == 0:
    try:
        forked.settle(torch.device("cuda", 0))
    except RuntimeError as error:
        print(error)
    sys.exit(0)
os.wait()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "this process was forked after the encoder was loaded to cuda:0, which it cannot use; open "
        "the run in each process after the fork, or start processes by spawn\n"
    )


def test_the_example_of_a_web_service_answers(light: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN", str(light))
    example = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "examples" / "wsgi.py"))
    said: list[str] = []
    environ = {"QUERY_STRING": "text=kernel+driver"}
    (body,) = example["app"](environ, lambda status, headers: said.append(status))
    assert said == ["200 OK"]
    assert len(json.loads(body)) == 5


def test_a_process_that_is_killed_stops_no_other_one() -> None:
    """A bar of tqdm takes a lock that forked processes share, and dies with it."""
    code = """
import os, signal, sys
from tqdm import tqdm
from dexml import console
reading, writing = os.pipe()
tqdm.get_lock()  # as a process has it that has shown a bar, or only made one
child = os.fork()
if child == 0:
    tqdm.get_lock().acquire()
    os.write(writing, b"x")
    signal.pause()
os.read(reading, 1)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
signal.alarm(20)
with console.bar(total=2) as bar, console.bar(range(3), disable=True) as other:
    bar.update(2)
print(bar.n, list(other))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("2 [0, 1, 2]\n", 0)


class Owner:
    """Has a lock that a forked process makes anew."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        forks.renew_in_child(self, Owner.renew)

    def renew(self) -> None:
        self.lock = threading.Lock()


def test_locks_of_living_owners_are_made_anew() -> None:
    owner, gone = Owner(), Owner()
    with owner.lock, gone.lock:
        del gone
        child = os.fork()
        if child == 0:
            os._exit(0 if owner.lock.acquire(timeout=10) else 1)
        assert owner.lock.locked()
    assert os.waitpid(child, 0)[1] == 0
