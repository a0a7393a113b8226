"""Files of a user's own text -> plain text: txt, md, html, jsonl, pdf, docx. Knows no passages.

A file that cannot be read is left out with a warning and counted; it never stops a run.
"""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from alpaca.console import warn

KINDS = (".txt", ".md", ".markdown", ".html", ".htm", ".jsonl", ".pdf", ".docx")


def find(path: Path, counted: Counter[str]) -> list[Path]:
    """The files to read, in the order of their names; nothing hidden. Others are counted."""
    if path.is_file():
        return [path]
    files = sorted(p for p in path.rglob("*") if p.is_file())
    files = [p for p in files if not any(part.startswith(".") for part in p.relative_to(path).parts)]
    counted["file of another kind"] += sum(p.suffix.lower() not in KINDS for p in files)
    return [p for p in files if p.suffix.lower() in KINDS]


def read(file: Path, name: str, counted: Counter[str]) -> Iterator[tuple[str, str]]:
    """(name, text) of a file; a JSONL file has one for each line: its `text`, else its longest string."""
    readers = {".pdf": _pdf, ".docx": _docx, ".html": _html, ".htm": _html}
    try:
        if file.suffix.lower() == ".jsonl":
            yield from _lines(file, name, counted)
            return
        text = readers.get(file.suffix.lower(), _text)(file)
    except ImportError as error:
        problem = f"pip install {'python-docx' if error.name == 'docx' else error.name}"
    except Exception as error:  # whatever a library makes of a broken file
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:120]
    else:
        if text.strip():
            yield name, text
        else:
            warn(f"{file} holds no text (a scan needs to be recognised first) and is left out")
            counted["file without text"] += 1
        return
    warn(f"{file} cannot be read and is left out ({problem})")
    counted["file that cannot be read"] += 1


def _text(file: Path) -> str:
    """UTF-8, UTF-16 with its mark, else Windows-1252 or GB 18030. Line ends become \\n, as Python reads text. Raises ValueError."""
    raw = file.read_bytes()
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        runs = re.findall(rb"[\x80-\xff]+", raw)
        alone = sum(len(run) == 1 for run in runs)  # an accented letter among plain ones; Chinese comes in pairs
        encoding = "cp1252" if 2 * alone > len(runs) else "gb18030"
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            raise ValueError("neither UTF-8 nor GB 18030: convert it to UTF-8") from None
        name = {"cp1252": "Windows-1252 (Latin-1)", "gb18030": "GB 18030"}[encoding]
        warn(f"{file} is not UTF-8 and is read as {name}: convert it if that is wrong")
    if "\0" in text:
        raise ValueError("it is no text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _lines(file: Path, name: str, counted: Counter[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            warn(f"{file}, line {number} is not JSON and is left out")
            counted["line that cannot be read"] += 1
            continue
        values = row.values() if isinstance(row, dict) else [row]
        texts = [v for v in values if isinstance(v, str)]
        own = row.get("text") if isinstance(row, dict) else None
        if texts:
            yield f"{name}:{number}", own if isinstance(own, str) else max(texts, key=len)


def _pdf(file: Path) -> str:
    import logging

    import pypdf

    logging.getLogger("pypdf").setLevel(logging.ERROR)
    return "\n\n".join(page.extract_text() for page in pypdf.PdfReader(file).pages)


def _docx(file: Path) -> str:
    import docx
    from docx.table import Table

    parts = []
    for block in docx.Document(str(file)).iter_inner_content():
        if isinstance(block, Table):
            parts.append("\n".join(" | ".join(cell.text.strip() for cell in row.cells) for row in block.rows))
        else:
            parts.append(block.text)
    return "\n\n".join(parts)


_BLOCKS = frozenset(
    "address article aside blockquote br dd div dl dt fieldset figure form h1 h2 h3 h4 h5 h6 hr li main ol p pre section table tr ul".split()  # noqa: SIM905
)
_UNSEEN = frozenset(["script", "style", "head", "nav", "footer", "noscript", "template", "svg"])


class _Page(HTMLParser):
    """The text that a reader sees; a block element ends a paragraph."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open what is not seen, or a block."""
        if tag == "body":
            self._unseen.clear()  # </head> may be left out
        elif tag in _UNSEEN:
            self._unseen.append(tag)
        elif tag in _BLOCKS:
            self.parts.append("\n\n")
        elif tag in ("td", "th"):
            self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        """Close it."""
        if tag in self._unseen:
            del self._unseen[self._unseen.index(tag) :]
        elif tag in _BLOCKS:
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        """Keep what is seen."""
        if not self._unseen:
            self.parts.append(data)


_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)


def _markup(file: Path) -> str:
    """The text of a page: UTF-8 where it is, else in the encoding that it declares where it can be read so."""
    raw = file.read_bytes()
    if declared := _CHARSET.search(raw[:4096]):
        name = declared[1].decode("ascii").lower()
        name = {"gb2312": "gb18030", "gbk": "gb18030", "iso-8859-1": "cp1252", "big5": "big5hkscs"}.get(name, name)
        for encoding in (name, "utf-8") if name.startswith("iso-2022") else ("utf-8", name):
            with contextlib.suppress(LookupError, UnicodeDecodeError):
                return raw.decode(encoding)
    return _text(file)


def _html(file: Path) -> str:
    """HTML without its tags. Spans then refer to this text."""
    page = _Page()
    page.feed(_markup(file))
    page.close()
    paragraphs = (" ".join(p.split()) for p in "".join(page.parts).split("\n\n"))
    return "\n\n".join(p for p in paragraphs if p)
