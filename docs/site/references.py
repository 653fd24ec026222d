"""A griffe extension: names in single backticks become links, and those that lead nowhere faults.

In a docstring a name in single backticks is a reference; literals such as file names stand in
double backticks. A reference that looks like more than an argument nearby (``Result.save``,
``dexml.data``, ``LabelGraph``, ``evaluate()``) must exist: else mkdocs warns, and the build is
strict. Nothing of the package is imported.
"""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Iterator
from typing import Any

import griffe
from mkdocs.plugins import get_plugin_logger

ROOMS = [
    "dexml",
    *(f"dexml.{room}" for room in ("data", "metrics", "sampling", "topk", "favour", "losses")),
    *(f"dexml.{room}" for room in ("model", "index", "predict", "train", "classifier")),
    *(f"dexml.{room}" for room in ("export", "hub")),
]
"""The public rooms; each has a page."""

REFERENCE = re.compile(r"(?<!`)`([A-Za-z_][\w.]*(?:\(\))?)`(?!`)")
log = get_plugin_logger("references")


def is_reference(text: str) -> bool:
    """Tell whether a name in backticks is more than an argument or an attribute nearby."""
    return "." in text or text.endswith("()") or re.match(r"[A-Z]\w*[a-z]", text) is not None


class References(griffe.Extension):
    """Rewrites the docstrings of the public rooms once the package is loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Visit every public object of every room once."""
        rooms = [pkg, *(find(pkg, room) for room in ROOMS[1:])]
        public = {obj.canonical_path: obj for room in rooms for obj in documented(room)}
        told = {path: obj for path, obj in public.items() if obj.docstring is not None}
        shared = [*rooms, *(obj for obj in public.values() if obj.is_class)]
        for path, obj in told.items():
            obj.docstring.value, broken = linked(obj, shared, set(told))
            for name in broken:
                log.warning(f"{path}: `{name}`: no such name")


def find(pkg: griffe.Module, path: str) -> Any:
    """Return an object by its dotted path, or None."""
    return _member(pkg, path.partition(".")[2])


def documented(obj: Any) -> Iterator[Any]:
    """Yield a module, and its public members and theirs."""
    yield obj
    exported = obj.exports if obj.is_module else None
    for name, member in obj.members.items():
        hidden = name.startswith("_") and name != "__init__"
        if hidden or (exported is not None and name not in exported):
            continue
        if member.is_alias:
            if exported is None:
                continue
            member = member.final_target
        if member.is_class:
            yield from documented(member)
        elif not member.is_module:
            yield member


def linked(obj: Any, shared: list[Any], told: set[str]) -> tuple[str, list[str]]:
    """Return a docstring with links, and the references in it that lead nowhere.

    Args:
        obj: What has the docstring.
        shared: Where names are looked up besides its own place; the package comes first.
        told: Paths of all that has a place on a page.
    """
    broken = []

    def link(match: re.Match[str]) -> str:
        text = match[1]
        path = resolved(text.removesuffix("()"), obj, shared if is_reference(text) else shared[:1])
        if path is None and is_reference(text):
            broken.append(text)
        return f"[`{text}`][{path}]" if path in told and path != obj.path else match[0]

    return REFERENCE.sub(link, obj.docstring.value), broken


def resolved(name: str, obj: Any, shared: list[Any]) -> str | None:
    """Find what a name stands for: the path of an object, ``""`` for one of another package."""
    first, _, rest = name.partition(".")
    pkg = shared[0]
    if first == pkg.name:
        found = find(pkg, name) if rest else pkg
        return None if found is None else str(found.canonical_path)
    scopes = [obj]
    while scopes[-1].parent is not None:
        scopes.append(scopes[-1].parent)
    for scope in [*scopes, *shared]:
        if scope.is_function or scope.is_attribute:
            continue
        try:
            if (found := _member(scope, name)) is not None:
                return str(found.canonical_path)
        except griffe.AliasResolutionError:  # imported from another package
            return ""
    return "" if hasattr(builtins, first) or first in sys.stdlib_module_names else None


def _member(scope: Any, name: str) -> Any:
    """Follow the dots of `name` from `scope`; inherited members count as well."""
    for part in name.split("."):
        scope = scope.all_members.get(part)
        if scope is None:
            return None
        scope = scope.final_target if scope.is_alias else scope
    return scope
