"""Push a run to the hub and pull it. A run is what `run.json` names, and nothing else."""

from __future__ import annotations

import json
import shutil
from os import PathLike
from pathlib import Path
from typing import Any

import tomli_w

from dexml import console
from dexml.files import replacing
from dexml.run import FORMAT, Run, hold
from dexml.run.folder import read_config

_CARD = "README.md"
_BESIDE = ("metrics.json", "versions.json", "encoder/README.md")
"""Files of a run that no manifest names, and that readers like to have."""
_PATHS = ("data_dir", "out", "cache", "test", "labels")
"""Settings that name places of one machine; they are not pushed."""


def push(
    run: str | PathLike[str],
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    token: str | None = None,
    message: str | None = None,
) -> str:
    """Push a finished run to the hub, as one commit; files of an older state there are removed.

    Every byte is checked first. Checkpoints, caches and logs stay behind, and so do the settings
    that name folders of this machine. A card (``README.md``) that is there already stays.

    A run in which training points vote holds their texts, unless it was trained with
    ``--no-keep-texts``, and a vocabulary in any case.

    Args:
        run: The run folder.
        repo_id: ``owner/name``; made if it is not there.
        private: Whether a repository that is made is private.
        revision: Branch to commit to; default the main one.
        token: Default: that of ``hf auth login``.
        message: Of the commit.

    Returns:
        The address of the commit.

    Raises:
        FileNotFoundError: No finished run there, or a part is missing.
        ValueError: A part is damaged.
        RuntimeError: Another process trains or edits the run.
        ImportError: huggingface_hub is missing.
        OSError: The hub cannot be reached or refuses.
    """
    console.require("hub", "huggingface_hub")
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    opened = Run.open(run)
    with hold(opened.folder, f"python -m dexml.hub push {repo_id}"):
        state = Run.open(run).state
        state.check_all()
        names = {FORMAT.manifest, *(str(part["name"]) for part in state.parts.values())}
        names |= {name for name in _BESIDE if (state.folder / name).is_file()}
        contents: dict[str, str | bytes] = {n: str(state.folder / n) for n in sorted(names)}
        contents["config.toml"] = _settings(state.folder)
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        there = set(api.list_repo_files(repo_id, revision=revision))
        if _CARD not in there:
            contents[_CARD] = _card(repo_id, state.folder, state.facts).encode()
        kept = {*contents, _CARD, ".gitattributes"}
        operations: list[Any] = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
            for name, content in contents.items()
        ]
        operations += [CommitOperationDelete(path_in_repo=name) for name in sorted(there - kept)]
        done = api.create_commit(
            repo_id,
            operations,
            commit_message=message or f"A run of dexml, {state.digest[:12]}",
            revision=revision,
        )
    return str(done.commit_url)


def pull(
    repo_id: str,
    out: str | PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Pull a run from the hub; the folder appears when every byte of it was checked.

    The files come through the cache of huggingface_hub, so that a broken download goes on.

    Args:
        repo_id: ``owner/name``.
        out: The run folder to make.
        revision: Branch, tag or commit; default the newest of the main branch.
        token: Default: that of ``hf auth login``.
        overwrite: Replace a run that is there.

    Returns:
        `out`, for `dexml.predict.Predictor.open`.

    Raises:
        FileExistsError: `out` is there, and is not a run or not to be replaced.
        FileNotFoundError: The repository holds no finished run.
        ValueError: A part is damaged, or of a newer version of dexml.
        ImportError: huggingface_hub is missing.
        OSError: The hub cannot be reached or refuses.
    """
    console.require("hub", "huggingface_hub")
    from huggingface_hub import HfApi

    folder = Path(out)
    if folder.exists():
        if not (folder / FORMAT.manifest).is_file():
            raise FileExistsError(f"{folder}: is there, and is no run; name another folder")
        if not overwrite:
            raise FileExistsError(f"{folder}: a run is there; --overwrite replaces it")
    got = Path(HfApi(token=token).snapshot_download(repo_id, revision=revision))
    if not (got / FORMAT.manifest).is_file():
        raise FileNotFoundError(f"{repo_id}: no run in it (no {FORMAT.manifest})")
    with replacing(folder) as beside:
        shutil.copytree(got, beside)  # links of the cache become files
        Run.open(beside).state.check_all()
    return folder


def _settings(folder: Path) -> bytes:
    """Return the settings of a run without the places that they name."""
    settings = read_config(folder) if (folder / "config.toml").is_file() else {}
    kept = {name: value for name, value in settings.items() if name not in _PATHS}
    if Path(str(kept.get("encoder", ""))).is_absolute():
        del kept["encoder"]
    return tomli_w.dumps(kept).encode()


def _card(repo_id: str, folder: Path, facts: Any) -> str:
    """Return a short card: what this is, its scores, how to open it."""
    kind = "with an encoder" if "dense" in facts else "without an encoder (a light run)"
    labels = facts.get("labels", {})
    scores = ""
    if (folder / "metrics.json").is_file():
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        values = metrics.get("metrics", metrics)
        rows = [
            f"| {name} | {100 * value:.2f} |"
            for name, value in values.items()
            if isinstance(value, float)
        ]
        if rows:
            scores = "\n".join(["", "| test part | percent |", "|---|---|", *rows, ""])
    return f"""---
library_name: dexml
tags:
- extreme-multi-label-classification
---

# {repo_id.rsplit("/", maxsplit=1)[-1]}

A run of dexml for extreme multi-label classification, {kind}: {labels.get("n_labels", "?")} labels.
{scores}
```python
from dexml.hub import pull
from dexml.predict import Predictor

predictor = Predictor.open(pull("{repo_id}", "run"))
ids, scores = predictor.predict(["a text"], k=5)
print(predictor.labels(ids))
```

Add the licence, the language and where the texts are from by hand: a push leaves this card alone.
"""
