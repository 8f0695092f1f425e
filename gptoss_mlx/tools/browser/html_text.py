"""HTML as text with links, in the form in which gpt-oss learnt to read pages.

lxml makes the tree: it is quick on whatever the web sends. (Tried: Python's own html.parser takes minutes for a few
hundred kB of unclosed comments or tags in versions that are in use, and selectolax for deeply nested elements;
html2text, which OpenAI's browser uses, is under the GPL.) What a reader would not see is left out: scripts, styles, and
elements that are hidden.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from gptoss_mlx.tools.browser.backend import BrowseError, check_stopped
from gptoss_mlx.tools.browser.document import EXTRA, Document
from gptoss_mlx.tools.browser.page import LONGEST, Link, clean, domain_of, link_mark, one_line

_LEFT_OUT: Final = frozenset(
    [
        "script",
        "style",
        "noscript",
        "template",
        "head",
        "svg",
        "math",
        "iframe",
        "object",
        "embed",
        "canvas",
        "audio",
        "video",
        "select",
        "datalist",
    ]
)
_PARAGRAPHS: Final = frozenset(
    [
        "p",
        "div",
        "section",
        "article",
        "main",
        "header",
        "footer",
        "nav",
        "aside",
        "form",
        "fieldset",
        "figure",
        "figcaption",
        "blockquote",
        "address",
        "ul",
        "ol",
        "dl",
        "table",
        "details",
        "summary",
        "dialog",
        "pre",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "hr",
        "body",
        "html",
    ]
)
_LINES: Final = frozenset(["li", "dt", "dd", "tr", "caption", "legend", "option"])
_CELLS: Final = frozenset(("td", "th"))
_HEADING: Final = re.compile(r"h([1-6])")
_HIDDEN_STYLE: Final = re.compile(r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
_WORD: Final = re.compile(r"[\w-]+")
_MOST_LINKS: Final = 5000
"""Further ones are only words."""
_NOT_FOLLOWED: Final = ("mailto:", "javascript:", "tel:", "data:")


def read_html(html: str, url: str) -> Document:
    """The page at `url`. Raises BrowseError where lxml is missing."""
    try:
        import lxml.etree as etree
    except ImportError as error:
        raise BrowseError(f"HTML cannot be read without lxml ({EXTRA})") from error
    parser = etree.HTMLParser(encoding="utf-8", no_network=True, remove_comments=True, remove_pis=True)
    try:
        root = etree.fromstring(clean(html).encode("utf-8"), parser)
    except (etree.ParserError, etree.XMLSyntaxError):
        # There is no element in it at all.
        root = None
    if root is None:
        return Document("")
    title = root.find(".//title")
    base = root.find(".//base[@href]")
    writer = _Writer(url, urljoin(url, base.get("href", "")) if base is not None else url)
    writer.write(root)
    return Document(writer.text(), "" if title is None else one_line("".join(title.itertext())), writer.links)


@dataclass
class _Writer:
    """Text and links as they come."""

    url: str
    base: str
    """What links are relative to."""
    links: dict[int, Link] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)
    _parts: list[str] = field(default_factory=list)
    _length: int = 0
    _newlines: int = 2
    """Line ends at the end of what was written; at the beginning, none are wanted."""
    _wanted: int = 0
    """Line ends wanted before the next text."""
    _blank: bool = False
    """Whether a blank is wanted before it."""
    _lead: str = ""
    """What its line begins with."""
    _verbatim: int = 0
    """How many <pre> are open."""
    _images: int = 0

    def write(self, root: Any) -> None:
        """All that is in the tree below `root`. Without recursion: the web nests as deep as it likes."""
        stack: list[tuple[Any, Iterator[Any] | None]] = [(root, None)]
        steps = 0
        while stack and self._length <= LONGEST:
            element, children = stack[-1]
            if children is None:
                steps += 1
                if steps % 1000 == 0:
                    check_stopped()
                if not self._enter(element):
                    stack.pop()
                    self._text(element.tail)
                    continue
                children = iter(element)
                stack[-1] = (element, children)
            child = next(children, None)
            if child is not None:
                stack.append((child, None))
                continue
            stack.pop()
            self._leave(element)
            if stack:
                self._text(element.tail)

    def text(self) -> str:
        """What was written."""
        lines = "".join(self._parts).split("\n")
        return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in lines)).strip("\n")

    def _enter(self, element: Any) -> bool:
        """Begins an element; False: what is in it is not written, or is written already."""
        tag = element.tag
        if not isinstance(tag, str) or tag in _LEFT_OUT or _is_hidden(element):
            return False
        if tag == "br":
            self._wanted = min(self._wanted + 1, 2)
        elif tag == "img":
            self._image(element)
        elif tag == "a" and element.get("href") is not None:
            self._link(element)
            return False
        elif tag in ("sup", "sub") and _WORD.fullmatch(word := "".join(element.itertext()).strip()):
            self._put(f"{'^' if tag == 'sup' else '_'}{{{word}}}")
            return False
        else:
            self._break(tag)
            if (heading := _HEADING.fullmatch(tag)) is not None:
                self._lead = "#" * int(heading[1]) + " "
            elif tag == "li":
                self._lead = "  * "
            elif tag in _CELLS and self._newlines == 0 and self._wanted == 0:
                self._put(" | ")
            elif tag == "hr":
                self._put("* * *")
            elif tag == "pre":
                self._verbatim += 1
            self._text(element.text)
            return True
        return tag not in ("br", "img")

    def _leave(self, element: Any) -> None:
        if element.tag == "pre":
            self._verbatim -= 1
        self._break(element.tag)

    def _break(self, tag: str) -> None:
        if tag in _PARAGRAPHS:
            self._wanted = 2
        elif tag in _LINES:
            self._wanted = max(self._wanted, 1)

    def _text(self, text: str | None) -> None:
        if not text:
            return
        if self._verbatim:
            self._put(text)
            return
        words = " ".join(text.split())
        if text[0].isspace():
            self._blank = True
        if words:
            self._put(words)
            self._blank = text[-1].isspace()

    def _put(self, text: str) -> None:
        """Writes a text, after the line ends and the blank that are wanted before it."""
        missing = max(self._wanted - self._newlines, 0) if self._parts else 0
        at_start = missing > 0 or self._newlines > 0
        before = "\n" * missing
        if at_start:
            before += self._lead
        elif self._blank:
            before += " "
        self._lead, self._blank, self._wanted = ("" if at_start else self._lead), False, 0
        written = before + text
        self._parts.append(written)
        self._length += len(written)
        self._newlines = len(written) - len(written.rstrip("\n"))

    def _image(self, element: Any) -> None:
        name = one_line(element.get("alt") or element.get("title") or "")
        self._put(f"[Image {self._images}: {name}]" if name else f"[Image {self._images}]")
        self._images += 1

    def _link(self, element: Any) -> None:
        words = one_line(" ".join(_seen_text(element)))
        if not words:
            for image in element.iter("img"):
                self._image(image)
            return
        target = (element.get("href") or "").strip()
        url = self._absolute(target)
        if url is None:
            self._put(words)
            return
        number = self._numbers.setdefault(url, len(self._numbers))
        self.links[number] = Link(url)
        domain = domain_of(url)
        self._put(link_mark(number, words, "" if domain == domain_of(self.url) else domain))

    def _absolute(self, target: str) -> str | None:
        """Where a link leads; None: nowhere else."""
        if not target or target.startswith("#") or len(self.links) >= _MOST_LINKS:
            return None
        if target.lower().startswith(_NOT_FOLLOWED):
            return None
        try:
            url = urljoin(self.base, target)
            parts = urlsplit(url)
        except ValueError:
            return None
        return url if parts.scheme in ("http", "https", "file") and parts.netloc else None


def _seen_text(element: Any) -> Iterator[str]:
    for each in element.iter():
        hidden = not isinstance(each.tag, str) or each.tag in _LEFT_OUT
        if each.text and not hidden:
            yield each.text
        if each is not element and each.tail:
            yield each.tail


def _is_hidden(element: Any) -> bool:
    if element.get("hidden") is not None or element.get("aria-hidden") == "true":
        return True
    style = element.get("style")
    return style is not None and _HIDDEN_STYLE.search(style) is not None
