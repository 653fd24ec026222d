"""Engines: the vectors of OpenVINO against torch, in any batch, thread and process."""

import json
import os
import shutil
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dexml.encoder import DualEncoder, Tokens
from dexml.encoder.cores import usable_cores
from tiny_encoders import KINDS, tiny

pytest.importorskip("openvino", reason="comes with the extra serve")

from dexml.encoder import engine_export, engine_openvino
from dexml.encoder.engine import Form
from dexml.encoder.engine_export import NotExportable, converted, write
from dexml.encoder.engine_openvino import OpenVino, forms
from dexml.encoder.engine_speed import is_faster, sample_tokens, seconds
from dexml.encoder.engine_steady import is_steady
from dexml.encoder.served import ServedEncoder, is_exported

ODD_TEXTS = [
    *("", " ", "a", "A\tb\n c", "the quick brown fox", "the quick brown fox", "x" * 500),
    *("word " * 300, "Ünïcode naïve", "Привет мир", "漢字かな交じり文", "ไทย", "العربية", "🙂🙃"),
    *("\u200b\ufeff", "e\u0301 é", "[CLS] [SEP] [PAD] [UNK]", "\x00\x01", "fi ﬁ Ⅷ", "-" * 100),
]
"""Empty, one token, cut at the limit, every script, unknown and invisible characters, twice."""


@pytest.fixture(scope="module")
def encoder(real_encoder: Path) -> DualEncoder:
    return DualEncoder.load(str(real_encoder), head="two").eval()


@pytest.fixture(scope="module")
def engine(encoder: DualEncoder) -> OpenVino:
    return converted(encoder, threads=2)


@pytest.fixture(scope="module")
def folder(
    encoder: DualEncoder, engine: OpenVino, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The encoder, its heads not the identity, saved and exported."""
    generator = torch.Generator().manual_seed(0)
    for weight in encoder.head_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.data.add_(0.05 * noise)
    folder = tmp_path_factory.mktemp("exported")
    encoder.save(folder, max_tokens=64)
    write(encoder, engine, folder)
    return folder


def multiplies_int8() -> bool:
    """Whether the processor says that it has VNNI; also where it says nothing."""
    said = Path("/proc/cpuinfo")
    return not said.exists() or "vnni" in said.read_text()


def least_cosine(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).min())


@pytest.mark.parametrize("max_tokens", [3, 64, 512])
def test_odd_texts_get_the_token_ids_of_transformers(
    encoder: DualEncoder, folder: Path, max_tokens: int
) -> None:
    ours = ServedEncoder.open(folder).tokenize(ODD_TEXTS, max_tokens)
    theirs = encoder.tokenizer(ODD_TEXTS, truncation=True, max_length=max_tokens)["input_ids"]
    found = [ours.ids[a:b].tolist() for a, b in zip(ours.offsets, ours.offsets[1:], strict=False)]
    assert found == theirs


def test_float32_equals_torch_on_odd_texts(encoder: DualEncoder, engine: OpenVino) -> None:
    tokens = encoder.tokenize(ODD_TEXTS, 512)
    theirs = encoder.encode_features(tokens, precision="float32")
    np.testing.assert_allclose(engine.features(tokens), theirs, atol=2e-6)


@pytest.mark.parametrize(("form", "least"), [("bfloat16", 0.9999), ("int8", 0.99)])
def test_other_forms_are_near_torch_on_odd_texts(
    encoder: DualEncoder, engine: OpenVino, form: Form, least: float
) -> None:
    if form not in forms():
        pytest.skip(f"this processor does not multiply {form}")
    tokens = encoder.tokenize(ODD_TEXTS, 128)
    theirs = encoder.encode_features(tokens, precision="float32")
    assert least_cosine(engine.with_form(form).features(tokens), theirs) > least


@pytest.mark.parametrize("side", ["point", "label"])
def test_a_served_encoder_embeds_as_torch_does(
    encoder: DualEncoder, folder: Path, side: Any
) -> None:
    served = ServedEncoder.open(folder)
    found = served.encode(served.tokenize(ODD_TEXTS, 64), side)
    expected = encoder.encode(ODD_TEXTS, max_tokens=64, side=side, precision="float32")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=5e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("kind", [*KINDS, "electra"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_every_kind_of_encoder_is_converted(kind: str, pooling: Any, tmp_path: Path) -> None:
    encoder = DualEncoder.load(str(tiny(kind, tmp_path)), pooling=pooling, normalize=False).eval()
    tokens = encoder.tokenize(["a", "b c d e f g h", "", "a b " * 40], 32)
    found = converted(encoder).features(tokens)
    np.testing.assert_allclose(found, encoder.encode_features(tokens), atol=1e-5)


@pytest.mark.parametrize("form", ["float32", "bfloat16", "int8"])
def test_features_have_the_same_bits_in_any_batch_and_for_any_threads(
    encoder: DualEncoder, engine: OpenVino, form: Form
) -> None:
    if form not in forms():
        pytest.skip(f"this processor does not multiply {form}")
    rng = np.random.default_rng(0)
    vocabulary = sorted(encoder.tokenizer.get_vocab())
    texts = [" ".join(rng.choice(vocabulary, n)) for n in rng.integers(1, 40, 60).tolist()]
    texts += texts[:3]
    tokens = encoder.tokenize(texts, 64)
    formed = engine.with_form(form)
    together = formed.features(tokens)
    # A processor without VNNI multiplies int8 by other kernels in small batches, which a trial
    # finds; then only whole lists have their bits.
    assert formed.steady or (form == "int8" and not multiplies_int8())
    for threads in (1, 2, 3):
        other = OpenVino(engine.model, form, pooling="mean", normalize=True, threads=threads)
        np.testing.assert_array_equal(other.features(tokens), together)
        for row in (0, 7, 33):
            alone = other.features(tokens.select(np.array([row])))
            if formed.steady:
                np.testing.assert_array_equal(alone[0], together[row])
            else:
                np.testing.assert_allclose(alone[0], together[row], atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("length", [1, 2, 3, 16])
def test_an_engine_whose_bits_depend_on_the_batch_is_not_steady(length: int, size: int) -> None:
    class Odd:
        name, form, fingerprint, steady = "openvino", "float32", "", True

        def features(self, tokens: Tokens, on_batch: Any = None) -> Any:
            odd = tokens.lengths[0] == length and len(tokens) <= size
            return np.full((len(tokens), 4), np.float32(odd))

    odd: Any = Odd()
    assert not is_steady(odd)
    length = 4
    assert is_steady(odd)


def test_equal_texts_are_encoded_once(engine: OpenVino, encoder: DualEncoder) -> None:
    tokens = encoder.tokenize(["a", "b c", "a", "d", "b c", "a"], 8)
    asked: list[int] = []
    engine_rows: list[list[int]] = []

    def count(rows: Any) -> None:
        engine_rows.append(rows.tolist())
        asked.extend(rows.tolist())

    found = engine.features(tokens, count)
    assert sorted(asked) == list(range(6))  # every text is reported
    assert engine_rows[-1] == [2, 4, 5]  # those that were there before, without work
    np.testing.assert_array_equal(found[[2, 4, 5]], found[[0, 1, 0]])
    assert engine.features(tokens.select(np.zeros(0, np.int64))).shape == (0, engine.width)


def test_threads_that_ask_at_once_get_what_one_gets(engine: OpenVino, encoder: DualEncoder) -> None:
    tokens = [encoder.tokenize([text], 64) for text in ODD_TEXTS]
    alone = [engine.features(one) for one in tokens]
    start = threading.Barrier(4)

    def ask(shift: int) -> None:
        start.wait()
        for i in range(2 * len(tokens)):
            at = (i + 5 * shift) % len(tokens)
            np.testing.assert_array_equal(engine.features(tokens[at]), alone[at])

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(ask, shift) for shift in range(4)]:
            done.result()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_encodes_what_its_parent_does(
    engine: OpenVino, encoder: DualEncoder, tmp_path: Path
) -> None:
    tokens = encoder.tokenize(["a text", "another text of some words"], 64)
    expected = engine.features(tokens)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pytest's own process has threads
        child = os.fork()
    if child == 0:
        try:
            np.save(tmp_path / "child.npy", engine.features(tokens))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0
    np.testing.assert_array_equal(np.load(tmp_path / "child.npy"), expected)


def test_an_encoder_uses_its_engine_until_it_is_taken_away(tiny_encoder: Path) -> None:
    encoder = DualEncoder.load(str(tiny_encoder)).eval()
    tokens = encoder.tokenize(["kernel driver", "mail"], 16)
    with_torch = encoder.encode_features(tokens)

    class Marked:
        name, form = "openvino", "float32"

        def features(self, tokens: Tokens, on_batch: Any = None) -> Any:
            return np.full((len(tokens), 16), 7, np.float32)

    marked: Any = Marked()
    encoder.engine = marked
    assert (encoder.encode_features(tokens) == 7).all()
    encoder.engine = None
    np.testing.assert_array_equal(encoder.encode_features(tokens), with_torch)


def test_a_training_mode_is_left_as_it_was(tiny_encoder: Path) -> None:
    encoder = DualEncoder.load(str(tiny_encoder)).train()
    converted(encoder)
    assert encoder.training


def test_an_encoder_that_cannot_be_converted_says_why(tiny_encoder: Path) -> None:
    encoder = DualEncoder.load(str(tiny_encoder)).eval()

    class Odd(torch.nn.Module):
        """Decides by its input, which a tracer cannot follow."""

        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner, self.config = inner, inner.config

        def get_input_embeddings(self) -> Any:
            return self.inner.get_input_embeddings()

        def forward(self, input_ids: Any, attention_mask: Any = None) -> Any:
            output = self.inner(input_ids=input_ids, attention_mask=attention_mask)
            if input_ids.shape[1] != 5:  # the length that is traced
                output.last_hidden_state = -output.last_hidden_state
            return output

    encoder.transformer = Odd(encoder.transformer)
    with pytest.raises(NotExportable, match="computes other vectors"):
        converted(encoder)
    encoder.transformer.forward = lambda **_: 1 / 0
    with pytest.raises(NotExportable, match="OpenVINO cannot convert it \\("):
        converted(encoder)


def test_a_tokenizer_that_transformers_reads_otherwise_is_refused(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    encoder = DualEncoder.load(str(tiny_encoder)).eval()
    encoder.save(tmp_path, max_tokens=16)
    shutil.copy(tiny("bert", tmp_path / "other") / "tokenizer.json", tmp_path / "tokenizer.json")
    with pytest.raises(NotExportable, match="gives other token ids than transformers"):
        write(encoder, converted(encoder), tmp_path)
    assert not is_exported(tmp_path)


def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    model = copy / engine_openvino.MODEL
    whole = model.read_bytes()
    model.write_bytes(b"<net>nonsense")
    with pytest.raises(ValueError, match=r"openvino_model\.xml: cannot be read by OpenVINO"):
        ServedEncoder.open(copy)
    model.write_bytes(whole)
    (copy / "openvino" / "dexml.json").write_text('{"format_version": 2}')
    with pytest.raises(ValueError, match="not of format 1; update dexml"):
        ServedEncoder.open(copy)

    def changed() -> None:
        raise ValueError("not the file that was saved")

    with pytest.raises(ValueError, match="not the file that was saved"):
        ServedEncoder.open(folder, check=changed)


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    encoder = DualEncoder.load(str(tiny_encoder)).eval()
    encoder.save(tmp_path, max_tokens=16)
    write(encoder, converted(encoder), tmp_path)
    assert ServedEncoder.open(tmp_path).dim == 16
    config = json.loads((tmp_path / "config.json").read_text())
    size = config["vocab_size"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": size - 1}))
    message = rf"knows {size} tokens .*has embeddings for {size - 1};"
    with pytest.raises(ValueError, match=message):
        ServedEncoder.open(tmp_path)


def test_a_head_that_does_not_fit_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    encoder = DualEncoder.load(str(tiny_encoder)).eval()
    encoder.save(tmp_path, max_tokens=16)
    write(encoder, converted(encoder), tmp_path)
    head = tmp_path / "3_Dense" / "model.safetensors"
    save_file({"linear.weight": torch.zeros(4, 15)}, head)
    with pytest.raises(ValueError, match=r"a head of shape \(4, 15\) does not fit a width of 16"):
        ServedEncoder.open(tmp_path)


def test_libraries_of_custom_operators_are_never_loaded() -> None:
    """The only way to load one is a call that no file of the package makes."""
    package = Path(engine_export.__file__).parents[1]
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "add_extension" not in text, path
        assert "register_custom_ops" not in text, path


def test_a_model_is_quantized_by_output(engine: OpenVino) -> None:
    def n_int8(model: Any) -> int:
        constants = [op for op in model.get_ops() if op.get_type_name() == "Constant"]
        return sum("int8" in str(constant.get_element_type()) for constant in constants)

    before = n_int8(engine.model)
    n_layers = 3
    assert n_int8(engine_openvino.quantized(engine.model)) == before + 6 * n_layers
    assert n_int8(engine.model) == before  # a copy was changed


def test_speeds_are_measured_in_turn(engine: OpenVino) -> None:
    tokens = sample_tokens(8, 3)
    assert len(tokens) == 3
    assert (tokens.first_equal() == np.arange(3)).all()
    taken = seconds([engine, engine.with_form("float32")], tokens, rounds=2)
    assert all(0 < second < 60 for second in taken)
    assert is_faster(1.0, 1.2)
    assert not is_faster(1.0, 1.05)


def group(root: Path, lines: str, **files: str) -> dict[str, Path]:
    """Control groups as Linux shows them."""
    for name, content in files.items():
        path = root / "groups" / name.replace("__", "/").replace("cpu_", "cpu.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (root / "own").write_text(lines)
    return {"own": root / "own", "groups": root / "groups"}


def test_a_quota_bounds_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    none = tmp_path / "none"
    assert usable_cores(none, none) == 16
    new = group(tmp_path / "2", "0::/a/b\n", a__cpu_max="250000 100000", a__b__cpu_max="max 100000")
    assert usable_cores(**new) == 3  # 2.5, by the group above
    inside = group(tmp_path / "3", "0::/docker/0123\n", cpu_max="50000 100000")
    assert usable_cores(**inside) == 1  # in a container its own group is the mount
    old = group(
        tmp_path / "1",
        "4:cpu,cpuacct:/job\n1:memory:/job\n",
        cpu__job__cpu_cfs_quota_us="400000",
        cpu__job__cpu_cfs_period_us="100000",
    )
    assert usable_cores(**old) == 4
    odd = group(tmp_path / "odd", "nonsense\n0::/x\n", x__cpu_max="what 0")
    assert usable_cores(**odd) == 16
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert usable_cores(**new) == 1
