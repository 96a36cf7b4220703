"""What a row of Amazon's review data looks like in the releases of 2014, 2018 and 2023.

       reviews                           ratings alone (csv)                 metadata
2014   JSON, some as Python literals     user, item, rating, time            Python literals; one picture
2018   JSON                              item, user, rating, time            JSON; lists; texts with markup
2023   JSON; times in milliseconds       header; times in milliseconds       JSON; `parent_asin`; several pictures
"""

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from raw_lines import first_lines  # beside this file
from texts import clean_html, flat_list, joined

from recbole_sda.errors import SDAError

ITEM_FIELDS = ("title", "price", "brand", "categories", "description", "features")
# What a page's source left in place of a text: a tag that does not end, a script, a style sheet.
_LEFTOVER = re.compile(r"\s*(<[a-z!/][^>]*$|var aPageStart|[.#][\w-]+\s*\{)", re.IGNORECASE)
_PRICE = re.compile(r"\d[\d,]*(\.\d+)?( - \d[\d,]*(\.\d+)?)?")


class ItemRow(NamedTuple):
    """An item's texts, cleaned, as in `ITEM_FIELDS`, and its pictures' addresses, the preferred one first."""

    texts: tuple[str, ...]
    urls: tuple[str, ...]

    @property
    def filled(self) -> tuple[bool, ...]:
        """Which of the fields say something, and whether there is a picture."""
        return (*map(bool, self.texts), bool(self.urls))


@dataclass(frozen=True)
class Format:
    """A release's rows.

    Attributes:
        review_fields: names of user, item, rating and time in a review.
        csv_columns: the order of the same in a csv file without a header.
        ticks: units of time in a second.
        item_id: name of the item in a row of metadata.
        read_item: the texts and pictures of such a row.
        review_marks, item_marks: fields that tell this release from the others.
    """

    review_fields: Sequence[str]
    csv_columns: Sequence[str]
    ticks: int
    item_id: str
    read_item: Callable[[Mapping], ItemRow]
    review_marks: frozenset[str]
    item_marks: frozenset[str]


def parse_row(line: bytes) -> dict:
    """A row in JSON or, as in 2014, a Python literal.

    Raises:
        ValueError: it is neither, or not UTF-8; the text is the reason.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {line[error.start]:#04x} at position {error.start} is not UTF-8") from error
    try:
        row = json.loads(text)
    except ValueError as error:
        row = _parse_literal(text, str(error))
    if not isinstance(row, dict):
        raise ValueError(f"no row of fields, but {text[:40]!r}")
    return row


def _parse_literal(text: str, reason: str) -> object:
    if text.lstrip().startswith("<"):
        raise ValueError(f"a web page stands in place of the data ({text.strip()[:40]!r})")
    try:
        return ast.literal_eval(text.strip())  # constants only, nothing is run
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"no JSON row ({reason}) and no Python literal; is it cut off?") from None


def check_release(path: Path, year: int, *, metadata: bool) -> None:
    """Refuse a file of another release or kind, by its first rows.

    Raises:
        SDAError: with the release that the file looks like.
    """
    wanted = "metadata" if metadata else "reviews"
    lines = first_lines(path)
    if not lines[:1] or lines[0].lstrip()[:1] != b"{":
        found = None if metadata else _release_of_csv(lines)
        if found in (None, year):
            return  # what is wrong is told with the line's number
        raise SDAError(f"{path} looks like ratings of {found}; add --year {found}, or name {wanted} of {year}")
    fields = _fields_of(lines)
    marks = {
        (release, kind): len(fields & found)
        for release, layout in FORMATS.items()
        for kind, found in (("reviews", layout.review_marks), ("metadata", layout.item_marks))
    }
    likely = max(marks, key=marks.get)
    if marks[likely] > marks[year, wanted]:
        raise SDAError(
            f"{path} looks like {likely[1]} of {likely[0]}, not {wanted} of {year} (it has the fields "
            f"{', '.join(sorted(fields)[:8])}, …); name {'--year' if likely[1] == wanted else 'the file'} rightly"
        )


def _fields_of(lines: Iterable[bytes]) -> set[str]:
    fields: set[str] = set()
    for line in lines:
        try:
            fields |= parse_row(line).keys()
        except ValueError:
            continue  # told with its number when it is read
    return fields


def _release_of_csv(lines: Sequence[bytes]) -> int | None:
    """The release of a ratings file: 2023 has a header; item ids have 10 characters, users' ids have more."""
    rows = [line.decode("utf-8", "replace").strip().split(",") for line in lines]
    if not rows or any(len(row) != 4 for row in rows):
        return None
    if set(rows[0]) == set(FORMATS[2023].review_fields):
        return 2023
    items_first = sum(len(first) == 10 != len(second) for first, second, *_ in rows)
    users_first = sum(len(second) == 10 != len(first) for first, second, *_ in rows)
    if items_first == users_first:
        return None
    return 2018 if items_first > users_first else 2014


def clean(value: object) -> str:
    """A text, or a list of them as sentences in a row, without markup."""
    return " ".join(_cleaned(value))


def clean_list(value: object) -> str:
    """A list, of lists perhaps, as `a, b`: each part once, without markup."""
    return joined(dict.fromkeys(_cleaned(value)))


def clean_price(value: object) -> str:
    """`$5.00` as `5.00`; what is no price, or no range of prices, is nothing."""
    text = clean(value).replace("$", "")
    return text if _PRICE.fullmatch(text) else ""


def _cleaned(value: object) -> list[str]:
    parts = (clean_html(part) for part in flat_list(value) if not _LEFTOVER.match(part))
    return [part for part in parts if part]


def _item_of_2014(row: Mapping) -> ItemRow:
    texts = (
        clean(row.get("title")),
        clean_price(row.get("price")),
        clean(row.get("brand")),
        clean_list(row.get("categories")),
        clean(row.get("description")),
        "",
    )
    return ItemRow(texts, _addresses(row.get("imUrl"), None))


def _item_of_2018(row: Mapping) -> ItemRow:
    texts = (
        clean(row.get("title")),
        clean_price(row.get("price")),
        clean(row.get("brand")).removeprefix("by "),
        clean_list(row.get("category")),
        clean(row.get("description")),
        clean(row.get("feature")),
    )
    # `image` is what the first files of this release have in place of both
    return ItemRow(texts, _addresses(row.get("imageURLHighRes"), [row.get("imageURL"), row.get("image")]))


def _item_of_2023(row: Mapping) -> ItemRow:
    texts = (
        clean(row.get("title")),
        clean_price(row.get("price")),
        clean(row.get("store")),
        clean_list(row.get("categories")),
        clean(row.get("description")),
        clean(row.get("features")),
    )
    found = row.get("images")
    pictures = [picture for picture in found if isinstance(picture, dict)] if isinstance(found, list) else []
    pictures.sort(key=lambda picture: picture.get("variant") != "MAIN")  # stable
    # `large` has 500 pixels, enough for a model; `hi_res` three times that and ten times the bytes
    sizes = [[picture.get(size) for size in ("large", "hi_res")] for picture in pictures]
    return ItemRow(texts, _addresses(sizes, [picture.get("thumb") for picture in pictures]))


def _addresses(pictures: object, thumbnails: object) -> tuple[str, ...]:
    """A few addresses to try in turn: of one item's thirty, the last ones are as dead as the first."""
    full, small = (
        [url for url in flat_list(value) if url.startswith(("http://", "https://"))]
        for value in (pictures, thumbnails)
    )
    return tuple(dict.fromkeys(full[:3] + small[:1]))


_OLD_REVIEWS = ("reviewerID", "asin", "overall", "unixReviewTime")
_NEW_REVIEWS = ("user_id", "parent_asin", "rating", "timestamp")

FORMATS = {
    2014: Format(
        review_fields=_OLD_REVIEWS,
        csv_columns=("user", "item", "rating", "timestamp"),
        ticks=1,
        item_id="asin",
        read_item=_item_of_2014,
        review_marks=frozenset({"helpful"}),
        item_marks=frozenset({"imUrl", "salesRank", "related", "categories"}),
    ),
    2018: Format(
        review_fields=_OLD_REVIEWS,
        csv_columns=("item", "user", "rating", "timestamp"),
        ticks=1,
        item_id="asin",
        read_item=_item_of_2018,
        review_marks=frozenset({"verified", "style", "vote"}),
        item_marks=frozenset({"category", "main_cat", "also_buy", "also_view", "imageURL", "feature", "rank"}),
    ),
    2023: Format(
        review_fields=_NEW_REVIEWS,
        csv_columns=("user", "item", "rating", "timestamp"),
        ticks=1000,
        item_id="parent_asin",
        read_item=_item_of_2023,
        review_marks=frozenset({"user_id", "helpful_vote", "verified_purchase", "timestamp"}),
        item_marks=frozenset({"main_category", "average_rating", "rating_number", "store", "features", "videos"}),
    ),
}
