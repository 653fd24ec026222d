"""What the losses accept, count and refuse; how they cut scores."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from dexml import losses
from dexml.losses import Layout
from losses_problem import F64, NAMES, Problem, grads, ours


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_layout_rule() -> None:
    from dexml.losses.layout import SCRATCH_BYTES, choose

    cpu: dict[str, Any] = {"itemsize": 4, "copies": 2, "device": "cpu"}
    usual: dict[str, Any] = cpu | {"scratch_bytes": SCRATCH_BYTES["cpu"]}
    assert choose(256, 131_072, **usual).keep
    assert not choose(256, 1_305_265, **usual).keep
    assert choose(64, 192, **usual) == Layout(64, 192, keep=True)
    assert not choose(256, 131_072, **usual, may_keep=False).keep
    for n_points in (1, 63, 256, 16_384, 10**6):
        for n_labels in (1, 600, 131_072, 1_305_265):
            for copies in (2, 5):
                for scratch in (2**20, 2**26):
                    found = choose(
                        n_points,
                        n_labels,
                        itemsize=4,
                        copies=copies,
                        device="cpu",
                        scratch_bytes=scratch,
                    )
                    tile = found.chunk_rows * found.tile_labels
                    kept = found.chunk_rows * n_labels if found.keep else 0
                    assert 4 * (kept + (copies - found.keep) * tile) <= scratch
                    assert found.chunk_rows <= n_points
                    assert found.tile_labels <= n_labels


def test_scores_are_kept_on_a_gpu_where_they_take_an_eighth_of_it() -> None:
    from dexml.losses.layout import SCRATCH_BYTES, budget, choose

    memory = 80 * 2**30
    cuda: dict[str, Any] = {"itemsize": 4, "device": "cuda", "device_bytes": memory}

    def layout(n_points: int, n_labels: int) -> tuple[Layout, int]:
        scratch = budget(n_points, n_labels, **cuda)
        found = choose(
            n_points, n_labels, itemsize=4, copies=2, device="cuda", scratch_bytes=scratch
        )
        return found, scratch

    small, scratch = layout(100, 1000)
    assert small.keep
    assert scratch == SCRATCH_BYTES["cuda"]
    whole, scratch = layout(3000, 131_073)
    assert whole.keep
    assert whole.chunk_rows == 3000
    assert 4 * 3000 * 131_073 <= scratch <= memory // 8
    parts, scratch = layout(3000, 1_305_265)  # in chunks of rows
    assert parts.keep
    assert 256 <= parts.chunk_rows < 3000
    assert scratch == memory // 8
    many, _ = layout(16_384, 30_000_000)  # chunks would be too thin
    assert not many.keep
    assert budget(3000, 131_073, **cuda, may_keep=False) == SCRATCH_BYTES["cuda"]
    assert budget(3000, 131_073, itemsize=4, device="cpu") == SCRATCH_BYTES["cpu"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"temperature": math.nan}, "temperature = nan"),
        ({"positives": csr_array(np.ones((7, 12)))}, r"positives: shape \(7, 12\), expected"),
        ({"ignore": csr_array(np.ones((6, 13)))}, r"ignore: shape \(6, 13\), expected"),
        ({"positives": (torch.arange(8), torch.full((7,), 13))}, "label 13 out of range"),
        ({"positives": (torch.arange(4), torch.arange(3))}, "indptr of length 4 for 7 points"),
        ({"positives": (torch.arange(8), torch.full((7,), -1))}, "label -1 out of range"),
        ({"positives": (torch.arange(8), torch.arange(9))}, "does not rise from 0 to 9"),
        (
            {"positives": (torch.tensor([0, 2] + [2] * 6), torch.tensor([4, 4]))},
            "positives: label 4 appears twice in row 0",
        ),
        ({"label_emb": torch.zeros(13, 4, dtype=F64)}, r"embeddings of shapes"),
        ({"label_emb": torch.zeros(13, 5).int(), "point_emb": torch.zeros(7, 5).int()}, "int32"),
        ({"label_bias": torch.zeros(3, dtype=F64)}, r"label_bias: shape \(3,\) for 13 labels"),
        ({"reduction": "sum"}, "reduction = 'sum'"),
        ({"scratch_bytes": 0}, "scratch_bytes = 0"),
        ({"weights": torch.ones(3)}, r"weights: shape \(3,\) for 22 positives"),
        ({"weights": torch.tensor([1.0] * 21 + [0.0])}, "weights: 0.0 at entry 21"),
        ({"shard": losses.Shard(0, 12, 13)}, r"labels 0..12, but label_emb has 13 rows"),
        ({"shard": losses.Shard(2, 15, 14)}, r"labels 2..15 of 14"),
        ({"negative_log_weight": torch.zeros(3)}, r"negative_log_weight: shape \(3,\) for 13"),
        ({"k": 0}, "k = 0"),
        ({"k": torch.tensor([1, 2])}, r"k: shape \(2,\) for 7 rows"),
        ({"k": torch.zeros(7, dtype=torch.int64)}, "k = 0"),
        ({"k": torch.ones(7)}, "k: dtype torch.float32"),
        ({"alpha": 0.0}, "alpha = 0.0"),
        ({"log_scale": torch.zeros(2)}, r"log_scale: shape \(2,\)"),
    ],
)
def test_errors_name_the_argument(change: dict[str, Any], message: str) -> None:
    p = Problem(0)
    p.positives[:] = False
    p.positives.flat[np.random.default_rng(0).choice(91, 22, replace=False)] = True
    arguments: dict[str, Any] = {"point_emb": p.x, "label_emb": p.y, "positives": p.own} | change
    special = {"k": "soft_topk", "alpha": "soft_topk", "log_scale": "bce"}
    name = next((special[key] for key in change if key in special), "decoupled_softmax")
    with pytest.raises(ValueError, match=message):
        ours(name)(**arguments)


def test_an_unknown_argument_is_refused() -> None:
    p = Problem(0)
    with pytest.raises(TypeError, match="unknown argument 'temprature'"):
        ours("softmax")(p.x, p.y, p.own, temprature=1.0)
    with pytest.raises(ValueError, match=r"k = 2\.5"):
        ours("topk_hinge")(p.x, p.y, p.own, k=2.5)


def test_ids_in_any_order_and_weights_with_them() -> None:
    p = Problem(1)
    own = p.own
    order = np.concatenate(
        [np.arange(a, b)[::-1] for a, b in zip(own.indptr[:-1], own.indptr[1:], strict=True)]
    )
    reverse = (torch.from_numpy(own.indptr), torch.from_numpy(own.indices[order]))
    for name in NAMES[:4]:
        a = ours(name)(p.x, p.y, own, weights=p.own_weights)
        b = ours(name)(p.x, p.y, reverse, weights=p.own_weights[torch.from_numpy(order)])
        assert a.item() == b.item()


def test_weights_of_another_dtype() -> None:
    p = Problem(1)
    x, y = (t.detach().float().requires_grad_() for t in (p.x, p.y))
    for name in NAMES[:4]:
        found = [ours(name)(x, y, p.own, weights=w) for w in (p.own_weights, p.own_weights.float())]
        for a, b in zip(*(grads(loss, [x, y]) for loss in found), strict=True):
            assert torch.allclose(a, b)


def test_a_pair_in_both_sets_is_a_positive_and_counted() -> None:
    p = Problem(3)
    both = csr_array((p.ignore | p.positives).astype(np.float32))
    for name in NAMES:
        a = ours(name)(p.x, p.y, p.own, ignore=both)
        b = ours(name)(p.x, p.y, p.own, ignore=csr_array(p.ignore & ~p.positives))
        assert a.item() == b.item()
    found = losses.counts(p.own, both, n_labels=13, k=3)
    assert found == {
        "rows_without_positives": int((p.positives.sum(1) == 0).sum()),
        "ignored_positives": int(p.positives.sum()),
        "rows_beyond_k": int((p.positives.sum(1) > 3).sum()),
    }
    assert losses.counts((torch.arange(3), torch.tensor([0, 0])), n_labels=1) == {
        "rows_without_positives": 0,
        "ignored_positives": 0,
    }
