"""The command ``python -m dexml.merge``; its code is `dexml.commands.merge`."""

from dexml import console


def main(argv: list[str]) -> None:
    """Run the command."""
    from dexml.commands.merge import main as command  # a missing extra is then told in one line

    command(argv)


if __name__ == "__main__":
    raise SystemExit(console.run(main))
