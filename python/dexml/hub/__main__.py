"""The command ``python -m dexml.hub``; its code is `dexml.commands.hub`."""

from dexml import console


def main(argv: list[str]) -> None:
    """Run the command."""
    from dexml.commands.hub import main as command  # a missing extra is then told in one line

    command(argv)


if __name__ == "__main__":
    raise SystemExit(console.run(main))
