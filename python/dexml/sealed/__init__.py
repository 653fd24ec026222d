"""A sealed folder: one manifest names every part of it, and one rename puts all parts into force.

A part is never written in place: it gets the name ``ROLE-HASH.SUFFIX``. The manifest holds name,
size and SHA-256 of every part and a digest of itself, and is written beside and renamed. A kill at
any moment leaves the old state or the new one, and at most files that no manifest names; the next
save removes those. Run folders and folders of a single index are sealed folders.

`state` reads such a folder, `home` writes one.
"""

from dexml.sealed.home import LOCK, Home, Part, array_part
from dexml.sealed.state import Format, Sealed, load, read

__all__ = ["LOCK", "Format", "Home", "Part", "Sealed", "array_part", "load", "read"]
