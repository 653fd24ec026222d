"""Runs with odd content under seals that fit: found by benches/reliability.py forge."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dexml import train
from dexml.predict import Predictor
from small import forge_info, part_path, rewrite_info, train_settings, write_tiny_data


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forged")
    data = write_tiny_data(folder / "data")
    settings = train_settings(data, Path("none"), folder / "run", ranker="auto", validation=0.3)
    train.train(settings)
    return folder / "run"


def ask(run: Path) -> None:
    Predictor.open(run, threads=1).predict(["kernel driver", ""], 3)


def refused(run: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        ask(run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("role", ["labels/alive", "lexical/words_df", "ranker/mean"])
def test_a_header_that_numpy_cannot_parse_is_damage(light: Path, role: str, tmp_path: Path) -> None:
    shutil.copytree(light, tmp_path / "run")
    path = part_path(tmp_path / "run", role)
    path.write_bytes(path.read_bytes().replace(b"{", b"(", 1))
    rewrite_info(tmp_path / "run")
    refused(tmp_path / "run", r"\.npy: damaged \(")


def settings(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda info: info["lexical"]["words"]["settings"].update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: info["ranker"].update(features=["x"] * 99), r"expected float32 \(99,\)"),
        (lambda info: info["ranker"].update(lift=-0.5), r"damaged \(the ranker's lift\)"),
        (lambda info: info["ranker"].update(lift="1"), r"damaged \(the ranker's lift\)"),
        (settings("sublinear", 3), "damaged \\(sublinear = 3\\)"),
        (settings("idf", None), "damaged \\(idf = None\\)"),
        (settings("sizes", [1, 2.5]), "damaged \\(sizes = "),
        (settings("sizes", 3), "damaged \\(sizes = 3\\)"),
        (settings("stop_words", [3]), "damaged \\(a stop word that is no text\\)"),
        (settings("max_chars", -1), "damaged \\(max_chars must not be negative, not -1\\)"),
        (settings("gram", "words"), "damaged \\(unknown setting 'gram'\\)"),
    ],
)
def test_a_manifest_with_odd_values_is_refused(
    light: Path, change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    shutil.copytree(light, tmp_path / "run")
    info = json.loads((light / "run.json").read_text())
    change(info)
    forge_info(tmp_path / "run", lexical=info["lexical"], ranker=info["ranker"])
    refused(tmp_path / "run", message)


def test_a_ranker_that_asks_for_evidence_nobody_has_is_refused(light: Path, tmp_path: Path) -> None:
    shutil.copytree(light, tmp_path / "run")
    features = json.loads((light / "run.json").read_text())["ranker"]["features"]
    assert features, "this run has a ranker"
    forge_info(tmp_path / "run", ranker={"features": ["", *features[1:]]})
    refused(tmp_path / "run", r"damaged \(the ranker asks for '', which no part of the run knows\)")


def test_an_encoder_that_the_libraries_refuse_is_a_value_error(
    run_dir: Path, tmp_path: Path
) -> None:
    for name, content in {"config.json": b"{", "model.safetensors": b"123"}.items():
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(run_dir, tmp_path / "run")
        (tmp_path / "run" / "encoder" / name).write_bytes(content)
        rewrite_info(tmp_path / "run")
        refused(tmp_path / "run", r"encoder: cannot be opened as an encoder \(")
