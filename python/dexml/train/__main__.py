"""The command: python -m dexml.train DATA_DIR --out RUN [--config FILE] [--FIELD VALUE ...]."""

from __future__ import annotations

from dexml import config, console
from dexml.train import TrainSettings, train


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.train``."""
    settings = config.parse(TrainSettings, argv, "python -m dexml.train")
    if settings.resume and settings.overwrite:
        console.usage_error("--resume and --overwrite exclude each other")
    train(settings)
    print(f"{settings.out}: next, python -m dexml.index {settings.out}")


if __name__ == "__main__":
    raise SystemExit(console.run(main))
