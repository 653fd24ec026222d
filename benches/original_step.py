"""The training step of the original DEXML code, its pattern re-expressed, to compare with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dexml.encoder import DualEncoder, Tokens
from dexml.train.problem import Problem


class Original:
    """The original's step, with all positives; labels are encoded `chunk` at a time."""

    def __init__(self, problem: Problem, encoder: DualEncoder, chunk: int, max_tokens: int) -> None:
        self.encoder, self.problem, self.chunk = encoder, problem, chunk
        self.points = _padded(problem.point_tokens, max_tokens)
        self.labels = _padded(problem.label_tokens, max_tokens)
        parameters = [*encoder.transformer.parameters(), *encoder.head_parameters()]
        self.parameters = [p for p in parameters if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=5e-5, fused=True)

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        device = self.encoder.device
        ids, mask = ids.to(device), mask.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            states = self.encoder.transformer(input_ids=ids, attention_mask=mask).last_hidden_state
        kept = mask.unsqueeze(-1).float()
        pooled = (states.float() * kept).sum(1) / kept.sum(1)
        embedded: Tensor = self.encoder(torch.nn.functional.normalize(pooled, dim=1))
        return embedded

    def gradients(self) -> float:
        for parameter in self.parameters:
            parameter.grad = None
        n = len(self.labels[0])
        chunks = [slice(start, start + self.chunk) for start in range(0, n, self.chunk)]
        states, parts = [], []
        for some in chunks:
            states.append(_random_state(self.encoder.device))
            with torch.no_grad():
                parts.append(self.embed(self.labels[0][some], self.labels[1][some]))
        labels_LD = torch.cat(parts).requires_grad_()
        points_BD = self.embed(*self.points)
        z = (points_BD @ labels_LD.T).float() / 0.05
        y = self.problem.y
        rows = torch.from_numpy(np.repeat(np.arange(y.shape[0]), np.diff(y.indptr))).to(z.device)
        columns = torch.from_numpy(y.indices.astype(np.int64)).to(z.device)
        counts = torch.from_numpy(np.diff(y.indptr)).to(z.device)[rows]
        wanted = z[rows, columns]
        z = z.index_put((rows, columns), torch.tensor(-100.0, device=z.device))
        everything = torch.logsumexp(z, dim=1)[rows]
        loss = ((torch.logaddexp(everything, wanted) - wanted) / counts).sum() / len(points_BD)
        loss.backward()
        after = _random_state(self.encoder.device)
        grad = labels_LD.grad
        assert grad is not None
        for some, state in zip(chunks, states, strict=True):
            _set_random_state(state)
            emb = self.embed(self.labels[0][some], self.labels[1][some])
            (emb * grad[some]).sum().backward()
        _set_random_state(after)
        return float(loss.detach())

    def step(self) -> float:
        loss = self.gradients()
        self.optimizer.step()
        return loss


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    on_gpu = torch.cuda.get_rng_state() if device.type == "cuda" else None
    return torch.get_rng_state(), on_gpu


def _set_random_state(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])


def _padded(tokens: Tokens, max_tokens: int) -> tuple[Tensor, Tensor]:
    """Token ids (N, `max_tokens`) and mask, padded with 0, as the original keeps them."""
    lengths = np.diff(tokens.offsets)
    mask = np.arange(max_tokens) < lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = tokens.ids
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))
