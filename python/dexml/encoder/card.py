"""Write the model card of an encoder folder: ``README.md`` with front matter for the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dexml.encoder.pretrained import MINILM
from dexml.files import replacing

KNOWN = (
    *("base_model", "dataset", "settings", "label_table", "scores", "scored_on"),
    *("dim", "max_tokens", "pooling", "normalize", "heads", "prompts"),
)
_SHOWN = ("P@1", "P@5", "nDCG@5", "PSP@5", "R@100")
_HEADS = {
    "none": "no head",
    "shared": "a linear head shared by points and labels",
    "two": "a linear head for points and another for labels",
}


def write_card(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write ``README.md`` into an encoder folder.

    Args:
        folder: A folder written by `dexml.encoder.DualEncoder.save`.
        facts: Contents, all optional: ``base_model`` (a hub name, or a folder, which is never
            named: `hub_name`), ``dataset`` (its name), ``settings`` (a mapping), ``label_table``
            (True for the encoder of a run, whose scores need more than this folder), ``scores``
            (metrics as fractions, by what has them) and ``scored_on`` (points, in words). ``save``
            adds ``dim``, ``max_tokens``, ``pooling``, ``normalize``, ``heads`` and ``prompts``.

    Raises:
        ValueError: The name of a fact is unknown.
    """
    for name in facts:
        if name not in KNOWN:
            raise ValueError(f"write_card: unknown fact {name}; known are {', '.join(KNOWN)}")
    facts = dict(facts) | {"base_model": hub_name(str(facts.get("base_model") or ""))}
    text = f"---\n{_front_matter(facts)}\n---\n\n{_body(facts)}"
    with replacing(folder / "README.md") as beside:
        beside.write_text(text, encoding="utf-8")


def hub_name(name: str) -> str | None:
    """Return the name on the hub of an encoder that was opened by `name`, if it can be known.

    A folder says it in the card that this module wrote, or by its place in the cache of the hub.
    """
    if name == MINILM.split("/")[1]:
        return MINILM
    folder = Path(name)
    if not name or not folder.is_dir():
        return name if re.fullmatch(r"[\w][\w.-]*(/[\w.-]+)?", name) else None
    cached = re.search(r"models--([\w.-]+?)--([\w.-]+)/snapshots/", folder.resolve().as_posix())
    if cached is not None:
        return f"{cached[1]}/{cached[2]}"
    try:
        front = (folder / "README.md").read_text(encoding="utf-8").split("---")[1]
    except (OSError, UnicodeDecodeError, IndexError):
        return None
    found = re.search(r"^base_model: ['\"]?([\w][\w.-]*(?:/[\w.-]+)?)['\"]?$", front, re.MULTILINE)
    return None if found is None or Path(found[1]).is_dir() else found[1]


def _front_matter(facts: Mapping[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        base_model=facts.get("base_model"),
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
        parts.append(_part_of_a_run(facts))
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
    score = "The score of a point and a label is the dot product of their vectors"
    if facts.get("label_table"):
        score = "What this folder says of a point and a label is the dot product of their vectors"
    parts.append(f"{score}, which {'have unit length' if unit else 'are not normalised'}.")
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


def _part_of_a_run(facts: Mapping[str, Any]) -> str:
    """Say what is missing in the folder, and what that costs."""
    text = (
        "## What this is, and what it is not\n\n"
        "This is one part of a trained run: the text encoder. The run also learned a residual "
        "vector and a bias for each label that has training points, and may let training points "
        "vote and rank the candidates by words as well. None of that is in this folder. The dot "
        "product of two vectors is the run's score of a label that training never saw; it is not "
        "the run's score of any other label. For those, open the run: "
        "`dexml.predict.Predictor.open(RUN)`."
    )
    if not facts.get("scores"):
        return f"{text}\n\nHow far the two are apart was not measured: there was no test part."
    scores = facts["scores"]
    columns = [name for name in _SHOWN if all(name in one for one in scores.values())]
    lines = [["", *columns], ["---", *["---:"] * len(columns)]]
    for name, one in scores.items():
        lines.append([name, *(f"{100 * one[column]:.1f}" for column in columns)])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\nOn {facts.get('scored_on', 'the test part')}, percent:\n\n{table}"


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
