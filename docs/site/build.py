"""Build the site of the manual.

python docs/site/build.py

Pages lie where they lie in the repository, so their links work as on any other page: README.md,
docs/, benches/. They are gathered in ``target/pages``, with a page for each public room of the
package and the notebooks as pages, and mkdocs builds ``target/site`` (``mkdocs.yml``). A link to a
page, file or heading that does not exist fails, and so does a reference in a docstring
(``references.py``). It needs no network and imports nothing of the package.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "target" / "pages"
SITE = ROOT / "target" / "site"
LINK = re.compile(r"\]\(([^)#\s]+)")


def gather(root: Path = ROOT, pages: Path = PAGES) -> None:
    """Copy the pages, and the files that they link to."""
    from references import ROOMS

    shutil.rmtree(pages, ignore_errors=True)
    names = [*root.glob("*.md"), *(root / "docs").rglob("*.md"), *(root / "benches").rglob("*.md")]
    for page in names:
        text = page.read_text(encoding="utf-8")
        _write(pages / page.relative_to(root), text.replace(".ipynb)", ".md)"))
        for target in LINK.findall(text):
            linked = (page.parent / target).resolve()
            if linked.is_file() and linked.suffix not in (".md", ".ipynb"):
                copy = pages / linked.relative_to(root)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(linked, copy)
    for notebook in (root / "docs" / "notebooks").glob("*.ipynb"):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        about = f"*A notebook: [{notebook.name}]({notebook.name}).*"
        first, *rest = [page_of(cell) for cell in cells]
        _write(pages / "docs/notebooks" / f"{notebook.stem}.md", "\n\n".join([first, about, *rest]))
        shutil.copy(notebook, pages / "docs" / "notebooks")
    for room in ROOMS:
        _write(pages / "api" / f"{room}.md", f"---\ntitle: {room}\n---\n\n::: {room}\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def page_of(cell: dict[str, Any]) -> str:
    """Return a cell of a notebook as Markdown, with what it printed."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source.replace(".ipynb)", ".md)")
    parts = [f"```python\n{source}\n```"]
    for output in cell["outputs"]:
        shown = output.get("data", {})
        if "text/html" in shown:
            parts.append("<div>" + "".join(shown["text/html"]) + "</div>")
        elif text := "".join(output.get("text", shown.get("text/plain", ""))):
            parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts)


def config(root: Path = ROOT, pages: Path = PAGES, site: Path = SITE) -> Path:
    """Write the settings of mkdocs beside `pages`, with the pages that are listed by folder."""
    here = root / "docs" / "site"
    text = (here / "mkdocs.yml").read_text(encoding="utf-8")
    api = sorted((pages / "api").glob("*.md"), key=lambda path: (path.stem != "dexml", path.stem))
    experiments = sorted((pages / "docs" / "experiments").glob("*.md"))
    measured = [*experiments, pages / "benches" / "README.md"]
    for word, listed in (("API", api), ("EXPERIMENTS", measured)):
        lines = "".join(f"\n      - {path.relative_to(pages).as_posix()}" for path in listed)
        text = text.replace(f": {word}\n", f":{lines}\n")
    folders = {
        "../../target/pages": pages,
        "../../target/site": site,
        "../../python": root / "python",
        "- references.py": f"- {(here / 'references.py').as_posix()}",
    }
    for written, path in folders.items():
        text = text.replace(written, path if isinstance(path, str) else path.as_posix())
    _write(pages.parent / "mkdocs.yml", text)
    return pages.parent / "mkdocs.yml"


def main() -> int:
    """Gather and build; return the exit code of mkdocs."""
    gather()
    command = [sys.executable, "-m", "mkdocs", "build", "-f", str(config())]
    code = subprocess.run(command).returncode
    print(f"{len(list(PAGES.rglob('*.md')))} pages in target/site" if not code else "not built")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
