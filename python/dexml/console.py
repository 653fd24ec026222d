"""What every command shows: one-line errors, exit codes and tables."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import NoReturn

OK, FAILED, USAGE = 0, 1, 2


def say(message: str) -> None:
    """Print a message for people on stderr; stdout belongs to results."""
    print(message, file=sys.stderr, flush=True)


def usage_error(message: str) -> NoReturn:
    """End the command as wrongly called: one line on stderr, exit code 2."""
    say(f"error: {message}")
    raise SystemExit(USAGE)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest known name."""

    def error(self, message: str) -> NoReturn:
        """End the command as wrongly called."""
        if message.startswith("unrecognized arguments: -"):
            option = message.split()[2].split("=")[0]
            hint = did_you_mean(option, list(self._option_string_actions))
            message = f"unknown option '{option}'{hint}"
        usage_error(f"{message} (--help lists the options)")


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return ``; did you mean 'x'?`` for the known name nearest to `name`, or nothing."""
    near = get_close_matches(name, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def run(main: Callable[[list[str]], None], argv: list[str] | None = None) -> int:
    """Run a command: errors end as one line on stderr, with ``--debug`` as a traceback.

    Returns:
        The exit code: 0; 1 for bad data or a failed run; 2 for usage; 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        main(argv)
        sys.stdout.flush()  # a closed pipe or a full disk shows here, not at exit
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else FAILED
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:
        # The reader (`head`, say) has enough; what Python flushes at exit must go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:  # The outermost place: everything ends as one line here.
        if "--debug" in argv:
            traceback.print_exc()
        else:
            say(f"error: {one_line(error)}")
        return FAILED
    return OK


def one_line(error: Exception) -> str:
    """Return the message of `error` on one line; unexpected kinds are named as well."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ValueError | OSError | ImportError | RuntimeError):
        return text
    return f"{type(error).__name__}: {text} (--debug shows where)"


def require(extra: str, *modules: str) -> None:
    """Raise an ``ImportError`` that names the extra to install, if one of `modules` is missing."""
    for module in modules:
        try:
            found = importlib.util.find_spec(module) is not None
        except ImportError:  # a finder may refuse
            found = False
        if not found:
            raise ImportError(
                f"{module} is not installed; it comes with: pip install 'dexml-xmc[{extra}]'"
            )


def table(
    rows: Mapping[str, Mapping[str, float]],
    columns: Sequence[str],
    errors: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """Lay out fractions as percent: a line a row, a column a metric, standard errors after ±."""
    head = ["", *columns]
    lines = [head]
    for name, values in rows.items():
        line = [name]
        for column in columns:
            cell = f"{100 * values[column]:.2f}" if column in values else "-"
            if errors is not None and column in errors.get(name, {}):
                cell += f" ±{100 * errors[name][column]:.1f}"
            line.append(cell)
        lines.append(line)
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
