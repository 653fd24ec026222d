"""Write the model card of an encoder folder: ``README.md`` with front matter for the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KNOWN = (
    *("base_model", "dataset", "settings", "label_table"),
    *("dim", "max_tokens", "pooling", "normalize", "heads", "prompts"),
)
_HEADS = {
    "none": "no head",
    "shared": "a linear head shared by points and labels",
    "two": "a linear head for points and another for labels",
}


def write_card(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write ``README.md`` into an encoder folder.

    Args:
        folder: A folder written by `dexml.encoder.DualEncoder.save`.
        facts: Contents, all optional: ``base_model`` (hub name or folder), ``dataset`` (its name),
            ``settings`` (a mapping), ``label_table`` (True if scores need the bias and residuals
            of a run). ``save`` adds ``dim``, ``max_tokens``, ``pooling``, ``normalize``, ``heads``
            and ``prompts`` (of points and labels).

    Raises:
        ValueError: The name of a fact is unknown.
    """
    for name in facts:
        if name not in KNOWN:
            raise ValueError(f"write_card: unknown fact {name}; known are {', '.join(KNOWN)}")
    text = f"---\n{_front_matter(facts)}\n---\n\n{_body(facts)}"
    (folder / "README.md").write_text(text, encoding="utf-8")


def _front_matter(facts: Mapping[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    base = facts.get("base_model")
    data = ModelCardData(
        # The hub accepts names of models here, not folders.
        base_model=base if base and re.fullmatch(r"[\w.-]+/[\w.-]+", str(base)) else None,
        library_name="sentence-transformers",
        pipeline_tag="feature-extraction",
        tags=["sentence-transformers", "dexml", "extreme-multi-label-classification"],
    )
    return str(data.to_yaml()).strip()


def _body(facts: Mapping[str, Any]) -> str:
    point, label = facts.get("prompts", ("", ""))
    two, unit = facts.get("heads") == "two" or point != label, facts.get("normalize", True)
    parts = ["# dexml encoder", _summary(facts)]
    if facts.get("label_table"):
        parts.append(
            "Its run also learned a bias and a residual vector for each label it saw. They are not "
            "in this folder: label vectors made from text alone are those of a label never seen."
        )
    parts.append("## Use\n\nWith sentence-transformers:")
    calls = ["model.encode(texts)"]
    if two:
        calls = ["model.encode_query(texts)  # points", "model.encode_document(texts)  # labels"]
    parts.append(_code("sentence_transformers", "SentenceTransformer", "(FOLDER)", calls))
    parts.append("With dexml, which runs the same weights without padding:")
    calls = ["model.encode(texts)", 'model.encode(texts, side="label")'][: 1 + two]
    parts.append(_code("dexml.encoder", "DualEncoder", ".load(FOLDER).eval()", calls))
    if point or label:
        parts.append(
            "Both put a prompt before each text themselves, "
            f"{json.dumps(point)} for points and {json.dumps(label)} for labels."
        )
    parts.append(
        "The score of a point and a label is the dot product of their vectors, which "
        + ("have unit length." if unit else "are not normalised.")
    )
    if facts.get("settings"):
        content = json.dumps(dict(facts["settings"]), indent=2, default=str)
        parts.append(f"## Settings\n\n```json\n{content}\n```")
    base = (
        f"the base model (`{facts['base_model']}`)" if facts.get("base_model") else "a base model"
    )
    parts.append(
        f"## Licence\n\nThe weights derive from {base} and from the texts they were trained on: "
        "the terms of both apply."
    )
    return "\n\n".join(parts) + "\n"


def _summary(facts: Mapping[str, Any]) -> str:
    base, dataset = facts.get("base_model"), facts.get("dataset")
    text = "A text encoder for points and labels of extreme multi-label classification"
    text += f", from `{base}`" * bool(base) + f", trained on {dataset}" * bool(dataset)
    details = []
    if "dim" in facts:
        details.append(f"{facts['dim']} dimensions")
    if "max_tokens" in facts:
        details.append(f"texts up to {facts['max_tokens']} tokens")
    if "pooling" in facts:
        details.append(f"{facts['pooling']} pooling")
    if "heads" in facts:
        details.append(_HEADS[facts["heads"]])
    return f"{text} with dexml." + f" {', '.join(details)}.".capitalize() * bool(details)


def _code(module: str, name: str, opened: str, calls: list[str]) -> str:
    lines = [f"from {module} import {name}", "", f"model = {name}{opened}", *calls]
    return "```python\n" + "\n".join(lines) + "\n```"
