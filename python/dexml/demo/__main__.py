"""``python -m dexml.demo``; the code is in `dexml.demo.chain`."""

from dexml import console


def main(argv: list[str]) -> None:
    """Run the command."""
    console.require("demo", "pydantic", "pydantic_settings", "tomli_w", "tqdm")
    from dexml.demo.chain import main as command

    command(argv)


if __name__ == "__main__":
    raise SystemExit(console.run(main))
