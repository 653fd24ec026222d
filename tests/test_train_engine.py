"""What encodes texts in a training: chosen by speed and evidence, kept, logged, and resumed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dexml import train
from dexml.encoder import DualEncoder
from dexml.train import TrainSettings, features, form
from dexml.train.inputs import load_data
from small import log_of, part_path, train_settings

pytest.importorskip("openvino", reason="comes with the extra serve")

from dexml.encoder.engine_export import converted
from dexml.encoder.engine_openvino import OpenVino, forms
from dexml.train import engine


def engine_facts(run: Path) -> dict[str, Any] | None:
    facts: dict[str, Any] = json.loads((run / "run.json").read_text())
    return facts.get("engine")


def settings_for(data: Path, encoder: Path, out: Path, **changes: Any) -> TrainSettings:
    return train_settings(data, encoder, out, **({"engine": "auto"} | changes))


@pytest.fixture
def few_points_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "MIN_POINTS", 50)


@pytest.fixture
def int8_is_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the clock of this test: float32 takes 4 s, bfloat16 2 s, int8 1 s."""
    speeds = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0}
    monkeypatch.setattr(engine, "seconds", lambda engines, _: [speeds[e.form] for e in engines])


def loss(difference: float, low: float, high: float) -> dict[str, float]:
    return {"difference": difference, "low": low, "high": high}


def test_a_form_passes_if_its_loss_is_within_the_noise() -> None:
    nothing = loss(0.0, 0.0, 0.0)
    assert form.passes({"P@1": nothing, "R@100": nothing, "points": 600})
    assert not form.passes({"P@1": nothing, "R@100": nothing, "points": 599})
    small = loss(-0.001, -0.004, 0.002)
    assert form.passes({"P@1": small, "R@100": nothing, "points": 700})
    for bad in (loss(-0.002, -0.004, -0.001), loss(-0.002, -0.006, 0.002)):
        assert not form.passes({"P@1": bad, "R@100": nothing, "points": 700})
        assert not form.passes({"P@1": nothing, "R@100": bad, "points": 700})


@pytest.mark.usefixtures("few_points_suffice", "int8_is_fastest")
def test_the_most_exact_form_that_passes_is_taken_and_kept(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if forms() != ("float32", "bfloat16", "int8"):
        pytest.skip("this processor does not multiply all forms")
    lost = loss(-0.03, -0.05, -0.01)

    def measured(_encoder: Any, sample: Any, features: Any, *_: Any) -> dict[str, Any]:
        ours = loss(0.0, 0.0, 0.0) if np.abs(features[0] - sample.whole[0]).max() < 0.01 else lost
        return {"cosine": 1.0, "P@1": ours, "R@100": ours, "points": 60, "labels": 64}

    # The tiny encoder loses nothing in bfloat16; here its vectors are spoiled.
    features_of = OpenVino.features

    def spoiled(self: OpenVino, tokens: Any, on_batch: Any = None) -> Any:
        found = features_of(self, tokens, on_batch)
        return found[:, ::-1].copy() if self.form == "bfloat16" else found

    monkeypatch.setattr(OpenVino, "features", spoiled)
    monkeypatch.setattr(form, "loss", measured)
    out = tmp_path / "run"
    train.train(settings_for(tiny_data, tiny_encoder, out))
    facts = engine_facts(out)
    assert facts is not None
    assert facts["form"] == "int8"
    assert [row["form"] for row in facts["compared"]] == ["float32", "bfloat16", "int8"]
    assert facts["compared"][1]["P@1"] == lost
    assert facts["trained"]["points"] <= 60
    assert set(facts["trained"]["P@1"]) == {"float32", "form", "difference", "low", "high"}
    events = [line for line in log_of(out) if str(line.get("event")).startswith("encoding in")]
    assert [line["times_float32"] for line in events] == [1.0, 2.0, 4.0]
    chosen = json.loads((out / "checkpoint" / engine.FILE).read_text())
    assert chosen["form"] == "int8"


def test_a_form_that_is_given_is_not_compared(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train.train(settings_for(tiny_data, tiny_encoder, out, form="float32"))
    facts = engine_facts(out)
    assert facts is not None
    assert (facts["form"], facts["compared"]) == ("float32", [])
    assert "trained" not in facts


def test_few_points_prove_nothing(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    train.train(settings_for(tiny_data, tiny_encoder, out, quiet=False))
    facts = engine_facts(out)
    assert facts is not None
    assert facts["form"] == "float32"
    assert "encoder: OpenVINO in float32; speed float32 1.0 x; " in capsys.readouterr().err


def test_torch_writes_no_engine(tiny_data: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    train.train(train_settings(tiny_data, tiny_encoder, tmp_path / "run"))
    assert engine_facts(tmp_path / "run") is None
    assert not (tmp_path / "run" / "encoder" / "openvino").exists()


def test_a_trained_transformer_is_exported_as_it_is_at_the_end(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    from dexml.predict import Predictor, open_run

    out = tmp_path / "run"
    more: dict[str, Any] = {"stages": "encoder", "encoder_epochs": 1, "encoder_lr": 1e-3}
    train.train(settings_for(tiny_data, tiny_encoder, out, **more))
    facts = engine_facts(out)
    assert facts is not None
    assert (facts["form"], facts["compared"]) == ("float32", [])
    texts = ["kernel driver", "mail server a"]
    found = [Predictor(open_run(out, engine=e)).predict(texts, 9) for e in ("torch", "openvino")]
    np.testing.assert_allclose(found[0].scores, found[1].scores, atol=1e-4)


def test_the_sample_takes_validation_points_first(tiny_data: Path, tiny_encoder: Path) -> None:
    settings = train_settings(tiny_data, tiny_encoder, Path("none"))
    encoder = DualEncoder.load(str(tiny_encoder)).eval()
    given = load_data(settings)
    tokens = encoder.tokenize(given.part.texts, 16), encoder.tokenize(given.label_texts, 16)
    whole = converted(encoder)
    sample = form.Sample.take(whole, given, tokens)
    assert set(sample.points[sample.held_out]) <= set(given.scored)
    assert sample.held_out.sum() == len([i for i in given.scored if given.y[[i]].nnz])
    assert len(sample.points) == (np.diff(given.y.indptr) > 0).sum()  # few: all are taken
    only, _ = sample.only_held_out(sample.whole)
    assert only.held_out.all()
    row = form.loss(encoder, sample, sample.whole, given, 0)
    assert row["P@1"]["difference"] == row["P@1"]["low"] == 0
    assert row["cosine"] == 1.0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(form, "MAX_TOKENS", 60)
        fewer = form.Sample.take(whole, given, tokens)
    assert tokens[0].lengths[fewer.points].sum() <= 60
    assert set(given.y[fewer.points].indices) <= set(fewer.labels)


def test_each_form_has_features_of_its_own_in_the_cache(tiny_encoder: Path, tmp_path: Path) -> None:
    encoder = DualEncoder.load(str(tiny_encoder)).eval()
    tokens = encoder.tokenize(["kernel driver"], 16)
    paths = {features.cached_path(encoder, tokens, tmp_path)}
    whole = converted(encoder)
    for name in forms():
        encoder.engine = whole.with_form(name)
        paths.add(features.cached_path(encoder, tokens, tmp_path))
    assert len(paths) == 1 + len(forms())


@pytest.mark.usefixtures("few_points_suffice", "int8_is_fastest")
def test_a_second_training_encodes_nothing_that_the_first_one_has_encoded(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the texts on which forms are compared, nor points, labels and test points."""
    encoded: list[tuple[str, bytes]] = []
    features_of = OpenVino.features

    def noted(self: OpenVino, tokens: Any, on_batch: Any = None) -> Any:
        encoded.extend((self.form, key) for key in tokens.keys().tolist())
        return features_of(self, tokens, on_batch)

    monkeypatch.setattr(OpenVino, "features", noted)
    monkeypatch.setattr(OpenVino, "steady", True)  # trials encode made-up texts
    monkeypatch.setattr("dexml.encoder.engine_export._compare", lambda *_: None)
    vectors = []
    for name in ("one", "two", "other"):
        before = len(encoded)
        cache = tmp_path / ("own" if name == "other" else "shared")
        out = tmp_path / name
        train.train(settings_for(tiny_data, tiny_encoder, out, cache=str(cache)))
        vectors.append(np.load(part_path(out, "dense/vectors")))
        assert (len(encoded) == before) == (name == "two")
        assert len(set(encoded[before:])) == len(encoded[before:])
    np.testing.assert_array_equal(vectors[0], vectors[1])
    np.testing.assert_array_equal(vectors[0], vectors[2])


def test_a_resumed_run_goes_on_in_its_form(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(tiny_data, tiny_encoder, tmp_path / "run")
    encoder = DualEncoder.load(str(tiny_encoder)).eval()
    given = load_data(settings)
    tokens = encoder.tokenize(given.part.texts, 16), encoder.tokenize(given.label_texts, 16)
    last = forms()[-1]
    path = settings.out / "checkpoint" / engine.FILE
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(engine.facts_of(last, [])))
    chosen = engine.choose(encoder, given, tokens, settings)
    assert chosen.engine is not None
    assert chosen.engine.form == last
    assert encoder.engine is chosen.engine
    monkeypatch.setattr("dexml.encoder.engine_openvino.forms", lambda: ("float32",))
    if last != "float32":
        with pytest.raises(ValueError, match=rf"started in {last}, which this processor does not"):
            engine.choose(encoder, given, tokens, settings)


def test_what_cannot_be_done_is_said(
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoder = DualEncoder.load(str(tiny_encoder)).eval()
    settings = settings_for(tiny_data, tiny_encoder, tmp_path / "run", quiet=True)
    given = load_data(settings)
    tokens = encoder.tokenize(given.part.texts, 16), encoder.tokenize(given.label_texts, 16)

    def chosen(**changes: Any) -> engine.Chosen:
        return engine.choose(encoder, given, tokens, settings.model_copy(update=changes))

    monkeypatch.setattr("dexml.encoder.engine_openvino.forms", lambda: ("float32",))
    with pytest.raises(ValueError, match="--form int8: this processor multiplies float32"):
        chosen(form="int8")
    monkeypatch.setattr(encoder.transformer, "forward", lambda **_: 1 / 0)
    assert chosen().engine is None
    said = capsys.readouterr().err
    assert said.startswith(f"note: {tiny_encoder} needs torch to be served: OpenVINO cannot")
    assert said.count("\n") == 1
    with pytest.raises(ValueError, match=r"cannot convert it .*; give --engine torch"):
        chosen(engine="openvino")
    monkeypatch.setattr("dexml.console.is_installed", lambda module: module != "openvino")
    assert chosen().engine is None
    with pytest.raises(ImportError, match=r"openvino is not installed.*\[serve\]"):
        chosen(engine="openvino")
    monkeypatch.setattr(type(encoder), "device", torch.device("meta"))
    with pytest.raises(ValueError, match="encodes on a CPU, in one process; give auto"):
        chosen(engine="openvino")
