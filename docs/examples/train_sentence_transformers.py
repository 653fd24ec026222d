"""Train a sentence-transformers model with a loss of dexml: in-batch labels, several positives.

    python docs/examples/train_sentence_transformers.py MODEL [--loss soft_topk] [--steps 40]

MODEL is a name or folder that `SentenceTransformer` opens. The loss module has the signature of
those of sentence-transformers, so `SentenceTransformerTrainer(..., loss=loss)` takes it too, with
the columns (point, label text) and a column "label" with the group. Below is a plain loop, which
needs neither `datasets` nor `accelerate`.
"""

import argparse
import random

import torch
from sentence_transformers import SentenceTransformer

from dexml import losses
from dexml.losses import InBatchLoss

TOPICS = ["kernel", "printer", "music", "network", "game", "font", "mail", "database"]
PARTS = ["driver", "library", "player", "editor", "server", "theme", "parser", "monitor"]
LOSSES = {
    "decoupled_softmax": losses.decoupled_softmax,
    "softmax": losses.softmax,
    "soft_topk": losses.soft_topk,
    "bce": losses.bce,
}


def batch(generator: random.Random, size: int) -> tuple[list[str], list[str], torch.Tensor]:
    """Draw points with a label each; points of one topic (the group) share their labels."""
    groups = [generator.randrange(len(TOPICS)) for _ in range(size)]
    points = [
        f"{TOPICS[g]} {generator.choice(PARTS)} {generator.choice('abcdefgh')}" for g in groups
    ]
    labels = [f"{TOPICS[g]} {generator.choice(PARTS)}" for g in groups]
    return points, labels, torch.tensor(groups)


def main(argv: list[str] | None = None) -> list[float]:
    """Train for some steps and return the loss of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--loss", choices=LOSSES, default="decoupled_softmax")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-3)
    arguments = parser.parse_args(argv)
    # Weights stored in half precision must be loaded in float32: AdamW would make them NaN.
    model = SentenceTransformer(
        arguments.model, device="cpu", model_kwargs={"dtype": torch.float32}
    )
    chosen = LOSSES[arguments.loss]
    loss = InBatchLoss(model, chosen, temperature=0.1, learn_scale=chosen is losses.bce, offset=-3)
    optimizer = torch.optim.AdamW(loss.parameters(), lr=arguments.lr)  # model and loss together
    generator = random.Random(0)
    values = []
    for step in range(arguments.steps):
        points, labels, groups = batch(generator, arguments.batch_size)
        features = [model.preprocess(texts) for texts in (points, labels)]
        optimizer.zero_grad()
        value = loss(features, groups)
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
        if step % 10 == 0:
            print(f"step {step}: {values[-1]:.4f}")
    return values


if __name__ == "__main__":
    main()
