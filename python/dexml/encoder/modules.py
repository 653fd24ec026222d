"""Read and write the modules of an encoder folder, in the format of sentence-transformers.

A folder lists its modules in ``modules.json``. Ours are Transformer, Pooling, then Normalize if
the encoder normalises. If it has a head, Dense follows (or Router, with one Dense for points, the
route ``query``, and one for labels, ``document``), and Normalize once more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save_file

PoolingMode = Literal["mean", "cls"]
HeadKind = Literal["none", "shared", "two"]
HEADS: tuple[HeadKind, ...] = ("none", "shared", "two")
"""Kinds of heads; the position is the number of head matrices."""
Side = Literal["point", "label"]
IDENTITY = "torch.nn.modules.linear.Identity"
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
PREFIX = "sentence_transformers.models"
"""Prefix of module types that every version of sentence-transformers reads, 6 included."""


class Prompts(NamedTuple):
    """What is put before every text of a side, such as ``query: ``; empty: nothing."""

    point: str = ""
    label: str = ""

    def of(self, side: Side) -> str:
        """Return the prompt of a side.

        Raises:
            ValueError: `side` is neither ``point`` nor ``label``.
        """
        if side not in ("point", "label"):
            raise ValueError(f"side {side!r}: expected point or label")
        return self.point if side == "point" else self.label


NO_PROMPTS = Prompts()


@dataclass(frozen=True)
class Modules:
    """What an encoder folder says besides the transformer. The defaults are for plain folders."""

    transformer: str = ""
    """Path of the transformer inside the folder."""
    pooling: PoolingMode = "mean"
    """Pooling of the token states."""
    normalize: bool = True
    """Whether features and embeddings have unit length."""
    head: HeadKind = "shared"
    """Kind of head."""
    weights: tuple[NDArray[np.float32], ...] = ()
    """Head matrices (D, H), points before labels. Empty with a shared head: the identity."""
    max_tokens: int | None = None
    """Most tokens of a text, if the folder says."""
    lowercase: bool = False
    """Whether texts are lower-cased first."""
    prompts: Prompts = NO_PROMPTS
    """What is put before texts of each side."""
    unused_prompts: tuple[str, ...] = ()
    """Names of prompts in the folder, if none of them is for a side."""
    pools_prompts: bool = True
    """Whether the tokens of a prompt are pooled with those of the text."""


def read_modules(folder: Path) -> Modules | None:
    """Read the modules of a sentence-transformers folder; return None for a plain folder.

    Raises:
        ValueError: `dexml.encoder.DualEncoder` cannot represent the modules, or a file is damaged.
    """
    if not (folder / "modules.json").exists():
        return None
    try:
        listed = [(str(m["path"]), str(m["type"])) for m in _read_json(folder / "modules.json")]
    except (KeyError, TypeError):
        raise ValueError(f"{folder / 'modules.json'}: damaged (not a list of modules)") from None
    kinds = [kind.rsplit(".", 1)[-1] for _, kind in listed]
    for path, _ in listed:
        _inside(folder, path)
    rest = ["Head" if kind in ("Dense", "Router") else kind for kind in kinds[2:]]
    unit = {(): False, ("Normalize",): True, ("Head",): False, ("Head", "Normalize"): True}
    unit[("Normalize", "Head", "Normalize")] = True  # A(z/|z|) and Az have one direction
    if kinds[:2] != ["Transformer", "Pooling"] or tuple(rest) not in unit:
        raise ValueError(
            f"{folder}: modules {', '.join(kinds)} cannot be represented; expected Transformer, "
            "Pooling, then nothing, Normalize, Dense, or Normalize, Dense, Normalize (Router with "
            "a query and a document Dense may stand for Dense)"
        )
    weights: tuple[NDArray[np.float32], ...] = ()
    if "Head" in rest:
        at = 2 + rest.index("Head")
        read = _dense_weight if kinds[at] == "Dense" else _routed_weights
        weights = read(folder / listed[at][0])
    settings = _transformer_settings(folder / listed[0][0])
    pooling, pools_prompts = _pooling(folder / listed[1][0])
    prompts, unused = _prompts(folder / "config_sentence_transformers.json")
    return Modules(
        transformer=listed[0][0],
        pooling=pooling,
        normalize=unit[tuple(rest)],
        head=HEADS[len(weights)],
        weights=weights,
        max_tokens=settings.get("max_seq_length"),
        lowercase=bool(settings.get("do_lower_case", False)),
        prompts=prompts,
        unused_prompts=unused,
        pools_prompts=pools_prompts,
    )


def write_modules(
    folder: Path,
    weights: Sequence[NDArray[np.float32]],
    *,
    width: int,
    pooling: PoolingMode,
    normalize: bool,
    max_tokens: int,
    prompts: Prompts = NO_PROMPTS,
) -> None:
    """Write the modules as `read_modules` and sentence-transformers read them.

    Args:
        folder: A folder that holds the transformer.
        weights: Head matrices (D, H): none, one for both sides, or points before labels.
        width: H, the width of the transformer.
        pooling: Pooling of the token states.
        normalize: Whether features and embeddings have unit length.
        max_tokens: Most tokens of a text.
        prompts: What is put before texts.
    """
    kinds = ["Transformer", "Pooling"] + ["Normalize"] * normalize
    if weights:
        kinds += [("Dense", "Router")[len(weights) - 1]] + ["Normalize"] * normalize
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds) if i)]
    for path, kind in zip(paths[1:], kinds[1:], strict=True):
        (folder / path).mkdir(exist_ok=True)
        if kind == "Dense":
            _write_dense(folder / path, weights[0])
        elif kind == "Router":
            _write_router(folder / path, weights)
        elif kind == "Pooling":
            _write_json(
                folder / path / "config.json",
                {
                    "word_embedding_dimension": width,
                    "pooling_mode_cls_token": pooling == "cls",
                    "pooling_mode_mean_tokens": pooling == "mean",
                    "pooling_mode_max_tokens": False,
                },
            )
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"{PREFIX}.{kind}"}
        for i, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    _write_json(folder / "modules.json", listed)
    lengths = {"max_seq_length": max_tokens, "do_lower_case": False}
    _write_json(folder / "sentence_bert_config.json", lengths)
    _write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {"pytorch": version("torch"), "transformers": version("transformers")},
            "model_type": "SentenceTransformer",
            "prompts": {"query": prompts.point, "document": prompts.label},
            "default_prompt_name": "query" if prompts.point else None,  # a text alone is a point
            "similarity_fn_name": "dot",
        },
    )


def _write_dense(folder: Path, weight: NDArray[np.float32]) -> None:
    save_file({"linear.weight": np.ascontiguousarray(weight)}, folder / "model.safetensors")
    _write_json(
        folder / "config.json",
        {
            "in_features": weight.shape[1],
            "out_features": weight.shape[0],
            "bias": False,
            "activation_function": IDENTITY,
        },
    )


def _write_router(folder: Path, weights: Sequence[NDArray[np.float32]]) -> None:
    names = {"query": "query_0_Dense", "document": "document_0_Dense"}
    for name, weight in zip(names.values(), weights, strict=True):
        (folder / name).mkdir(exist_ok=True)
        _write_dense(folder / name, weight)
    _write_json(
        folder / "router_config.json",
        {
            "types": dict.fromkeys(names.values(), f"{PREFIX}.Dense"),
            "structure": {route: [name] for route, name in names.items()},
            "parameters": {"default_route": "query", "allow_empty_key": True},
        },
    )


def _pooling(folder: Path) -> tuple[PoolingMode, bool]:
    """Return how token states are pooled, and whether those of a prompt are too."""
    settings = _read_json(folder / "config.json")
    modes = settings.get("pooling_mode") or [
        key.removeprefix("pooling_mode_").removesuffix("_token").removesuffix("_tokens")
        for key, on in settings.items()
        if key.startswith("pooling_mode_") and on
    ]
    modes = [modes] if isinstance(modes, str) else modes or ["mean"]
    include = bool(settings.get("include_prompt", True))
    if modes == ["mean"]:
        return "mean", include
    if modes == ["cls"]:
        return "cls", include
    raise ValueError(f"{folder}: unknown pooling {'+'.join(modes)}; expected mean or cls")


def _dense_weight(folder: Path) -> tuple[NDArray[np.float32]]:
    """Return the weight (D, H) of a Dense module; raise if it is more than a linear map."""
    settings = _read_json(folder / "config.json")
    path = folder / "model.safetensors"
    if not path.exists():
        raise ValueError(f"{folder}: no model.safetensors (weights in pickle files are not read)")
    try:
        weights = _load(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged weights ({error})") from None
    activation = settings.get("activation_function", "torch.nn.modules.activation.Tanh")
    if (
        weights.keys() != {"linear.weight"}
        or not activation.endswith(".Identity")
        or settings.get("use_residual")
        or settings.get("module_input_name", "sentence_embedding") != "sentence_embedding"
    ):
        raise ValueError(
            f"{folder}: more than a linear map (a bias, a residual or an activation, {activation}) "
            "cannot be represented"
        )
    return (weights["linear.weight"],)


def _load(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read the arrays of a safetensors file as float32; numpy itself knows no bfloat16."""
    arrays = {}
    stored_arrays: Any = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    for name, stored in stored_arrays:
        if stored["dtype"] == "BF16":
            wide = np.frombuffer(stored["data"], "<u2").astype(np.uint32) << 16
            values = wide.view(np.float32)
        elif stored["dtype"] in _FLOATS:
            values = np.frombuffer(stored["data"], _FLOATS[stored["dtype"]]).astype(np.float32)
        else:
            raise ValueError(f"{path}: {name} holds {stored['dtype']}; expected floats")
        arrays[name] = values.reshape(stored["shape"])
    return arrays


def _routed_weights(folder: Path) -> tuple[NDArray[np.float32], ...]:
    """Return the weights of the routes ``query`` and ``document``, a Dense each."""
    settings = _read_json(folder / "router_config.json")
    routes, types = settings.get("structure", {}), settings.get("types", {})
    chosen = [routes.get(name, []) for name in ("query", "document")]
    kinds = [types.get(module, "").rsplit(".", 1)[-1] for route in chosen for module in route]
    if (
        routes.keys() != {"query", "document"}
        or kinds != ["Dense", "Dense"]
        or settings.get("parameters", {}).get("route_mappings")
        or settings.get("parameters", {}).get("default_route") not in (None, "query", "document")
    ):
        raise ValueError(
            f"{folder}: a router of {routes} cannot be represented; expected the routes query and "
            "document with a Dense each"
        )
    for (name,) in chosen:
        _inside(folder, name)
    if chosen[0] == chosen[1]:
        return _dense_weight(folder / chosen[0][0])
    return _dense_weight(folder / chosen[0][0]) + _dense_weight(folder / chosen[1][0])


def _transformer_settings(folder: Path) -> dict[str, Any]:
    """Read ``sentence_bert_config.json``, which older folders name after their model."""
    paths = [folder / "sentence_bert_config.json", *sorted(folder.glob("sentence_*_config.json"))]
    for path in paths:
        if path.exists():
            settings: dict[str, Any] = _read_json(path)
            task = settings.get("transformer_task", "feature-extraction")
            if task != "feature-extraction":
                raise ValueError(f"{path}: a transformer for {task} cannot be represented")
            return settings
    return {}


def _prompts(path: Path) -> tuple[Prompts, tuple[str, ...]]:
    """Read the prompts of points (``query``) and labels (``document``, ``passage``, ``corpus``).

    A side without a prompt of its own gets the one that the folder names as default. The names of
    the prompts come second, if none of them is for a side.
    """
    settings = _read_json(path) if path.exists() else {}
    stored = settings.get("prompts") or {}
    if not isinstance(stored, dict):
        raise ValueError(f"{path}: damaged (prompts are not an object)")
    known = {name: text for name, text in stored.items() if text is not None}
    if wrong := [name for name, text in known.items() if not isinstance(text, str)]:
        raise ValueError(f"{path}: damaged (prompt {wrong[0]} is not a text)")
    default = settings.get("default_prompt_name")
    if default is not None and default not in known:
        raise ValueError(f"{path}: damaged (there is no prompt {default!r}, its default)")
    usual = "" if default is None else known[default]
    names = ("document", "passage", "corpus")
    of_labels = [known[name] for name in names if name in known]
    point = known.get("query", "" if default in names else usual)
    label = "" if default == "query" else usual
    if of_labels:
        label = next(filter(None, of_labels), "")
    used = point or label
    unused = () if used else tuple(name for name, text in known.items() if text)
    return Prompts(point, label), unused


def _inside(folder: Path, path: str) -> None:
    parts = PurePosixPath(path.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"{folder}: its module path {path} leads out of the folder")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged ({error})") from None


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
