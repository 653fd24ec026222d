"""How many threads the core uses: per call, per Python thread, per run that is opened."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dexml import _rust
from dexml.predict import BatchPredictor, Predictor
from dexml.threads import at_once, core_threads

TEXTS = ["a driver of the kernel", "music player", "server for mails", ""]


def test_the_number_holds_inside_and_is_restored() -> None:
    assert _rust.default_threads() is None
    with core_threads(3):
        assert _rust.default_threads() == 3
        with core_threads(None):
            assert _rust.default_threads() == 3
        with core_threads(1):
            assert _rust.default_threads() == 1
        assert _rust.default_threads() == 3
    assert _rust.default_threads() is None


def test_it_is_restored_after_an_exception() -> None:
    with core_threads(2):
        with pytest.raises(KeyError), core_threads(5):
            raise KeyError
        assert _rust.default_threads() == 2
    assert _rust.default_threads() is None


def test_another_python_thread_keeps_its_own() -> None:
    inside, looked = threading.Barrier(2, timeout=20), threading.Barrier(2, timeout=20)

    def work(n: int) -> int | None:
        with core_threads(n):
            inside.wait()
            seen = _rust.default_threads()
            looked.wait()
        return seen

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, (1, 2))) == [1, 2]
        with core_threads(4):
            assert pool.submit(_rust.default_threads).result() is None


@pytest.mark.parametrize("n", [0, -1, 1025])
def test_numbers_out_of_range_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match=rf"num_threads must be in 1..=1024, not {n}"):
        _rust.set_default_threads(n)
    assert _rust.default_threads() is None


def test_a_run_with_too_many_threads_is_refused(light_run: Path) -> None:
    with pytest.raises(ValueError, match="threads = 1025; expected at most 1024"):
        Predictor.open(light_run, threads=1025)


def test_a_predictor_leaves_the_number_of_the_caller(light_run: Path) -> None:
    predictor = Predictor.open(light_run, threads=2)
    seen = []

    def texts() -> Iterator[str]:
        seen.append(_rust.default_threads())
        yield from TEXTS

    predictor.predict(texts(), 3)
    with pytest.raises(ValueError, match="k = 0"):
        predictor.predict(TEXTS, 0)
    assert seen == [2]
    assert _rust.default_threads() is None


def test_answers_are_the_same_bits_for_any_number(light_run: Path) -> None:
    def answers(threads: int | None) -> list[bytes]:
        predictor = Predictor.open(light_run, threads=threads)
        predictor.add_labels(["a mail reader"])
        predictor.add_points(["reads mails"], [[len(predictor.label_texts) - 1]])
        found = predictor.predict([*TEXTS, "reads mails"], 5)
        why = predictor.explain_best(TEXTS[0], 2)
        scores = json.dumps([one.score for one in why])
        return [found.ids.tobytes(), found.scores.tobytes(), scores.encode()]

    expected = answers(None)
    for threads in (1, 2, 3, 7):
        assert answers(threads) == expected


COUNT = """
import sys
from pathlib import Path

from dexml.predict import BatchPredictor, Predictor

how, run, threads = sys.argv[1:]
texts = ["a driver of the kernel", "music player"] * 50
if how == "batch":
    BatchPredictor(run, k=3)({"text": texts})
elif how == "open":
    predictor = Predictor.open(run, threads=int(threads))
    predictor.predict(texts, 3)
    predictor.explain("music player", 0)
    predictor.add_labels(["a mail reader"])
elif how == "predict":
    from dexml.commands.predict import main

    Path("texts.txt").write_text("\\n".join(texts))
    main([run, "texts.txt", "--threads", threads, "--out", "out.npz", "--quiet"])
else:
    from dexml.commands.train import main

    main([run, "--out", "RUN", "--encoder", "none", "--threads", threads, "--quiet"])
names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
numbers = [int(name.removeprefix("dexml-")) for name in names if name.startswith("dexml-")]
print(1 + max(numbers, default=0))  # with one thread it is the one that calls
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
@pytest.mark.parametrize(
    ("how", "threads"),
    [("batch", 1), ("open", 1), ("open", 3), ("predict", 1), ("train", 1), ("table", 1)],
)
def test_no_larger_pool_is_started(
    how: str, threads: int, light_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """A pool lives as long as its process, and its threads are numbered."""
    table = tmp_path / "posts.jsonl"
    rows = [
        {"text": text, "labels": [f"{len(text.split())} words"]} for text in filter(None, TEXTS)
    ]
    table.write_text("\n".join(json.dumps(row) for row in rows * 10))
    given = {"train": tiny_data, "table": table}.get(how, light_run)
    command = [sys.executable, "-c", COUNT, how, str(given), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.splitlines()[-1]) == threads


def test_a_batch_predictor_says_what_it_is_opened_with(light_run: Path) -> None:
    with pytest.raises(ValueError, match="threads = 0; expected at least 1"):
        BatchPredictor(light_run, threads=0).predictor()


def test_threads_of_a_server_get_the_same_answers(light_run: Path) -> None:
    """More Python threads than there are pools of the calling thread."""
    predictor = Predictor.open(light_run, threads=1)
    expected = predictor.predict(TEXTS, 5).scores.tobytes()
    found: list[bytes] = []
    for _ in range(70):
        thread = threading.Thread(
            target=lambda: found.append(predictor.predict(TEXTS, 5).scores.tobytes())
        )
        thread.start()
        thread.join(timeout=60)
    assert found == [expected] * 70


FORK = """
import os, signal, sys
from dexml.predict import Predictor

one, three = (Predictor.open(sys.argv[1], threads=n) for n in (1, 3))
texts = ["a driver of the kernel", "music player"]
expected = one.predict(texts, 5).scores.tobytes()
child = os.fork()
if child == 0:
    signal.alarm(60)  # a child that waits for ever is killed
    same = [p.predict(texts, 5).scores.tobytes() == expected for p in (one, three, one)]
    os._exit(0 if all(same) else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_goes_on_with_one_thread_and_with_more(light_run: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(light_run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr[-2000:]


def test_things_at_once_use_the_threads_of_whoever_asks() -> None:
    for threads in (None, 1, 3):
        with core_threads(threads):
            tasks = [_rust.default_threads, lambda: "two", _rust.default_threads]
            assert at_once(tasks) == [threads, "two", threads]
    assert at_once([]) == []


def test_of_things_at_once_the_first_error_is_raised_when_all_have_ended() -> None:
    done: list[str] = []

    def fails(name: str) -> None:
        raise ValueError(name)

    tasks = [lambda: fails("first"), lambda: fails("second"), lambda: done.append("third")]
    with pytest.raises(ValueError, match="first"):
        at_once(tasks)
    assert done == ["third"]
