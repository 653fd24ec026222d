"""Light runs: trained, served and edited by words alone, without torch."""

import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array, load_npz, save_npz

from dexml import console, train
from dexml.commands.index import main as index_main
from dexml.commands.predict import main as predict_main
from dexml.commands.train import main as train_main
from dexml.data import save_dataset
from dexml.metrics import evaluate
from dexml.metrics.__main__ import main as metrics_main
from dexml.predict import Predictor, open_run
from dexml.scorers.bilinear import BilinearScorer
from dexml.scorers.lexical import PROPOSED
from dexml.scorers.tree import TreeScorer
from dexml.train import TrainSettings
from dexml.train.asked import Asked, ask
from dexml.train.inputs import load_data, parts_to_ask
from dexml.train.light import ranked_scorer
from dexml.train.words import Also, fit_lexicon
from small import confusing_data, part_path, write_tiny_data


def settings_of(data: Path, out: Path, **changes: Any) -> TrainSettings:
    values: dict[str, Any] = {"encoder": "none", "quiet": True, "seed": 1, "validation": 0.3}
    return TrainSettings(data_dir=data, out=out, **(values | changes))


@pytest.fixture(scope="module")
def confusing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return confusing_data(tmp_path_factory.mktemp("data") / "confusing")


@pytest.fixture(scope="module")
def ranked_run(confusing: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A light run with a ranker."""
    out = tmp_path_factory.mktemp("light") / "run"
    train.train(settings_of(confusing, out))
    assert facts_of(out)["selected"]["used"]
    return out


@pytest.fixture
def light(tiny_data: Path, tmp_path: Path) -> Path:
    """A light run of its own."""
    out = tmp_path / "run"
    train.train(settings_of(tiny_data, out))
    return out


def facts_of(run: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((run / "run.json").read_text())
    return facts


def call(main: Any, *words: object) -> int:
    return console.run(main, [str(word) for word in words])


# --- training ---


def test_the_saved_run_gives_the_scores_of_the_training(confusing: Path, ranked_run: Path) -> None:
    predictor = Predictor.open(ranked_run)
    texts = (confusing / "raw" / "tst_X.txt").read_text().splitlines()
    ids, _ = predictor.predict(texts, 100)
    y_true = csr_array(load_npz(confusing / "Y.tst.npz"))
    metrics = json.loads((ranked_run / "metrics.json").read_text())["metrics"]
    assert evaluate(y_true, ids, ("P@1", "nDCG@5", "R@100")) == {
        name: metrics[name] for name in ("P@1", "nDCG@5", "R@100")
    }
    gain = facts_of(ranked_run)["selected"]["gain"]["nDCG@5"]
    assert gain["ranker"] > gain["base"]


def test_recall_of_unseen_labels_is_reported_beside_the_rest(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the table, in metrics.json and on the page; `dexml.metrics` says the same."""
    run, hits = tmp_path / "run", tmp_path / "hits.npz"
    words = [tiny_data, "--out", run, "--encoder", "none", "--validation", "0.3"]
    assert call(train_main, *words) == 0
    table = capsys.readouterr().err
    assert call(predict_main, run, "-k", "100", "--out", hits, "--quiet") == 0
    unseen = np.flatnonzero(load_npz(tiny_data / "Y.trn.npz").toarray().sum(axis=0) == 0)
    truth = load_npz(tiny_data / "Y.tst.npz").toarray() > 0
    found = load_npz(hits).toarray() != 0
    points = np.flatnonzero(truth[:, unseen].any(axis=1))
    assert len(points) > 0
    hit = (truth & found)[np.ix_(points, unseen)].sum(axis=1)
    recall = float(np.mean(hit / truth[np.ix_(points, unseen)].sum(axis=1)))
    saved = json.loads((run / "metrics.json").read_text())["R@100 of unseen labels"]
    n_pairs = int(truth[:, unseen].sum())
    assert saved == {"points": len(points), "pairs": n_pairs, "metrics": pytest.approx(recall)}
    lines = table.splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.startswith("test, percent"))
    heads, row = lines[at - 1 : at + 1]
    assert heads.endswith("R@100 of unseen labels")
    assert row.endswith(f"{100 * recall:.2f}")
    page = " ".join(re.sub("<[^>]*>", "", (run / "report.html").read_text()).split())
    assert f"R@100 of unseen labels: {100 * recall:.2f}" in page
    assert f"the {len(points)} test points that have one, {n_pairs} true pairs" in page
    more = ["--train", tiny_data / "Y.trn.npz", "--filter", tiny_data / "filter_labels_test.txt"]
    words = [hits, tiny_data / "Y.tst.npz", *more, "--metrics", "R@100", "--per-group", "seen"]
    capsys.readouterr()
    assert call(metrics_main, *words, "--json") == 0
    group = json.loads(capsys.readouterr().out)["groups"]["seen"]["unseen (0)"]
    assert group["metrics"]["R@100"] == saved["metrics"]


def test_a_ranker_is_judged_on_labels_that_only_validation_points_have(
    tiny_data: Path, tmp_path: Path
) -> None:
    settings = settings_of(tiny_data, tmp_path / "run", validation=0.8)
    train.train(settings)
    given = load_data(settings)
    unseen = given.y[given.fitted].sum(axis=0) == 0
    n_pairs = int(given.y[given.scored].toarray()[:, unseen].sum())
    gain = facts_of(tmp_path / "run")["selected"]["gain"]["R@100 of unseen labels"]
    assert gain["pairs"] == n_pairs > 0
    assert 0 < gain["base"] <= 1
    assert 0 < gain["ranker"] <= 1


def test_without_unseen_labels_nothing_is_said_of_them(
    ranked_run: Path, confusing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.train(settings_of(confusing, tmp_path / "run", quiet=False))
    assert "unseen" not in capsys.readouterr().err
    assert "R@100 of unseen labels" not in json.loads((ranked_run / "metrics.json").read_text())


def test_two_trainings_give_the_same_bits(
    confusing: Path, ranked_run: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    train.train(settings_of(confusing, again))
    assert facts_of(again)["parts"] == facts_of(ranked_run)["parts"]


ONE_CPU = """
import os, sys
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
from dexml.commands.train import main
main(sys.argv[1:])
"""


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="one CPU"
)
def test_the_number_of_threads_changes_no_bit(
    confusing: Path, ranked_run: Path, tmp_path: Path
) -> None:
    words = [str(confusing), "--out", str(tmp_path / "one"), "--encoder", "none", "--seed", "1"]
    command = [sys.executable, "-c", ONE_CPU, *words, "--validation", "0.3", "--quiet"]
    subprocess.run(command, check=True)
    assert facts_of(tmp_path / "one")["parts"] == facts_of(ranked_run)["parts"]


@pytest.mark.parametrize(
    "changes",
    [{"validation": 0.0}, {"ranker": "none"}],
    ids=["no validation part", "none asked for"],
)
def test_labels_are_ranked_without_a_ranker(
    tiny_data: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """By centroid, text and votes: no worse than chance, and the same as the lexical scorer."""
    result = train.train(settings_of(tiny_data, tmp_path / "run", **changes))
    assert result is not None
    assert result.metrics["P@1"] > 0.9
    assert facts_of(tmp_path / "run")["ranker"] == {"features": []}


def test_few_validation_points_are_topped_up(tiny_data: Path, tmp_path: Path) -> None:
    """The ranker learns from all points, each asked of members that were not fitted on it."""
    train.train(settings_of(tiny_data, tmp_path / "run", validation=0.02))
    assert facts_of(tmp_path / "run")["selected"]["points"] == 300


def test_no_point_is_asked_of_members_that_were_fitted_on_it(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = load_data(settings_of(tiny_data, tmp_path / "run", validation=0.1))
    keys = [f"group {i % 40}" for i in range(300)]
    given = replace(given, part=replace(given.part, groups=keys))
    groups = np.array(keys)
    first, *parts = parts_to_ask(given)
    assert first.asked.tolist() == given.scored.tolist()
    assert sorted(np.concatenate([p.asked for p in parts])) == given.fitted.tolist()
    for part in parts:
        assert not set(groups[part.asked]) & set(groups[part.fitted])
        assert set(part.fitted) | set(part.asked) == set(given.fitted)
    monkeypatch.setattr("dexml.train.inputs.ENOUGH", len(first.asked) + 1)
    assert len(parts_to_ask(given)) == 2
    monkeypatch.setattr("dexml.train.inputs.ENOUGH", len(first.asked))
    assert len(parts_to_ask(given)) == 1


def test_common_function_words_are_left_out(tmp_path: Path) -> None:
    texts = [
        f"the {word} of a {word}" for word in ("kernel", "parser", "driver") for _ in range(30)
    ]
    labels = ["kernel", "parser", "driver"]
    y = csr_array(np.repeat(np.eye(3, dtype=np.float32), 30, axis=0))
    save_dataset(tmp_path / "data", labels, (texts, y))
    for choice, left_out in [("auto", ["a", "of", "the"]), ("none", [])]:
        out = tmp_path / choice
        train.train(settings_of(tmp_path / "data", out, stop_words=choice))
        for name in ("words", "later"):
            assert facts_of(out)["lexical"][name]["settings"]["stop_words"] == left_out
        found = Predictor.open(out).predict(["the driver", "of a the"], k=3)
        assert found.ids[0, 0] == 2
        assert np.isfinite(found.scores).all()


def test_without_refit_the_validation_points_do_not_vote(tiny_data: Path, tmp_path: Path) -> None:
    train.train(settings_of(tiny_data, tmp_path / "run", refit=False))
    assert 150 < facts_of(tmp_path / "run")["lexical"]["n_points"] < 290


def test_a_finished_run_is_left_as_it_is(
    light: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (light / "run.json").read_bytes()
    assert train.train(settings_of(tiny_data, light, resume=True)) is None
    assert "finished already" in capsys.readouterr().err
    assert (light / "run.json").read_bytes() == before


def test_a_killed_training_is_trained_again(
    tiny_data: Path, light: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    broken = tmp_path / "broken"
    with monkeypatch.context() as patch:
        patch.setattr("dexml.train.light.write_scores", killed)
        with pytest.raises(KeyboardInterrupt):
            train.train(settings_of(tiny_data, broken))
    train.train(settings_of(tiny_data, broken, resume=True))
    assert facts_of(broken)["parts"] == facts_of(light)["parts"]
    assert (broken / "metrics.json").exists()


def test_a_light_run_takes_the_place_of_another(light: Path, tiny_data: Path) -> None:
    train.train(settings_of(tiny_data, light, overwrite=True, ranker="none"))
    assert Predictor.open(light).predict(["kernel driver"], 1).ids[0, 0] == 0


def test_no_test_part(tmp_path: Path) -> None:
    data = write_tiny_data(tmp_path / "data")
    (data / "Y.tst.npz").unlink()
    (data / "raw" / "tst_X.txt").unlink()
    assert train.train(settings_of(data, tmp_path / "run")) is None
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert Predictor.open(tmp_path / "run").predict(["kernel driver"], 1).ids[0, 0] == 0


@pytest.mark.parametrize(
    ("labels", "texts"),
    [
        (["x"], ["a b", "a c", "b c", "x"] * 5),
        (["same", "same", "same"], ["same", "a", "b", "c"] * 5),
        (["one", "two", "three"], ["", "", "", ""] * 5),
        (["one", "two", "three"], [f"w{i} v{i}" for i in range(20)]),
    ],
    ids=["one label", "equal labels", "empty texts", "no word twice"],
)
def test_odd_data_sets(tmp_path: Path, labels: list[str], texts: list[str]) -> None:
    data = tmp_path / "data"
    (data / "raw").mkdir(parents=True)
    (data / "raw" / "Y.txt").write_text("".join(f"{t}\n" for t in labels))
    rng = np.random.default_rng(0)
    for part in ("trn", "tst"):
        y = (rng.random((len(texts), len(labels))) < 0.5).astype(np.float32)
        (data / "raw" / f"{part}_X.txt").write_text("".join(f"{t}\n" for t in texts))
        save_npz(data / f"Y.{part}.npz", csr_array(y))
    train.train(settings_of(data, tmp_path / "run"))
    ids, scores = Predictor.open(tmp_path / "run").predict([*texts, "unknown"], 5)
    assert ((ids == -1) == np.isneginf(scores)).all()
    assert (ids < len(labels)).all()


def test_a_plan_is_for_encoders(tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(train_main, tiny_data, "--encoder", "none", "--plan") == 2
    assert "--plan" in capsys.readouterr().err


# --- serving ---


def test_more_labels_than_there_are(ranked_run: Path) -> None:
    predictor = Predictor.open(ranked_run)
    ids, scores = predictor.predict(["secret3 kernel driver", ""], 80)
    for row in ids:
        found = row[row >= 0].tolist()
        assert len(set(found)) == len(found) <= 64
        assert (row[len(found) :] == -1).all()
    assert ids[0, 0] == 3
    assert ((ids == -1) == np.isneginf(scores)).all()


def test_filter_pairs_and_groups_of_labels(ranked_run: Path) -> None:
    predictor = Predictor.open(ranked_run)
    text = ["secret3 secret9 kernel driver"]
    exclude = csr_array((np.ones(1, np.float32), [3], [0, 1]), shape=(1, 64))
    assert predictor.predict(text, 1).ids[0, 0] in (3, 9)
    assert 3 not in predictor.predict(text, 64, exclude=exclude).ids
    only = predictor.predict(text, 64, only=[0, 9, 20]).ids[0]
    assert only[0] == 9
    assert set(only.tolist()) <= {0, 9, 20, -1}


@pytest.mark.parametrize("search", ["hnsw", "fast"])
def test_a_light_run_has_no_graph(ranked_run: Path, search: Any) -> None:
    with pytest.raises(ValueError, match=r"light run searches words|expected one of"):
        Predictor.open(ranked_run, search=search)


def test_threads_may_ask_while_another_edits(ranked_run: Path) -> None:
    """Each answer is that of a moment before an edit or after it."""
    predictor = Predictor(open_run(ranked_run))
    text = ["secret3 wombat"]
    done = threading.Event()

    def ask(_: int) -> set[int]:
        found: set[int] = set()
        while not done.is_set():
            found |= set(predictor.predict(text, 1).ids[0].tolist())
        return found

    with ThreadPoolExecutor(3) as pool:
        answers = pool.map(ask, range(3))
        for _ in range(5):
            (new,) = predictor.add_labels(["wombat"])
            predictor.remove_labels([new])
        done.set()
        found = set.union(*answers)
    assert found <= {3, *range(64, 69)}


# --- edits ---


def test_labels_and_points_are_edited(light: Path) -> None:
    predictor = Predictor(open_run(light))
    (new,) = predictor.add_labels(["wombat burrow"])
    assert predictor.predict(["a wombat burrow"], 1).ids[0, 0] == new == 64
    rows = predictor.add_points(["quokka island", "quokka"], [[int(new)], [int(new), 5]])
    assert rows.tolist() == [300, 301]
    assert predictor.predict(["a quokka island"], 1).ids[0, 0] == new
    predictor.update_labels([7], ["numbat colony"])
    assert predictor.predict(["numbat colony"], 1).ids[0, 0] == 7
    before = predictor.predict(["kernel driver"], 1).ids[0, 0]
    predictor.remove_labels([before])
    assert before not in predictor.predict(["secret3", "kernel driver"], 65).ids


def test_edits_are_there_after_saving(light: Path) -> None:
    predictor = Predictor(open_run(light))
    predictor.add_labels(["wombat burrow", "zebra"])
    predictor.add_points(["quokka island"], [[64]])
    predictor.remove_labels([3])
    predictor.update_labels([7], ["numbat colony"])
    predictor.save()
    texts = [
        "wombat burrow",
        "quokka island",
        "numbat colony",
        "kernel driver",
        "printer theme a",
        "",
    ]
    ids, scores = predictor.predict(texts, 70)
    again = Predictor.open(light).predict(texts, 70)
    np.testing.assert_array_equal(ids, again.ids)
    np.testing.assert_array_equal(scores, again.scores)
    assert ids[:3, 0].tolist() == [64, 64, 7]


def test_removing_labels_rewrites_only_what_says_so(light: Path) -> None:
    before = facts_of(light)["parts"]
    predictor = Predictor(open_run(light))
    predictor.remove_labels([3])
    predictor.save()
    after = facts_of(light)["parts"]
    assert {role for role in after if after[role] != before[role]} == {"labels/alive"}


def test_index_edits_a_light_run(
    light: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("wombat burrow\nkernel driver\n")
    assert call(index_main, light, "--add", file) == 0
    shown = capsys.readouterr()
    assert shown.out == "64\twombat burrow\n"
    assert "65 labels; words" in shown.err
    file.write_text("0\n1\n")
    assert call(index_main, light, "--remove", file) == 0
    assert "63 labels (2 removed); words" in capsys.readouterr().err
    file.write_text("7\tnumbat colony\n")
    assert call(index_main, light, "--update", file, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert call(index_main, light, "--info") == 0
    shown = capsys.readouterr()
    for name, value in {"search": "words", "labels": "63", "removed": "2", "points": "300"}.items():
        assert re.search(rf"^{name} +{value}$", shown.out, flags=re.M), name
    assert call(index_main, light, "--overwrite") == 0
    capsys.readouterr()
    labels = open_run(light).labels
    assert (len(labels), labels.n_alive, labels.edits) == (64, 64, 0)
    assert Predictor.open(light).predict(["kernel driver"], 1).ids[0, 0] == 0


def test_a_light_run_needs_no_index(light: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So the usual three commands in a row work with either kind of run."""
    before = (light / "run.json").read_bytes()
    assert call(index_main, light) == 0
    assert "needs no index" in capsys.readouterr().err
    assert (light / "run.json").read_bytes() == before
    for words in (["--search", "hnsw"], ["--rebuild"]):
        assert call(index_main, light, *words) == 1
        assert "light run" in capsys.readouterr().err


# --- the command predict ---


def test_predict_writes_and_resumes(
    ranked_run: Path, confusing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped output is continued; the whole is that of one go."""
    texts = confusing / "raw" / "tst_X.txt"
    for suffix in ("npz", "jsonl"):
        whole, out = tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
        assert call(predict_main, ranked_run, texts, "--out", whole, "--quiet", "--block", 7) == 0
        with monkeypatch.context() as patch:
            patch.setattr("dexml.commands.partial.COMMIT_SECONDS", 0)
            answered = iter(range(3))
            predict = Predictor.predict

            def stopped(
                self: Predictor, *args: Any, answered: Any = answered, ask: Any = predict, **k: Any
            ) -> Any:
                if next(answered, None) is None:
                    raise KeyboardInterrupt
                return ask(self, *args, **k)

            patch.setattr(Predictor, "predict", stopped)
            assert call(predict_main, ranked_run, texts, "--out", out, "--block", 7) == 130
        assert call(predict_main, ranked_run, texts, "--out", out, "--block", 7, "--resume") == 0
        assert out.read_bytes() == whole.read_bytes()


def test_predict_shows_progress_without_an_encoder(
    ranked_run: Path, confusing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    class Bar:
        n = 0

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, n: int) -> None:
            self.n += n
            steps.append(n)

    real = console.bar

    def bar(*words: Any, **options: Any) -> Any:
        return Bar() if options["desc"] == "predict" else real(*words, **options)

    monkeypatch.setattr("dexml.console.bar", bar)
    texts, out = confusing / "raw" / "tst_X.txt", tmp_path / "out.npz"
    assert call(predict_main, ranked_run, texts, "--out", out, "--block", 25) == 0
    assert steps == [25, 25, 10]


# --- without torch ---

BLOCKED = """
import sys
for name in ("torch", "transformers", "safetensors", "hnswlib", "tokenizers", "tensorboardX"):
    sys.modules[name] = None  # importing it raises ImportError
data, run, added, encoder = sys.argv[1:]

from dexml.console import run as call
from dexml.commands.train import main as train
from dexml.commands.index import main as index
from dexml.commands.predict import main as predict

assert call(train, [data, "--out", run, "--encoder", "none", "--quiet"]) == 0
assert call(predict, [run, "-k", "2", "--jsonl", "--quiet"]) == 0
assert call(index, [run, "--add", added]) == 0
assert call(predict, [run, added, "-k", "1", "--jsonl", "--quiet"]) == 0
assert call(train, [data, "--out", run, "--encoder", encoder, "--overwrite"]) == 1
"""


def test_all_of_it_works_without_torch(tiny_data: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    added = tmp_path / "added.txt"
    added.write_text("wombat burrow\n")
    words = [tiny_data, tmp_path / "run", added, tiny_encoder]
    command = [sys.executable, "-c", BLOCKED, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + 80 + 1 + 1
    assert json.loads(lines[-1])["labels"][0]["id"] == 64
    assert "report" in (tmp_path / "run" / "report.html").read_text().lower()
    message = done.stderr.strip().splitlines()[-1]
    assert "pip install 'dexml-xmc[train]'" in message
    assert message.endswith("or train without an encoder: --encoder none")
    assert part_path(tmp_path / "run", "lexical/points").exists()  # and the run is still there


WORDS = {
    "Russian": (" ", "ядро печать музыка сеть почта", "драйвер сервер клиент игра"),
    "Greek": (" ", "πυρήνας εκτύπωση μουσική δίκτυο", "οδηγός διακομιστής πελάτης παιχνίδι"),
    "Arabic": (" ", "نواة طباعة موسيقى شبكة بريد", "برنامج خادم عميل لعبة"),
    "Chinese": ("", "内核 打印 音乐 网络 邮件", "驱动程序 服务器 客户端 游戏"),
    "Thai": ("", "เคอร์เนล การพิมพ์ ดนตรี เครือข่าย", "โปรแกรม เซิร์ฟเวอร์ ลูกค้า เกม"),
}
"""What joins words, topics and parts; Chinese and Thai put no blanks between words."""


@pytest.mark.parametrize("language", WORDS)
def test_texts_of_any_script_are_trained_on_and_explained(tmp_path: Path, language: str) -> None:
    blank, topics, parts = WORDS[language]
    pairs = [(topic, part) for topic in topics.split() for part in parts.split()]
    labels = [f"{topic}{blank}{part}" for topic, part in pairs]
    rng = np.random.default_rng(0)

    def side(n: int) -> tuple[list[str], list[list[int]]]:
        chosen = [int(i) for i in rng.integers(len(labels), size=n)]
        # A number, so that no two texts are the same: equal ones would stay on one side of a split.
        texts = [f"{pairs[i][1]}{blank}{pairs[i][0]} {rng.integers(10**6)}" for i in chosen]
        return texts, [[i] for i in chosen]

    save_dataset(tmp_path / "data", labels, train=side(300), test=side(50))
    result = train.train(settings_of(tmp_path / "data", tmp_path / "run"))
    assert result is not None
    assert result.metrics["P@1"] > 0.9
    predictor = Predictor.open(tmp_path / "run")
    topic, part = pairs[3]
    assert predictor.labels(predictor.predict([f"{part}{blank}{topic}"], k=1).ids) == [[labels[3]]]
    explained = predictor.explain(topic, labels[3]).words
    terms = {match.term.strip() for shared in explained for match in shared.terms}
    assert any(term and term in topic for term in terms), terms


def test_evidence_without_a_member_is_that_of_a_scorer_without_it(
    confusing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Or all labels are proposed by words, and nothing by the tree alone.
    monkeypatch.setattr("dexml.scorers.lexical.PROPOSED", dict.fromkeys(PROPOSED, 2))
    monkeypatch.setattr("dexml.scorers.ranker.COMPANIONS", 1)
    settings = settings_of(confusing, tmp_path / "run")
    given = load_data(settings)
    part = parts_to_ask(given)[0]
    lexicon, also = fit_lexicon(given, settings), Also(tree=True, bilinear=True)
    scorer = ranked_scorer(given, part.fitted, lexicon, also=also, seed=0)
    asked = Asked.of(given, part.asked, np.ones(given.y.shape[1]))
    evidence = ask(scorer, asked, lambda _: None)
    for name, kind in (("tree", TreeScorer), ("bilinear", BilinearScorer)):
        members = tuple(m for m in scorer.members if not isinstance(m, kind))
        assert len(members) == 2
        others = replace(scorer, members=members)
        expected, plain = ask(others, asked, lambda _: None), evidence.without(name)
        assert plain.names == expected.names
        assert len(plain.pairs) < len(evidence.pairs)
        np.testing.assert_array_equal(plain.pairs.ids, expected.pairs.ids)
        np.testing.assert_array_equal(plain.pairs.indptr, expected.pairs.indptr)
        np.testing.assert_allclose(plain.features, expected.features, rtol=0, atol=1e-6)
