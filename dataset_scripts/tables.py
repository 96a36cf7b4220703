"""Interactions and items from .csv or .tsv tables: read and checked, every value as the string in the file."""

import argparse
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_sda.catalog.items import is_text_field
from recbole_sda.errors import SDAError

# What pandas, and so RecBole, reads as a missing value: as a token, such an item or user would vanish.
MISSING_TOKENS = frozenset(
    {
        "",
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
        "None",
        "n/a",
        "nan",
        "null",
    }
)
PADDING_TOKEN = "[PAD]"


def read_interactions(options: argparse.Namespace) -> pd.DataFrame:
    path = options.interactions
    table = read_table(path, options.separator)
    wanted = {options.user: "user_id", options.item: "item_id"}
    rating = options.rating or ("rating" if "rating" in table.columns else None)
    if rating:
        wanted[rating] = "rating"
    if options.order_as_time:
        table = table.drop(columns="timestamp", errors="ignore")
    else:
        wanted[options.timestamp] = "timestamp"
    for column in wanted:
        if column not in table.columns:
            hint = "; name it with --timestamp, or take the rows' order with --order-as-time"
            raise missing_column(path, column, table, hint if wanted[column] == "timestamp" else "")
    if len(wanted) < 2 + bool(rating) + (not options.order_as_time):
        raise SDAError(f"--user, --item, --rating and --timestamp must name different columns of {path}")
    table = table[list(wanted)].rename(columns=wanted)
    check_tokens(path, table["user_id"], options.user)
    check_tokens(path, table["item_id"], options.item)
    if rating:
        check_numbers(path, table["rating"], rating, "leave the column out or repair the value")
    if options.order_as_time:
        table["timestamp"] = [str(position) for position in range(len(table))]
    else:
        check_numbers(
            path, table["timestamp"], options.timestamp, "write times as numbers, such as seconds since 1970"
        )
    return table


def read_items(options: argparse.Namespace) -> pd.DataFrame:
    path = options.items
    table = read_table(path, options.separator)
    if options.item not in table.columns:
        raise missing_column(path, options.item, table)
    if options.text_fields is not None:
        columns = [column.strip() for column in options.text_fields.split(",") if column.strip()]
        for column in columns:
            if column not in table.columns:
                raise missing_column(path, column, table, "; --text-fields takes columns of this table")
    else:
        columns = [column for column in table.columns if column != options.item and is_text_field(column)]
    names = field_names(path, columns)
    check_tokens(path, table[options.item], options.item)
    table = table[[options.item, *columns]].set_axis(["item_id", *names], axis=1)
    if options.list_separator:
        for name in names:
            table[name] = [join_list(value, options.list_separator) for value in table[name]]
    table = table.drop_duplicates()
    twice = table["item_id"].duplicated()
    if twice.any():
        raise SDAError(
            f"{path}: item {table['item_id'][twice].iloc[0]!r} stands in several rows with different values "
            f"({int(twice.sum())} such rows); keep one row an item"
        )
    return table


def read_table(path: Path, separator: str | None = None) -> pd.DataFrame:
    """A table with every value as the string that stands in the file."""
    if not path.is_file():
        raise SDAError(f"{path} does not exist or is not a file")
    name = path.name.lower().removesuffix(".gz")
    separator = separator or {".csv": ",", ".tsv": "\t"}.get(Path(name).suffix)
    if separator is None:
        raise SDAError(f"{path}: neither .csv nor .tsv; name the column separator with --separator")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path,
                sep=separator,
                dtype=str,
                keep_default_na=False,
                header=None,
                index_col=False,
                encoding="utf-8-sig",
                engine="c",
            )
    except pd.errors.EmptyDataError as error:
        raise SDAError(f"{path} is empty; its first line must name the columns") from error
    except UnicodeDecodeError as error:
        raise SDAError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (ValueError, OSError, EOFError, pd.errors.ParserWarning) as error:
        raise SDAError(f"{path} cannot be read as a table: {' '.join(str(error).split())}") from error
    if len(table) < 2:
        raise SDAError(f"{path} has a header but no rows")
    header, table = table.iloc[0], table.iloc[1:].reset_index(drop=True)
    if header.duplicated().any():
        raise SDAError(
            f"{path}: column {header[header.duplicated()].iloc[0]!r} stands twice in the header; "
            "rename one of them"
        )
    return table.set_axis(list(header), axis=1)


def missing_column(path: Path, column: str, table: pd.DataFrame, hint: str = "") -> SDAError:
    return SDAError(f"{path} has no column {column!r}; it has {', '.join(table.columns)}{hint}")


def check_tokens(path: Path, values: pd.Series, column: str) -> None:
    """Refuse ids that RecBole would read as another id, or as none."""
    for bad, why in (
        (values.isin(MISSING_TOKENS), "RecBole reads it as missing"),
        (values == PADDING_TOKEN, "RecBole's padding token"),
        (values.str.contains(r"[\x00-\x1f\x7f\x85\u2028\u2029]"), "it holds a tab or line break"),
        (values != values.str.strip(), "it begins or ends with a blank"),
    ):
        if bad.any():
            row = int(bad.to_numpy().argmax())
            raise SDAError(
                f"{path}: row {row + 1}: {column} {values.iloc[row]!r} cannot be an id: {why} "
                f"({int(bad.sum())} such rows); rename or remove it"
            )


def check_numbers(path: Path, values: pd.Series, column: str, remedy: str) -> None:
    bad = ~np.isfinite(pd.to_numeric(values, errors="coerce").to_numpy(dtype=float))
    if bad.any():
        row = int(bad.argmax())
        raise SDAError(
            f"{path}: row {row + 1}: {column} {values.iloc[row]!r} is not a number "
            f"({int(bad.sum())} such rows); {remedy}"
        )


def field_names(path: Path, columns: Iterable[str]) -> list[str]:
    """The columns as RecBole field names, which hold no colon, quote or blank."""
    names: dict[str, str] = {"item_id": "the item column"}
    for column in columns:
        name = re.sub(r"[\s:\"\x00-\x1f\x7f]+", "_", column.strip()).strip("_")
        if not name:
            raise SDAError(f"{path}: column {column!r} gives no field name; rename it")
        if name in names:
            raise SDAError(f"{path}: columns {names[name]!r} and {column!r} both become field {name!r}")
        names[name] = column
    return list(names)[1:]


def join_list(value: str, separator: str) -> str:
    return ", ".join(part.strip() for part in value.split(separator) if part.strip())
