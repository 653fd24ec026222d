"""Make the API pages of the Python package from its docstrings, and check what they refer to.

    python docs/api.py [target/doc-python]

pdoc renders the public rooms. In a docstring a name in single backticks is a reference: pdoc links
it where it can, and this script fails if it looks like a Python name (``Result.save``,
``dexml.data``, ``LabelGraph``, ``evaluate()``) and there is no such thing. Literals such as file
names stand in double backticks. It also fails on an import error, on a warning of pdoc, and on a
link to a page or heading that does not exist. It needs no network.
"""

from __future__ import annotations

import builtins
import importlib
import inspect
import re
import sys
import typing
import warnings
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pdoc
import pdoc.doc
import pdoc.render
from numpy.typing import ArrayLike

ROOMS = [
    "dexml",
    *(f"dexml.{room}" for room in ("data", "metrics", "sampling", "topk", "favour", "losses")),
    *(f"dexml.{room}" for room in ("model", "index", "predict", "train", "export", "hub")),
]
ROOT = Path(__file__).parents[1]
REFERENCE = re.compile(r"(?<!`)`([A-Za-z_][\w.]*(?:\(\))?)`(?!`)")
ARRAY = re.compile(r"numpy\.ndarray\[tuple\[typing\.Any, \.\.\.\], numpy\.dtype\[(.*?)\]\]")


def is_reference(text: str) -> bool:
    """Tell whether a name in backticks is more than an argument or an attribute nearby."""
    return "." in text or text.endswith("()") or re.match(r"[A-Z]\w*[a-z]", text) is not None


def lookup(start: Any, name: str) -> bool:
    """Follow the dots of `name` from `start`; fields of dataclasses and models count as well."""
    for part in name.split("."):
        if isinstance(start, type) and part in _fields(start):
            return True
        if not hasattr(start, part):
            return False
        start = getattr(start, part)
    return True


def _fields(cls: type) -> set[str]:
    return {name for base in cls.__mro__ for name in vars(base).get("__annotations__", {})}


def resolves(name: str, places: list[Any]) -> bool:
    """Tell whether `name` exists in one of `places`, or as a dotted name that can be imported."""
    if any(lookup(place, name) for place in [*places, builtins]):
        return True
    module, _, rest = name.partition(".")
    while rest:
        try:
            start = importlib.import_module(module)
        except ImportError:
            return False
        if lookup(start, rest):
            return True
        part, _, rest = rest.partition(".")
        module = f"{module}.{part}"
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def documented(doc: pdoc.doc.Namespace[Any]) -> Iterator[pdoc.doc.Doc[Any]]:
    """Yield a module, and its public members and theirs."""
    yield doc
    for member in doc.own_members:
        if member.name.startswith("_") and member.name != "__init__":
            continue
        if isinstance(member, pdoc.doc.Class):
            yield from documented(member)
        elif not isinstance(member, pdoc.doc.Module):
            yield member


def broken_references(module: pdoc.doc.Module, shared: list[Any]) -> list[str]:
    """List the references in the docstrings of `module` that lead nowhere.

    Args:
        module: What pdoc knows of a module.
        shared: Objects in which names are looked up besides the place of the docstring.
    """
    broken = []
    for doc in documented(module):
        home = sys.modules.get(doc.taken_from[0], module.obj)
        places = [home, module.obj, *shared]
        owner = home
        for part in doc.taken_from[1].split("."):
            owner = getattr(owner, part, None)
            places.insert(0, owner)
        for text in REFERENCE.findall(doc.docstring):
            if is_reference(text) and not resolves(text.removesuffix("()"), places):
                broken.append(f"{doc.fullname}: `{text}`: no such name")
    return broken


def broken_links(folder: Path) -> list[str]:
    """List the links between the pages in `folder` that lead to no page or heading."""
    pages = {
        path: re.sub(r"<script.*?</script>", "", path.read_text(encoding="utf-8"), flags=re.S)
        for path in folder.rglob("*.html")
    }
    ids = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in pages.items()}
    broken = set()
    for path, text in pages.items():
        for link in re.findall(r'href="([^"]+)"', text):
            target, _, anchor = unescape(link).partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            page = (path.parent / target).resolve() if target else path
            if page not in pages or (anchor and anchor not in ids[page]):
                broken.add(f"{path}: {link}: no such page or heading")
    return sorted(broken)


def shorten_annotations() -> None:
    """Let signatures say ``NDArray[np.float32]`` as the source does."""
    full = inspect.formatannotation
    parts = full(ArrayLike)
    names = {parts: "ArrayLike", parts[len("Union[") : -1]: "ArrayLike"}  # alone, in a union
    names |= {"scipy.sparse._csr.csr_array": "csr_array", "numpy.": "np.", "typing.Any": "Any"}

    def short(annotation: Any, *args: Any, **kwargs: Any) -> str:
        text = ARRAY.sub(r"NDArray[\1]", full(annotation, *args, **kwargs))
        for long, name in names.items():
            text = text.replace(long, name)
        return text

    # pdoc calls it for the type of a variable, inspect for those of arguments.
    pdoc.doc.formatannotation = inspect.formatannotation = short


def evaluate_named_tuples(module: Any) -> None:
    """Evaluate the annotations of named tuples: pdoc does not know the module they belong to."""
    for _, cls in inspect.getmembers(module, inspect.isclass):
        if issubclass(cls, tuple) and hasattr(cls, "_fields"):
            cls.__new__.__annotations__ = typing.get_type_hints(cls)


def main(folder: Path) -> int:
    """Write the pages into `folder`; return the exit code."""
    modules = [importlib.import_module(room) for room in ROOMS]
    for module in modules:
        evaluate_named_tuples(module)
    shorten_annotations()
    pdoc.render.configure(docformat="google", show_source=False, search=True, math=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module=r"pdoc\.")
        pages = {room: pdoc.doc.Module(module) for room, module in zip(ROOMS, modules, strict=True)}
        pages["dexml"].__dict__["submodules"] = [pages[room] for room in ROOMS[1:]]
        folder.mkdir(parents=True, exist_ok=True)
        for room, page in pages.items():
            path = folder / (room.replace(".", "/") + ".html")
            path.parent.mkdir(exist_ok=True)
            path.write_text(pdoc.render.html_module(page, all_modules=pages), encoding="utf-8")
        index = pdoc.render.html_index(pages)
        (folder / "index.html").write_text(index, encoding="utf-8")
        (folder / "search.js").write_text(pdoc.render.search_index(pages), encoding="utf-8")
    shared = [*modules, *(member.obj for page in pages.values() for member in page.classes)]
    faults = [fault for page in pages.values() for fault in broken_references(page, shared)]
    faults += broken_links(folder.resolve())
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(pages)} rooms in {folder}, {len(faults)} broken references")
    return int(bool(faults))


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "target/doc-python"))
