"""Quality on a data set: dexml's settings, and baselines with the same encoder, in one table.

    python benches/quality.py DATA_DIR --runs RUNS --cache CACHE --rows default zero-shot mnrl
    python benches/quality.py DATA_DIR --runs RUNS --cache CACHE --rows losses negatives --fast
    python benches/quality.py                                # docs/experiments/results.md

Every row trains on the training part and is scored once on the test part by the same code, with
standard errors over groups of points (or points). ``--fast`` trains the rows of an ablation without
the refit on all points. A row that is there already is kept; ``--again`` makes it anew. Results go
to ``benches/results/quality/DATA_SET.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dexml import console, data
from dexml.data import Csr, Dataset
from dexml.encoder.pretrained import MINILM
from dexml.files import replacing
from dexml.index import exact_search
from dexml.metrics import Evaluator, inv_propensity

SHOWN = ("P@1", "P@3", "P@5", "nDCG@5", "PSP@1", "PSP@5", "R@10", "R@100")
RESULTS = Path(__file__).parent / "results" / "quality"
PAGE = Path(__file__).parents[1] / "docs" / "experiments" / "results.md"

BEGIN, END = "<!-- tables of benches/quality.py -->", "<!-- end of the tables -->"
"""What `main` writes anew in the page stands between these."""

LOSSES = {
    f"loss {name}": ["--loss", name]
    for name in ("bce", "softmax", "decoupled", "soft-top-5", "soft-top-100")
}
NEGATIVES = {
    f"negatives {name}": ["--head-negatives", name]
    for name in ("in-batch", "hard", "graph", "uniform", "all")
}
OWN: dict[str, list[str]] = {
    "default": [],
    "light": ["--encoder", "none"],
    "light, no tree": ["--encoder", "none", "--tree", "none"],
    "light, tail": ["--encoder", "none", "--favour", "tail"],
    "default, no ranker": ["--ranker", "none"],
    "default, no memory": ["--memory", "none"],
    "heads, then layers": [
        *("--stages", "heads,encoder", "--encoder-layers", "2", "--encoder-epochs", "1"),
        "--cache-layers",
    ],
    **LOSSES,
    **NEGATIVES,
}
"""Rows that ``python -m dexml.train`` makes, and what is added to its command."""
SETS = {"losses": list(LOSSES), "negatives": list(NEGATIVES)}
ABLATION = {*LOSSES, *NEGATIVES, "heads, then layers"}


def train_row(folder: Path, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the command and read what it says of the test part."""
    from dexml.commands.train import main

    run = arguments.runs / folder.name / name.replace(" ", "-").replace(",", "")
    extra = list(OWN[name])
    if name in ABLATION:
        extra += ["--memory", "none"] + (["--no-refit"] if arguments.fast else [])
    command = [str(folder), "--out", str(run), "--cache", str(arguments.cache), *extra]
    if "--encoder" not in extra:
        command += ["--encoder", arguments.encoder]
    command += ["--seed", str(arguments.seed)]
    main([*command, "--resume" if (run / "versions.json").exists() else "--overwrite"])
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    settings = " ".join(extra)
    return {
        "metrics": found["metrics"],
        "errors": found["standard_errors"],
        "command": f"python -m dexml.train {folder.name} {settings}".strip(),
    }


def score(dataset: Dataset, y_pred: Csr | np.ndarray[Any, Any], seed: int) -> dict[str, Any]:
    """Score a ranking of the test part."""
    evaluator = Evaluator(
        dataset.y_test.shape[1],
        SHOWN,
        inv_propensity=inv_propensity(dataset.y_train),
        keep_rows=True,
    )
    evaluator.update(dataset.y_test, y_pred, exclude=dataset.exclude_test)
    result = evaluator.result()
    return {
        "metrics": result.metrics,
        "errors": result.standard_errors(dataset.test_groups, seed=seed),
    }


def zero_shot(dataset: Dataset, arguments: argparse.Namespace) -> dict[str, Any]:
    """The encoder as it is: cosine of point and label text."""
    from dexml.encoder import DualEncoder
    from dexml.train.features import cached_features

    encoder = DualEncoder.load(arguments.encoder)
    labels, points = (
        cached_features(
            encoder, encoder.tokenize(texts, 64), arguments.cache, desc="encode", progress=True
        )
        for texts in (dataset.label_texts, dataset.test_texts)
    )
    ids, _ = exact_search(points, labels, 100, exclude=dataset.exclude_test, progress=True)
    return score(dataset, ids, arguments.seed) | {"command": "exact search with the encoder as is"}


def mnrl(dataset: Dataset, arguments: argparse.Namespace) -> dict[str, Any]:
    """MultipleNegativesRankingLoss of sentence-transformers: the whole encoder, a time budget.

    Pairs (point, one of its positives), batches of 64 without equal labels, AdamW 2e-5 (its
    trainer's usual rate; 5e-5 is tried by ``--mnrl-lr``), linear warm-up over the first tenth and
    fall to 0 over the budget.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    from dexml.encoder.pretrained import find

    model = SentenceTransformer(str(find(arguments.encoder)), device="cpu")
    model.max_seq_length = 64
    loss = MultipleNegativesRankingLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.mnrl_lr, weight_decay=0.01)
    generator = np.random.default_rng(arguments.seed)
    torch.manual_seed(arguments.seed)
    y = dataset.y_train
    filled = np.flatnonzero(np.diff(y.indptr))
    start = time.process_time()
    steps = 0
    model.train()
    while (spent := (time.process_time() - start) / arguments.budget) < 1:
        chosen: dict[int, int] = {}
        for row in generator.permutation(filled)[:256]:
            label = int(generator.choice(y.indices[y.indptr[row] : y.indptr[row + 1]]))
            chosen.setdefault(label, int(row))
            if len(chosen) == 64:
                break
        sides = (
            [dataset.train_texts[row] for row in chosen.values()],
            [dataset.label_texts[label] for label in chosen],
        )
        features = [model.preprocess(side) for side in sides]
        for group in optimizer.param_groups:
            group["lr"] = arguments.mnrl_lr * min(10 * spent + 0.01, (1 - spent) / 0.9)
        value = loss(features, torch.zeros(len(chosen)))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps += 1
        if steps % 50 == 0:
            console.say(f"mnrl: step {steps}, {100 * spent:.0f} %, loss {float(value):.3f}")
    model.eval()
    labels, points = (
        model.encode(
            texts, batch_size=128, show_progress_bar=False, normalize_embeddings=True
        ).astype(np.float32)
        for texts in (dataset.label_texts, dataset.test_texts)
    )
    ids, _ = exact_search(points, labels, 100, exclude=dataset.exclude_test)
    return score(dataset, ids, arguments.seed) | {
        "command": f"MultipleNegativesRankingLoss, lr {arguments.mnrl_lr:g}, {steps} steps of 64, "
        f"{arguments.budget:.0f} CPU s"
    }


BASELINES: dict[str, Callable[[Dataset, argparse.Namespace], dict[str, Any]]] = {
    "zero-shot": zero_shot,
    "mnrl": mnrl,
}


def machine() -> str:
    """Name the processor and its cores."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":")[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores"


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    """Make the rows that are asked for, one after the other."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{folder.name}.json"

    def known_rows() -> dict[str, Any]:
        return json.loads(path.read_text()) if path.exists() else {}

    names = [name for row in arguments.rows for name in SETS.get(row, [row])]
    for name in names:
        if name not in OWN and name not in BASELINES:
            known = ", ".join([*SETS, *OWN, *BASELINES])
            raise SystemExit(f"error: no row {name!r}; rows are {known}")
    dataset = data.load_dataset(folder)
    for name in names:
        if name in known_rows() and not arguments.again:
            continue
        used, started = _cpu(), time.perf_counter()
        if name in OWN:
            row = train_row(folder, name, arguments)
        else:
            row = BASELINES[name](dataset, arguments)
        row |= {
            "cpu_seconds": round(_cpu() - used, 1),
            "seconds": round(time.perf_counter() - started, 1),
            "seed": arguments.seed,
            "encoder": arguments.encoder,
            "machine": machine(),
            "refit": not (arguments.fast and name in ABLATION),
        }
        # Read anew: another process may have made other rows meanwhile.
        path.write_text(json.dumps(known_rows() | {name: row}, indent=1) + "\n")
        console.say(console.table({name: row["metrics"]}, SHOWN, {name: row["errors"]}))


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def tables() -> str:
    """All results as Markdown."""
    parts = []
    for path in sorted(RESULTS.glob("*.json")):
        lines = [
            f"### {path.stem}",
            "",
            f"| | {' | '.join(SHOWN)} | CPU s |",
            "|---" * (len(SHOWN) + 2) + "|",
        ]
        results = json.loads(path.read_text())
        for name, row in results.items():
            cells = [
                f"{100 * row['metrics'][metric]:.1f} ±{100 * row['errors'][metric]:.1f}"
                for metric in SHOWN
            ]
            mark = "" if row["refit"] else " (no refit)"
            lines.append(f"| {name}{mark} | {' | '.join(cells)} | {row['cpu_seconds']:.0f} |")
        lines.append("")
        lines += [
            f"- {name}: `{row['command']}`, seed {row['seed']}" for name, row in results.items()
        ]
        hardware = sorted({row["machine"] for row in results.values()})
        parts.append("\n".join([*lines, "", f"Machine: {'; '.join(hardware)}.", ""]))
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--rows", nargs="+", default=["default", "zero-shot"])
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"))
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--encoder", default=MINILM)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=1800, help="CPU seconds of mnrl")
    parser.add_argument("--mnrl-lr", type=float, default=5e-5)
    parser.add_argument("--fast", action="store_true", help="no refit in the ablations")
    parser.add_argument("--again", action="store_true", help="make rows anew that are there")
    arguments = parser.parse_args()
    if arguments.data is not None:
        arguments.runs.joinpath(arguments.data.name).mkdir(parents=True, exist_ok=True)
        arguments.cache.mkdir(parents=True, exist_ok=True)
        measure(arguments.data, arguments)
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    with replacing(PAGE) as beside:
        beside.write_text(f"{head}{BEGIN}\n\n{tables()}\n{END}{tail}", encoding="utf-8")
    print(tables())


if __name__ == "__main__":
    main()
