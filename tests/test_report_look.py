"""How ``report.html`` looks in a real browser: nothing is cut, no two texts overlap."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dexml import train
from dexml.report.of_training import report_training
from small import confusing_data

CHROMIUM = next((p for n in ("chromium", "chromium-browser") if (p := shutil.which(n))), None)
if CHROMIUM is None:
    pytest.skip("chromium is not installed", allow_module_level=True)

SCRIPT = """
<script>
addEventListener("load", () => {
  const faults = [];
  const box = (e) => e.getBoundingClientRect();
  if (document.documentElement.scrollWidth > innerWidth) faults.push("wider than the window");
  for (const svg of document.querySelectorAll("svg")) {
    const around = box(svg), texts = [...svg.querySelectorAll("text")].filter((t) => t.textContent);
    for (const t of texts) {
      const b = box(t);
      if (b.left < around.left - 1 || b.right > around.right + 1 || b.bottom > around.bottom + 1)
        faults.push("cut: " + t.textContent);
    }
    for (let i = 0; i < texts.length; i++) for (let j = i + 1; j < texts.length; j++) {
      const a = box(texts[i]), b = box(texts[j]);
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && high > 4) faults.push(texts[i].textContent + " on " + texts[j].textContent);
    }
  }
  document.title = "FAULTS" + JSON.stringify(faults) + "END";
});
</script>
"""


def faults(page: str, width: int, folder: Path, *more: str) -> list[str]:
    """What a browser finds wrong with a page in a window of this width."""
    path = folder / f"{width}.html"
    page = re.sub(r"<meta http-equiv=\"Content-Security-Policy\".*?>", "", page)
    path.write_text(page.replace("</body>", SCRIPT + "</body>"), encoding="utf-8")
    done = subprocess.run(
        [
            *(
                str(CHROMIUM),
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
            ),
            *(f"--user-data-dir={folder / 'profile'}", f"--window-size={width},2000", *more),
            *("--virtual-time-budget=5000", "--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = re.search(r"FAULTS(\[.*?\])END", done.stdout, flags=re.S)
    if found is None:
        pytest.skip(f"chromium does not run here: {done.stderr[-200:]}")
    listed: list[str] = json.loads(found[1].replace("&amp;", "&"))
    return listed


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("look")
    settings: dict[str, Any] = {"encoder": "none", "quiet": True, "seed": 1, "validation": 0.3}
    data = confusing_data(folder / "data")
    out = folder / "run"
    train.train(train.TrainSettings(data_dir=data, out=out, **settings), report_training)
    return (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [500, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_is_cut_and_no_texts_overlap(
    page: str, width: int, dark: bool, tmp_path: Path
) -> None:
    more = ["--blink-settings=preferredColorScheme=0"] if dark else []
    assert faults(page, width, tmp_path, *more) == []


def test_the_picture_of_the_losses(tmp_path: Path) -> None:
    svg = (Path(__file__).parents[1] / "docs" / "losses.svg").read_text(encoding="utf-8")
    assert faults(f"<html><body>{svg}</body></html>", 1280, tmp_path) == []


def test_the_check_finds_faults(tmp_path: Path) -> None:
    texts = '<text x="80" y="20">outside</text><text x="82" y="20">x</text>'
    bad = f'<svg width="100" height="40">{texts}</svg>'
    found = faults(f"<html><body>{bad}</body></html>", 500, tmp_path)
    assert "cut: outside" in found
    assert "outside on x" in found
