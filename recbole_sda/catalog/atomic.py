"""RecBole's atomic files (`.inter`, `.item`): one writer, one reader, and folders that appear whole.

A line is a row, a tab parts its fields, the first line is `name:type` for each column. RecBole reads these
files with pandas' csv reader, for which a field that starts with `"` is quoted and may swallow the lines
after it. So the writer quotes every field that holds a `"`, and leaves no tab or line break inside a field.
The reader goes line by line and never further: it unquotes a field that is properly quoted and takes any
other as it stands, so that files with stray quotes (many of RecBole's downloads) lose no row.
"""

import csv
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from recbole_sda.errors import SDAError

# What pandas, and so RecBole, reads as a missing value: as a token, such an item or user would vanish.
# fmt: off
MISSING_TOKENS = frozenset({
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
})
# fmt: on
_BREAKS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")
_SURROGATES = re.compile(r"[\ud800-\udfff]")  # no characters: UTF-8 cannot write them


def write_atomic(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
    """Write `header` (`name:type` each) and `rows` to `path`; return the number of rows."""
    count = 0
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_MINIMAL, doublequote=True, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow([one_line(value) for value in row])
            count += 1
    return count


def read_atomic(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields) for the header and every row of `path`; blank lines are skipped."""
    width = None
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            line = _decode(raw, path, number).rstrip("\r\n")
            if number == 1:
                line = line.removeprefix("\ufeff")
            if not line:
                continue
            fields = [unquote(field) for field in line.split("\t")]
            width = width or len(fields)
            if len(fields) != width:
                raise SDAError(
                    f"{path}:{number}: {len(fields)} fields, but the header has {width}; "
                    "separate them with single tabs and keep every row on one line"
                )
            yield number, fields


def read_header(path: Path) -> dict[str, str]:
    """The fields of an atomic file and their types: `{"item_id": "token", "title": "token_seq"}`."""
    fields = next((fields for _, fields in read_atomic(path)), None)
    if fields is None:
        raise SDAError(f"{path}: the file is empty; its first line must name the fields, as in `item_id:token`")
    kinds: dict[str, str] = {}
    for field in fields:
        name, colon, kind = field.partition(":")
        if not (name and colon and kind):
            raise SDAError(f"{path}:1: header field {field!r} is not `name:type`, as in `title:token_seq`")
        if name in kinds:
            raise SDAError(f"{path}:1: field {name!r} stands twice in the header; rename one of them")
        kinds[name] = kind
    return kinds


def unquote(field: str) -> str:
    """Undo csv quoting where the whole field is properly quoted; return any other field untouched."""
    if len(field) >= 2 and field[0] == field[-1] == '"':
        inner = field[1:-1]
        if '"' not in inner.replace('""', ""):
            return inner.replace('""', '"')
    return field


def one_line(value: str) -> str:
    """`value` with tabs, line breaks and other control characters as single spaces, and no lone surrogate."""
    return without_surrogates(_BREAKS.sub(" ", value))


def without_surrogates(text: str) -> str:
    """`text` with U+FFFD for each lone surrogate, such as JSON's `\\ud83d` without its other half."""
    return _SURROGATES.sub("\ufffd", text)


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target` that takes its place when the block ends without an error.

    After any error `target` is what it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    new, old = work / "new", work / "old"
    try:
        new.mkdir()
        yield new
        _take_place(new, target, old)
    finally:
        if target.exists() or not old.exists():  # never the only copy of the old content
            shutil.rmtree(work, ignore_errors=True)


def _take_place(new: Path, target: Path, old: Path) -> None:
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(new, target)
    except BaseException:
        if old.exists():
            os.rename(old, target)
        raise


def _decode(raw: bytes, path: Path, number: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SDAError(
            f"{path}:{number}: byte {raw[error.start]:#04x} at position {error.start} is not UTF-8; "
            "save the file as UTF-8"
        ) from error
