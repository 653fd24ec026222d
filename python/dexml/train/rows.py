"""AdamW for the rows of a table that a step has drawn; the other rows cost nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dexml.encoder import LabelTable
from dexml.losses.pairs import moved


class RowAdamW:
    """Updates single rows of a label table, without weight decay.

    Each row has its own moments and its own count, which move when it is drawn (a "lazy" Adam); the
    bias correction uses that count. A row that every step draws moves as under AdamW. Memory: two
    more tables and 8 bytes a label.

    A row that is drawn in a share p of the steps moves by its rate only p times a step, and AdamW
    over all rows would move it further: a gradient that is there in a share p of the steps has a
    mean of p times its size, but a root mean square of sqrt(p) times. `catch_up` makes up for it.
    """

    def __init__(self, table: LabelTable, betas: tuple[float, float], eps: float) -> None:
        self.table, self.betas, self.eps = table, betas, eps
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[str, tuple[Tensor, Tensor]] = {}
        self.counts = torch.zeros(len(table.bias), dtype=torch.int64, device=table.bias.device)

    def add(self, name: str, lr: float) -> None:
        """Train ``residual`` or ``bias`` at this peak rate."""
        values = getattr(self.table, name).detach()
        self.state[name] = (torch.zeros_like(values), torch.zeros_like(values))
        self.param_groups.append({"name": name, "lr": lr})

    @torch.no_grad()
    def step(self, ids: NDArray[np.int64], residual: Tensor, bias: Tensor, *, steps: int) -> None:
        """Update the rows `ids` (K,), each once, by the gradients (K, D) and (K,).

        `steps` is how many steps there have been, with this one.
        """
        rows = moved(torch.from_numpy(ids), self.counts.device)
        self.counts[rows] += 1
        t = self.counts[rows].to(residual.dtype)
        further = catch_up(t, steps, self.betas)
        for group in self.param_groups:
            name = group["name"]
            grad = residual if name == "residual" else bias
            values = getattr(self.table, name)
            mean, square = self.state[name]
            wide = grad.ndim == 2
            count = t.unsqueeze(1) if wide else t
            lr = group["lr"] * (further.unsqueeze(1) if wide else further)
            m = mean[rows].lerp(grad, 1 - self.betas[0])
            v = square[rows].lerp(grad * grad, 1 - self.betas[1])
            mean[rows], square[rows] = m, v
            root = (v / (1 - self.betas[1] ** count)).sqrt() + self.eps
            values[rows] -= lr * m / (1 - self.betas[0] ** count) / root


def catch_up(counts: Tensor, steps: int, betas: tuple[float, float]) -> Tensor:
    """How much further rows move that were drawn in `counts` of `steps` steps, same shape.

    So that they move about as far as under AdamW over all rows with these decays, where rows that
    are not drawn have a gradient of 0: within an eighth for shares p down to 0.002 (tested). For
    large p that is 1/sqrt(p). For small p, AdamW has forgotten one gradient before the next; with
    each it moves by (1 - b1)/(1 - b1/sqrt(b2))/sqrt(1 - b2) times its rate, and that is the most.
    """
    beta1, beta2 = betas
    forgets = max(0.0, 1 - beta1 / max(beta2, 1e-12) ** 0.5)
    rarest = (1 - beta2) * (forgets / (1 - beta1)) ** 2
    share = counts / steps
    further: Tensor = (share + (1 - share) * rarest) ** -0.5
    return further
