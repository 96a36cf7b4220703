"""Tables from .csv, .tsv, .jsonl and .parquet files: every value as the string that stands in the file."""

import csv
import gzip
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from recbole_sda.catalog.atomic import without_surrogates
from recbole_sda.errors import SDAError

# Unicode declares itself in a file's first bytes.
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
# What a table that is not UTF-8 may be in, likeliest first.
_OTHERS = ("cp1252", "gb18030", "shift_jis", "cp1251")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}


def _print_note(note: str) -> None:
    print(f"note: {note}", file=sys.stderr)


def read_table(
    path: Path,
    separator: str | None = None,
    encoding: str | None = None,
    *,
    may_be_empty: bool = False,
    note: Callable[[str], None] = _print_note,
) -> pd.DataFrame:
    """A table of strings; a missing value is "", a list or record of a .jsonl or .parquet is its JSON.

    Args:
        path: .csv, .tsv or .jsonl (also .gz), or .parquet; any name with `separator`.
        separator: between the columns; by the extension if None.
        encoding: None reads UTF-8, and UTF-16 that begins with its mark.
        may_be_empty: whether a header without rows will do.
        note: is told, a line each, of columns without a name (left out) and of rows that span lines.
    """
    if not path.is_file():
        raise SDAError(f"{path} does not exist or is not a file")
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    separator = separator or _SEPARATORS.get(suffix)
    if separator is None and suffix not in _READERS:
        known = ", ".join([*_SEPARATORS, *_READERS])
        raise SDAError(f"{path}: none of {known}; name the column separator with --separator")
    try:
        encoding = encoding or _encoding_by_mark(path)
        if separator is not None:
            table = _read_delimited(path, separator, encoding, note)
        else:
            table = _READERS[suffix](path, encoding)
    except SDAError:  # which is a ValueError
        raise
    except pd.errors.EmptyDataError as error:
        raise SDAError(f"{path} is empty; its first line must name the columns") from error
    except UnicodeDecodeError as error:
        raise _wrong_encoding(path, encoding) from error
    except LookupError as error:
        raise SDAError(f"--encoding {encoding} is unknown; name one such as cp1252 or gb18030") from error
    except (ValueError, OSError, EOFError, csv.Error, pa.ArrowException, pd.errors.ParserWarning) as error:
        raise SDAError(f"{path} cannot be read as a table: {' '.join(str(error).split())}") from error
    if not len(table) and not may_be_empty:
        raise SDAError(f"{path} has a header but no rows")
    return _named_columns(path, table, note)


def _named_columns(path: Path, table: pd.DataFrame, note: Callable[[str], None]) -> pd.DataFrame:
    """`table` without its columns that have no name, such as the numbers of the rows that pandas writes."""
    named = [bool(name.strip()) for name in table.columns]
    if not all(named):
        note(f"{path}: left out {named.count(False)} columns without a name")
    return table.loc[:, named]


def _read_delimited(path: Path, separator: str, encoding: str, note: Callable[[str], None]) -> pd.DataFrame:
    rows = _check_rows(path, separator, encoding, note)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        table = pd.read_csv(
            path,
            sep=separator,
            dtype=str,
            keep_default_na=False,
            header=None,  # pandas would rename a column that stands twice
            index_col=False,
            encoding=encoding,
            engine="c",
        )
    if len(table) != rows:
        raise SDAError(f"{path} cannot be read as a table: {len(table) - 1} or {rows - 1} rows; repair its quotes")
    header, table = table.iloc[0], table.iloc[1:].reset_index(drop=True)
    twice = header[header.duplicated() & (header.str.strip() != "")]
    if len(twice):
        raise SDAError(f"{path}: column {twice.iloc[0]!r} stands twice in the header; rename one of them")
    return table.set_axis(list(header), axis=1)


_END = "\0end"  # follows the last line: a row that swallows it holds a quote that never closes


def _check_rows(path: Path, separator: str, encoding: str, note: Callable[[str], None]) -> int:
    """How many rows there are, the header's included; refuse what pandas would fill up or swallow in silence."""
    if len(separator) != 1:
        raise SDAError(f"--separator {separator!r} is not one character")
    csv.field_size_limit(2**31 - 1)
    width, rows, spanning, first, start = 0, 0, 0, 0, 1
    with _open(path) as binary, io.TextIOWrapper(binary, encoding, newline="") as lines:
        reader = csv.reader(chain(lines, [_END]), delimiter=separator)
        for row in reader:
            begin, start = start, reader.line_num + 1
            if row == [_END]:
                break
            if not row or (len(row) == 1 and row[0] and not row[0].strip(" \t")):
                continue  # a blank line
            if row[-1].endswith(_END):
                raise SDAError(f"{path}: line {begin} begins a row with a quote that never closes; repair it")
            width = width or len(row)
            if len(row) != width:
                raise SDAError(
                    f"{path}: line {begin} has {len(row)} columns, but the header has {width}; repair it "
                    "(a value that holds the separator stands in double quotes)"
                )
            rows += 1
            if start - begin > 1:
                spanning, first = spanning + 1, first or begin
    if spanning:
        note(
            f"{path}: {spanning:,} rows span several lines, from line {first}; "
            "a stray quote there would swallow the rows that follow"
        )
    return rows


def _read_json_lines(path: Path, encoding: str) -> pd.DataFrame:
    rows = []
    for number, line in _lines(path, encoding):
        try:
            row = json.loads(line, parse_int=str, parse_float=str)  # 1.10 stays 1.10
            values = {without_surrogates(key): _as_text(value) for key, value in row.items()}
        except AttributeError as error:
            raise SDAError(f"{path}: line {number} is no object; write one as {{...}} on every line") from error
        except ValueError as error:
            raise SDAError(f"{path}: line {number} is not JSON: {error}; every line must be one object") from error
        except RecursionError as error:
            raise SDAError(f"{path}: line {number} nests lists or objects too deeply; make it flatter") from error
        rows.append(values)
    return pd.DataFrame(rows, dtype=str).fillna("")


def _lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    with _open(path) as file:
        for number, line in enumerate(file.read().decode(encoding).split("\n"), start=1):
            if line.strip():
                yield number, line


def _read_parquet(path: Path, encoding: str) -> pd.DataFrame:
    table = pa.parquet.read_table(path)
    return pd.DataFrame({name: _column_as_text(table[name]) for name in table.column_names}, dtype=str)


def _column_as_text(column: pa.ChunkedArray) -> list[str]:
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        return [_as_text(value) for value in column.to_pylist()]
    return column.cast(pa.string()).fill_null("").to_pylist()


def _as_text(value) -> str:
    """A value of a .jsonl or .parquet file; bytes, such as a picture's, are no text."""
    if value is None or isinstance(value, bytes):
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_as_text)
    return without_surrogates(text)


_READERS: dict[str, Callable[[Path, str], pd.DataFrame]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".parquet": _read_parquet,
}


def _open(path: Path) -> BinaryIO:
    return gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb")


def _encoding_by_mark(path: Path) -> str:
    with _open(path) as file:
        start = file.read(3)
    return next((encoding for mark, encoding in _MARKS.items() if start.startswith(mark)), "utf-8")


def _wrong_encoding(path: Path, encoding: str) -> SDAError:
    """Names the first line that is not in `encoding`, and what it would read as in others."""
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                readings = [f"--encoding={name} reads {text!r}" for name, text in _readings(line, error.start)]
                remedy = ", ".join(readings) or "save it as UTF-8"
                return SDAError(f"{path}: line {number} is not {encoding.upper()}; {remedy}")
    return SDAError(f"{path} is not {encoding.upper()}; say --encoding=NAME, or save it as UTF-8")


def _readings(line: bytes, position: int) -> Iterator[tuple[str, str]]:
    for encoding in _OTHERS:
        try:
            text = line.decode(encoding)
        except UnicodeDecodeError:
            continue
        before = len(line[:position].decode(encoding, "ignore"))
        yield encoding, text[max(0, before - 8) : before + 8].strip()
