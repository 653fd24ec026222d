"""``python -m dexml.demo``; the code is in `dexml.demo.chain`."""

from dexml import console


def main(argv: list[str]) -> None:
    """Run the command."""
    from dexml.demo.chain import main as command  # a missing extra is then told in one line

    command(argv)


if __name__ == "__main__":
    raise SystemExit(console.run(main))
