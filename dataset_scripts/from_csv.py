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
import shutil
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pandas as pd

if importlib.util.find_spec("recbole_sda") is None:  # run from a clone that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tables import read_interactions, read_items  # beside this file

from recbole_sda.catalog.atomic import replacing_folder, write_atomic
from recbole_sda.catalog.images import PictureFolder, find_pictures
from recbole_sda.catalog.items import EMPTY_TEXT
from recbole_sda.errors import SDAError

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
        output = check_output(options)
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
    add("--overwrite", action="store_true", help="replace a dataset that this script wrote there")
    return parser.parse_args(argv)


def check_output(options: argparse.Namespace) -> Path:
    """The absolute output folder, if it may be written: what is replaced there was written by this script."""
    output = Path(os.path.abspath(options.output))
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return output
    if not options.overwrite:
        raise SDAError(f"--output {output} exists; choose another folder or add --overwrite")
    if not (output / f"{output.name}.inter").is_file():
        raise SDAError(
            f"--output {output} holds no {output.name}.inter, so it is no dataset to overwrite; "
            "choose another folder"
        )
    for option in ("interactions", "items", "images"):
        path = getattr(options, option)
        if path is not None and path.resolve().is_relative_to(output.resolve()):
            raise SDAError(
                f"--{option} {path} lies in --output {output}, which --overwrite would replace; "
                "move it out or choose another folder"
            )
    own = {f"{output.name}.inter", f"{output.name}.item", f"{output.name}.yaml", "images"}
    strange = {path.name for path in output.iterdir()} - own
    if strange:
        raise SDAError(
            f"--output {output} holds what this script did not write and --overwrite would delete"
            f"{examples(strange)}; move it out or choose another folder"
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
