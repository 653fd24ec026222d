"""Features of single texts in the shared cache: the same bits, and no text encoded twice."""

import hashlib
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from dexml.encoder import DualEncoder, Tokens
from dexml.encoder.engine import Form
from dexml.train import features, known

WIDTH = 16
WORDS = ("kernel", "printer", "music", "network", "game", "font", "mail", "database")


class Counting:
    """An engine by arithmetic of the tokens, which notes what it encodes."""

    name = "openvino"

    def __init__(self, form: Form = "float32", *, steady: bool = True) -> None:
        self.form: Form = form
        self.steady = steady
        self.encoded: list[tuple[int, ...]] = []

    @property
    def fingerprint(self) -> str:
        return f"counting in {self.form}"

    def features(self, tokens: Tokens, on_batch: Any = None) -> NDArray[np.float32]:
        out = np.empty((len(tokens), WIDTH), np.float32)
        for i in range(len(tokens)):
            ids = tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]]
            self.encoded.append(tuple(ids.tolist()))
            out[i] = feature(ids)
            if on_batch is not None:
                on_batch(np.array([i]))
        return out


def feature(ids: NDArray[Any]) -> NDArray[np.float32]:
    seed = [len(ids), *ids.tolist()]
    return np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32)


def tokens_of(texts: list[list[int]], dtype: Any = np.uint16) -> Tokens:
    ids = np.array([i for text in texts for i in text], dtype)
    return Tokens(ids, np.cumsum([0, *map(len, texts)]).astype(np.int64))


def ask(
    engine: Counting,
    texts: list[list[int]],
    cache: Path,
    fingerprint: str = 16 * "f",
    gigabytes: float = 50,
) -> NDArray[np.float32]:
    """Features of texts; each must be that of its own tokens."""
    found = known.features_of(
        engine,
        tokens_of(texts),
        width=WIDTH,
        fingerprint=fingerprint,
        cache=cache,
        gigabytes=gigabytes,
        desc="texts",
        progress=False,
    )
    for row, text in zip(found, texts, strict=True):
        np.testing.assert_array_equal(row, feature(np.array(text)))
    assert found.dtype == np.float32
    assert found.shape == (len(texts), WIDTH)
    return found


def asked_for(engine: Counting, texts: list[list[int]], cache: Path, **more: Any) -> set[Any]:
    """The texts that the engine encodes for a list; each at most once."""
    engine.encoded.clear()
    ask(engine, texts, cache, **more)
    assert len(set(engine.encoded)) == len(engine.encoded)
    return set(engine.encoded)


def test_keys_are_equal_where_tokens_are() -> None:
    texts = [[1, 2], [1], [], [1, 2], [1, 0], [258], [2, 1], []]
    keys = tokens_of(texts).keys()
    assert keys.shape == (8,)
    for i, a in enumerate(texts):
        for j, b in enumerate(texts):
            assert (keys[i] == keys[j]) == (a == b)
    assert (tokens_of(texts, np.int32).keys() == keys).all()
    assert len(tokens_of([]).keys()) == 0


def test_keys_do_not_depend_on_the_blocks_that_are_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = tokens_of([list(range(n % 5)) for n in range(17)])
    whole = tokens.keys()
    monkeypatch.setattr("dexml.text.tokens.HASH_BLOCK", 4)
    assert (tokens.keys() == whole).all()
    assert tokens.first_equal().tolist() == [n % 5 for n in range(17)]


TEXT = st.lists(st.integers(0, 3), max_size=3)


@settings(max_examples=60)
@given(lists=st.lists(st.lists(TEXT, max_size=12), min_size=1, max_size=5), block=st.integers(1, 5))
def test_lists_that_share_texts_in_any_order_encode_each_text_once(
    lists: list[list[list[int]]], block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    engine, seen = Counting(), set[tuple[int, ...]]()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(known, "BLOCK", block)
        for texts in lists:
            own = set(map(tuple, texts))
            assert asked_for(engine, texts, cache) == own - seen
            seen |= own
    held = [load_file(path)["keys"] for path in cache.iterdir()]
    assert sum(map(len, held)) == len(seen)  # nothing is stored twice
    assert all(len(keys) <= block for keys in held)


def test_half_a_list_that_is_known_leaves_the_other_half(tmp_path: Path) -> None:
    engine = Counting()
    ask(engine, [[i] for i in range(10)], tmp_path)
    later = [[i] for i in (*range(14, 4, -1), 14)]
    assert asked_for(engine, later, tmp_path) == {(i,) for i in range(10, 15)}
    assert asked_for(engine, later[::-1], tmp_path) == set()


def test_unknown_texts_are_told_and_nothing_is_written(tmp_path: Path) -> None:
    ask(Counting(), [[1], [2]], tmp_path)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.iterdir())
    tokens = tokens_of([[1], [3], [2], [4], [3]])
    rows = known.unknown(tokens, fingerprint=16 * "f", cache=tmp_path)
    assert rows.tolist() == [1, 3]
    missing = tmp_path / "none"
    assert known.unknown(tokens, fingerprint=16 * "f", cache=missing).tolist() == [0, 1, 2, 3]
    assert not missing.exists()
    (path,) = tmp_path.iterdir()
    assert before == [(path.name, path.stat().st_mtime_ns)]
    for damage in (with_a_text_twice, cut):
        damage(path)
        assert known.unknown(tokens, fingerprint=16 * "f", cache=tmp_path).tolist() == [0, 1, 2, 3]
        assert path.exists()


def test_another_fingerprint_shares_nothing(tmp_path: Path) -> None:
    engine = Counting()
    ask(engine, [[1], [2]], tmp_path)
    assert asked_for(engine, [[2]], tmp_path, fingerprint=16 * "e") == {(2,)}


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def flip_a_feature(path: Path) -> None:
    header = int.from_bytes(path.read_bytes()[:8], "little")
    flip(path, 8 + header)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def rewrite(path: Path, keys: NDArray[Any], features: NDArray[Any]) -> None:
    """Other arrays, with the digest that belongs to them."""
    digest = hashlib.sha256(keys.tobytes() + features.tobytes()).hexdigest()
    save_file({"keys": keys.copy(), "features": features.copy()}, path, {"sha256": digest})


def narrow(path: Path) -> None:
    arrays = load_file(path)
    rewrite(path, arrays["keys"], arrays["features"][:, :3])


def with_a_text_twice(path: Path) -> None:
    arrays = load_file(path)
    rewrite(path, np.repeat(arrays["keys"][:1], len(arrays["keys"]), axis=0), arrays["features"])


def without_rows(path: Path) -> None:
    arrays = load_file(path)
    rewrite(path, arrays["keys"], arrays["features"][:0])


def short_keys(path: Path) -> None:
    arrays = load_file(path)
    rewrite(path, arrays["keys"][:, :9], arrays["features"])


def without_keys(path: Path) -> None:
    save_file({"features": load_file(path)["features"]}, path)


def without_digest(path: Path) -> None:
    save_file(load_file(path), path)


@pytest.mark.parametrize(
    "damage",
    [
        *(flip_a_feature, cut, narrow, with_a_text_twice, without_rows),
        *(short_keys, without_keys, without_digest),
    ],
)
def test_a_damaged_entry_is_refused_and_its_texts_are_encoded_again(
    damage: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Counting()
    ask(engine, [[1], [2]], tmp_path)
    ask(engine, [[1], [2], [3]], tmp_path)
    sizes = {path: len(load_file(path)["keys"]) for path in tmp_path.iterdir()}
    path = max(sizes, key=lambda path: sizes[path])
    damage(path)
    assert asked_for(engine, [[3], [2]], tmp_path) == {(2,)}
    said = capsys.readouterr().err
    assert said.startswith(f"note: {path} is damaged, and its texts are encoded again (")
    assert said.count("\n") == 1
    assert asked_for(engine, [[3], [2], [1]], tmp_path) == {(1,)}
    assert capsys.readouterr().err == ""


def test_a_damaged_key_is_found_by_nobody_and_seen_with_the_next_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Counting()
    ask(engine, [[1], [2]], tmp_path)
    (path,) = tmp_path.iterdir()
    flip(path, -1)  # of the last key
    assert asked_for(engine, [[2]], tmp_path) == {(2,)}
    assert asked_for(engine, [[2], [1]], tmp_path) == {(1,)}
    assert "is damaged, and its texts are encoded again" in capsys.readouterr().err


def test_an_entry_that_vanishes_between_two_looks_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Counting()
    ask(engine, [[1], [2]], tmp_path)
    paths = list(tmp_path.iterdir())
    paths[0].unlink()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "glob", lambda *_: iter(paths))
        assert asked_for(engine, [[1]], tmp_path) == {(1,)}


def test_the_longest_unused_texts_make_room(tmp_path: Path) -> None:
    engine, entries = Counting(), dict[int, Path]()
    for age, text in ((30, 1), (20, 2), (10, 3)):
        ask(engine, [[text]], tmp_path)
        (entries[text],) = set(tmp_path.iterdir()) - set(entries.values())
        os.utime(entries[text], (1e9 - age, 1e9 - age))
    ask(engine, [[1]], tmp_path)  # used now
    size = entries[1].stat().st_size
    ask(engine, [[4]], tmp_path, gigabytes=3.5e-9 * size)
    assert [text for text, path in entries.items() if path.exists()] == [1, 3]
    assert asked_for(engine, [[1], [2], [3], [4]], tmp_path) == {(2,)}
    assert asked_for(engine, [[7]], tmp_path, gigabytes=1e-12) == {(7,)}
    assert len(list(tmp_path.iterdir())) == 1  # the newest stays
    assert asked_for(engine, [[7]], tmp_path) == set()


def test_only_entries_that_give_a_text_count_as_used(tmp_path: Path) -> None:
    engine = Counting()
    for text in range(8):
        ask(engine, [[text]], tmp_path)
    for path in tmp_path.iterdir():
        os.utime(path, (1e9, 1e9))
    ask(engine, [[3], [9]], tmp_path)
    assert sum(path.stat().st_mtime == 1e9 for path in tmp_path.iterdir()) == 7


def test_a_disk_that_is_full_leaves_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Any, path: Path, __: Any) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(known, "save_file", full)
    with pytest.raises(OSError, match=r"rows-.*\.safetensors: No space left on device"):
        ask(Counting(), [[1]], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_was_encoded_before_an_interruption_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Counting):
        def features(self, tokens: Tokens, on_batch: Any = None) -> NDArray[np.float32]:
            if self.encoded:
                raise KeyboardInterrupt
            return super().features(tokens, on_batch)

    monkeypatch.setattr(known, "BLOCK", 3)
    texts = [[i] for i in range(8)]
    with pytest.raises(KeyboardInterrupt):
        ask(Interrupted(), texts, tmp_path)
    assert asked_for(Counting(), texts, tmp_path) == {(i,) for i in range(3, 8)}
    assert all(not path.name.startswith(".") for path in tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_processes_that_share_a_cache_get_what_one_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two trainings at once: both encode, write and make room, and each gets its own texts."""
    monkeypatch.setattr(known, "BLOCK", 2)

    def train(shift: int) -> None:
        for step in range(30):
            texts = [[(3 * shift + step + i) % 20] for i in range(9)]
            ask(Counting(), texts, tmp_path, gigabytes=2e-6)

    children = []
    for shift in (0, 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pytest's own process has threads
            child = os.fork()
        if child == 0:
            code = 1
            try:
                train(shift)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    train(2)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


# With an encoder.


@pytest.fixture
def encoder(tiny_encoder: Path) -> DualEncoder:
    return DualEncoder.load(str(tiny_encoder)).eval()


def cached(
    encoder: DualEncoder, texts: list[str], cache: Path, *, limit: int = 16, **more: Any
) -> NDArray[np.float32]:
    tokens = encoder.tokenize(texts, limit)
    return features.cached_features(encoder, tokens, cache, desc="x", progress=False, **more)


def test_features_before_and_behind_the_cache_have_the_same_bits(
    encoder: DualEncoder, tmp_path: Path
) -> None:
    """The slow twin: every text by itself, without a cache. Larger ones: `tests/test_engine.py`."""
    pytest.importorskip("openvino", reason="comes with the extra serve")
    from dexml.encoder.engine_export import converted
    from dexml.encoder.engine_openvino import forms

    rng = np.random.default_rng(0)
    words = sorted(encoder.tokenizer.get_vocab())
    texts = [" ".join(rng.choice(words, n)) for n in rng.integers(0, 7, 30).tolist()]
    whole = converted(encoder, threads=2)
    for form in forms():
        encoder.engine = whole.with_form(form)
        alone = [encoder.encode_features(encoder.tokenize([text], 16))[0] for text in texts]
        assert encoder.engine.steady == (form != "int8")  # it is too narrow
        if not encoder.engine.steady:
            continue
        for rows in (range(20), range(29, 9, -1), [3, 25, 3, 0], range(30)):
            found = cached(encoder, [texts[i] for i in rows], tmp_path)
            np.testing.assert_array_equal(found, [alone[i] for i in rows])


def test_an_engine_encodes_only_what_no_run_has_encoded(
    encoder: DualEncoder, tmp_path: Path
) -> None:
    engine = Counting()
    encoder.engine = engine
    cached(encoder, ["kernel a", "mail", "font b"], tmp_path)
    engine.encoded.clear()
    cached(encoder, ["font b", "game", "mail", "game"], tmp_path)
    assert len(engine.encoded) == 1
    tokens = encoder.tokenize(["music", "game", "mail"], 16)
    assert features.unknown(encoder, tokens, tmp_path).tolist() == [0]


def test_an_engine_that_is_not_steady_has_whole_lists(encoder: DualEncoder, tmp_path: Path) -> None:
    engine = Counting(steady=False)
    encoder.engine = engine
    for texts, n in ((["kernel", "mail"], 2), (["mail", "kernel"], 4), (["kernel", "mail"], 4)):
        cached(encoder, texts, tmp_path)
        assert len(engine.encoded) == n


def test_a_list_that_torch_encodes_is_known_only_as_a_whole(
    encoder: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bits of torch depend on the batch: see `docs/encoders.md`."""
    encoded: list[int] = []
    encode = DualEncoder.encode_features

    def counted(self: DualEncoder, tokens: Tokens, **more: Any) -> NDArray[np.float32]:
        encoded.append(len(tokens))
        return encode(self, tokens, **more)

    monkeypatch.setattr(DualEncoder, "encode_features", counted)
    texts = [f"{word} {letter}" for word in WORDS for letter in "abcde"]
    cached(encoder, texts, tmp_path)
    half = texts[::-2]
    found = cached(encoder, half, tmp_path)
    np.testing.assert_array_equal(found, cached(encoder, half, tmp_path))
    np.testing.assert_array_equal(found, cached(encoder, half, tmp_path / "empty"))
    assert encoded == [40, 20, 20]
    tokens = encoder.tokenize(texts, 16)
    assert features.unknown(encoder, tokens, tmp_path).tolist() == []
    assert len(features.unknown(encoder, tokens.select(np.arange(39)), tmp_path)) == 39


def test_threads_and_processes_of_torch_have_lists_of_their_own(
    encoder: DualEncoder, tmp_path: Path
) -> None:
    tokens = encoder.tokenize(["kernel", "mail"], 16)
    before = torch.get_num_threads()
    try:
        paths = set()
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for n_processes in (1, 2):
                paths.add(features.cached_path(encoder, tokens, tmp_path, "auto", n_processes))
        assert len(paths) == 4
    finally:
        torch.set_num_threads(before)


def test_encoders_that_compute_otherwise_share_nothing(
    encoder: DualEncoder, tiny_encoder: Path, tmp_path: Path
) -> None:
    """Weights, pooling, length, heads of attention, form."""
    marks = {features.fingerprint(encoder)}
    for changes in ({"pooling": "cls"}, {"normalize": False}):
        marks.add(features.fingerprint(DualEncoder.load(str(tiny_encoder), **changes)))
    other = Path(shutil.copytree(tiny_encoder, tmp_path / "other"))
    config = (other / "config.json").read_text()
    fewer = config.replace('"num_attention_heads": 2', '"num_attention_heads": 1')
    (other / "config.json").write_text(fewer)
    marks.add(features.fingerprint(DualEncoder.load(str(other))))
    (other / "config.json").write_text(config)
    assert features.fingerprint(DualEncoder.load(str(other))) in marks  # wherever it lies
    for form in ("float32", "bfloat16", "int8"):
        encoder.engine = Counting(form)
        marks.add(features.fingerprint(encoder))
    encoder.engine = None
    marks.add(features.fingerprint(encoder, "bfloat16"))
    with torch.no_grad():
        next(encoder.transformer.parameters()).mul_(1.5)
    marks.add(features.fingerprint(encoder))
    assert len(marks) == 9


def test_prompts_and_cut_texts_share_nothing(tiny_encoder: Path, tmp_path: Path) -> None:
    """But a text that fits within two limits is the same text."""
    engine = Counting()
    texts = ["kernel", "a b c d e f"]

    def encodes(limit: int, prompt: str = "") -> int:
        encoder = DualEncoder.load(str(tiny_encoder), point_prompt=prompt).eval()
        encoder.engine = engine
        engine.encoded.clear()
        cached(encoder, texts, tmp_path, limit=limit)
        return len(engine.encoded)

    assert encodes(16) == 2
    assert encodes(16, "mail ") == 2
    assert encodes(6) == 1  # the second one is cut
    assert encodes(7) == 1
    assert encodes(12) == 0
