"""One HTML file with everything in it, which opens offline. Knows nothing of what it shows."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alpaca.results import write_atomic

_STYLE = "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}img{max-width:100%}div{overflow-x:auto}table{border-collapse:collapse}td,th{border-bottom:1px solid #ddd;padding:.2em .8em;text-align:left;vertical-align:top}pre{background:#f5f5f5;padding:.6em;white-space:pre-wrap}"


@dataclass
class Page:
    """A report being put together: sections of HTML, and pictures as PNG."""

    title: str
    parts: list[str] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)

    def heading(self, text: str) -> None:
        """A section."""
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        """A paragraph."""
        self.parts.append(f"<p>{html.escape(text)}</p>")

    def table(self, rows: Sequence[tuple[Any, ...]], head: tuple[str, ...] = ()) -> None:
        """Rows of cells, under a line of headings if there is one."""
        cells = ("".join(f"<td>{html.escape(str(c))}</td>" for c in row) for row in rows)
        top = "<tr>" + "".join(f"<th>{html.escape(h)}</th>" for h in head) + "</tr>" if head else ""
        self.parts.append("<div><table>" + top + "".join(f"<tr>{c}</tr>" for c in cells) + "</table></div>")

    def quote(self, text: str) -> None:
        """A text as it stands, line breaks kept."""
        self.parts.append(f"<pre>{html.escape(text)}</pre>")

    def picture(self, name: str, figure: Any) -> None:
        """A matplotlib figure, in the page and as NAME.png beside it."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
        self.pictures[name] = buffer.getvalue()
        data = base64.b64encode(buffer.getvalue()).decode()
        self.parts.append(f'<p><img alt="{html.escape(name)}" src="data:image/png;base64,{data}"></p>')

    def write(self, folder: Path, name: str = "report.html") -> None:
        """The page and its pictures."""
        title = html.escape(self.title)
        body = "\n".join(self.parts)
        page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>{body}</html>'
        write_atomic(folder / name, page.encode("utf-8", "backslashreplace").decode())
        for picture, data in self.pictures.items():
            write_atomic(folder / f"{picture}.png", data)
