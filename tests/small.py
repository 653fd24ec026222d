"""A small generated data set, and settings that train on it in a second."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array, save_npz

if TYPE_CHECKING:
    from torch import Tensor

    from dexml.train import TrainSettings

TOPICS = ("kernel", "printer", "music", "network", "game", "font", "mail", "database")
PARTS = ("driver", "library", "player", "editor", "server", "theme", "parser", "monitor")


def train_settings(data: Path, encoder: Path, out: Path, **changes: Any) -> "TrainSettings":
    """Settings of a short, silent training."""
    from dexml.train import TrainSettings

    values: dict[str, Any] = {
        "data_dir": data,
        "encoder": str(encoder),
        "out": out,
        "quiet": True,
        "head_epochs": 3,
        "head_batch_size": 64,
        "seed": 1,
        "engine": "torch",  # converting an encoder takes seconds; tests of engines ask for it
        "ranker": "none",  # most tests look at the encoder; those of the ranker ask for it
    }
    return TrainSettings(**(values | changes))


def part_path(run: Path, role: str) -> Path:
    """The file of a part of a run, such as ``dense/table`` or ``labels/texts``."""
    parts = json.loads((run / "run.json").read_text())["parts"]
    return run / str(parts[role]["name"])


def rewrite_info(run: Path, *gone: str, **changes: Any) -> None:
    """Write ``run.json`` anew, with seals of the files as they are now.

    Parts whose files are missing are dropped; the files of the encoder are listed again.

    Args:
        run: A finished run.
        gone: Fields to drop: ``neighbours``, or ``dense.unseen_bias`` for a field of a section.
        changes: New values; a dict changes only these fields of its section.
    """
    from dexml.files import seal_of
    from dexml.run import encoder_seals

    old = json.loads((run / "run.json").read_text())["parts"]
    parts = {
        role: {"name": part["name"], **seal_of(run / part["name"])}
        for role, part in old.items()
        if (run / part["name"]).is_file() and not role.startswith("encoder/")
    }
    forge_info(run, "parts", *gone, **({"parts": encoder_seals(run) | parts} | changes))


def forge_info(run: Path, *gone: str, **changes: Any) -> None:
    """As `rewrite_info`, but look at no file: only the digest of ``run.json`` fits."""
    from dexml.files import digest_of, spelled

    info = json.loads((run / "run.json").read_text())
    for name in gone:
        section, _, field = name.partition(".")
        if field:
            del info[section][field]
        else:
            del info[section]
    for name, value in changes.items():
        merge = isinstance(value, dict) and isinstance(info.get(name), dict)
        info[name] = info[name] | value if merge else value
    info["digest"] = changes.get("digest", digest_of(info))
    (run / "run.json").write_text(spelled(info))


def weights(run: Path) -> dict[str, "Tensor"]:
    """All weights of a run, by file (``dense/table`` for the label table) and name."""
    from safetensors.torch import load_file

    paths = {p.relative_to(run).as_posix(): p for p in sorted(run.glob("encoder/**/*.safetensors"))}
    paths["dense/table"] = part_path(run, "dense/table")
    return {
        f"{file}/{name}": tensor
        for file, path in paths.items()
        for name, tensor in load_file(path).items()
    }


def log_of(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, but for those of its start and end."""
    lines = (run / "log.jsonl").read_text().splitlines()
    return [
        line for line in map(json.loads, lines) if line.get("event") not in ("started", "finished")
    ]


def assert_same(a: Path, b: Path) -> None:
    """Two run directories hold the same weights, bit for bit."""
    import torch

    for name, tensor in weights(a).items():
        assert torch.equal(tensor, weights(b)[name]), name


def write_tiny_data(
    folder: Path, seed: int = 0, *, train_filter: bool = False, groups: bool = False
) -> Path:
    """64 labels (a topic and a part each); a point names one or two of them, with noise words.

    With `train_filter` every third training point has one or two filter pairs, none a positive;
    with `groups` three points (some test groups: two) far apart in the file have one key.
    """
    generator = np.random.default_rng(seed)
    labels = [f"{topic} {part}" for topic in TOPICS for part in PARTS]
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "Y.txt").write_text("".join(f"{t}\n" for t in labels))
    for part, n_points in (("trn", 300), ("tst", 80)):
        y = np.zeros((n_points, len(labels)), np.float32)
        texts = []
        for row in range(n_points):
            chosen = generator.choice(len(labels), size=generator.integers(1, 3), replace=False)
            y[row, chosen] = 1
            noise = " ".join(generator.choice(list("abcdefgh"), size=2))
            texts.append(" ".join(labels[i] for i in chosen) + f" {noise}")
        if part == "trn":
            y[7] = 0  # a point without labels
            y[:, 5] = 0  # a label that training never sees
        (folder / "raw" / f"{part}_X.txt").write_text("".join(f"{t}\n" for t in texts))
        save_npz(folder / f"Y.{part}.npz", csr_array(y))
        if groups:
            keys = "".join(f"{part}{row % -(-n_points // 3)}\n" for row in range(n_points))
            (folder / "raw" / f"{part}_groups.txt").write_text(keys)
        if part == "trn" and train_filter:
            near = [(row, (m * row + m) % 64) for row in range(0, 300, 3) for m in (7, 11)]
            pairs = "".join(f"{row} {label}\n" for row, label in near if not y[row, label])
            (folder / "filter_labels_train.txt").write_text(pairs)
    pairs = "".join(f"{row} {(3 * row) % 64}\n" for row in range(0, 80, 4))
    (folder / "filter_labels_test.txt").write_text(pairs)
    return folder


def confusing_data(folder: Path, n: int = 400) -> Path:
    """Every label has a secret word that its own text lacks; a ranker weighs texts and points."""
    rng = np.random.default_rng(0)
    labels = [f"{topic} {part}" for topic in TOPICS for part in PARTS]
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "Y.txt").write_text("".join(f"{t}\n" for t in labels))
    for part, n_points in (("trn", n), ("tst", 60)):
        y = np.zeros((n_points, len(labels)), np.float32)
        texts = []
        for row in range(n_points):
            chosen = rng.choice(len(labels), size=2, replace=False)
            y[row, chosen] = 1
            lures = " ".join(labels[i] for i in rng.choice(len(labels), size=2))
            texts.append(" ".join(f"secret{i}" for i in chosen) + f" {lures}")
        (folder / "raw" / f"{part}_X.txt").write_text("".join(f"{t}\n" for t in texts))
        save_npz(folder / f"Y.{part}.npz", csr_array(y))
    return folder
