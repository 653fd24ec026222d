"""The Triton kernels against the tiles of torch, under Triton's interpreter.

Run by test_losses_kernels.py in a process of its own: the interpreter is chosen at import.
"""

import numpy as np
import torch
from scipy.sparse import csr_array

from dexml import losses
from dexml.losses import Layout, triton_softmax


def main() -> None:
    torch.set_num_threads(1)
    triton_softmax.SPLITS = 2  # three blocks of labels: one split has two of them
    generator = np.random.default_rng(0)
    n_points, n_labels, dim = 17, 67, 17  # just beyond a multiple of each block
    positives = generator.random((n_points, n_labels)) < 0.1
    positives[0], positives[1] = False, True
    positives[2, [0, 31, 32, n_labels - 1]] = True  # at the ends of blocks
    ignore = generator.random((n_points, n_labels)) < 0.1
    ignore[3] = ~positives[3]
    options = {"ignore": csr_array(ignore), "temperature": 0.5}
    own = csr_array(positives)
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float16, 3e-3)):
        tensors = [
            torch.from_numpy(generator.normal(size=shape)).to(dtype).requires_grad_()
            for shape in ((n_points, dim), (n_labels, dim), (n_labels,))
        ]
        x, y, bias = tensors
        exact = [t.detach().double().requires_grad_() for t in tensors]
        for layout in (None, Layout(9, 40, keep=False)):
            for name in ("softmax", "decoupled_softmax"):
                for with_bias in (False, True):
                    extra = (
                        {"negative_log_weight": torch.linspace(-1, 1, n_labels)}
                        if with_bias and name == "decoupled_softmax"
                        else {}
                    )
                    loss = getattr(losses, name)
                    mine = loss(
                        x, y, own, label_bias=bias if with_bias else None,
                        triton=True, layout=layout, **options, **extra,
                    )  # fmt: skip
                    theirs = loss(
                        exact[0], exact[1], own, label_bias=exact[2] if with_bias else None,
                        **options, **extra,
                    )  # fmt: skip
                    assert abs(mine.item() - theirs.item()) <= 6e-7 * abs(theirs.item()), name
                    inputs = 3 if with_bias else 2
                    for a, b in zip(
                        torch.autograd.grad(mine, tensors[:inputs]),
                        torch.autograd.grad(theirs, exact[:inputs]),
                        strict=True,
                    ):
                        distance = (a.double() - b).norm() / b.norm()
                        assert distance <= tolerance, (name, dtype, float(distance))
    print("kernels agree")


if __name__ == "__main__":
    main()
