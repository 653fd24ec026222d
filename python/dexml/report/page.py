"""An HTML page that needs nothing but itself: style, text made safe, tables, sections."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from html import escape

LONGEST_TEXT = 320
"""Characters of a text shown, at most."""

_STYLE = """
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1c2024;--soft:#60666d;--line:#e4e5e3;
--wash:#f1f2ef;--c0:#2563c9;--c1:#d0631b;--c2:#1b8a5a;--c3:#8b4bc4;--c4:#b3801a;--c5:#c23a6b;
--good:#14764a;--bad:#b3362b;--good-bg:#e3f4ea;--bad-bg:#fbe9e6}
@media (prefers-color-scheme:dark){:root{--bg:#14171a;--card:#1b1f23;--ink:#e6e8ea;--soft:#9aa3ab;
--line:#2d333a;--wash:#22272c;--c0:#6ea8ff;--c1:#f59a55;--c2:#4fc794;--c3:#c39bf2;--c4:#e0b44f;
--c5:#f07fa6;--good:#63d39e;--bad:#ff8f80;--good-bg:#173226;--bad-bg:#3a2020}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);line-height:1.5;
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1080px;margin:0 auto;padding:36px 24px 56px}
header{margin-bottom:26px}
.eyebrow{font-size:12px;letter-spacing:.09em;text-transform:uppercase;color:var(--soft);margin:0}
h1{font-size:30px;line-height:1.2;letter-spacing:-.015em;margin:4px 0 6px;overflow-wrap:anywhere}
h2{font-size:19px;letter-spacing:-.01em;margin:40px 0 4px}
h3{font-size:14px;margin:0 0 2px}
p{margin:4px 0 12px;max-width:76ch}
.soft,figcaption,caption{color:var(--soft);font-size:13px}
header .soft{font-size:14px;max-width:none}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:14px;margin:14px 0}
.card,figure{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:14px 16px;margin:0;min-width:0}
.tile b{display:block;font-size:34px;line-height:1.15;letter-spacing:-.02em;font-weight:650;
font-variant-numeric:tabular-nums}
.tile b small{font-size:16px;font-weight:500;color:var(--soft);letter-spacing:0}
.tile .name{font-weight:600;font-size:13px;color:var(--soft)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:14px;
margin:14px 0}
figure svg{margin-top:4px}
.scroll{overflow-x:auto;margin:12px 0}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px;width:100%}
caption{text-align:left;padding:0 0 6px}
th{text-align:left;font-weight:600;font-size:12.5px;color:var(--soft)}
td,th{padding:6px 10px;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
td.n,th.n{text-align:right;white-space:nowrap}
svg{display:block;width:100%;height:auto}
svg.whisker{width:100%;max-width:420px;height:14px;margin:4px 0;overflow:visible}
.tile svg.whisker{max-width:none;margin:8px 0 0}
.scores td:first-child{font-weight:600}
.scores td:nth-child(4){width:48%;min-width:120px;padding-left:24px}
svg text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;fill:var(--soft);
font-variant-numeric:tabular-nums}
svg .middle{text-anchor:middle}svg .end{text-anchor:end}
svg .value{font-size:10.5px;fill:var(--ink)}
svg .note{fill:var(--ink);font-weight:600;paint-order:stroke;stroke:var(--card);stroke-width:4px;
stroke-linejoin:round}
.grid,.rail{stroke:var(--line);fill:none}
.mark{stroke:var(--soft);stroke-dasharray:3 3;fill:none}
.line{fill:none;stroke-width:1.9;stroke-linejoin:round;stroke-linecap:round}
.ring{fill:var(--card);stroke-width:2.4}
.reach{stroke-width:3.4;stroke-linecap:round;opacity:.45}
.line.c0,.ring.c0,.reach.c0{stroke:var(--c0)}.dot.c0,.bar.c0{fill:var(--c0)}
.line.c1,.ring.c1{stroke:var(--c1)}.dot.c1,.bar.c1{fill:var(--c1)}
.line.c2,.ring.c2{stroke:var(--c2)}.dot.c2,.bar.c2{fill:var(--c2)}
.line.c3,.ring.c3{stroke:var(--c3)}.dot.c3,.bar.c3{fill:var(--c3)}
.line.c4,.ring.c4{stroke:var(--c4)}.dot.c4,.bar.c4{fill:var(--c4)}
.line.c5,.ring.c5{stroke:var(--c5)}.dot.c5,.bar.c5{fill:var(--c5)}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;font-size:12.5px;color:var(--soft);margin:2px 0 0}
.legend i{display:inline-block;width:12px;height:3px;border-radius:2px;margin-right:6px;
vertical-align:3px}
i.c0{background:var(--c0)}i.c1{background:var(--c1)}i.c2{background:var(--c2)}
i.c3{background:var(--c3)}i.c4{background:var(--c4)}i.c5{background:var(--c5)}
.examples{columns:2 380px;column-gap:14px;margin:10px 0 22px}
.example{break-inside:avoid;margin:0 0 14px;border-top:3px solid var(--good)}
.example.wrong{border-top-color:var(--bad)}
.example .words{font-size:15px;margin:2px 0 10px;overflow-wrap:anywhere}
.example ol{list-style:none;margin:0;padding:0;font-size:13.5px}
.example li{display:grid;grid-template-columns:22px 1fr auto;gap:6px;padding:3px 6px;
border-radius:5px;overflow-wrap:anywhere}
.example li.yes{background:var(--good-bg)}
.example .sign{font-weight:700;color:var(--soft)}.yes .sign{color:var(--good)}
.example .score{color:var(--soft);font-variant-numeric:tabular-nums}
.example h4{font-size:12px;color:var(--soft);font-weight:600;margin:10px 0 2px}
.odd{font-size:.78em;border:1px solid var(--line);border-radius:3px;padding:0 3px;color:var(--bad)}
.more{color:var(--soft)}
details{margin:10px 0}summary{cursor:pointer;font-weight:600;font-size:14px}
pre{background:var(--wash);border-radius:8px;padding:12px 14px;white-space:pre-wrap;
overflow-wrap:anywhere;font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
margin:8px 0}
td code{font:12.5px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
@media (max-width:560px){main{padding:22px 14px 40px}h1{font-size:24px}td,th{padding:5px 6px}
.tiles{grid-template-columns:1fr 1fr}.tile b{font-size:27px}.card,figure{padding:12px}}
@media print{:root{--bg:#fff;--card:#fff;--ink:#111;--soft:#555;--line:#ccc;--wash:#f4f4f4;
--c0:#2563c9;--c1:#d0631b;--c2:#1b8a5a;--c3:#8b4bc4;--c4:#b3801a;--c5:#c23a6b;--good:#14764a;
--bad:#b3362b;--good-bg:#e3f4ea;--bad-bg:#fbe9e6;color-scheme:light}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
main{padding:0;max-width:none}figure,.card,tr{break-inside:avoid}h2,h3{break-after:avoid}
.charts{grid-template-columns:1fr 1fr}.scroll{overflow:visible}}
""".strip()


def page(title: str, parts: Iterable[str]) -> str:
    """Return the whole document; its policy lets no script run and nothing be fetched."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(printable(title))}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n"
        "<main>\n" + "\n".join(part for part in parts if part) + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading with what belongs to it; nothing where there is nothing."""
    body = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>" if body else ""


def figure(title: str, svg: str, caption: str = "", legend: Sequence[str] = ()) -> str:
    """A chart under its title, with the names of its colours and a caption."""
    if not svg:
        return ""
    names = "".join(
        f'<span><i class="c{i % 6}"></i>{escape(name)}</span>' for i, name in enumerate(legend)
    )
    return (
        f"<figure><h3>{escape(title)}</h3>"
        + (f'<div class="legend">{names}</div>' if names else "")
        + svg
        + (f"<figcaption>{escape(caption)}</figcaption>" if caption else "")
        + "</figure>"
    )


def grid(kind: str, parts: Iterable[str]) -> str:
    """Boxes side by side where there is room."""
    body = "\n".join(part for part in parts if part)
    return f'<div class="{kind}">\n{body}\n</div>' if body else ""


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str = "",
    words: int = 1,
    kind: str = "",
) -> str:
    """A table of cells that are HTML already; the first `words` columns are text, not numbers."""

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = ["" if i < words else ' class="n"' for i in range(len(cells))]
        made = (f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(made)}</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    if not body:
        return ""
    top = f"<thead>{line([escape(name) for name in head], 'th')}</thead>" if any(head) else ""
    named = f' class="{kind}"' if kind else ""
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table{named}>{title}{top}<tbody>\n{body}\n</tbody></table></div>'


def paragraph(text: str, kind: str = "soft") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{escape(text)}</p>' if text else ""


def fold(title: str, body: str) -> str:
    """Something that opens when asked for."""
    return f"<details><summary>{escape(title)}</summary>\n{body}\n</details>" if body else ""


def text(words: str, longest: int = LONGEST_TEXT) -> str:
    """Make a text of a data set safe to show: escaped, cut, of one direction, nothing hidden.

    Control characters, overrides of the writing direction and characters of no width are shown by
    their number, so that what is seen is what the model was given. Tabs and newlines are blanks.
    """
    cut = words[:longest]
    parts = []
    for char in cut:
        if char in "\t\n\r":
            parts.append(" ")
        elif _hidden(char):
            parts.append(f'<span class="odd">U+{ord(char):04X}</span>')
        else:
            parts.append(escape(char))
    if not cut.strip():
        parts.append('<span class="more">(empty)</span>')
    if len(words) > longest:
        left = len(words) - longest
        parts.append(f' <span class="more">… and {left:,} more characters</span>')
    return f"<bdi>{''.join(parts)}</bdi>"


def printable(words: str) -> str:
    """The same in plain text, for places that hold no markup."""
    return "".join(f"[U+{ord(char):04X}]" if _hidden(char) else char for char in words)


def _hidden(char: str) -> bool:
    """Controls, format characters, half surrogates, line and paragraph separators.

    The two joiners stay: scripts and emoji need them, and they hide and turn nothing.
    """
    return char not in "\u200c\u200d" and unicodedata.category(char) in (
        "Cc",
        "Cf",
        "Cs",
        "Zl",
        "Zp",
        "Co",
        "Cn",
    )
