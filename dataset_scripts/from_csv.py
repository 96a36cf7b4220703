"""Any catalogue as a RecBole dataset: an interactions table, an items table and a folder of pictures.

    python dataset_scripts/from_csv.py --interactions inter.csv --items items.csv --images images \\
        --output dataset/my-shop --text-fields title,brand,description --domain product

writes, all at once or not at all,

    dataset/my-shop/my-shop.inter       user_id, item_id, rating (if there is one), timestamp
    dataset/my-shop/my-shop.item        item_id and the text fields
    dataset/my-shop/images/             the pictures named <item>.(jpg|jpeg|png|webp)
    dataset/my-shop/my-shop.yaml        leave-one-out evaluation by time and the settings below

Nothing is dropped: what the tables and the folder lack is counted and printed.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

if importlib.util.find_spec("recbole_sda") is None:  # run from a clone that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from recbole_sda.catalog.atomic import replacing_folder, write_atomic
from recbole_sda.catalog.images import PictureFolder, find_pictures
from recbole_sda.catalog.items import EMPTY_TEXT, is_text_field
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

_PROPERTIES = """\
# Written by dataset_scripts/from_csv.py; edit freely.
# text_fields (list): the fields of {name}.item that make an item's text, in this order.
text_fields: {text_fields}
prompt_domain: {prompt_domain}  # (str) What an item is called in the prompts.

# Selectively Loading
load_col:               # (dict) The suffix of atomic files: (list) field names to be loaded.
    inter: [{inter_fields}]
{filtering}
# Evaluation
eval_args:              # (dict) Leave one out by time: a user's last item tests, the one before validates.
    split: {{'LS': 'valid_and_test'}}
    order: TO
    group_by: user
    mode: full
valid_metric: NDCG@10   # (str) The metric that chooses the best epoch.
"""
_FILTERING = """
# Filtering
user_inter_num_interval: "[{k},inf)"    # (str) Users with fewer interactions are left out, again and again.
item_inter_num_interval: "[{k},inf)"    # (str) Items with fewer interactions likewise.
"""


class Source(NamedTuple):
    """The checked input, ready to be written."""

    interactions: pd.DataFrame  # user_id, item_id, [rating,] timestamp as strings
    items: pd.DataFrame  # item_id and the text fields as strings
    pictures: PictureFolder


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(argv)
    try:
        output = check_output(options.output, options.overwrite)
        source = read_source(options)
        write_dataset(source, options, output)
    except SDAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report(source, options, output))
    return 0


def parse_options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make a RecBole dataset of two tables and a folder of pictures.")
    add = parser.add_argument
    add("--interactions", required=True, type=Path, help="table of interactions (.csv or .tsv, also .gz)")
    add("--items", required=True, type=Path, help="table of items (.csv or .tsv, also .gz)")
    add("--images", type=Path, help="folder of pictures named <item>.(jpg|jpeg|png|webp)")
    add("--output", required=True, type=Path, help="dataset folder to write, e.g. dataset/my-shop")
    add("--user", default="user", metavar="COLUMN", help="user column (default: user)")
    add("--item", default="item", metavar="COLUMN", help="item column of both tables (default: item)")
    add("--rating", metavar="COLUMN", help="rating column (default: rating, if there is one)")
    add("--timestamp", default="timestamp", metavar="COLUMN", help="column of numbers (default: timestamp)")
    add("--order-as-time", action="store_true", help="take the order of the rows as time")
    add(
        "--text-fields",
        metavar="A,B,…",
        help="item columns to write, in this order (default: all but "
        "identifiers, addresses, pictures and sales ranks)",
    )
    add("--list-separator", metavar="CHAR", help="parts the values of a list, written as 'a, b' (e.g. '|')")
    add("--separator", metavar="CHAR", help="column separator of both tables (default: by extension)")
    add("--domain", default="item", help="what an item is called in the prompts (default: item)")
    add("--k-core", type=int, metavar="K", help="RecBole keeps users and items with at least K interactions")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--copy-images", action="store_true", help="copy the pictures (the default)")
    how.add_argument("--link-images", action="store_true", help="hard links where possible, else copies")
    add("--overwrite", action="store_true", help="replace a dataset that is already there")
    return parser.parse_args(argv)


def check_output(output: Path, overwrite: bool) -> Path:
    """The absolute output folder, if it may be written."""
    output = Path(os.path.abspath(output))
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return output
    if not overwrite:
        raise SDAError(f"--output {output} exists; choose another folder or add --overwrite")
    if not (output / f"{output.name}.inter").is_file():
        raise SDAError(
            f"--output {output} holds no {output.name}.inter, so it is no dataset to overwrite; "
            "choose another folder"
        )
    return output


def read_source(options: argparse.Namespace) -> Source:
    """Read and check everything; a mistake in it is an SDAError before anything is written."""
    if options.k_core is not None and options.k_core < 1:
        raise SDAError(f"--k-core {options.k_core} is not at least 1")
    if options.images is not None and not options.images.is_dir():
        raise SDAError(f"--images {options.images} is not a folder")
    interactions = read_interactions(options)
    items = read_items(options)
    known = set(items["item_id"])
    if not known.intersection(interactions["item_id"]):
        raise SDAError(
            f"no item of {options.interactions} is in {options.items}: "
            f"{interactions['item_id'].iloc[0]!r} there, {items['item_id'].iloc[0]!r} here; "
            f"both must use the same ids in column {options.item!r}"
        )
    pictures = PictureFolder({}, {}, (), 0)
    if options.images is not None:
        pictures = find_pictures(options.images, known.union(interactions["item_id"]))
    return Source(interactions, items, pictures)


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


def write_dataset(source: Source, options: argparse.Namespace, output: Path) -> None:
    name = output.name
    kinds = {"user_id": "token", "item_id": "token", "rating": "float", "timestamp": "float"}
    with replacing_folder(output) as folder:
        write_atomic(
            folder / f"{name}.inter",
            [f"{field}:{kinds[field]}" for field in source.interactions.columns],
            source.interactions.itertuples(index=False, name=None),
        )
        write_atomic(
            folder / f"{name}.item",
            [f"{field}:token" for field in source.items.columns],
            source.items.itertuples(index=False, name=None),
        )
        if options.images is not None:
            (folder / "images").mkdir()
            for file_name in source.pictures.names.values():
                place_picture(options.images / file_name, folder / "images" / file_name, options.link_images)
        (folder / f"{name}.yaml").write_text(properties(source, options, name), encoding="utf-8")


def place_picture(source: Path, target: Path, link: bool) -> None:
    if link:
        with suppress(OSError):  # another disk, or one that knows no links
            os.link(os.path.realpath(source), target)
            return
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise SDAError(f"{source} cannot be copied: {error.strerror}") from error


def properties(source: Source, options: argparse.Namespace, name: str) -> str:
    """The dataset's property YAML."""
    return _PROPERTIES.format(
        name=name,
        text_fields=json.dumps(list(source.items.columns[1:]), ensure_ascii=False),  # JSON is YAML
        prompt_domain=json.dumps(options.domain, ensure_ascii=False),
        inter_fields=", ".join(source.interactions.columns),
        filtering=_FILTERING.format(k=options.k_core) if options.k_core else "",
    )


def report(source: Source, options: argparse.Namespace, output: Path) -> str:
    interactions, items, pictures = source
    played, listed = set(interactions["item_id"]), set(items["item_id"])
    repeats = int(interactions.duplicated(["user_id", "item_id"]).sum())
    no_text = items.iloc[:, 1:].apply(lambda column: column.str.strip().isin(EMPTY_TEXT)).all(axis=1)
    lines = [
        f"wrote {output}",
        f"{len(interactions):,} interactions of {interactions['user_id'].nunique():,} users with "
        f"{len(played):,} items; {repeats:,} repeat a user and an item (kept)",
        f"{len(items):,} items in the items table; {len(listed - played):,} without interactions (kept)",
        f"{len(played - listed):,} items of the interactions are not in it (kept, without text)"
        + examples(played - listed),
        f"text fields: {', '.join(items.columns[1:]) or '(none)'}; {int(no_text.sum()):,} items have none",
    ]
    if options.images is None:
        lines.append("no pictures: run with --modalities=text")
    else:
        bare = len((played | listed) - set(pictures.names))
        lines.append(f"{len(pictures.names):,} pictures; {bare:,} items without one")
        for count, what, names in (
            (pictures.strangers, "pictures of no item (not copied)", ()),
            (len(pictures.ignored), "second pictures of an item (not copied)", pictures.ignored),
            (len(pictures.problems), "pictures refused", pictures.problems.values()),
        ):
            lines.append(f"{count:,} {what}" + examples(names))
    return "\n  ".join(lines)


def examples(names: Iterable[str], limit: int = 3) -> str:
    names = sorted(names)
    return f": {', '.join(names[:limit])}{', …' if len(names) > limit else ''}" if names else ""


if __name__ == "__main__":
    sys.exit(main())
