"""Bytes of a file or of the web as text with links: text, HTML and PDF."""

import codecs
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from gptoss_mlx.tools.browser.backend import BrowseError, check_stopped
from gptoss_mlx.tools.browser.page import LONGEST, Link, clean

EXTRA: Final = "pip install 'gptoss-mlx[browser]'"

HTML_ENDINGS: Final = frozenset((".html", ".htm", ".xhtml"))
PDF_ENDING: Final = ".pdf"

_LOOKED_AT: Final = 8192
"""Bytes of a file in which signs of a binary one are looked for."""

_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_CONTROLS: Final = bytes(code for code in range(32) if code not in (7, 8, 9, 10, 12, 13, 27))


@dataclass(frozen=True, slots=True)
class Document:
    """Clean text."""

    text: str
    title: str = ""
    links: Mapping[int, Link] = field(default_factory=dict)
    plain: bool = False
    """Whether its lines are those of the source."""


def kind_of_name(name: str) -> str:
    """`html`, `pdf` or `text`, by a file's ending."""
    ending = PurePosixPath(name).suffix.lower()
    if ending in HTML_ENDINGS:
        return "html"
    return "pdf" if ending == PDF_ENDING else "text"


def read_document(data: bytes, kind: str, url: str, *, charset: str | None = None, source: bool = False) -> Document:
    """The document in `data`, which comes from `url`. `charset`: what its sender says; `source`: as it is written.

    Raises BrowseError for what is no text, and where a library is missing.
    """
    if kind == "pdf":
        return Document(clean(_pdf_text(data)))
    if is_binary(data):
        raise BrowseError("it is no text: binary data")
    if kind == "html" and not source:
        from gptoss_mlx.tools.browser.html_text import read_html

        return read_html(decode(data, charset or _html_charset(data)), url)
    return Document(clean(decode(data, charset)).rstrip("\n"), plain=True)


def is_binary(data: bytes) -> bool:
    """Whether the data is something else than text."""
    begin = data[:_LOOKED_AT]
    if any(begin.startswith(bom) for bom, _ in _BOMS):
        return False
    if b"\0" in begin:
        return True
    return len(begin) - len(begin.translate(None, _CONTROLS)) > len(begin) // 50


def decode(data: bytes, charset: str | None = None) -> str:
    """Text in whatever encoding: a byte order mark tells, then UTF-8 where it fits, then `charset`, then Windows-1252,
    which fits everything somehow."""
    for bom, name in _BOMS:
        if data.startswith(bom):
            return data.decode(name, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    if charset is not None:
        try:
            return data.decode(charset, "replace")
        except (LookupError, ValueError, UnicodeError):
            pass
    return data.decode("cp1252", "replace")


def _html_charset(data: bytes) -> str | None:
    found = re.search(rb"<meta[^>]{0,200}charset=[\"']?\s*([A-Za-z0-9_.:-]{1,40})", data[:4096], re.IGNORECASE)
    return None if found is None else found[1].decode("ascii")


def _pdf_text(data: bytes) -> str:
    try:
        import pypdf
    except ImportError as error:
        raise BrowseError(f"PDF files cannot be read without pypdf ({EXTRA})") from error
    try:
        parts: list[str] = []
        length = 0
        for number, page in enumerate(pypdf.PdfReader(io.BytesIO(data)).pages, 1):
            check_stopped()
            parts.append(f"Page {number}\n\n{page.extract_text()}")
            length += len(parts[-1])
            if length > LONGEST:
                break
    except BrowseError:
        raise
    except Exception as error:
        # Whatever a damaged file makes of the library.
        raise BrowseError(f"the PDF cannot be read ({type(error).__name__}: {error})") from error
    return "\n\n".join(parts)
