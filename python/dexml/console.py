"""What all commands share: one-line errors, exit codes, tables and progress."""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any, NoReturn

OK, FAILED, USAGE = 0, 1, 2
WIDTH = 80
PATIENCE = 0.5
"""Seconds before the first line of progress."""


def put(text: str, end: str = "\n") -> None:
    """Print what a program reads (JSON, CSV) on stdout: UTF-8, whatever the locale says."""
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:  # a notebook, or a test
        print(text, end=end, flush=True)
        return
    sys.stdout.flush()
    buffer.write((text + end).encode("utf-8", "backslashreplace"))
    buffer.flush()


def say(message: str) -> None:
    """Print a message for people on stderr; stdout belongs to results."""
    if sys.stderr is not None:  # None if closed: print would then write to stdout
        print(message, file=sys.stderr, flush=True)


def say_above(bar: Any, message: str) -> None:
    """Print a message for people as `say` does, above a progress bar that may be drawn."""
    if sys.stderr is not None:
        bar.write(message, file=sys.stderr)
        sys.stderr.flush()


def usage_error(message: str) -> NoReturn:
    """End the command because of a wrong call: one line on stderr, exit code 2."""
    say(f"error: {message}")
    raise SystemExit(USAGE)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest known name."""

    def error(self, message: str) -> NoReturn:
        """End the command because of a wrong call."""
        if message.startswith("unrecognized arguments: -"):
            option = message.split()[2].split("=")[0]
            hint = did_you_mean(option, list(self._option_string_actions))
            message = f"unknown option '{option}'{hint}"
        usage_error(f"{message} (--help lists the options)")


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return ``; did you mean 'x'?`` with the known name nearest to `name`, or an empty string."""
    near = get_close_matches(name, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


class _Closed(io.TextIOBase):
    """Takes the place of a stdout that was closed (``>&-``): Python gives None for it."""

    def write(self, _: str) -> int:
        raise OSError("standard output is closed")


def run(main: Callable[[list[str]], None], argv: list[str] | None = None) -> int:
    """Run a command; an error is printed as one line on stderr, or as a traceback (``--debug``).

    Returns:
        The exit code: 0; 1 for bad data or a failed run; 2 for a wrong call; 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    if sys.stdout is None:
        sys.stdout = _Closed()
    elif isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # a table with a few ? is better than none
    try:
        main(argv)
        sys.stdout.flush()  # a closed pipe or a full disk shows here, not at exit
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else FAILED
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:
        # The reader (`head`, say) has enough. Python flushes at exit: that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:  # outermost: a user gets one line, whatever happened
        if "--debug" in argv:
            traceback.print_exc()
        else:
            say(f"error: {one_line(error)}")
        return FAILED
    return OK


def one_line(error: Exception) -> str:
    """Return the message of `error` on one line, with the class if the error is unexpected."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ValueError | OSError | ImportError | RuntimeError | MemoryError):
        return text
    return f"{type(error).__name__}: {text} (--debug shows where)"


def require(extra: str, *modules: str) -> None:
    """Raise ``ImportError`` with the extra to install if one of `modules` is missing.

    While Python is still looking for the command of ``python -m dexml.COMMAND``, nobody could catch
    the error: then one line is printed, and the process ends.
    """
    for module in modules:
        if not is_installed(module):
            message = f"{module} is not installed; it comes with: pip install 'dexml-xmc[{extra}]'"
            if _is_starting():
                say(f"error: {message}")
                raise SystemExit(FAILED)
            raise ImportError(message)


def _is_starting() -> bool:
    """Whether Python was called with ``-m dexml.COMMAND`` and has not begun to run it."""
    return sys.argv[:1] == ["-m"] and any(
        word.removeprefix("-m").startswith("dexml.") for word in sys.orig_argv[1:]
    )


def is_installed(module: str) -> bool:
    """Whether a module can be imported; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # a finder may refuse
        return False


def table(
    rows: Mapping[str, Mapping[str, float]],
    columns: Sequence[str],
    errors: Mapping[str, Mapping[str, float]] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> str:
    """Lay out fractions as percent: one line a row, one column a metric, ± standard errors.

    With `seconds`, a last column has the time of each row.
    """
    head = ["", *columns, *([] if seconds is None else ["seconds"])]
    lines = [head]
    for name, values in rows.items():
        line = [name]
        for column in columns:
            cell = f"{100 * values[column]:.2f}" if column in values else "-"
            if errors is not None and column in errors.get(name, {}):
                cell += f" ±{100 * errors[name][column]:.1f}"
            line.append(cell)
        if seconds is not None:
            line.append(f"{seconds[name]:.1f}" if name in seconds else "-")
        lines.append(line)
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def grid(corner: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Lay out cells under column heads, at most 80 characters wide.

    Columns that do not fit go into further tables below, with the same row names.
    """
    names = [corner, *(name for name, _ in rows)]
    stub = max(map(len, names))
    widths = [
        max(len(cells[i]) for cells in (columns, *(row for _, row in rows)))
        for i in range(len(columns))
    ]
    parts, start = [], 0
    while start < len(columns):
        stop, used = start + 1, stub + 2 + widths[start]
        while stop < len(columns) and used + 2 + widths[stop] <= WIDTH:
            used += 2 + widths[stop]
            stop += 1
        parts.append(
            "\n".join(
                "  ".join(
                    [name.ljust(stub), *(cells[i].rjust(widths[i]) for i in range(start, stop))]
                ).rstrip()
                for name, cells in zip(names, (columns, *(row for _, row in rows)), strict=True)
            )
        )
        start = stop
    return "\n\n".join(parts)


def progress(what: str, *, quiet: bool = False) -> Callable[[int, int], None]:
    """Return a callback for the number of steps done and of all steps, which shows the time left.

    It writes one line on stderr, only if stderr is a terminal and once the work has taken a while.
    The line is removed when all steps are done.
    """
    start = shown = time.monotonic()
    on = not quiet and sys.stderr is not None and sys.stderr.isatty()
    drawn = False

    def report(done: int, total: int) -> None:
        nonlocal shown, drawn
        now = time.monotonic()
        if done >= total:
            if drawn:
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)
                drawn = False
        elif on and done and (drawn or now - start > PATIENCE) and now - shown > 0.1:
            left = (now - start) * (total - done) / done
            if drawn or now - start + left > 2:
                line = f"{what}: {100 * done // total} %, {duration(left)} left"
                print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
                shown, drawn = now, True

    return report


def bar(iterable: Iterable[Any] | None = None, *, disable: bool = False, **options: Any) -> Any:
    """Return a progress bar of tqdm: on a terminal or in a notebook, never written into a file.

    Args:
        iterable: What to go through, if the bar is not updated by hand.
        disable: Show nothing anywhere.
        options: Those of ``tqdm``, such as ``total`` and ``desc``.
    """
    kind = None if disable else _bar_kind()
    is_notebook = kind and any(base.__module__ == "tqdm.notebook" for base in kind.__mro__)
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    if kind is None or not (is_notebook or is_terminal):
        return _Hidden(iterable)
    return kind(iterable, **options)


class _Hidden:
    """A bar that nobody sees.

    Not one of tqdm, disabled: that takes a lock that all forked processes share, so that the others
    wait for ever where one of them is killed while it holds it.
    """

    def __init__(self, iterable: Iterable[Any] | None) -> None:
        self.n, self._iterable = 0, iterable

    def __iter__(self) -> Iterator[Any]:
        return iter(self._iterable or ())

    def __enter__(self) -> _Hidden:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, n: int = 1) -> None:
        self.n += n

    def set_postfix_str(self, *_: object, **options: Any) -> None:
        pass

    def close(self) -> None:
        pass

    def write(self, message: str, file: Any = None) -> None:
        print(message, file=file)


@cache
def _bar_kind() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls itself experimental
        from tqdm.auto import tqdm
    return tqdm


def duration(seconds: float) -> str:
    """Format seconds for people: ``7 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
