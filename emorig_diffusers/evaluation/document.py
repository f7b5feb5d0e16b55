"""A document of headings, sentences, tables and pictures, written as Markdown and as one HTML file."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .pictures import shrink_for_page


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Sentences."""

    text: str


@dataclass(frozen=True)
class Grid:
    """A table; lines within a cell are divided by newlines."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A picture file beside the document, and what it shows."""

    path: Path
    caption: str


Block = Heading | Paragraph | Grid | Picture

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 100rem; padding: 0 1.5rem; color: #1b1b1b; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0; font-size: 13px; }
th, td { border-bottom: 1px solid #d5d5d5; padding: .3rem .55rem; text-align: right; vertical-align: top;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th { border-bottom: 2px solid #555; white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
td.text { white-space: normal; text-align: left; min-width: 8rem; max-width: 40rem; }
tr:hover td { background: #f4f6fa; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; }
figcaption { color: #555; }
"""


def to_markdown(blocks: Sequence[Block]) -> str:
    """GitHub's Markdown; pictures are named by file."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {_no_tags(block.text)}"
    if isinstance(block, Paragraph):
        return _no_tags(block.text)
    if isinstance(block, Picture):
        return f"![{_no_tags(block.caption)}](<{block.path.name}>)"
    rows = [block.header, ["---"] + ["---:"] * (len(block.header) - 1), *block.rows]
    return "\n".join("| " + " | ".join(_markdown_cell(cell) for cell in row) + " |" for row in rows)


def _markdown_cell(text: str) -> str:
    return _no_tags(text).replace("|", "\\|").replace("\n", "<br>")


def _no_tags(text: str) -> str:
    return text.replace("<", "&lt;")


def to_html(blocks: Sequence[Block]) -> str:
    """One page without scripts that needs no other file and no network: pictures are part of it."""
    title = next(html.escape(block.text) for block in blocks if isinstance(block, Heading))
    head = f'<meta charset="utf-8">\n<title>{title}</title>\n<style>{_STYLE}</style>'
    body = "\n".join(_html(block) for block in blocks)
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
    if isinstance(block, Paragraph):
        return f"<p>{html.escape(block.text)}</p>"
    if isinstance(block, Picture):
        data = base64.b64encode(shrink_for_page(block.path)).decode()
        caption = html.escape(block.caption)
        image = f'<img src="data:image/jpeg;base64,{data}" alt="{caption}">'
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
    header = "".join(f"<th>{_html_lines(cell)}</th>" for cell in block.header)
    rows = "\n".join("<tr>" + "".join(_html_cell(cell) for cell in row) + "</tr>" for row in block.rows)
    return f'<div class="wide"><table>\n<tr>{header}</tr>\n{rows}\n</table></div>'


def _html_cell(text: str) -> str:
    kind = ' class="text"' if len(text) > 40 and "\n" not in text else ""
    return f"<td{kind}>{_html_lines(text)}</td>"


def _html_lines(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")
