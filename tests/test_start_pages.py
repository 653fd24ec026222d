"""The pages in ``docs/start``: our examples run, and those of other tools where they are installed.

A block that runs begins with a comment that names its tool. ``DEXML_PEERS`` may name a folder of
virtual environments with other tools (``benches/README.md``); this interpreter is looked at first.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dexml import data
from dexml.text.lexical import fit_vectorizer
from small import write_tiny_data

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "start"


@dataclass(frozen=True)
class Peer:
    """Another tool: modules that its examples import, and what both sides compute alike."""

    modules: tuple[str, ...]
    theirs: str = ""
    ours: str = ""


PEERS = {
    "from-pyxclib.md": Peer(("xclib",), "list(found.values())", "list(found.values())"),
    "from-pecos.md": Peer(
        ("pecos",),
        "[*(metrics.prec[k] for k in (0, 2, 4)), metrics.recall[4]]",
        "list(found.values())",
    ),
    "from-sentence-transformers.md": Peer(
        ("sentence_transformers", "datasets", "accelerate"), "ids", "ids"
    ),
    "from-napkinxc-omikuji.md": Peer(
        ("napkinxc", "omikuji"),
        "[*found['P'].tolist(), *found['nDCG'].tolist()]",
        "list(found.values())",
    ),
    "from-fasttext.md": Peer(("fasttext",)),
}


def blocks(page: str) -> Iterator[tuple[str, str, str]]:
    """Yield language, tool and code of the blocks of a page that run."""
    text = (PAGES / page).read_text(encoding="utf-8")
    for language, code in re.findall(r"```(python|sh)\n(.*?)```", text, flags=re.S):
        if tool := re.match(
            r"# (dexml|PECOS|pyxclib|sentence-transformers|Omikuji|napkinXC|fastText)\b", code
        ):
            yield language, tool[1], code


def interpreter_with(modules: tuple[str, ...]) -> str | None:
    """Find an interpreter that can import these modules."""
    pythons = [sys.executable]
    if "DEXML_PEERS" in os.environ:
        pythons += map(str, sorted(Path(os.environ["DEXML_PEERS"]).glob("*/bin/python")))
    probe = f"from importlib.util import find_spec as f; assert all(map(f, {modules!r}))"
    for python in pythons:
        if not subprocess.run([python, "-c", probe], capture_output=True).returncode:
            return python
    return None


def files(folder: Path) -> None:
    """Write what the pages read, all from the same points: as PECOS, fastText, ... have it."""
    lf = write_tiny_data(folder / "tiny")
    labels = data.load_label_texts(lf)
    data.save_texts(folder / "labels.txt", labels)
    for name, part in (("train", "trn"), ("test", "tst")):
        side = data.load_part(lf, part, len(labels))
        y = side.y
        kept = np.flatnonzero(np.diff(y.indptr))  # PECOS and fastText want a label a point
        rows = [y.indices[y.indptr[i] : y.indptr[i + 1]].tolist() for i in kept]
        texts = [side.texts[i] for i in kept]
        ids = [",".join(map(str, row)) for row in rows]
        data.save_texts(folder / f"{name}_texts.txt", texts)
        pairs = zip(ids, texts, strict=True)
        lines = "".join(f"{row}\t{text}\n" for row, text in pairs)
        (folder / f"{name}.txt").write_text(lines, encoding="utf-8")
        named = [" ".join(f"__label__{labels[i].replace(' ', '-')}" for i in r) for r in rows]
        data.save_texts(
            folder / f"{name}.ft", [f"{n} {t}" for n, t in zip(named, texts, strict=True)]
        )
        data.save_labels(folder / f"{part}_X_Y.txt", y[kept])
        if name == "train":
            cells = [";".join(labels[i] for i in row) for row in rows]
            table = "".join(f"{text},{cell}\n" for text, cell in zip(texts, cells, strict=True))
            (folder / "posts.csv").write_text("text,labels\n" + table, encoding="utf-8")
    features(folder)
    truth = data.load_labels(folder / "tst_X_Y.txt")
    scores = truth.copy()
    scores.indices = (scores.indices + np.arange(scores.nnz) % 2 * 3) % 64
    scores.data = 1 + np.arange(scores.nnz, dtype=np.float32)
    scores.sort_indices()
    scores.sum_duplicates()
    data.save_scores(folder / "scores.txt", scores)
    # In the place of what PECOS writes in an earlier block.
    data.save_labels(folder / "truth.npz", truth)
    data.save_scores(folder / "pecos.npz", scores)


def features(folder: Path) -> None:
    """Write the folder FEATURES, with words as features."""
    texts = {part: data.load_texts(folder / f"{part}_texts.txt") for part in ("train", "test")}
    vectorizer = fit_vectorizer(texts["train"])
    sides = [
        (vectorizer.rows(texts[name]), data.load_labels(folder / f"{part}_X_Y.txt"))
        for name, part in (("train", "trn"), ("test", "tst"))
    ]
    data.save_dataset(folder / "FEATURES", data.load_texts(folder / "labels.txt"), *sides)


def bag_of_words(folder: Path) -> None:
    """Write ``train.txt`` anew, in the format of the benchmarks."""
    texts = data.load_texts(folder / "train_texts.txt")
    words = sorted({word for text in texts for word in text.split()})
    lines = [f"{len(texts)} {len(words)} 64"]
    y = data.load_labels(folder / "trn_X_Y.txt")
    for row, text in enumerate(texts):
        labels = y.indices[y.indptr[row] : y.indptr[row + 1]]
        columns = sorted({words.index(word) for word in text.split()})
        lines.append(
            ",".join(map(str, labels)) + " " + " ".join(f"{column}:0.5" for column in columns)
        )
    data.save_texts(folder / "train.txt", lines)


def run(code: str, language: str, python: str, folder: Path) -> None:
    """Run a block in a process of its own."""
    paths = [str(Path(python).parent), os.environ["PATH"]]
    env = {**os.environ, "PATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    if python == sys.executable:
        env["PYTHONPATH"] = str(ROOT / "python")
    command = [python, "-c", code] if language == "python" else ["bash", "-e", "-c", code]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-3000:]


def follow(page: str, folder: Path, python: str | None) -> dict[str, Any]:
    """Run the blocks of a page in turn, those of the other tool if there is a `python` for it."""
    ours: dict[str, Any] = {}
    theirs = PEERS[page].theirs if page in PEERS else ""
    report = f"""
import json, numpy
try:
    value = {theirs or None}
except NameError:  # that block computes something else
    pass
else:
    json.dump(numpy.ravel(value).tolist(), open("theirs.json", "w"))
"""
    for language, tool, code in blocks(page):
        if tool == "dexml":
            if language == "python":
                exec(code, ours)
            else:
                run(code, language, sys.executable, folder)
        elif python is not None:
            report_too = report if language == "python" and theirs else ""
            run(code + report_too, language, python, folder)
    return ours


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files(tmp_path)
    page = request.node.callspec.params["page"]
    if page == "from-napkinxc-omikuji.md":
        bag_of_words(tmp_path)
    if page == "from-sentence-transformers.md":
        shutil.copytree(request.getfixturevalue("tiny_encoder"), tmp_path / "MODEL")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [*PEERS, "engineer.md", "analyst.md"])
def test_our_side_of_a_page_runs(page: str, folder: Path) -> None:
    ours = follow(page, folder, None)
    if page in PEERS and PEERS[page].ours:
        assert len(eval(PEERS[page].ours, ours))


@pytest.mark.parametrize("page", PEERS)
def test_both_sides_of_a_page_run_and_agree(page: str, folder: Path) -> None:
    peer = PEERS[page]
    python = interpreter_with(peer.modules)
    if python is None:
        pytest.skip(f"needs {', '.join(peer.modules)}, here or in an environment of DEXML_PEERS")
    ours = follow(page, folder, python)
    if peer.theirs:
        theirs = json.loads((folder / "theirs.json").read_text())
        np.testing.assert_allclose(np.ravel(eval(peer.ours, ours)), theirs, rtol=1e-6)


def test_every_page_for_those_who_come_from_elsewhere_is_followed() -> None:
    assert {path.name for path in PAGES.glob("from-*.md")} == set(PEERS)
