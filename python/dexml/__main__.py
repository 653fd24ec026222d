"""``dexml COMMAND ...``, also ``python -m dexml COMMAND ...``: all commands behind one name.

Each is also called by ``python -m dexml.COMMAND``.
"""

import sys
from importlib import import_module

import dexml
from dexml import console

COMMANDS = {
    "train": "train a run on a data set",
    "index": "build, check and edit the index of a run, and its labels",
    "predict": "ask a run for the labels of texts",
    "merge": "put the outputs of several machines together",
    "export": "write vectors or encoder of a run for other libraries",
    "hub": "push a run to the Hugging Face hub, or pull one",
    "zest": "train learned pairs of words alone (ZestXML)",
    "metrics": "score predictions: P@k, nDCG@k, PSP@k, intervals, tests",
    "data": "describe, check, convert and prepare data sets",
    "demo": "the whole job on real data",
}
"""What the list says of each command; its code is loaded only when it is called."""


def usage() -> str:
    """Return the list of commands."""
    lines = "\n".join(f"  {name:<9}{about}" for name, about in COMMANDS.items())
    return (
        "usage: dexml COMMAND ...\n\nDual encoders for extreme multi-label classification.\n\n"
        f"commands:\n{lines}\n\ndexml COMMAND --help lists the options of a command, "
        "dexml --version the version."
    )


def clash() -> str | None:
    """Say what to do if the XML mapper ``dexml`` of the package index is, or was, here too.

    Both packages are imported as `dexml`: the one installed later overwrites ``__init__.py``, and
    uninstalling either of them removes that file from the other.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        other = f"the XML mapper 'dexml' {version('dexml')} is installed in the same folder"
        first = "pip uninstall dexml, then "
    except PackageNotFoundError:
        if _is_ours():
            return None
        other, first = "dexml/__init__.py is missing or that of another package", ""
    return f"{other}; {first}pip install --force-reinstall --no-deps dexml-xmc"


def _is_ours() -> bool:
    return "extreme multi-label" in (dexml.__doc__ or "")


def main(argv: list[str]) -> None:
    """Run a command, or list them."""
    name, *rest = argv or ["--help"]
    if name in ("-h", "--help", "help", "-V", "--version") and (said := clash()) is not None:
        console.say(f"warning: {said}")
    if name in ("-h", "--help", "help"):
        print(usage())
    elif name in ("-V", "--version"):
        print(f"dexml {dexml.__version__ if _is_ours() else 'of an unknown version'}")
    elif name in COMMANDS:
        import_module(f"dexml.{name}.__main__").main(rest)
    else:
        hint = console.did_you_mean(name, list(COMMANDS)) or f" (known: {', '.join(COMMANDS)})"
        console.usage_error(f"unknown command '{name}'{hint}")


def start() -> int:
    """Run the script ``dexml``; return its exit code."""
    return console.run(main, sys.argv[1:])


if __name__ == "__main__":
    raise SystemExit(start())
