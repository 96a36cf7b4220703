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

import clone  # noqa: F401  (beside this file, like the other plain names)
from dataset_pictures import chosen_pictures
from dataset_readme import FileRecord, readme
from folder import check_output, write_dataset
from own_findings import describe, funnel, report
from own_tables import Source, read_source

from recbole_sda.errors import SDAError

FIELD_TYPES = {"user_id": "token", "item_id": "token", "rating": "float", "timestamp": "float"}


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


if __name__ == "__main__":
    sys.exit(main())
