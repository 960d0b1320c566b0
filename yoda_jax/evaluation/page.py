"""A page that a browser opens from the disk, with everything in it."""

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import NamedTuple

Lines = Sequence[Sequence[str]]  # of a table, the first its head

_TEMPLATE = Path(__file__).with_name("page.html")
_SHOWN = (
    "Drag over the picture, or the slider below it. Attention is red where it is high; the mask is "
    "yellow where the network is at work with so much of the chain left."
)


class Comparison(NamedTuple):
    """A picture in several versions (JPEG), the first two of them side by side at the start.

    attention and mask are grey PNGs of any size: A, and the share of the chain's steps by which
    each pixel is diffused.
    """

    name: str
    layers: Mapping[str, bytes]
    attention: bytes
    mask: bytes


def page(
    title: str,
    protocol: str,
    tables: Mapping[str, Lines],
    comparisons: Sequence[Comparison] = (),
    figures: Mapping[str, bytes] | None = None,
) -> bytes:
    """HTML with tables and figures (PNG) under their headings, and a slider over pictures.

    All comparisons have versions of the same names.
    """
    shown = [
        {
            "name": one.name,
            "layers": {label: _url("jpeg", data) for label, data in one.layers.items()},
            "attention": _url("png", one.attention),
            "mask": _url("png", one.mask),
        }
        for one in comparisons
    ]
    parts = {
        "title": html.escape(title),
        "protocol": html.escape(protocol),
        "tables": "\n".join(_table(name, lines) for name, lines in tables.items()),
        "shown": _SHOWN,
        "figures": "\n".join(
            f'<h2>{html.escape(name)}</h2>\n<img class="figure" alt="{html.escape(name)}" '
            f'src="{_url("png", data)}">'
            for name, data in (figures or {}).items()
        ),
        # Names may hold what would end the element.
        "data": json.dumps(shown).replace("<", "\\u003c"),
    }
    return Template(_TEMPLATE.read_text()).substitute(parts).encode("utf-8", "replace")


def _table(name: str, lines: Lines) -> str:
    head, *rows = ([_interval(html.escape(cell)) for cell in line] for line in lines)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    heading = f"<h2>{html.escape(name)}</h2>\n" if name else ""
    return f'{heading}<div class="wide"><table>\n<tr>{cells}</tr>\n{body}\n</table></div>'


def _interval(cell: str) -> str:
    """A figure's interval, in brackets behind it, on a line of its own."""
    return re.sub(r"^(\S+) (\(.* - .*\))$", r"\1<br><small>\2</small>", cell)


def _url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
