"""The command ``python -m dexml.train``; its code is `dexml.commands.train`."""

from dexml import console


def main(argv: list[str]) -> None:
    """Run the command."""
    from dexml.commands.train import main as command  # a missing extra is then told in one line

    command(argv)


if __name__ == "__main__":
    raise SystemExit(console.run(main))
