"""What works without the heavy packages: an index without torch, exact search without hnswlib."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import warm
from dexml.predict import open_run
from voting import voting_run


@pytest.fixture
def voting(run_dir: Path, tmp_path: Path) -> Path:
    """A run of its own in which points vote."""
    return voting_run(run_dir, tmp_path / "run")


BLOCKED = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None  # importing it raises ImportError
run, work = sys.argv[2:4]
"""


INDEX = """
import os
import dexml.predict
from dexml.commands.index import main
from dexml.console import run as run_command

def call(*words):
    assert run_command(main, [run, *words, "--quiet"]) == 0, words

call("--search", "hnsw", "--overwrite")
with open(os.path.join(work, "gone.txt"), "w") as file:
    file.write("3\\n5\\n")
call("--remove", file.name)
call("--rebuild")
call("--info")
predictor = dexml.predict.Predictor(dexml.predict.open_run(run))
assert predictor.label_set.n_alive == 62
predictor.remove_labels([7])
predictor.save()
"""


def test_an_index_is_built_and_edited_without_torch(run_dir: Path, tmp_path: Path) -> None:
    run = Path(
        shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint"))
    )
    command = [sys.executable, "-c", BLOCKED + INDEX, "torch,transformers", str(run), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^removed +2$", done.stdout, flags=re.M)
    assert open_run(run).labels.n_alive == 61


HNSW = """
from dexml.predict import Predictor, open_run
assert Predictor(open_run(run)).search_note() == "exact, 64 labels; votes of 5 training points, \\
weight 3 (50 a text, temperature 0.2)"
print(Predictor.open(run).predict(["kernel"], 3).ids.shape)
from dexml.commands.index import main
try:
    main([run, "--overwrite", "--search", "hnsw"])
except ImportError as error:
    print(error)
"""


def test_an_exact_run_opens_without_hnswlib(voting: Path, tmp_path: Path) -> None:
    done = warm.run_code(BLOCKED + HNSW, "hnswlib", voting, tmp_path)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert shown[0] == "(1, 3)"
    assert "hnswlib" in shown[1]
    assert "dexml-xmc[" in shown[1]


EXPLAIN = """
from dexml.commands.predict import main
from dexml.console import run as run_command
from dexml.predict import Predictor
from dexml.train import TrainSettings, train
train(TrainSettings(data_dir=run, out=work + "/light", encoder="none", quiet=True))
(best,) = Predictor.open(work + "/light").explain_best("kernel driver a", 1)
print(best.label_text, best.neighbours[0].points[0].text)
with open(work + "/texts.txt", "w") as file:
    file.write("kernel driver a\\n")
assert run_command(main, [work + "/light", file.name, "--explain", "--quiet"]) == 0
"""


def test_a_light_run_is_explained_without_torch(tiny_data: Path, tmp_path: Path) -> None:
    missing = "torch,transformers,hnswlib,safetensors"
    command = [sys.executable, "-c", BLOCKED + EXPLAIN, missing, str(tiny_data), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert shown[0].startswith("kernel driver kernel driver")
    assert shown[1] == "kernel driver a"
    assert "nearest points by words" in done.stdout
