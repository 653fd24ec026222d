"""All readers of text agree on what is packed, and leave out a byte order mark."""

import gzip
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from dexml import data
from dexml.commands.inputs import count_lines, open_texts, read_group, stdin_texts
from dexml.data.prepare import prepare
from dexml.run import LabelSet

MARK = b"\xef\xbb\xbf"
BOW = b"2 3 2\n0 0:1\n1 2:1\n"


def streamed(path: Path) -> list[str]:
    with open_texts(path) as texts:
        return list(texts)


def pairs_and_labels(path: Path) -> Any:
    """A text that is filter pairs and LF text at once, with a row that has an entry."""
    return data.load_pairs(path, (9, 9)).nonzero()[0].tolist()


READERS: dict[str, tuple[bytes, Callable[[Path], Any]]] = {
    "load_texts": (b"first\nsecond\n", data.load_texts),
    "open_texts": (b"first\nsecond\n", streamed),
    "load_labels": (b"2 3\n0:1\n2:1\n", lambda path: data.load_labels(path).toarray().tolist()),
    "load_scores": (b"2 3\n0:1\n2:1\n", lambda path: data.load_scores(path).toarray().tolist()),
    "load_bow": (BOW, lambda path: [y.toarray().tolist() for y in data.load_bow(path)]),
    "load_pairs": (b"0 2\n1 1\n", pairs_and_labels),
}


@pytest.mark.parametrize(("content", "read"), READERS.values(), ids=READERS.keys())
def test_a_byte_order_mark_is_left_out(
    content: bytes, read: Callable[[Path], Any], tmp_path: Path
) -> None:
    plain, marked, packed = tmp_path / "plain", tmp_path / "marked", tmp_path / "packed"
    plain.write_bytes(content)
    marked.write_bytes(MARK + content)
    packed.write_bytes(gzip.compress(MARK + content))
    assert read(marked) == read(packed) == read(plain)


def test_a_mark_inside_a_file_is_text(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"a\n" + MARK + b"b\n")
    assert data.load_texts(path) == ["a", "\ufeffb"]


def test_a_group_of_labels_with_a_mark_finds_its_first_label(tmp_path: Path) -> None:
    path = tmp_path / "only.txt"
    path.write_bytes(MARK + b"kernel\n2\n")
    labels = LabelSet.of(["kernel", "font", "game"], np.zeros(3, np.int64))
    assert read_group(path, labels).tolist() == [True, False, True]


def test_standard_input_and_raw_downloads_with_a_mark(tmp_path: Path) -> None:
    assert list(stdin_texts(BytesIO(MARK + b"a\nb\n"))) == ["a", "b"]
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "lbl.json").write_bytes(MARK + b'{"title": "x", "content": ""}\n')
    for part in ("trn", "tst"):
        line = b'{"title": "a", "content": "b", "target_ind": [0]}\n'
        (raw / f"{part}.json").write_bytes(MARK + line)
    prepare(raw, tmp_path / "set")
    assert data.load_dataset(tmp_path / "set").label_texts == ["x"]


def zstd_of_labels(folder: Path) -> bytes:
    """LF text in a zstd frame."""
    data.save_labels(folder / "y.zst", csr_array(np.eye(2, 3, dtype=np.float32)))
    return (folder / "y.zst").read_bytes()


def skippable(payload: bytes) -> bytes:
    return b"\x50\x2a\x4d\x18" + len(payload).to_bytes(4, "little") + payload


LINES = ["2 3", "0:1.0", "1:1.0"]


def odd_packings(folder: Path) -> dict[str, bytes]:
    """The same text, packed as other tools pack it."""
    text = "".join(f"{line}\n" for line in LINES).encode()
    half = len(text) // 2
    return {
        "padded": gzip.compress(text) + b"\0" * 512,
        "members": gzip.compress(text[:half]) + gzip.compress(text[half:]),
        "padded members": gzip.compress(text[:half])
        + b"\0" * 9
        + gzip.compress(text[half:])
        + b"\0",
        "pzstd": skippable(b"\x10\0\0\0") + zstd_of_labels(folder) + skippable(b""),
    }


@pytest.mark.parametrize("name", ["padded", "members", "padded members", "pzstd"])
def test_texts_and_matrices_unpack_the_same_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(odd_packings(tmp_path)[name])
    assert data.load_texts(path) == streamed(path) == LINES
    assert data.load_labels(path).toarray().tolist() == [[1, 0, 0], [0, 1, 0]]
    assert count_lines(path) is None


@pytest.mark.parametrize("read", [data.load_texts, streamed, data.load_labels, data.load_scores])
def test_a_large_window_of_zstd_is_no_damage(read: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / "x.zst"
    body = b"2 3\n\n\n"
    block = ((len(body) << 3) | 1).to_bytes(3, "little") + body  # the last block, not compressed
    path.write_bytes(b"\x28\xb5\x2f\xfd\x00" + bytes([(31 - 10) << 3]) + block)
    with pytest.raises(ValueError, match=r"x\.zst: zstd with a window of .*zstd -d --long=31$"):
        read(path)


@pytest.mark.parametrize("read", [data.load_texts, streamed, data.load_labels])
@pytest.mark.parametrize("rest", [b"x", b"\0\0x", b"\x1f\x8b"])
def test_what_follows_a_gzip_stream_is_damage(
    read: Callable[[Path], Any], rest: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"2 3\n\n\n") + rest)
    with pytest.raises(ValueError, match=r"x\.gz: damaged or not a gzip stream"):
        read(path)
