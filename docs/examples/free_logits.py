"""Draw docs/losses.svg: what each loss does to an easy and to a hard positive.

    python docs/examples/free_logits.py [OUT.svg]

Trains 50 free logits of one point with Adam (rate 0.1), temperature 1, alpha 2. Five logits are
positives; the first of them starts ahead at 3, all others start at 0.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from dexml import losses

PANELS: list[tuple[str, Any, dict[str, Any]]] = [
    ("softmax", losses.softmax, {}),
    ("decoupled softmax", losses.decoupled_softmax, {}),
    ("soft top-3", losses.soft_topk, {"k": 3}),
    ("soft top-5", losses.soft_topk, {"k": 5}),
    ("BCE", losses.bce, {}),
    ("top-5 hinge", losses.topk_hinge, {"k": 5}),
]
CURVES = (("easy positive", "#1b7837"), ("hard positive", "#d95f02"), ("negative", "#777777"))
STEPS, TOP, BOTTOM = 150, 8.0, -8.0
WIDTH, HEIGHT, GAP, MARGIN = 230, 170, 34, 34


def follow(loss: Any, options: dict[str, Any]) -> tuple[list[tuple[float, float, float]], float]:
    """Return an easy, a hard (the fifth) and a negative logit at each step, and the last loss."""
    z = torch.zeros(1, 50, dtype=torch.float64)
    z[0, 0] = 3.0
    z.requires_grad_()
    eye = torch.eye(50, dtype=torch.float64)
    positives = (torch.tensor([0, 5]), torch.arange(5))
    optimizer = torch.optim.Adam([z], lr=0.1)
    path = []
    for _ in range(STEPS + 1):
        path.append((z[0, 0].item(), z[0, 4].item(), z[0, 49].item()))
        optimizer.zero_grad()
        value = loss(z, eye, positives, temperature=1.0, **options)
        value.backward()
        optimizer.step()
    return path, value.item()


def draw() -> str:
    """Return the picture as SVG text."""
    columns = 3
    width = columns * (WIDTH + GAP) + MARGIN
    height = -(-len(PANELS) // columns) * (HEIGHT + 2 * GAP) + 30
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, (name, colour) in enumerate(CURVES):  # legend
        x = MARGIN + number * 140
        out.append(
            f'<line x1="{x}" y1="14" x2="{x + 24}" y2="14" stroke="{colour}" stroke-width="2"/>'
        )
        out.append(f'<text x="{x + 30}" y="18">{name}</text>')
    for panel, (name, loss, options) in enumerate(PANELS):
        path, end = follow(loss, options)
        left = MARGIN + panel % columns * (WIDTH + GAP)
        top = 52 + panel // columns * (HEIGHT + 2 * GAP)
        out.append(f'<text x="{left}" y="{top - 8}" font-weight="bold">{name}</text>')
        out.append(
            f'<text x="{left + WIDTH}" y="{top - 8}" text-anchor="end" fill="#555">'
            f"loss {end:.2f}</text>"
        )
        box = f'x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}"'
        out.append(f'<rect {box} fill="none" stroke="#bbb"/>')
        for level in (-6, -3, 0, 3, 6):
            y = top + HEIGHT * (TOP - level) / (TOP - BOTTOM)
            out.append(
                f'<line x1="{left}" y1="{y:.1f}" x2="{left + WIDTH}" y2="{y:.1f}" stroke="#eee"/>'
            )
            out.append(f'<text x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{level}</text>')
        for curve, (_, colour) in enumerate(CURVES):
            points = " ".join(
                f"{left + WIDTH * step / STEPS:.1f},"
                f"{top + HEIGHT * (TOP - values[curve]) / (TOP - BOTTOM):.1f}"
                for step, values in enumerate(path)
            )
            out.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
        corner = f'x="{left + WIDTH}" y="{top + HEIGHT + 16}"'
        out.append(f'<text {corner} text-anchor="end">{STEPS} steps of Adam</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    default = Path(__file__).parents[1] / "losses.svg"
    Path(sys.argv[1] if len(sys.argv) > 1 else default).write_text(draw(), encoding="utf-8")
