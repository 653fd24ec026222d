"""Prompts before texts: one a side, as sentence-transformers has them, in both engines and runs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dexml import train
from dexml.commands.index import main as index_main
from dexml.console import run
from dexml.encoder import DualEncoder, Prompts
from dexml.encoder.served import ServedEncoder
from dexml.predict import Predictor
from dexml.run.folder import read_config
from dexml.train.features import cached_path
from dexml.train.folder import encoder_fingerprint
from small import train_settings
from tiny_encoders import tiny
from train_parts import start_of

TEXTS = ["kernel driver", "music", "a b c", "", "mail server theme " * 20]
QUERY, PASSAGE = "game: ", "network font: "
PROMPTS = {"point_prompt": QUERY, "label_prompt": PASSAGE}


def sentence_transformer(path: Path, **options: Any) -> Any:
    module = pytest.importorskip("sentence_transformers")
    return module.SentenceTransformer(str(path), device="cpu", **options)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def folder(tiny_encoder: Path, tmp_path: Path) -> Path:
    """As E5 would be if its folder named its prompts; written by sentence-transformers."""
    names = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    module = pytest.importorskip("sentence_transformers")
    modules = [names.Transformer(str(tiny_encoder)), names.Pooling(16), names.Normalize()]
    prompts = {"query": QUERY, "passage": PASSAGE}
    module.SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save(
        str(tmp_path / "e5")
    )
    return tmp_path / "e5"


def test_a_folder_with_prompts_gives_the_vectors_of_sentence_transformers(folder: Path) -> None:
    ours, theirs = DualEncoder.load(str(folder)).eval(), sentence_transformer(folder)
    assert ours.prompts == Prompts(QUERY, PASSAGE)
    points, labels = ours.encode(TEXTS), ours.encode(TEXTS, side="label")
    np.testing.assert_allclose(points, theirs.encode(TEXTS, prompt_name="query"), atol=2e-6)
    np.testing.assert_allclose(points, theirs.encode_query(TEXTS), atol=2e-6)
    np.testing.assert_allclose(labels, theirs.encode(TEXTS, prompt_name="passage"), atol=2e-6)
    assert np.abs(points - labels).max() > 0.01
    bare = DualEncoder.load(str(folder), point_prompt="", label_prompt="").eval()
    np.testing.assert_allclose(bare.encode(TEXTS), theirs.encode(TEXTS), atol=2e-6)


@pytest.mark.parametrize("head", ["none", "shared", "two"])
def test_what_is_saved_opens_with_the_same_prompts(
    tiny_encoder: Path, tmp_path: Path, head: Any
) -> None:
    ours = DualEncoder.load(
        str(tiny_encoder), head=head, point_prompt=QUERY, label_prompt=PASSAGE
    ).eval()
    with torch.no_grad():
        for number, weight in enumerate(ours.head_parameters()):
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.manual_seed(number)))
    ours.save(tmp_path, max_tokens=16)
    points = ours.encode(TEXTS, max_tokens=16)
    labels = ours.encode(TEXTS, side="label", max_tokens=16)
    again = DualEncoder.load(str(tmp_path)).eval()
    assert again.prompts == Prompts(QUERY, PASSAGE)
    np.testing.assert_array_equal(again.encode(TEXTS), points)
    np.testing.assert_array_equal(again.encode(TEXTS, side="label"), labels)
    theirs = sentence_transformer(tmp_path)
    np.testing.assert_allclose(theirs.encode(TEXTS), points, atol=2e-6)
    np.testing.assert_allclose(theirs.encode_query(TEXTS), points, atol=2e-6)
    np.testing.assert_allclose(theirs.encode_document(TEXTS), labels, atol=2e-6)
    assert 'side="label"' in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("prompts", "default", "expected"),
    [
        ({}, None, ("", "")),
        ({"query": "a ", "document": "b "}, None, ("a ", "b ")),
        ({"query": "a ", "passage": "b "}, None, ("a ", "b ")),
        ({"query": "a ", "corpus": "b "}, None, ("a ", "b ")),
        ({"query": "a ", "document": "", "passage": "b "}, None, ("a ", "b ")),
        ({"query": "a "}, None, ("a ", "")),
        ({"query": "a "}, "query", ("a ", "")),
        ({"passage": "b "}, "passage", ("", "b ")),
        ({"query": "a ", "document": None}, None, ("a ", "")),
        ({"query": "a ", "document": ""}, "query", ("a ", "")),
        ({"sts": "c "}, "sts", ("c ", "c ")),
        ({"sts": "c ", "query": "a "}, "sts", ("a ", "c ")),
        ({"sts": "c "}, None, ("", "")),
    ],
)
def test_which_prompt_goes_before_which_side(
    tiny_encoder: Path,
    tmp_path: Path,
    prompts: dict[str, Any],
    default: str | None,
    expected: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    DualEncoder.load(str(tiny_encoder)).save(tmp_path, max_tokens=8)
    edit(
        tmp_path / "config_sentence_transformers.json", prompts=prompts, default_prompt_name=default
    )
    assert DualEncoder.load(str(tmp_path)).prompts == expected
    said = capsys.readouterr().err
    if prompts == {"sts": "c "} and default is None:
        assert said.startswith(f"note: {tmp_path} has prompts for sts, none for points (query)")
        DualEncoder.load(str(tmp_path), point_prompt="c ")
        said = capsys.readouterr().err
    assert said == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ["query: "]}, "prompts are not an object"),
        ({"prompts": {"query": 3}}, "prompt query is not a text"),
        ({"default_prompt_name": "sts"}, "there is no prompt 'sts', its default"),
    ],
)
def test_damaged_prompts_are_named(
    tiny_encoder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    DualEncoder.load(str(tiny_encoder)).save(tmp_path, max_tokens=8)
    edit(tmp_path / "config_sentence_transformers.json", **changes)
    with pytest.raises(ValueError, match=rf"config_sentence_transformers\.json: .*{message}"):
        DualEncoder.load(str(tmp_path))


def test_pooling_without_the_prompt_is_refused(folder: Path) -> None:
    edit(folder / "1_Pooling" / "config.json", include_prompt=False)
    with pytest.raises(ValueError, match="leaves the tokens of a prompt out of its pooling"):
        DualEncoder.load(str(folder))
    assert DualEncoder.load(str(folder), point_prompt="", label_prompt="").prompts == ("", "")


def test_a_prompt_that_leaves_no_token_for_a_text_is_refused(tiny_encoder: Path) -> None:
    encoder = DualEncoder.load(str(tiny_encoder), point_prompt="a b c d ").eval()
    with pytest.raises(ValueError, match="max_tokens = 6: the prompt 'a b c d ' takes 6 tokens"):
        encoder.tokenize(["kernel"], 6)
    assert encoder.tokenize(["kernel driver"], 7).lengths.tolist() == [7]
    assert encoder.tokenize(["kernel driver"], 6, side="label").lengths.tolist() == [4]


def test_prompts_are_part_of_the_fingerprint_and_of_the_cache(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    seen = set()
    for point, label in (("", ""), (QUERY, ""), ("", QUERY), (QUERY, PASSAGE)):
        encoder = DualEncoder.load(str(tiny_encoder), point_prompt=point, label_prompt=label)
        paths = tuple(
            cached_path(encoder, encoder.tokenize(["kernel"], 16, side=side), tmp_path)
            for side in ("point", "label")
        )
        assert (paths[0] == paths[1]) == (point == label)
        seen.add((encoder_fingerprint(encoder), paths))
    assert len({mark for mark, _ in seen}) == len({paths for _, paths in seen}) == 4


def test_a_training_puts_each_prompt_before_its_side(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """Features of points and labels, votes, served vectors and edits."""
    out = tmp_path / "run"
    train.train(train_settings(tiny_data, tiny_encoder, out, head_epochs=1, **PROMPTS))
    assert read_config(out)["point_prompt"] == QUERY
    predictor = Predictor.open(out, engine="torch")
    encoder = predictor.dense.embedder.encoder
    assert encoder.prompts == Prompts(QUERY, PASSAGE)
    dense, texts = predictor.dense, predictor.label_texts
    points = sentence_transformer(out / "encoder").encode_query(["kernel driver"])
    labels = sentence_transformer(out / "encoder").encode_document(texts[:1])
    scores = dense.index.vectors[:, :-1] @ points[0] + dense.index.vectors[:, -1]
    ids, found = predictor.dense.search(_queries("kernel driver"), 3)
    assert ids[0].tolist() == np.argsort(-scores)[:3].tolist()
    np.testing.assert_allclose(found[0], np.sort(scores)[::-1][:3], atol=1e-5)
    (new,) = predictor.add_labels(texts[:1])  # no residual: its text alone
    vector = predictor.dense.index.vectors[new, :-1]
    np.testing.assert_allclose(vector, labels[0], atol=1e-5)


def _queries(text: str) -> Any:
    from dexml.scorers.queries import Queries

    return Queries([text])


@pytest.mark.parametrize("stages", ["heads", "encoder"])
def test_the_texts_of_a_stage_are_those_of_the_sides(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path, stages: str
) -> None:
    settings = train_settings(tiny_data, tiny_encoder, tmp_path / "run", stages=stages, **PROMPTS)
    problem = start_of(settings).problem
    encoder = DualEncoder.load(str(tiny_encoder))
    for tokens, prompt in ((problem.point_tokens, QUERY), (problem.label_tokens, PASSAGE)):
        first = encoder.tokenizer(prompt)["input_ids"][:-1]
        for row in (0, 5, len(tokens) - 1):
            start = tokens.offsets[row]
            assert tokens.ids[start : start + len(first)].tolist() == first


def test_other_prompts_are_another_training(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    out, changed = tmp_path / "run", tmp_path / "encoder"
    DualEncoder.load(str(tiny_encoder), head="none").save(changed, max_tokens=16)
    train.train(train_settings(tiny_data, changed, out, head_epochs=1))
    config = changed / "config_sentence_transformers.json"
    edit(config, prompts={"query": QUERY, "document": PASSAGE})
    with pytest.raises(ValueError, match="was started from other weights than"):
        train.train(train_settings(tiny_data, changed, out, head_epochs=1, resume=True))
    with pytest.raises(ValueError, match="was started with point_prompt = 'auto', not 'game: '"):
        train.train(train_settings(tiny_data, changed, out, head_epochs=1, resume=True, **PROMPTS))


def test_both_engines_put_the_prompts_before(
    shared_run: Callable[..., Path], tmp_path: Path, tiny_encoder: Path
) -> None:
    pytest.importorskip("openvino", reason="comes with the extra serve")
    out = tmp_path / "run"
    shutil.copytree(shared_run(head_epochs=1, **PROMPTS), out)
    assert run(index_main, [str(out), "--export", "--quiet"]) == 0
    served = ServedEncoder.open(out / "encoder")
    encoder = DualEncoder.load(str(out / "encoder")).eval()
    assert served.prompts == encoder.prompts == Prompts(QUERY, PASSAGE)
    for side in ("point", "label"):
        found = served.encode(served.tokenize(TEXTS, 16, side), side)
        expected = encoder.encode(TEXTS, side=side, max_tokens=16)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    vectors = []
    for engine in ("torch", "openvino"):
        predictor = Predictor.open(out, engine=engine, precision="float32")
        predictor.add_labels(["kernel game"])
        predictor.update_labels([3], ["music game"])
        rows = predictor.dense.index.vectors[[3, 64]]
        vectors.append((rows, predictor.dense.vectors(_queries("kernel game"))))
    np.testing.assert_allclose(vectors[0][0], vectors[1][0], atol=1e-5)
    np.testing.assert_allclose(vectors[0][1], vectors[1][1], atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_prompts_of_other_kinds(kind: str, tmp_path: Path) -> None:
    folder = tiny(kind, tmp_path / "tiny")
    ours = DualEncoder.load(
        str(folder), head="none", point_prompt="a b: ", label_prompt="c "
    ).eval()
    ours.save(tmp_path / "saved", max_tokens=16)
    theirs = sentence_transformer(tmp_path / "saved")
    texts = ["d e", "", "f g h i j", "a " * 40]
    np.testing.assert_allclose(
        theirs.encode_query(texts), ours.encode(texts, max_tokens=16), atol=2e-6
    )
    np.testing.assert_allclose(
        theirs.encode_document(texts), ours.encode(texts, side="label", max_tokens=16), atol=2e-6
    )
