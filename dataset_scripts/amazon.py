"""Amazon's review data of 2014, 2018 or 2023 as a RecBole dataset with texts and pictures.

    python dataset_scripts/amazon.py --year 2014 --category Beauty --output dataset/amazon-beauty-14
    python dataset_scripts/amazon.py --year 2018 --reviews Gift_Cards_5.json.gz \\
        --metadata meta_Gift_Cards.json.gz --output dataset/gift-cards --k-core 5 --no-images
    python dataset_scripts/amazon.py --year 2014 --category Beauty --enrich dataset/amazon-beauty

Reviews or ratings, and metadata, come from local files, plain or gzipped, or are downloaded. Then, in this order,

1. every interaction is read (of a review only user, item, rating and time);
2. `--rating-threshold` leaves out lower ratings;
3. of a user's several ratings of an item the earliest stays;
4. `--max-items` keeps the items rated most often, for a quick start;
5. `--k-core` leaves out users and items with too few interactions until none is left;
6. the metadata of the remaining items is read, of several rows of an item the one with most fields filled;
7. the folder is written, all at once or not at all, with interactions in order of time;
8. pictures are fetched as `pictures.py` does, which goes on where it was stopped; `--no-images` leaves them out.

What each step left is printed and kept in the dataset's README.md. Items without metadata or picture are kept.
`--enrich` adds texts and addresses of pictures to a dataset whose item ids are ASINs, such as RecBole's own
download, and leaves its interactions alone; the items file as it was stays beside it as `<name>.item.original`.
"""

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import clone  # noqa: F401
from amazon_enrich import check_dataset, enrich  # beside this file
from amazon_formats import ITEM_FIELDS
from amazon_items import Items, read_items, spool_in
from amazon_reviews import read_reviews
from amazon_sources import RELEASES, category_name, provenance, raw_file
from dataset_pictures import fetched_pictures
from dataset_readme import README, FileRecord, readme
from folder import check_output, write_dataset
from interactions import Interactions
from narrow import narrow
from raw_lines import BadLines

from recbole_sda.errors import SDAError

K_CORE = 5
NARROWING = ("rating_threshold", "max_items", "k_core", "user_core", "item_core")
TEXT_FIELDS = ITEM_FIELDS[:5]  # the paper's; the features would repeat much of the description


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    options, command = parse_options(argv), shlex.join(["python", "dataset_scripts/amazon.py", *argv])
    try:
        check_options(options)
        if options.enrich:
            enrich_dataset(options, command)
        else:
            convert(options, command)
        if options.no_images or options.describe:
            return 0
        return fetch_pictures(options.enrich or options.output)
    except SDAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Make a RecBole dataset of Amazon's review data: interactions, texts and pictures."
    )
    add = parser.add_argument
    add("--year", required=True, type=int, choices=sorted(RELEASES), help="the release of the data")
    add("--category", help="e.g. Beauty: what to download, and the README's title")
    add("--reviews", type=Path, metavar="FILE", help="local reviews or ratings (default: download ratings)")
    add("--metadata", type=Path, metavar="FILE", help="local file of metadata (default: download)")
    add("--raw", type=Path, default="dataset/raw", metavar="FOLDER", help="of downloads (default: %(default)s)")
    add("--output", type=Path, metavar="FOLDER", help="dataset folder to write, e.g. dataset/amazon-beauty")
    add("--enrich", type=Path, metavar="FOLDER", help="add texts and pictures to this dataset instead")
    add("--rating-threshold", type=float, metavar="R", help="only ratings of R or more")
    add("--max-items", type=int, metavar="N", help="only the N items rated most often, before the k-core")
    add("--k-core", type=int, metavar="K", help=f"K interactions a user and item, or more (default: {K_CORE})")
    add("--user-core", type=int, metavar="K", help="another K for users")
    add("--item-core", type=int, metavar="K", help="another K for items")
    add("--text-fields", default=",".join(TEXT_FIELDS), help="what makes an item's text (default: %(default)s)")
    add("--domain", default="product", help="what an item is called in the prompts (default: %(default)s)")
    add("--no-images", action="store_true", help="fetch no pictures; pictures.py can later")
    add("--skip-bad-lines", action="store_true", help="count lines that cannot be read, and go on")
    add("--describe", action="store_true", help="read and print what would be left; write nothing")
    add("--overwrite", action="store_true", help="replace a dataset that was written there")
    return parser.parse_args(argv)


def check_options(options: argparse.Namespace) -> None:
    """Settle what depends on other options; a mistake is an SDAError before anything is read."""
    if options.category is not None and None in (options.reviews, options.metadata):
        options.category = category_name(options.year, options.category)
    if options.enrich and (said := [name for name in NARROWING if getattr(options, name) is not None]):
        raise SDAError(f"--enrich leaves the interactions as they are; leave --{said[0].replace('_', '-')} out")
    options.k_core = K_CORE if options.k_core is None else options.k_core
    options.user_core = options.k_core if options.user_core is None else options.user_core
    options.item_core = options.k_core if options.item_core is None else options.item_core
    for name in ("k_core", "user_core", "item_core", "max_items"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise SDAError(f"--{name.replace('_', '-')} {value} is not at least 1")
    options.text_fields = [name.strip() for name in options.text_fields.split(",") if name.strip()]
    if unknown := [name for name in options.text_fields if name not in ITEM_FIELDS]:
        raise SDAError(f"--text-fields {unknown[0]} is no field of an item; choose from {', '.join(ITEM_FIELDS)}")
    if options.output is None and not (options.enrich or options.describe):
        raise SDAError("--output is not given: name the dataset folder to write, such as dataset/amazon-beauty")
    if options.enrich and (options.output or options.describe):
        raise SDAError("--enrich changes the folder that it names; leave out --output and --describe")


def convert(options: argparse.Namespace, command: str) -> None:
    """Write the dataset, or with `--describe` only say what it would hold."""
    output, spool = None, Path(tempfile.gettempdir())
    if not options.describe:
        inputs = {"--reviews": options.reviews, "--metadata": options.metadata, "--raw": options.raw}
        output = check_output(options.output, overwrite=options.overwrite, inputs=inputs)
        spool = output.parent
    spool_in(spool).close()  # an unwritable folder is found before the reading
    reviews = options.reviews or raw_file(options.year, options.category, options.raw, metadata=False)
    metadata = metadata_file(options)
    bad = BadLines(skip=options.skip_bad_lines)
    interactions, funnel = narrow(
        read_reviews(reviews, options.year, bad),
        rating_threshold=options.rating_threshold,
        max_items=options.max_items,
        users=options.user_core,
        items=options.item_core,
    )
    print(funnel.table(), end="\n\n", flush=True)
    source = provenance(options.year, options.category)
    with read_items(metadata, options.year, interactions.occurring_items(), bad, spool) as items:
        notes = describe(items, bad)
        print(*notes, f"Terms: {source.licence}", f"Cite: {source.citation}", sep="\n", flush=True)
        if output is None:
            return
        files = [FileRecord.of(reviews), FileRecord.of(metadata)]
        text = readme(source, command=command, files=files, funnel=funnel.table(), notes=notes)
        write(output, interactions, items, options, text)
    print(f"wrote {output}", flush=True)


def enrich_dataset(options: argparse.Namespace, command: str) -> None:
    """Add texts and addresses to `--enrich`, and what they are to its README.md."""
    check_dataset(options.enrich)
    metadata, bad = metadata_file(options), BadLines(skip=options.skip_bad_lines)
    source = provenance(options.year, options.category)
    notes = enrich(options.enrich, options.year, metadata, options.text_fields, bad)
    text = readme(source, command=command, files=[FileRecord.of(metadata)], notes=notes)
    file_name = options.enrich / README
    try:
        with open(file_name, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise SDAError(f"{file_name} cannot be written: {error.strerror}; all else is done") from error
    print(*notes, f"Terms: {source.licence}", f"Cite: {source.citation}", f"enriched {options.enrich}", sep="\n")


def metadata_file(options: argparse.Namespace) -> Path:
    return options.metadata or raw_file(options.year, options.category, options.raw, metadata=True)


def describe(items: Items, bad: BadLines) -> list[str]:
    """What the metadata gave and what it lacks, a sentence each."""
    fields = ", ".join(f"{name} {count:,}" for name, count in items.fields().items())
    notes = [
        f"{items.found:,} of {len(items):,} items have metadata; {len(items) - items.found:,} have none (kept)",
        f"items with each field: {fields}",
        f"{items.pictured:,} items have a picture's address",
        f"{items.rows:,} rows of metadata; {items.strangers:,} are about no item that is left (not written)",
        f"{items.repeated:,} rows repeat an item, {items.differing:,} items with different contents "
        "(the row with most fields filled was taken, of equals the first)",
        bad.note(),
    ]
    return [note for note in notes if note]


def write(output: Path, interactions: Interactions, items: Items, options: argparse.Namespace, text: str) -> None:
    """The dataset folder; fields that no item fills are written only if they are asked for."""
    filled = [name for name, count in items.fields().items() if count or name in options.text_fields]
    columns = [ITEM_FIELDS.index(name) for name in filled]
    settings = {"text_fields": options.text_fields, "prompt_domain": options.domain}
    if options.user_core == options.item_core > 1:
        settings["k_core"] = options.user_core
    if options.no_images and not fetched_pictures(output):
        settings["modalities"] = ["text"]
    write_dataset(
        output,
        inter_fields=["user_id:token", "item_id:token", "rating:float", "timestamp:float"],
        interactions=interactions.rows(),
        item_fields=["item_id:token", *(f"{name}:token" for name in filled)],
        items=((token, *(row.texts[column] for column in columns)) for token, row in items),
        settings=settings,
        readme=text,
        image_urls=((token, url) for token, row in items for url in row.urls),
    )


def fetch_pictures(folder: Path) -> int:
    try:
        import pictures  # beside this file; needs the extra
    except ImportError as error:
        raise SDAError(
            f"pictures need {error.name}: pip install 'recbole_sda[datasets]', then run "
            f"python dataset_scripts/pictures.py {folder}; the dataset itself is complete"
        ) from error
    return pictures.main([str(folder)])


if __name__ == "__main__":
    sys.exit(main())
