"""The command ``python -m dexml.predict``; its code is `dexml.commands.predict`."""

from dexml import console
from dexml.commands.predict import main

if __name__ == "__main__":
    raise SystemExit(console.run(main))
