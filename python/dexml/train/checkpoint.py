"""Checkpoints of a training: weights and optimiser state in safetensors, the rest in JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dexml.files import replacing

FORMAT_VERSION = 1
_MOMENTS = ("exp_avg", "exp_avg_sq")


def save(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None, state: dict[str, Any]
) -> None:
    """Write weights, AdamW moments and `state` as one file, beside and renamed.

    Args:
        path: The checkpoint file.
        model: All is saved but the frozen layers of the transformer, which never change.
        optimizer: AdamW over these parameters; None saves the weights alone.
        state: JSON values: phase, epoch, step, best score.
    """
    tensors = {f"model.{name}": p.detach() for name, p in changing(model).items()}
    if optimizer is not None:
        for name, parameter in changing(model).items():
            for moment in _MOMENTS:
                if moment in optimizer.state.get(parameter, {}):
                    tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    metadata = {"format_version": str(FORMAT_VERSION), "state": json.dumps(state)}
    with replacing(path) as beside:
        save_file({n: t.cpu().contiguous() for n, t in tensors.items()}, beside, metadata)


def read_state(path: Path) -> dict[str, Any]:
    """Read the `state` of a checkpoint."""
    with _open(path) as file:
        metadata = file.metadata() or {}
    if int(metadata.get("format_version", "0")) != FORMAT_VERSION:
        raise ValueError(f"{path}: not a checkpoint of this version; start again with --overwrite")
    state: dict[str, Any] = json.loads(metadata["state"])
    return state


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Put weights and moments back; parameters the file does not know keep their values."""
    step = float(read_state(path)["step"])
    device = next(model.parameters()).device
    with _open(path) as file, torch.no_grad():
        names = set(file.keys())
        for name, parameter in model.named_parameters():
            if f"model.{name}" not in names:
                continue
            saved: Tensor = file.get_tensor(f"model.{name}")
            if saved.shape != parameter.shape:
                raise ValueError(
                    f"{path}: {name} has shape {tuple(saved.shape)}, the model "
                    f"{tuple(parameter.shape)}; the run belongs to other data or another encoder"
                )
            parameter.copy_(saved)
            if optimizer is not None and f"{_MOMENTS[0]}.{name}" in names:
                optimizer.state[parameter] = {
                    moment: file.get_tensor(f"{moment}.{name}").to(device) for moment in _MOMENTS
                } | {"step": torch.tensor(step, device=device if device.type == "cuda" else None)}


def changing(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that some phase trains, by name: all but frozen layers of the transformer."""
    return {
        name: p
        for name, p in model.named_parameters()
        if p.requires_grad or not name.startswith("encoder.transformer.")
    }


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged ({error}); start again with --overwrite") from None
