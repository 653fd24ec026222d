"""``docs/examples/service.py``: answers, limits, clear errors, edits, and saves of others."""

import importlib.util
import logging
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dexml.predict import Predictor

for needed in ("fastapi", "httpx"):
    pytest.importorskip(needed, reason=f"needs {needed}")

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(light_run: Path, tmp_path: Path) -> Path:
    """A run of its own."""
    return Path(shutil.copytree(light_run, tmp_path / "run"))


@pytest.fixture
def service(run: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("RUN", str(run))
    monkeypatch.setenv("FOLLOW_SECONDS", "3600")  # tests say when
    spec = importlib.util.spec_from_file_location("service", ROOT / "docs/examples/service.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "service", module)  # pydantic looks annotations up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def client(service: Any) -> Iterator[Any]:
    from fastapi.testclient import TestClient

    with TestClient(service.app, raise_server_exceptions=False) as client:
        yield client


def test_answers_are_those_of_the_predictor(client: Any, run: Path) -> None:
    texts = ["kernel driver a b", "music player"]
    answer = client.post("/predict", json={"texts": texts, "k": 3})
    assert answer.status_code == 200
    found = Predictor.open(run).predict(texts, 3)
    assert [[hit["id"] for hit in hits] for hits in answer.json()] == found.ids.tolist()
    assert found.probabilities is not None
    first = answer.json()[0][0]
    assert first["label"] == "kernel driver"
    assert first["score"] == pytest.approx(float(found.scores[0, 0]))
    assert first["probability"] == pytest.approx(float(found.probabilities[0, 0]))


def test_health_says_which_run_answers(client: Any) -> None:
    answer = client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"run": "run", "labels": 64})


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"texts": ["a"], "k": 0}, 422, "k: Input should be greater than or equal to 1"),
        ({"texts": ["a"], "k": 101}, 422, "k: Input should be less than or equal to 100"),
        ({"texts": []}, 422, "texts: List should have at least 1 item"),
        ({"texts": ["a"] * 65}, 422, "texts: List should have at most 64 items"),
        ({"texts": ["a", 3]}, 422, "texts.1: Input should be a valid string"),
        ({"texts": ["a", "b" * 10_001]}, 422, "texts.1: String should have at most 10000"),
        ({"texts": "a"}, 422, "texts: Input should be a valid list"),
        ({"text": ["a"]}, 422, "texts: Field required"),
        ({"texts": ["a"], "top": 3}, 422, "top: Extra inputs are not permitted"),
        (b"{", 422, "JSON decode error"),
        (b'{"texts": ["\\ud800"]}', 422, "texts.0: Input should be a valid string"),
        (b" " * (1 << 20) + b"{}", 413, "body of 1048578 bytes, at most 1048576"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_request_is_answered_in_one_line(
    client: Any, body: Any, status: int, message: str
) -> None:
    data = {"content": body} if isinstance(body, bytes) else {"json": body}
    headers = {"Content-Type": "application/json"}
    answer = client.post("/predict", headers=headers, **data)
    assert answer.status_code == status
    assert message in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


def test_a_body_of_unknown_length_is_refused(client: Any) -> None:
    answer = client.post("/predict", content=iter([b"{}"]))  # sent in chunks
    assert (answer.status_code, answer.json()) == (411, {"detail": "Content-Length is missing"})


def test_unknown_paths_and_methods_are_refused(client: Any) -> None:
    assert client.get("/nothing").status_code == 404
    assert client.get("/predict").status_code == 405


def test_added_labels_answer_and_are_saved(client: Any, run: Path) -> None:
    answer = client.post("/labels", json={"texts": ["violet zeppelin driver"]})
    assert (answer.status_code, answer.json()) == (201, {"ids": [64]})
    assert Predictor.open(run).label_texts[64] == "violet zeppelin driver"
    assert client.get("/health").json()["labels"] == 65
    answer = client.post("/labels", json={"texts": ["two\nlines"]})
    assert answer.status_code == 400
    assert client.get("/health").json()["labels"] == 65


def test_an_edit_after_another_process_saved_is_a_conflict(client: Any, run: Path) -> None:
    other = Predictor.open(run)
    other.add_labels(["label of another process"])
    other.save()
    answer = client.post("/labels", json={"texts": ["mine"]})
    assert answer.status_code == 409
    assert "saved" in answer.json()["detail"]
    assert client.get("/health").json()["labels"] == 65  # the run of the other, without mine
    assert client.post("/labels", json={"texts": ["mine"]}).json() == {"ids": [65]}


def test_requests_are_answered_while_the_run_is_opened_again(
    client: Any, service: Any, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[int] = []
    ending = threading.Event()

    def ask() -> None:
        while not ending.is_set():
            answer = client.post("/predict", json={"texts": ["kernel driver"], "k": 1})
            answers.append(answer.status_code)
            assert answer.json()[0][0]["id"] == 0

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    caplog.set_level(logging.INFO, "service")
    for number in range(3):
        other = Predictor.open(run)
        other.add_labels([f"label {number}"])
        other.save()
        service.app.state.service.follow()
        assert client.get("/health").json()["labels"] == 65 + number
    ending.set()
    for thread in threads:
        thread.join()
    assert len(answers) >= 3
    assert set(answers) == {200}
    assert f"opened {run} again" in caplog.text
    assert "1 texts in" in caplog.text


def test_a_run_that_cannot_be_opened_leaves_the_old_one_answering(
    client: Any, service: Any, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run / "run.json").write_text("{")
    service.app.state.service.follow()
    assert "cannot open the new run" in caplog.text
    assert client.post("/predict", json={"texts": ["kernel driver"]}).status_code == 200


def test_the_load_test_compares_the_service_with_direct_calls(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="needs uvicorn")
    texts = tmp_path / "texts.txt"
    texts.write_text("kernel driver\nmusic player a\n")
    command = [sys.executable, "benches/http_load.py", run, texts, "--requests", "8"]
    done = subprocess.run(
        [*map(str, command), "--clients", "2"], cwd=ROOT, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines()[1:]] == [
        "Predictor, called directly",
        "service, 1 client",
        "service, 2 clients",
    ]
