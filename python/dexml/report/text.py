"""Text from outside, made safe to look at.

Data sets hold characters that no one sees: controls, overrides of the writing direction, marks of
no width. The page shows them by their number, so that a reader sees what the model was given and
no text can rearrange what stands around it. Escaping is not done here: Jinja2 does that.
"""

from __future__ import annotations

import unicodedata
from itertools import groupby

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn")
"""Controls, formats, half surrogates, separators of lines and paragraphs, private, unassigned."""
_JOINERS = "\u200c\u200d"
"""Scripts and emoji need them, and they neither hide nor turn anything."""


def pieces(text: str) -> list[tuple[bool, str]]:
    """Split a text into readable runs, (False, run), and hidden characters, (True, "U+202E").

    Tabs and line breaks become blanks.
    """
    found: list[tuple[bool, str]] = []
    for hidden, run in groupby(text.translate({9: " ", 10: " ", 13: " "}), key=_is_hidden):
        if hidden:
            found += [(True, f"U+{ord(char):04X}") for char in run]
        else:
            found.append((False, "".join(run)))
    return found


def printable(text: str) -> str:
    """Write hidden characters as ``[U+202E]``, for places that hold no markup."""
    return "".join(f"[U+{ord(char):04X}]" if _is_hidden(char) else char for char in text)


def _is_hidden(char: str) -> bool:
    return char not in _JOINERS and unicodedata.category(char) in _HIDDEN
