"""Runs served without torch: the same answers, edits, and errors that name a remedy."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import warm
from dexml import train
from dexml.commands.index import main as index_main
from dexml.commands.predict import main as predict_main
from dexml.console import run as run_command
from dexml.predict import Predictor, open_run
from dexml.scorers import Embedder
from small import forge_info, rewrite_info, train_settings

pytest.importorskip("openvino", reason="comes with the extra serve")

from dexml.encoder import engine_openvino
from dexml.encoder.engine_openvino import forms, processor

TEXTS = [
    "kernel driver a b",
    "",
    "font editor",
    "mail server c",
    "unknown words",
    "kernel driver a b",
]


@pytest.fixture(scope="module")
def exported(tiny_data: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with votes and a ranker, trained with the engine in float32."""
    out = tmp_path_factory.mktemp("exported") / "run"
    more: dict[str, Any] = {"engine": "openvino", "form": "float32", "ranker": "auto"}
    train.train(train_settings(tiny_data, tiny_encoder, out, head_epochs=10, **more))
    assert run_command(index_main, [str(out), "--search", "hnsw", "--quiet"]) == 0
    return out


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("checkpoint", "cache")
    return Path(shutil.copytree(exported, tmp_path / "run", ignore=ignored))


def manifest(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "run.json").read_text())
    return content


BLOCKED = """
import sys
for name in ("torch", "transformers"):
    sys.modules[name] = None  # importing it raises ImportError
run = sys.argv[1]
"""

SERVE = """
import numpy as np
from dexml.predict import Predictor
predictor = Predictor.open(run)
assert predictor.encoder_note().startswith("OpenVINO, float32, "), predictor.encoder_note()
ids, scores = predictor.predict(["kernel driver a b", "", "font editor"], 5)
np.savez(sys.argv[2], ids=ids, scores=scores)
new = predictor.add_labels(["game network"])
predictor.update_labels(new, ["music kernel"])
predictor.remove_labels([3])
predictor.add_points(["music kernel h h"], [[int(new[0])]])
predictor.save()
again = Predictor.open(run, threads=1, search="exact")
assert again.label_texts[new[0]] == "music kernel"
assert new[0] in again.predict(["music kernel h h"], 5).ids

from dexml.commands.index import main as index_main
from dexml.commands.predict import main as predict_main
from dexml.console import run as run_command
with open(sys.argv[2] + ".txt", "w") as file:
    file.write("printer library of another kind\\n")
assert run_command(index_main, [run, "--add", file.name, "--quiet"]) == 0
assert run_command(index_main, [run, "--rebuild", "--quiet"]) == 0
assert run_command(predict_main, [run, file.name, "--jsonl"]) == 0
print(sorted(name for name in ("torch", "transformers") if sys.modules.get(name)))
"""


def test_a_full_run_is_served_and_edited_without_torch(copied: Path, tmp_path: Path) -> None:
    expected = Predictor(open_run(copied, engine="torch")).predict(
        ["kernel driver a b", "", "font editor"], 5
    )
    done = warm.run_code(BLOCKED + SERVE, copied, tmp_path / "found.npz")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    found = np.load(tmp_path / "found.npz")
    np.testing.assert_array_equal(found["ids"], expected.ids)
    np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-4)


LIGHT = """
from dexml.predict import Predictor
predictor = Predictor.open(run)
assert predictor.encoder_note() == ""
predictor.predict(["kernel driver"], 3)
"""


def test_a_light_run_names_no_encoder(tiny_data: Path, tmp_path: Path) -> None:
    settings = train_settings(tiny_data, Path("none"), tmp_path / "run")
    train.train(settings)
    done = warm.run_code(BLOCKED + LIGHT, tmp_path / "run")
    assert done.returncode == 0, done.stderr


NEITHER = """
sys.modules["openvino"] = None
from dexml.commands.predict import main
from dexml.console import run as run_command
sys.exit(run_command(main, [run, "-", "--quiet"]))
"""


def test_without_torch_and_library_one_line_names_the_extra(exported: Path) -> None:
    done = warm.run_code(BLOCKED + NEITHER, exported)
    assert done.returncode == 1
    assert done.stderr == (
        "error: openvino is not installed; it comes with: pip install 'dexml-xmc[serve]'\n"
    )


def test_both_engines_rank_the_same(exported: Path) -> None:
    torch_, engine = (open_run(exported, engine=name) for name in ("torch", "openvino"))
    a, b = (Predictor(opened).predict(TEXTS, 10) for opened in (torch_, engine))
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)
    assert Predictor(torch_).encoder_note() == "torch, float32 on cpu"
    assert engine.scorer.fingerprint() != torch_.scorer.fingerprint()


def test_auto_takes_the_engine_where_the_run_has_it(exported: Path, run_dir: Path) -> None:
    assert Predictor(open_run(exported)).dense.embedder.engine == "openvino"
    assert Predictor(open_run(exported, device="cpu")).dense.embedder.engine == "openvino"
    assert Predictor(open_run(run_dir)).dense.embedder.engine == "torch"


def test_a_run_that_was_not_exported_says_how(run_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"not exported for OpenVINO; .* --export does it"):
        Predictor.open(run_dir, engine="openvino")


def test_engines_and_precisions_that_do_not_fit_are_refused(exported: Path, run_dir: Path) -> None:
    unknown: Any = "onnx"
    with pytest.raises(ValueError, match="engine = 'onnx'; expected one of auto, torch, openvino"):
        open_run(exported, engine=unknown)
    with pytest.raises(ValueError, match="precision = 'int8': torch has none"):
        open_run(exported, engine="torch", precision="int8")
    with pytest.raises(ValueError, match="precision = 'int8' needs a run that is exported"):
        Predictor.open(run_dir, precision="int8")
    with pytest.raises(ValueError, match="OpenVINO computes on the CPU here"):
        Predictor.open(exported, engine="openvino", device="cuda")


def test_the_precision_that_is_asked_for_is_used(exported: Path) -> None:
    for form in forms():
        predictor = Predictor(open_run(exported, precision=form))
        assert predictor.dense.embedder.precision == form
        assert predictor.encoder_note().startswith(f"OpenVINO, {form}, ")


def compared(form: str, **more: Any) -> dict[str, Any]:
    """Section ``engine`` as a training would have written it."""
    loss = {"difference": -0.001, "low": -0.004, "high": 0.002}
    row = {"form": form, "tokens_per_second": 9, "P@1": loss, "R@100": loss, "points": 700}
    return {"name": "openvino", "form": form, "processor": "another", "compared": [row], **more}


def test_a_form_of_another_processor_is_used_only_if_it_is_faster_here(
    copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dexml.encoder import engine_speed

    rewrite_info(copied, engine=compared("int8"))
    times = iter([[1.0, 1.0], [1.0, 2.0]])
    monkeypatch.setattr(engine_speed, "seconds", lambda *_, **__: next(times))
    assert Predictor(open_run(copied)).dense.embedder.precision == "float32"
    assert capsys.readouterr().err == (
        "note: int8 is no faster on this processor, the form that training chose (P@1 -0.10 "
        "[-0.40, +0.20], R@100 -0.10 [-0.40, +0.20] against float32 on 700 points); texts are "
        "encoded in float32, labels keep the vectors of the training\n"
    )
    assert Predictor(open_run(copied)).dense.embedder.precision == "int8"
    assert capsys.readouterr().err == ""


def test_a_form_that_this_processor_does_not_multiply_is_replaced(
    copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite_info(copied, engine=compared("bfloat16", processor=processor()))
    monkeypatch.setattr(engine_openvino, "forms", lambda: ("float32", "int8"))
    predictor = Predictor(open_run(copied))
    assert predictor.dense.embedder.precision == "float32"
    assert "note: this processor does not multiply bfloat16" in capsys.readouterr().err
    with pytest.raises(ValueError, match="this processor multiplies float32, int8; give auto"):
        Predictor.open(copied, precision="bfloat16")


def test_torch_in_place_of_a_missing_library_says_so(
    copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dexml import console

    rewrite_info(copied, engine=compared("bfloat16"))
    installed = console.is_installed
    monkeypatch.setattr(console, "is_installed", lambda m: m != "openvino" and installed(m))
    assert Predictor(open_run(copied)).dense.embedder.engine == "torch"
    assert capsys.readouterr().err == (
        "note: OpenVINO is not installed; torch encodes in float32, training used bfloat16\n"
    )


@pytest.mark.parametrize("name", ["openvino_model.bin", "openvino_model.xml", "dexml.json"])
def test_a_damaged_engine_file_is_refused_by_its_digest(copied: Path, name: str) -> None:
    path = copied / "encoder" / "openvino" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    opened = open_run(copied)  # and one that was changed after the run was opened
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: damaged \(not the file that was saved\)"):
        Predictor(opened).predict(["kernel"], 1)
    with pytest.raises(ValueError, match=rf"{name}: damaged \(not the file that was saved\)"):
        open_run(copied)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}: missing"):
        open_run(copied)


def test_a_foreign_file_beside_the_model_is_refused(copied: Path) -> None:
    (copied / "encoder" / "openvino" / "extension.so").write_bytes(b"")
    with pytest.raises(ValueError, match=r"extension\.so: not a part of a run"):
        open_run(copied)


def test_a_section_that_cannot_be_right_is_refused(copied: Path) -> None:
    forge_info(copied, engine={"form": 3})
    with pytest.raises(ValueError, match=r"no proper 'engine\.form'"):
        open_run(copied)


def test_predict_says_what_encodes(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.txt").write_text("kernel driver\n")
    words = [str(exported), str(tmp_path / "texts.txt"), "--engine", "openvino", "--threads", "1"]
    assert run_command(predict_main, words) == 0
    assert "encoder: OpenVINO, float32, 1 thread a call\n" in capsys.readouterr().err


def test_a_finished_run_is_exported_afterwards(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ignored = shutil.ignore_patterns("checkpoint", "cache")
    run = Path(shutil.copytree(run_dir, tmp_path / "run", ignore=ignored))
    before = Predictor(open_run(run)).predict(TEXTS, 5)
    assert run_command(index_main, [str(run), "--export"]) == 0
    assert "the run is served without torch" in capsys.readouterr().err
    opened = open_run(run)
    after = Predictor(opened).predict(TEXTS, 5)
    assert Predictor(opened).dense.embedder.engine == "openvino"
    np.testing.assert_allclose(before.scores, after.scores, atol=1e-5)
    assert manifest(run)["index"] == manifest(run_dir)["index"]
    assert run_command(index_main, [str(run), "--export", "--quiet"]) == 0  # again
    assert open_run(run).run.facts["engine"]["form"] == "float32"


def test_a_light_run_has_nothing_to_export(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.train(train_settings(tiny_data, Path("none"), tmp_path / "run"))
    assert run_command(index_main, [str(tmp_path / "run"), "--export"]) == 1
    assert "a light run has no encoder" in capsys.readouterr().err


def test_sentence_transformers_still_opens_the_encoder(exported: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(str(exported / "encoder"), device="cpu")
    embedder = Embedder(exported / "encoder", engine="openvino")
    served = embedder.served
    assert served is not None
    ours = served.encode(served.tokenize(TEXTS, 64))
    np.testing.assert_allclose(model.encode(TEXTS), ours, atol=1e-5)
