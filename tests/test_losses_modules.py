"""The module for other training loops, and the example that uses it."""

import importlib.util
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dexml import losses
from dexml.losses import InBatchLoss, in_sets, same_group

ROOT = Path(__file__).parents[1]


class Table(nn.Module):
    """Stands in for an encoder: an embedding of each token id."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(20, 6)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": self.rows(features["ids"])}


def columns(*ids: list[int]) -> list[dict[str, Tensor]]:
    return [{"ids": torch.tensor(i)} for i in ids]


def test_same_group_is_the_dense_comparison() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randint(-3, 6, (40,), generator=generator)
    labels = torch.randint(-1, 9, (57,), generator=generator)
    indptr, indices = same_group(points, labels)
    found = torch.zeros(40, 57, dtype=torch.bool)
    for b in range(40):
        found[b, indices[indptr[b] : indptr[b + 1]]] = True
    assert torch.equal(found, points[:, None] == labels[None])
    assert len(indices) == found.sum()


@pytest.mark.parametrize(
    "name", ["softmax", "decoupled_softmax", "soft_topk", "bce", "topk_hinge", "triplet"]
)
def test_groups_are_positives_and_further_columns_negatives(name: str) -> None:
    torch.manual_seed(0)
    model = Table()
    groups = torch.tensor([4, 9, 4])
    module = InBatchLoss(model, getattr(losses, name), temperature=0.2)
    value = module(columns([0, 1, 2], [5, 6, 7], [8, 9, 10]), groups)
    emb = nn.functional.normalize(model.rows.weight, dim=1)
    positives = (torch.tensor([0, 2, 3, 5]), torch.tensor([0, 2, 1, 0, 2]))
    expected = getattr(losses, name)(emb[:3], emb[5:11], positives, temperature=0.2)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    value.backward()
    assert model.rows.weight.grad is not None


def test_without_groups_it_is_cross_entropy_over_the_batch() -> None:
    model = Table()
    emb = model.rows.weight.detach()
    for labels in (None, torch.zeros(0)):
        module = InBatchLoss(model, losses.softmax, normalize=False, temperature=1.0)
        value = module(columns([0, 1, 2], [5, 6, 7]), labels)
        expected = nn.functional.cross_entropy(emb[:3] @ emb[5:8].T, torch.arange(3))
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_learned_scale_and_offset_are_parameters() -> None:
    module = InBatchLoss(Table(), losses.bce, learn_scale=True, offset=-3.0)
    assert {"log_scale", "offset"} <= {name for name, _ in module.named_parameters()}
    module(columns([0, 1], [5, 6])).backward()
    assert module.log_scale is not None
    assert module.offset is not None
    assert module.log_scale.grad is not None
    assert module.offset.grad is not None


def test_errors_of_the_module() -> None:
    with pytest.raises(ValueError, match="use it with bce"):
        InBatchLoss(Table(), losses.softmax, learn_scale=True)
    module = InBatchLoss(Table())
    with pytest.raises(ValueError, match="1 text column"):
        module(columns([0, 1]))
    with pytest.raises(ValueError, match=r"labels: shape \(2,\), dtype torch.float32"):
        module(columns([0, 1], [2, 3]), torch.tensor([0.5, 1.0]))


@pytest.mark.parametrize("loss", ["decoupled_softmax", "bce"])
def test_the_example_trains(tiny_encoder: Path, loss: str) -> None:
    pytest.importorskip("sentence_transformers")
    torch.set_num_threads(1)
    path = ROOT / "docs" / "examples" / "train_sentence_transformers.py"
    spec = importlib.util.spec_from_file_location("example", path)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    torch.manual_seed(0)
    values = example.main(
        [str(tiny_encoder), "--steps", "25", "--batch-size", "16", "--loss", loss]
    )
    assert sum(values[-5:]) < 0.8 * sum(values[:5])


def test_the_picture_is_what_its_script_draws() -> None:
    """Up to rounding in the last digit of a coordinate."""
    path = ROOT / "docs" / "examples" / "free_logits.py"
    spec = importlib.util.spec_from_file_location("free_logits", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    number = re.compile(r"-?\d+\.\d+")
    drawn, kept = script.draw(), (ROOT / "docs" / "losses.svg").read_text(encoding="utf-8")
    assert number.sub("", drawn) == number.sub("", kept)
    for a, b in zip(number.findall(drawn), number.findall(kept), strict=True):
        assert abs(float(a) - float(b)) < 0.11


def test_examples_of_the_page_run(tmp_path: Path) -> None:
    """The short one here, the one of two processes as a script."""
    page = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    short, split = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    exec(short, {})
    script = tmp_path / "split.py"
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    split = split.replace("29511", str(port))
    spawn = "torch.multiprocessing.spawn(work, (2,), nprocs=2)"
    assert spawn in split
    if sys.platform == "linux":  # a fork need not import torch again
        forked = 'torch.multiprocessing.start_processes(work, (2,), nprocs=2, start_method="fork")'
        split = split.replace(spawn, forked)
    script.write_text(split, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        # Unbuffered, a line would be written in pieces, and those of two processes would mix.
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONUNBUFFERED": ""},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = sorted(done.stdout.splitlines())
    assert [line.split()[0] for line in lines] == ["0", "1"]
    assert lines[0].split()[1] == lines[1].split()[1]  # one loss
    assert lines[0].split()[-1] == lines[1].split()[-1]  # one dX


def test_in_sets_is_the_dense_comparison() -> None:
    generator = torch.Generator().manual_seed(0)
    sets = torch.randint(-2, 9, (40, 5), generator=generator)
    labels = torch.randint(-1, 9, (57,), generator=generator)
    indptr, indices = in_sets(sets, labels)
    found = torch.zeros(40, 57, dtype=torch.bool)
    for b in range(40):
        row = indices[indptr[b] : indptr[b + 1]]
        assert torch.equal(row, row.unique())  # ascending, each once
        found[b, row] = True
    assert torch.equal(found, ((sets[:, :, None] == labels) & (labels >= 0)).any(dim=1))


@pytest.mark.parametrize(
    "name", ["softmax", "decoupled_softmax", "soft_topk", "bce", "topk_hinge", "triplet"]
)
def test_sets_make_every_right_label_of_the_batch_a_positive(name: str) -> None:
    """Point 0 has labels 30 and 31; row 1 is the same point, row 2 another one with label 31."""
    torch.manual_seed(0)
    model = Table()
    sets = torch.tensor([[30, 31, -1], [31, 30, -1], [31, -1, -1]])
    module = InBatchLoss(model, getattr(losses, name), temperature=0.2)
    value = module(columns([0, 0, 2], [5, 6, 6], [8, 9, 10]), sets)
    emb = nn.functional.normalize(model.rows.weight, dim=1)
    positives = (torch.tensor([0, 3, 6, 8]), torch.tensor([0, 1, 2, 0, 1, 2, 1, 2]))
    points, labels = emb[torch.tensor([0, 0, 2])], emb[torch.tensor([5, 6, 6, 8, 9, 10])]
    expected = getattr(losses, name)(points, labels, positives, temperature=0.2)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)


def test_sets_that_do_not_fit_are_refused() -> None:
    module = InBatchLoss(Table())
    for wrong in (torch.zeros(3, 2, dtype=torch.int64), torch.zeros(2, 1, 1, dtype=torch.int64)):
        with pytest.raises(ValueError, match="or as many rows of label ids"):
            module(columns([0, 1], [2, 3]), wrong)
