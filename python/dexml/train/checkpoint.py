"""Checkpoints of a training: weights and optimiser state in safetensors, the rest in JSON."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dexml import console
from dexml.files import replacing
from dexml.train import processes
from dexml.train.problem import Model
from dexml.train.step import Stage

FORMAT_VERSION = 4
_MOMENTS = ("exp_avg", "exp_avg_sq")
Rows = slice | NDArray[np.int64]
_NAME = re.compile(r"\d-\d{9}\.safetensors")


@dataclass
class Progress:
    """How far a job has come; part of each checkpoint."""

    stage: str = ""
    """The stage that runs; empty before the first one."""
    epoch: int = 0
    """Epochs of the stage that are complete."""
    done: int = 0
    """Steps of the epoch that has begun."""
    step: int = 0
    """Steps of the stage."""
    total: float = 0.0
    """Sum of the losses of the epoch that has begun, over its points."""
    waited: int = 0
    """Validations since the best one."""
    shortlist: str = ""
    """File of the shortlist in use; empty: none yet."""
    clusters: str = ""
    """File of the clusters of points in use; empty: none."""
    best: float | None = None
    """Best score of a validation, over all stages."""
    chosen: dict[str, int] = field(default_factory=dict)
    """Epochs of each stage that led to the best score."""
    written: int = 0
    """Checkpoints so far."""

    @classmethod
    def from_json(cls, text: str) -> Progress:
        """Read what `as_json` has written."""
        return cls(**json.loads(text))

    def as_json(self) -> str:
        """Write all fields as one JSON object."""
        return json.dumps(asdict(self))

    def begin(self, stage: str) -> None:
        """Start a stage: its own counts start at 0."""
        self.stage, self.shortlist, self.clusters = stage, "", ""
        self.epoch = self.done = self.step = self.waited = 0
        self.total = 0.0


def save(path: Path, model: Model, stage: Stage | None, progress: Progress) -> None:
    """Write weights, AdamW moments and progress as one file; a kill leaves no half file.

    All processes call this; the first one writes.

    Args:
        path: The checkpoint file.
        model: Its label table is whole on every process (see `complete`). Layers of the transformer
            that no stage trains are not saved.
        stage: The stage whose optimiser is saved; None saves the weights alone.
        progress: How far the job has come.
    """
    tensors = {f"model.{name}": p.detach() for name, p in changing(model).items()}
    if stage is not None:
        tensors |= _moments(stage)

    def write() -> bool:
        flat = {n: t.cpu().contiguous() for n, t in sorted(tensors.items())}
        metadata = {
            "format_version": str(FORMAT_VERSION),
            "state": progress.as_json(),
            "sha256": _digest(flat),
        }
        with replacing(path) as beside:
            save_file(flat, beside, metadata)
        return True

    processes.first(write, next(model.parameters()).device)


def save_last(stage: Stage, progress: Progress) -> None:
    """Write a checkpoint of this moment, and remove all but the last `keep_checkpoints`."""
    complete(stage)
    progress.written += 1
    folder = stage.job.folder
    path = folder / f"{stage.schedule.number}-{progress.written:09d}.safetensors"
    save(path, stage.model, stage, progress)
    if processes.is_first():
        for old in listed(folder)[stage.settings.keep_checkpoints :]:
            old.unlink(missing_ok=True)


def listed(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest first."""
    paths = [path for path in folder.glob("*.safetensors") if _NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: path.name[2:], reverse=True)


def newest(folder: Path) -> tuple[Path, Progress] | None:
    """The newest checkpoint that is not damaged, and its progress; None if there is none yet.

    Raises:
        ValueError: All are damaged.
    """
    paths = listed(folder)
    for path in paths:
        try:
            return path, read_progress(path, check=True)
        except ValueError as error:
            if processes.is_first():
                console.say(f"note: {error}; going on from the checkpoint before")
    if paths:
        raise ValueError(f"{folder}: every checkpoint is damaged; start again with --overwrite")
    return None


def read_progress(path: Path, *, check: bool = False) -> Progress:
    """Read the progress from a checkpoint; with `check`, compare all of its content with its hash.

    Raises:
        ValueError: Damaged, or of another version.
    """
    with _open(path) as file:
        metadata = file.metadata() or {}
        if int(metadata.get("format_version", "0")) != FORMAT_VERSION:
            raise ValueError(
                f"{path}: not a checkpoint of this version; start again with --overwrite"
            )
        if check:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if _digest(tensors) != metadata["sha256"]:
                raise ValueError(f"{path}: damaged (its content has changed)")
    return Progress.from_json(metadata["state"])


def best_file(folder: Path, stage: str) -> Path:
    """Where a stage keeps its best epoch, if it has one that is better than all stages before.

    Each stage has its own file. So if a kill comes between this file and the first checkpoint of
    the stage, the stage starts again from the best of the stages before.
    """
    return folder / f"best-{stage}.safetensors"


def load_best(folder: Path, stages: Sequence[str], model: Model) -> Progress | None:
    """Load the weights of the best epoch of `stages` (in the order they ran) into `model`.

    Returns:
        The progress then; None, with the model unchanged, if none of the stages has a best epoch.

    Raises:
        ValueError: The file is damaged.
    """
    paths = [path for path in (best_file(folder, name) for name in stages) if path.exists()]
    if not paths:
        return None
    try:
        progress = read_progress(paths[-1], check=True)
    except ValueError as error:
        raise ValueError(f"{error}; start again with --overwrite") from None
    load(paths[-1], model)
    return progress


def load(path: Path, model: Model, stage: Stage | None = None, *, prefix: str = "") -> None:
    """Load weights and moments; parameters that the file does not have keep their values.

    Args:
        path: The checkpoint.
        model: Changed in place.
        stage: Its optimiser gets its moments; None loads the weights alone.
        prefix: Only parameters whose names begin with it are loaded.

    Raises:
        ValueError: A parameter has another shape.
    """
    device = next(model.parameters()).device
    with _open(path) as file, torch.no_grad():
        names = set(file.keys())
        for name, parameter in _named(model):
            if f"model.{name}" not in names or not name.startswith(prefix):
                continue
            saved: Tensor = file.get_tensor(f"model.{name}")
            if saved.shape != parameter.shape:
                raise ValueError(
                    f"{path}: {name} has shape {tuple(saved.shape)}, the model "
                    f"{tuple(parameter.shape)}; the run belongs to other data or another encoder"
                )
            parameter.copy_(saved)
        if stage is None:
            return
        if stage.own_table is not None:
            for whole, own in _own_parts(stage):
                own.copy_(whole[_index(stage.own_rows, whole)])
            if stage.own_table.shared is not None:
                clusters = model.table.cluster
                stage.own_table.cluster = clusters[_index(stage.own_rows, clusters)]
        if stage.rounded is not None:
            stage.rounded.counts.copy_(file.get_tensor("rounded.counts"))
            stage.rounded.squares.copy_(file.get_tensor("rounded.squares"))
        if stage.row_optimizer is not None:
            stage.row_optimizer.counts.copy_(file.get_tensor("rows.counts"))
            for name, moments in stage.row_optimizer.state.items():
                for moment, into in zip(_MOMENTS, moments, strict=True):
                    into.copy_(file.get_tensor(f"{moment}.table.{name}"))
        if stage.optimizer is None:
            return
        for name, parameter, rows in _trained(stage):
            if f"{_MOMENTS[0]}.{name}" in names:
                both = {m: file.get_tensor(f"{m}.{name}") for m in _MOMENTS}
                if rows is not None:
                    both = {m: t[_index(rows, t)].clone() for m, t in both.items()}
                step = file.get_tensor(f"step.{name}").reshape(())
                if device.type == "cuda":
                    step = step.to(device)
                both = {m: t.to(device) for m, t in both.items()}
                stage.optimizer.state[parameter] = both | {"step": step}


def changing(model: Model) -> dict[str, Tensor]:
    """Tensors to save, by name: all but layers of the transformer that no stage trains."""
    return {
        name: tensor
        for name, tensor in _named(model)
        if not name.startswith("encoder.transformer.") or name in model.trained_layers
    }


def _named(model: Model) -> list[tuple[str, Tensor]]:
    """Parameters by name, and the clusters of the labels if there are any."""
    named: list[tuple[str, Tensor]] = [*model.named_parameters()]
    if model.table.shared is not None:
        named.append(("table.cluster", model.table.cluster))
    return named


def complete(stage: Stage) -> None:
    """Put the parts of the label table together, on every process; all call this."""
    rows = stage.own_rows
    if stage.own_table is None or (isinstance(rows, slice) and processes.size() == 1):
        return
    for whole, own in _own_parts(stage):
        if isinstance(rows, slice):  # the part shares the memory of the whole
            whole[: rows.start] = 0
            whole[rows.stop :] = 0
        else:
            whole.zero_()
            whole[_index(rows, whole)] = own
        processes.add_up(whole.view(torch.uint8) if whole.dtype == torch.bfloat16 else whole)


def _own_parts(stage: Stage) -> list[tuple[Tensor, Tensor]]:
    """Residuals and biases: those of all labels, and those of this process."""
    table, own = stage.model.table, stage.own_table
    assert own is not None
    return [(table.residual.data, own.residual.data), (table.bias.data, own.bias.data)]


def _index(rows: Rows, like: Tensor) -> slice | Tensor:
    return rows if isinstance(rows, slice) else torch.from_numpy(rows).to(like.device)


def _moments(stage: Stage) -> dict[str, Tensor]:
    """State of the optimisers by name, put together over the processes."""
    tensors: dict[str, Tensor] = {}
    if stage.rounded is not None:
        for name, values in (("counts", stage.rounded.counts), ("squares", stage.rounded.squares)):
            whole = values
            if stage.own_table is not None and len(values) and processes.size() > 1:
                whole, own = torch.zeros_like(values), _index(stage.own_rows, values)
                whole[own] = values[own]
                processes.add_up(whole)
            tensors[f"rounded.{name}"] = whole
    if stage.row_optimizer is not None:
        tensors["rows.counts"] = stage.row_optimizer.counts
        for name, moments in stage.row_optimizer.state.items():
            for moment, tensor in zip(_MOMENTS, moments, strict=True):
                tensors[f"{moment}.table.{name}"] = tensor
    if stage.optimizer is None:
        return tensors
    for name, parameter, rows in _trained(stage):
        state = stage.optimizer.state.get(parameter, {})
        if not state:
            continue
        tensors[f"step.{name}"] = state["step"].reshape(1)  # bce may start later than the rest
        for moment in _MOMENTS:
            tensor = state[moment]
            if rows is not None and (processes.size() > 1 or not isinstance(rows, slice)):
                n_labels = len(stage.model.table.bias)
                whole = tensor.new_zeros(n_labels, *tensor.shape[1:])
                whole[_index(rows, whole)] = tensor
                processes.add_up(whole)
                tensor = whole
            tensors[f"{moment}.{name}"] = tensor
    return tensors


def _trained(stage: Stage) -> list[tuple[str, nn.Parameter, Rows | None]]:
    """Parameters of `optimizer` by name; for the label table, with the rows of this process."""
    assert stage.optimizer is not None
    inside = {id(p) for group in stage.optimizer.param_groups for p in group["params"]}
    trained: list[tuple[str, nn.Parameter, Rows | None]] = [
        (name, p, None) for name, p in stage.model.named_parameters() if id(p) in inside
    ]
    if stage.own_table is not None:
        for name in ("residual", "bias"):
            parameter = getattr(stage.own_table, name)
            if id(parameter) in inside:
                trained.append((f"table.{name}", parameter, stage.own_rows))
    return trained


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + b"\0")
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged ({error})") from None
