"""The command ``python -m dexml.predict``; its code is `dexml.commands.predict`."""

from dexml import console


def main(argv: list[str]) -> None:
    """Run the command."""
    from dexml.commands.predict import main as command  # a missing extra is then told in one line

    command(argv)


if __name__ == "__main__":
    raise SystemExit(console.run(main))
