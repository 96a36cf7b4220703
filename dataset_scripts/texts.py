"""Texts as shops keep them, made readable: markup out, lists joined; and a few names to show of many."""

import ast
import html
import json
from collections.abc import Iterable
from html.parser import HTMLParser

from recbole_sda.catalog.skipped import printable

# Elements that stand within a word or a line; any other begins a new word.
_INLINE = frozenset(
    {"a", "abbr", "b", "big", "em", "font", "i", "s", "small", "span", "strike", "strong", "sub", "sup", "tt", "u"}
)
_UNSEEN = frozenset({"script", "style"})


def clean_html(text: str) -> str:
    """`text` without tags, comments, scripts and styles, with entities as characters and single blanks.

    Entities that were escaped twice (`&amp;amp;`) are resolved too. A `<` that opens no tag stays.
    """
    if "<" in text or "&" in text:
        reader = _TextReader()
        reader.feed(text)
        reader.close()
        text = html.unescape("".join(reader.parts))
    return " ".join(text.split())


class _TextReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.unseen = 0

    def handle_starttag(self, tag, attrs):
        self.unseen += tag in _UNSEEN
        self._break_word(tag)

    def handle_endtag(self, tag):
        self.unseen = max(0, self.unseen - (tag in _UNSEEN))
        self._break_word(tag)

    def handle_data(self, data):
        if not self.unseen:
            self.parts.append(data)

    def _break_word(self, tag: str) -> None:
        if tag not in _INLINE:
            self.parts.append(" ")


def parse_list(text: str) -> list | None:
    """The list that `text` writes in JSON or as a Python literal; None where it writes none."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def flat_list(value) -> list[str]:
    """The texts in a nest of lists, in order, each once; None and blanks left out."""
    texts: dict[str, None] = {}
    rest = [value]  # not by recursion: a nest may be deep
    while rest:
        value = rest.pop()
        if isinstance(value, list | tuple):
            rest.extend(reversed(value))
        elif text := "" if value is None else str(value).strip():
            texts[text] = None
    return list(texts)


def joined(parts: Iterable[str]) -> str:
    """`a, b, c`"""
    return ", ".join(parts)


def examples(names: Iterable[str], limit: int = 3) -> str:
    """`: a, b, c, …`, or nothing where there are no names."""
    names = sorted(printable(name) for name in names)
    return f": {', '.join(names[:limit])}{', …' if len(names) > limit else ''}" if names else ""
