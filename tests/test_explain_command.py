"""python -m dexml.predict --explain: tables and JSON lines."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from scipy.sparse import load_npz

from dexml import train
from dexml.commands import predict as command
from dexml.commands.explain import WIDTH, as_tables
from dexml.console import run
from dexml.predict import Predictor
from dexml.predict.explanation import Evidence, Explanation, Neighbours, Voter
from dexml.scorers.meanings import Group
from dexml.train import TrainSettings
from small import confusing_data

TEXT = "secret3 kernel driver"


@pytest.fixture(scope="module")
def confusing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return confusing_data(tmp_path_factory.mktemp("data") / "confusing")


@pytest.fixture(scope="module")
def light(confusing: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("light") / "run"
    values: dict[str, Any] = {"encoder": "none", "quiet": True, "seed": 1, "validation": 0.3}
    train.train(TrainSettings(data_dir=confusing, out=out, **values))
    return out


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text(f"{TEXT}\nsecret9 printer theme\n\n")
    return path


def call(*words: object) -> int:
    return run(command.main, [*map(str, words), "--quiet"])


def test_a_table_for_each_of_the_three_best_labels(
    light: Path, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(light, texts, "--explain") == 0
    shown = capsys.readouterr().out
    blocks = shown.split("\n\n")
    assert blocks[0] == TEXT
    predictor = Predictor.open(light)
    for text in (TEXT, "secret9 printer theme"):
        for one in predictor.explain_best(text, 3):
            assert f"{one.rank} of {one.n_ranked}  {one.label_text} (id {one.label_id})" in shown
            assert f"{one.score:.2f}\n" in shown
            point = one.neighbours[0].points[0]
            assert f"{point.cosine:.2f}  {point.text}" in shown
    assert shown.count("average candidate") >= 6
    assert "  yes  " in shown
    assert "shared with its points  secret3 0." in shown
    assert all(len(line) <= WIDTH for line in shown.splitlines())


def test_json_lines_are_those_without_explanations_and_more(
    light: Path, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(light, texts, "--explain", "--jsonl", "-k", 2) == 0
    explained = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert call(light, texts, "--jsonl", "-k", 2, "--block", 1) == 0
    plain = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["text"] for one in explained] == [TEXT, "secret9 printer theme", ""]
    for one, other in zip(explained, plain, strict=True):
        short = [{k: label[k] for k in ("id", "text", "score")} for label in one["labels"]]
        likely = [label.pop("probability", None) for label in other["labels"]]
        assert {"text": one["text"], "labels": short} == other
        assert None not in likely
    assert explained[0]["labels"][0]["evidence"]


@pytest.mark.parametrize("by_id", [False, True])
def test_a_label_is_named(
    light: Path, texts: Path, by_id: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    label = Predictor.open(light).label_texts[9]
    assert call(light, texts, "--explain", "--jsonl", "--label", 9 if by_id else label) == 0
    for line in capsys.readouterr().out.splitlines():
        (one,) = json.loads(line)["labels"]
        assert one["id"] == 9


def test_test_points_are_explained_with_their_filter_pairs(
    light: Path, confusing: Path, tmp_path: Path
) -> None:
    out = tmp_path / "why.jsonl"
    assert call(light, "--explain", "-k", 1, "--out", out) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == load_npz(confusing / "Y.tst.npz").shape[0]
    assert all(len(line["labels"]) == 1 for line in lines)


def test_a_stopped_output_is_gone_on_with(
    light: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert call(light, texts, "--explain", "--out", whole) == 0
    original, left = Predictor.explain_best, [1]

    def explain_best(self: Predictor, *given: Any, **named: Any) -> Any:
        if not left[0]:
            raise RuntimeError("stopped")
        left[0] -= 1
        return original(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "explain_best", explain_best)
        assert call(light, texts, "--explain", "--out", out) == 1
    assert call(light, texts, "--out", out, "--resume", "-k", 3) == 1  # another question
    assert call(light, texts, "--explain", "--out", out, "--resume") == 0
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--label", "9"], 2, "--label names a label to explain: add --explain"),
        (["--explain", "--label", "9", "-k", "2"], 2, "--label and -k"),
        (["--explain", "--out", "x.npz"], 2, "--explain writes .jsonl"),
        (["--explain", "--label", "99"], 1, "--label: 99 lies outside 0..63"),
        (["--explain", "--label", "kernel drivr"], 1, "no label; did you mean 'kernel driver'?"),
    ],
)
def test_wrong_calls(
    light: Path,
    texts: Path,
    words: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(light, texts, *words) == code
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


# --- the table alone ---


def explanation(**changes: Any) -> Explanation:
    values: dict[str, Any] = {
        "label_id": 7,
        "label_text": "a label",
        "n_points": 1,
        "score": 1.25,
        "rank": 2,
        "n_ranked": 30,
        "start": -0.5,
        "evidence": (
            Evidence("dense", Group.DENSE, "dense score", 0.7, 1.0),
            Evidence("votes", Group.BY_WORDS, "votes", 0.1, 0.5),
            Evidence("log count", Group.FREQUENCY, "log count", 0.69, -0.25),
            Evidence("dense gap", Group.DENSE, "gap", -1.0, 0.5),
            Evidence("tree", Group.TREE, "probability", None, 0.0),
        ),
        "neighbours": (
            Neighbours(
                "words",
                50,
                1,
                0.25,
                (Voter(3, "one text", 0.9, 0.5, False), Voter(5, None, 0.8, 0.25, True)),
            ),
        ),
        "words": (),
    }
    return Explanation(**(values | changes))


def test_the_look_of_a_table() -> None:
    assert as_tables("a text", [explanation()]) == (
        "a text\n"
        "\n"
        "2 of 30  a label (id 7)\n"
        "\n"
        "  dense                +1.50  dense score: 0.70\n"
        "  neighbours by words  +0.50  1 of the 50 nearest points has it, with 25 % of the vote\n"
        "  tree                 +0.00  probability: not known\n"
        "  frequency            -0.25  1 training point has it\n"
        "  average candidate    -0.50  of 30 for this text\n"
        "  score                 1.25\n"
        "\n"
        "  has it   vote  cosine  nearest points by words\n"
        "  yes      25 %    0.80  point 5\n"
        "  no       50 %    0.90  one text\n"
        "\n"
    )


def test_a_label_without_a_score() -> None:
    shown = as_tables("a text", [explanation(score=None, rank=None)])
    assert "not ranked  a label (id 7)\n  nothing proposes it for this text; 30 labels" in shown
    assert "score, if ranked      1.25" in shown
    nobody = explanation(score=None, rank=None, evidence=(), neighbours=())
    assert as_tables("a text", [nobody]).splitlines()[2:4] == [
        "not ranked  a label (id 7)",
        "  no scorer knows it; 30 labels are ranked",
    ]


def test_lines_are_cut_to_the_terminal() -> None:
    shown = as_tables("a text " * 50, [explanation(label_text="label " * 50)], 60)
    assert max(map(len, shown.splitlines())) == 60
    assert re.search(r"^2 of 30  label label .*… \(id 7\)$", shown, flags=re.M)
    assert as_tables("\x1b[31m", [explanation()]).startswith("\ufffd[31m")
