"""``python -m dexml.demo``; the code is in `dexml.demo.chain`."""

from dexml import console
from dexml.demo.chain import main

if __name__ == "__main__":
    raise SystemExit(console.run(main))
