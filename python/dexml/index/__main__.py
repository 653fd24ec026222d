"""The command ``python -m dexml.index``; its code is `dexml.commands.index`."""

from dexml import console
from dexml.commands.index import main

if __name__ == "__main__":
    raise SystemExit(console.run(main))
