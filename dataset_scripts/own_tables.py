"""A user's own tables and pictures, read and checked: what from_csv.py writes as a dataset."""

import argparse
from typing import NamedTuple

import pandas as pd
from columns import (
    check_numbers,
    check_tokens,
    field_names,
    join_lists,
    missing_column,
    read_times,
    rename_columns,
    split_list,
)
from dataset_pictures import no_pictures_note, unreadable_pictures
from tables import read_table
from texts import clean_html

from recbole_sda.catalog.images import PictureFolder, find_pictures
from recbole_sda.catalog.items import is_text_field
from recbole_sda.errors import SDAError


class Source(NamedTuple):
    """The checked input, ready to be written."""

    interactions: pd.DataFrame  # user_id, item_id, [rating,] timestamp as strings
    items: pd.DataFrame  # item_id and the text fields as strings
    pictures: PictureFolder | None  # None: no folder was named
    unreadable: dict[str, str]  # item → name and reason of a picture that the catalogue will refuse
    notes: tuple[str, ...]  # how values were read, or what of the pictures

    @property
    def pictured(self) -> set[str]:
        """The items that have a picture which can be read."""
        return set() if self.pictures is None else self.pictures.names.keys() - self.unreadable.keys()


def read_source(options: argparse.Namespace) -> Source:
    """Read and check everything; a mistake in it is an SDAError before anything is written."""
    if options.k_core is not None and options.k_core < 1:
        raise SDAError(f"--k-core {options.k_core} is not at least 1")
    if options.images is not None and not options.images.is_dir():
        raise SDAError(f"--images {options.images} is not a folder")
    notes: list[str] = []
    tables = _read_tables(options, notes)
    interactions, time_notes = read_interactions(tables[0], options)
    items, item_notes = read_items(tables[1], options)
    notes += [*time_notes, *item_notes]
    known = set(items["item_id"])
    if not known.intersection(interactions["item_id"]):
        raise SDAError(
            f"no item of {options.interactions} is in {options.items}: "
            f"{interactions['item_id'].iloc[0]!r} there, {items['item_id'].iloc[0]!r} here; "
            f"both must use the same ids in column {options.item!r}"
        )
    if options.images is None:
        return Source(interactions, items, None, {}, (*notes, no_pictures_note(options.output)))
    pictures = find_pictures(options.images, known.union(interactions["item_id"]))
    return Source(interactions, items, pictures, unreadable_pictures(options.images, pictures.names), tuple(notes))


def _read_tables(options: argparse.Namespace, notes: list[str]) -> list[pd.DataFrame]:
    paths = options.interactions, options.items
    tables = [read_table(path, options.separator, options.encoding, note=notes.append) for path in paths]
    for new, old in options.column:
        if not any(old in table.columns for table in tables):
            raise SDAError(
                f"--column {new}={old}: neither table has a column {old!r}; "
                + "; ".join(f"{path} has {', '.join(table)}" for path, table in zip(paths, tables, strict=True))
            )
    names = dict(options.column)
    return [rename_columns(path, table, names) for path, table in zip(paths, tables, strict=True)]


def read_interactions(table: pd.DataFrame, options: argparse.Namespace) -> tuple[pd.DataFrame, list[str]]:
    """user_id, item_id, [rating,] timestamp, in order of time; and how the times were read."""
    path = options.interactions
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
        return table.assign(timestamp=[str(position) for position in range(len(table))]), []
    table["timestamp"], dates = read_times(path, table["timestamp"], options.timestamp, options.time_format)
    notes = [f"{options.timestamp}: dates, written as seconds since 1970 (UTC where no zone is named)"]
    # RecBole sorts by 32-bit times, a minute apart today; what ties there keeps its order in the file.
    order = pd.to_numeric(table["timestamp"]).argsort(kind="stable")
    return table.iloc[order].reset_index(drop=True), notes if dates else []


def read_items(table: pd.DataFrame, options: argparse.Namespace) -> tuple[pd.DataFrame, list[str]]:
    """item_id and the text fields, a row an item; and which fields held lists, which columns are left out."""
    path = options.items
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
    left_out = [column for column in table.columns if column not in {options.item, *columns}]
    table = table[[options.item, *columns]].set_axis(["item_id", *names], axis=1)
    lists = [name for name in names if read_texts(table, name, options)]
    table = table.drop_duplicates()
    twice = table["item_id"].duplicated()
    if twice.any():
        raise SDAError(
            f"{path}: item {table['item_id'][twice].iloc[0]!r} stands in several rows with different values "
            f"({int(twice.sum())} such rows); keep one row an item"
        )
    found = (("lists, joined as 'a, b'", lists), ("columns left out", left_out))
    return table, [f"{what}: {', '.join(columns)}" for what, columns in found if columns]


def read_texts(table: pd.DataFrame, name: str, options: argparse.Namespace) -> bool:
    """Settle a text field in place: missing values, lists, markup. Returns: whether it held lists."""
    values = table[name]
    if options.missing:
        nothing = {value.strip() for value in options.missing.split(",")}
        values = values.mask(values.str.strip().isin(nothing), "")
    lists = join_lists(values)
    if lists is not None:
        values = lists
    elif options.list_separator:
        values = values.map(lambda value: split_list(value, options.list_separator))
    table[name] = values.map(clean_html) if options.clean_html else values
    return lists is not None
