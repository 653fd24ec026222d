"""The command ``python -m dexml.train``; its code is `dexml.commands.train`."""

from dexml import console
from dexml.commands.train import main

if __name__ == "__main__":
    raise SystemExit(console.run(main))
