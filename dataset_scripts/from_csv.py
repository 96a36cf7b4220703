"""Any catalogue as a RecBole dataset: an interactions table, an items table and a folder of pictures.

    python dataset_scripts/from_csv.py --interactions inter.csv --items items.csv --images images \\
        --output dataset/my-shop --text-fields title,brand,description --domain product

writes, all at once or not at all,

    dataset/my-shop/my-shop.inter       user_id, item_id, rating (if there is one), timestamp, in order of time
    dataset/my-shop/my-shop.item        item_id and the text fields
    dataset/my-shop/images/             the pictures named <item>.(jpg|jpeg|png|webp)
    dataset/my-shop/my-shop.yaml        leave-one-out evaluation by time and the settings below
    dataset/my-shop/README.md           what it was made of

Tables are .csv, .tsv or .jsonl (also .gz), or .parquet. Nothing is dropped: what the tables and the folder lack
is counted and printed. `--describe` prints it, with what every k-core would leave, and writes nothing.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import clone  # noqa: F401  (beside this file, like the other plain names)
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
from folder import (
    FileRecord,
    check_output,
    chosen_pictures,
    examples,
    no_pictures_note,
    readme,
    unreadable_note,
    unreadable_pictures,
    write_dataset,
)
from interactions import Funnel, Interactions, k_core, without_repeats
from tables import read_table
from tabulate import tabulate
from texts import clean_html

from recbole_sda.catalog.atomic import one_line
from recbole_sda.catalog.images import PictureFolder, find_pictures
from recbole_sda.catalog.items import EMPTY_TEXT, is_text_field
from recbole_sda.catalog.skipped import printable
from recbole_sda.errors import SDAError

FIELD_TYPES = {"user_id": "token", "item_id": "token", "rating": "float", "timestamp": "float"}
USUAL_CORE = 5  # what --describe shows when no --k-core is asked for
SAMPLE_CHARS = 40


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


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    options = parse_options(argv)
    command = shlex.join(["python", "dataset_scripts/from_csv.py", *argv])
    try:
        if options.describe:
            print(describe(read_source(options), options))
            return 0
        inputs = {"--interactions": options.interactions, "--items": options.items, "--images": options.images}
        output = check_output(options.output, overwrite=options.overwrite, inputs=inputs)
        source = read_source(options)
        findings = report(source)
        write(source, options, output, findings, command)
    except SDAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the output is as it was", file=sys.stderr)
        return 130
    print("\n  ".join([f"wrote {output}", *findings]))
    if options.k_core:
        print(funnel(source, options.k_core))
    return 0


def parse_options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make a RecBole dataset of two tables and a folder of pictures.")
    add = parser.add_argument
    add("--interactions", required=True, type=Path, help="table of interactions (.csv, .tsv, .jsonl, .parquet)")
    add("--items", required=True, type=Path, help="table of items, of the same kinds")
    add("--images", type=Path, help="folder of pictures named <item>.(jpg|jpeg|png|webp)")
    add("--output", type=Path, help="dataset folder to write, e.g. dataset/my-shop")
    add("--describe", action="store_true", help="print what was found and what a k-core leaves; write nothing")
    add("--user", default="user", metavar="COLUMN", help="user column (default: user)")
    add("--item", default="item", metavar="COLUMN", help="item column of both tables (default: item)")
    add("--rating", metavar="COLUMN", help="rating column (default: rating, if there is one)")
    add("--timestamp", default="timestamp", metavar="COLUMN", help="numbers or dates (default: timestamp)")
    add("--time-format", metavar="FORMAT", help="of dates that are not ISO 8601, e.g. %%d/%%m/%%Y")
    add("--order-as-time", action="store_true", help="take the order of the rows as time")
    add(
        "--column",
        action="append",
        default=[],
        type=_new_and_old,
        metavar="NEW=OLD",
        help="read column OLD of either table as NEW; may be repeated",
    )
    add(
        "--text-fields",
        metavar="A,B,…",
        help="item columns to write, in this order (default: all but "
        "identifiers, addresses, pictures and sales ranks)",
    )
    add("--list-separator", metavar="CHAR", help="parts the values of a list, written as 'a, b' (e.g. '|')")
    add("--clean-html", action="store_true", help="take tags and entities out of the text fields")
    add("--missing", metavar="A,B,…", help="values of text fields that stand for nothing (e.g. 'NULL,\\N')")
    add("--separator", metavar="CHAR", help="column separator of both tables (default: by extension)")
    add("--encoding", metavar="NAME", help="of both tables (default: UTF-8, or by their first bytes)")
    add("--domain", default="item", help="what an item is called in the prompts (default: item)")
    add("--k-core", type=int, metavar="K", help="RecBole keeps users and items with at least K interactions")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--copy-images", action="store_true", help="copy the pictures (the default)")
    how.add_argument("--link-images", action="store_true", help="hard links where possible, else copies")
    add("--overwrite", action="store_true", help="replace a dataset that these scripts wrote there")
    options = parser.parse_args(argv)
    if options.output is None and not options.describe:
        parser.error("one of --output and --describe is needed")
    return options


def _new_and_old(text: str) -> tuple[str, str]:
    new, equals, old = text.partition("=")
    if not (new and equals and old):
        raise argparse.ArgumentTypeError(f"{text!r} is not NEW=OLD, as in title=product_name")
    return new, old


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


def write(source: Source, options: argparse.Namespace, output: Path, findings: list[str], command: str) -> None:
    interactions, items, pictures = source[:3]
    place = None
    if pictures is not None:
        place = chosen_pictures(options.images, pictures.names.values(), link=options.link_images)
    write_dataset(
        output,
        inter_fields=[f"{field}:{FIELD_TYPES[field]}" for field in interactions.columns],
        interactions=interactions.itertuples(index=False, name=None),
        item_fields=[f"{field}:token" for field in items.columns],
        items=items.itertuples(index=False, name=None),
        settings={
            "text_fields": list(items.columns[1:]),
            "prompt_domain": options.domain,
            "k_core": options.k_core,
        },
        readme=readme(
            None,
            command=command,
            files=[FileRecord.of(path) for path in (options.interactions, options.items)],
            funnel=funnel(source, options.k_core) if options.k_core else "",
            notes=findings,
        ),
        place_pictures=place,
    )


def report(source: Source) -> list[str]:
    """What was found, a line a finding."""
    interactions, items, pictures, unreadable, notes = source
    played, listed = set(interactions["item_id"]), set(items["item_id"])
    repeats = int(interactions.duplicated(["user_id", "item_id"]).sum())
    lines = [
        f"{len(interactions):,} interactions of {interactions['user_id'].nunique():,} users with "
        f"{len(played):,} items; {repeats:,} repeat a user and an item (kept)",
        f"{len(items):,} items in the items table; {len(listed - played):,} without interactions (kept)",
        f"{len(played - listed):,} items of the interactions are not in it (kept, without text)"
        + examples(played - listed),
        f"text fields: {', '.join(items.columns[1:]) or '(none)'}; {len(without_text(items)):,} items have none",
        *notes,
    ]
    if pictures is None:
        return lines
    bare = len((played | listed) - source.pictured)
    lines += [f"{len(pictures.names):,} pictures; {bare:,} items without one", unreadable_note(unreadable)]
    for count, what, names in (
        (pictures.strangers, "pictures of no item (not copied)", ()),
        (len(pictures.ignored), "second pictures of an item (not copied)", pictures.ignored),
        (len(pictures.problems), "pictures refused", pictures.problems.values()),
    ):
        lines.append(f"{count:,} {what}" + examples(names))
    return lines


def without_text(items: pd.DataFrame) -> pd.Series:
    """The ids of the items whose every text field is empty."""
    empty = items.iloc[:, 1:].apply(lambda column: column.str.strip().isin(EMPTY_TEXT))
    return items["item_id"][empty.all(axis=1)]


def describe(source: Source, options: argparse.Namespace) -> str:
    """What was found, every text field, and what RecBole would keep."""
    core = options.k_core or USUAL_CORE
    asked = "" if options.k_core else f" (with --k-core={core}, which is not asked for)"
    return "\n".join(
        [
            "\n  ".join(["found", *report(source)]),
            "",
            fields_table(source.items),
            "",
            f"RecBole would keep{asked}",
            funnel(source, core),
            lacking(source, core),
            "nothing was written (--describe)",
        ]
    )


def fields_table(items: pd.DataFrame) -> str:
    """How full and how long each text field is, with its first value."""
    rows = []
    for field in items.columns[1:]:
        values = items[field].str.strip()
        filled = values[~values.isin(EMPTY_TEXT)]
        length = f"{filled.str.len().median():.0f}" if len(filled) else "–"
        example = printable(one_line(filled.iloc[0])[:SAMPLE_CHARS]).replace("|", "\\|") if len(filled) else ""
        rows.append((field, f"{len(filled) / len(items):.1%}", f"{filled.nunique():,}", length, example))
    headers = ("text field", "filled", "distinct", "median characters", "for example")
    right = ("left", "right", "right", "right", "left")
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=right if rows else None)


def coded(source: Source) -> Interactions:
    frame = source.interactions
    return Interactions.from_tokens(frame["user_id"], frame["item_id"], pd.to_numeric(frame["timestamp"]))


def funnel(source: Source, core: int) -> str:
    """What RecBole's filter leaves when it loads the dataset; repeats count there."""
    everything, steps = coded(source), Funnel()
    steps.step("as found", everything)
    steps.step(f"{core}-core", k_core(everything, users=core, items=core))
    steps.step(
        f"{core}-core, had repeats been left out", k_core(without_repeats(everything), users=core, items=core)
    )
    return steps.table()


def lacking(source: Source, core: int) -> str:
    """Which items of the core have no text or no picture."""
    kept = set(k_core(coded(source), users=core, items=core).occurring_items().to_pylist())
    texts = set(source.items["item_id"]) - set(without_text(source.items))
    parts = [f"{len(kept - texts):,} have no text"]
    if source.pictures is not None:
        parts.append(f"{len(kept - source.pictured):,} have no picture")
    return f"of the {len(kept):,} items of the {core}-core " + ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
