"""Compiles the Triton kernels for GPUs that are not here: registers that spill, matrix units.

Run by test_losses_kernels.py in a process of its own; prints a line of JSON for each.
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton  # type: ignore[import-untyped]
from triton.backends.compiler import GPUTarget  # type: ignore[import-untyped]
from triton.compiler import ASTSource  # type: ignore[import-untyped]

from dexml.losses import triton_softmax
from dexml.losses.triton_softmax import BLOCKS, Block

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
UNITS = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
"""The instruction of the matrix units, by architecture."""
KERNELS = {"lse": triton_softmax._lse_kernel, "gradient": triton_softmax._gradient_kernel}
INTEGERS = {"n_rows", "n_labels", "dim", "blocks_a_split", "n_blocks"}
KINDS = {"masked_row": "*i64", "masked_column": "*i64", "cuts": "*i32", "scale": "fp32"}


def source(kernel: str, dtype: str, block: Block) -> Any:
    """As it is launched: pointers and dimensions are multiples of 16, a bias is added."""
    function = KERNELS[kernel]
    sizes = {"HAS_ADD": True, "BM": block.rows, "BN": block.labels, "BD": block.dims}
    signature = {}
    for name in function.arg_names:
        if name in sizes:
            signature[name] = "constexpr"
        elif name in INTEGERS:
            signature[name] = "i32"
        else:
            own = name in ("x", "y", "out")
            signature[name] = KINDS.get(name, f"*{dtype}" if own else "*fp32")
    even = [
        (i,)
        for i, (name, kind) in enumerate(signature.items())
        if kind.startswith("*") or name in ("n_rows", "n_labels", "dim")
    ]
    aligned = {i: [["tt.divisibility", 16]] for i in even}
    return ASTSource(fn=function, signature=signature, constexprs=sizes, attrs=aligned)


def compiled(kernel: str, dtype: str, sm: int, block: Block) -> dict[str, Any]:
    options = {"num_warps": block.warps, "num_stages": block.stages}
    target = GPUTarget("cuda", sm, 32)
    made = triton.compile(source(kernel, dtype, block), target=target, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        command = [str(CUOBJDUMP), "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = {name: re.search(rf"{name}:(\d+)", usage) for name in ("REG", "STACK")}
    found = {name: int(match.group(1)) for name, match in numbers.items() if match}
    return {
        "kernel": kernel,
        "dtype": dtype,
        "sm": sm,
        "block": list(block),
        "registers": found["REG"],
        "spilled_bytes": found["STACK"],
        "shared_bytes": made.metadata.shared,
        "matrix_units": made.asm["ptx"].count(UNITS.get(sm, "mma.sync")),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sm", type=int, nargs="+", default=sorted(UNITS))
    parser.add_argument("--dtypes", nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--block", type=int, nargs=5, help="rows labels dims warps stages")
    given = parser.parse_args()
    for sm in given.sm:
        for dtype in given.dtypes:
            block = BLOCKS["float32" if dtype == "fp32" else "half"]
            for kernel in KERNELS:
                if given.block:
                    block = Block(*given.block)
                print(json.dumps(compiled(kernel, dtype, sm, block)), flush=True)


if __name__ == "__main__":
    main()
