"""The model card of a run's encoder: what the folder is not, both figures, and no local path."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from dexml import data, train
from dexml.encoder import DualEncoder, card
from dexml.encoder.pretrained import MINILM
from dexml.metrics import evaluate
from dexml.run import Run
from small import confusing_data, train_settings

ALONE, WHOLE = "dot product of the vectors alone", "the whole run"


def figures(text: str) -> dict[str, dict[str, str]]:
    """The rows of the card's table."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    names, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return {row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in rows}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return confusing_data(tmp_path_factory.mktemp("data") / "secrets", n=300)


@pytest.fixture(scope="module", params=["shared", "two"])
def trained(
    request: pytest.FixtureRequest,
    secrets: Path,
    tiny_encoder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run with residuals and a ranker."""
    out = tmp_path_factory.mktemp("runs") / "run"
    train.train(
        train_settings(secrets, tiny_encoder, out, ranker="auto", head=request.param, head_epochs=2)
    )
    return out


def test_both_figures_are_those_of_what_they_name(trained: Path, secrets: Path) -> None:
    """The first by the folder alone, as a reader of the card would use it; slow and obvious."""
    rows = figures((trained / "encoder" / "README.md").read_text())
    assert list(rows) == [ALONE, WHOLE]
    part = data.load_part(secrets, "tst", 64)
    assert part.exclude is None
    encoder = DualEncoder.load(str(trained / "encoder")).eval()
    labels = data.load_label_texts(secrets)
    scores = encoder.encode(part.texts) @ encoder.encode(labels, side="label").T
    found = evaluate(part.y, csr_array(scores + 10), ["P@1", "P@5", "nDCG@5", "R@100"])
    for name, value in found.items():
        assert float(rows[ALONE][name]) == pytest.approx(100 * value, abs=0.06)
    saved = json.loads((trained / "metrics.json").read_text())
    for row, key in ((ALONE, "encoder_alone"), (WHOLE, "metrics")):
        for name, shown in rows[row].items():
            assert shown == f"{100 * saved[key][name]:.1f}"
    assert rows[ALONE]["P@1"] != rows[WHOLE]["P@1"]


def test_the_card_says_what_the_folder_is_not(trained: Path) -> None:
    text = (trained / "encoder" / "README.md").read_text()
    for part in (
        "## What this is, and what it is not",
        "None of that is in this folder.",
        "it is not the run's score of any other label",
        "On the 60 test points of secrets, percent:",
        "dexml.predict.Predictor.open(RUN)",
    ):
        assert part in text
    assert "The score of a point and a label is" not in text
    Run.open(trained).state.check_all()  # the card may change, and has


def test_no_file_of_the_folder_names_a_local_path(trained: Path, tiny_encoder: Path) -> None:
    for path in (trained / "encoder").rglob("*"):
        if path.suffix in (".json", ".md", ".txt", ".xml"):
            text = path.read_text()
            assert str(tiny_encoder) not in text, path
            assert str(trained.parent) not in text, path
    assert "base_model" not in (trained / "encoder" / "README.md").read_text()


def test_an_encoder_that_is_no_part_of_a_run_has_the_dot_product(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    DualEncoder.load(str(tiny_encoder)).save(tmp_path, max_tokens=8)
    text = (tmp_path / "README.md").read_text()
    assert "The score of a point and a label is the dot product of their vectors" in text
    assert "what it is not" not in text


def test_without_a_test_part_nothing_is_claimed(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = confusing_data(tmp_path / "data", n=60)
    (folder / "Y.tst.npz").unlink()
    (folder / "raw" / "tst_X.txt").unlink()
    train.train(train_settings(folder, tiny_encoder, tmp_path / "run", head_epochs=1))
    text = (tmp_path / "run" / "encoder" / "README.md").read_text()
    assert "was not measured: there was no test part" in text
    assert "\n|" not in text


def test_the_hub_name_of_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert card.hub_name("intfloat/e5-base-v2") == "intfloat/e5-base-v2"
    assert card.hub_name("bert-base-uncased") == "bert-base-uncased"
    assert card.hub_name("all-MiniLM-L6-v2") == MINILM
    for gone in ("", "./model", "/srv/model", "~/model", "a/b/c", "../model"):
        assert card.hub_name(gone) is None
    local = Path("models") / "mine"  # looks like a name on the hub
    local.mkdir(parents=True)
    assert card.hub_name("models/mine") is None
    card.write_card(local, {"base_model": "intfloat/e5-base-v2"})
    assert card.hub_name("models/mine") == "intfloat/e5-base-v2"
    assert card.hub_name(str(local.resolve())) == "intfloat/e5-base-v2"
    card.write_card(local, {"base_model": "models/mine"})  # a folder of a folder: kept
    assert "base_model: intfloat/e5-base-v2" in (local / "README.md").read_text()
    cached = tmp_path / "hub" / "models--BAAI--bge-small-en-v1.5" / "snapshots" / "0a1b"
    cached.mkdir(parents=True)
    assert card.hub_name(str(cached)) == "BAAI/bge-small-en-v1.5"
    (local / "README.md").write_bytes(b"---\nbase_model: \xff\n---\n")
    assert card.hub_name("models/mine") is None


def test_an_encoder_trained_again_keeps_its_base(tiny_encoder: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    encoder = DualEncoder.load(str(tiny_encoder))
    encoder.save(first, max_tokens=8, facts={"base_model": "someone/model"})
    encoder.save(second, max_tokens=8, facts={"base_model": str(first)})
    text = (second / "README.md").read_text()
    assert "base_model: someone/model" in text
    assert "from `someone/model`" in text
    assert str(first) not in text
    assert np.isfinite(DualEncoder.load(str(second)).eval().encode(["a"])).all()
