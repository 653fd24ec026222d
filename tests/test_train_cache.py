"""The shared cache of tokens and features: bounded, and only its own entries are removed."""

import os
from pathlib import Path

import numpy as np
import pytest

from dexml.encoder import DualEncoder
from dexml.train import cache, features


def entry(folder: Path, digit: str, age: float, *, tokens: bool = False) -> Path:
    """An entry of 1,000 bytes that was used `age` seconds ago."""
    if tokens:
        path = folder / (32 * digit)
        path.mkdir()
        (path / "ids.npy").write_bytes(bytes(600))
        (path / "offsets.npy").write_bytes(bytes(400))
    else:
        path = folder / f"{16 * digit}.npy"
        path.write_bytes(bytes(1000))
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    old, older = entry(tmp_path, "a", 20), entry(tmp_path, "b", 30, tokens=True)
    new, oldest = entry(tmp_path, "c", 10), entry(tmp_path, "d", 40)
    other = tmp_path / "notes.txt"
    other.write_bytes(bytes(10_000))
    cache.used(oldest)
    cache.bound(tmp_path, 3.5e-6, keep=new)
    assert not older.exists()
    assert old.exists() and new.exists() and oldest.exists() and other.exists()  # noqa: PT018
    cache.bound(tmp_path, 1e-9, keep=old)
    assert sorted(path.name for path in tmp_path.iterdir()) == [old.name, "notes.txt"]


def test_what_another_process_removed_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / f"{16 * 'a'}.npy"
    cache.used(gone)
    monkeypatch.setattr(Path, "iterdir", lambda _: iter([gone]))
    cache.bound(tmp_path, 1e-9, keep=tmp_path / "x")


def test_features_that_vanish_between_two_looks_are_computed_again(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = DualEncoder.load(str(tiny_encoder)).eval()
    tokens = encoder.tokenize(["kernel driver", "mail"], 16)

    def cached() -> object:
        return features.cached_features(encoder, tokens, tmp_path, desc="x", progress=False)

    expected = cached()
    path = features.cached_path(encoder, tokens, tmp_path)
    path.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "exists", lambda _: True)
        np.testing.assert_array_equal(cached(), expected)


def test_a_new_entry_makes_room_and_stays(tiny_encoder: Path, tmp_path: Path) -> None:
    encoder = DualEncoder.load(str(tiny_encoder)).eval()
    old = entry(tmp_path, "a", 10)
    tokens = encoder.tokenize(["kernel driver", "mail"], 16)
    features.cached_features(encoder, tokens, tmp_path, desc="x", progress=False, gigabytes=1e-9)
    assert not old.exists()
    assert features.cached_path(encoder, tokens, tmp_path).exists()
