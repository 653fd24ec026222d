"""The command ``python -m dexml.demo``; its code is `dexml.demo.chain`."""

from dexml import console
from dexml.demo.chain import main

if __name__ == "__main__":
    raise SystemExit(console.run(main))
