"""MicroLens (50k, 100k, 1M) as a RecBole dataset: who watched what, titles and covers.

    python dataset_scripts/microlens.py --release 100k --output dataset/microlens-100k
    python dataset_scripts/microlens.py --source MicroLens-100k-Dataset --output dataset/microlens-100k

The first downloads pairs and titles; covers are a large archive, which `--covers` downloads too. The second takes
the files as distributed from one folder:

    *_pairs.csv            user,item,timestamp (milliseconds), or else
    *_pairs.tsv            user TAB items in order of time, parted by blanks: the position serves as time
    *_title*.csv           item,title with or without that header
    *_covers/ or .zip      <item>.jpg; or any folder, named by --images
"""

import argparse
import csv
import io
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import clone  # noqa: F401  (beside this file, like the other plain names)
import pandas as pd
import recipe
from archives import unpack
from columns import check_tokens, missing_column, read_times
from dataset_readme import Provenance
from interactions import Interactions
from tables import read_table

from recbole_sda.errors import SDAError

SITE = "https://recsys.westlake.edu.cn"
PAGE = "https://github.com/westlake-repl/MicroLens"
TERMS = "for research; its authors forbid to offer a modified copy for download"
CITATION = (
    "Yongxin Ni, Yu Cheng, Xiangyan Liu, Junchen Fu, Youhua Li, Xiangnan He, Yongfeng Zhang, Fajie Yuan. 2023. "
    "A Content-Driven Micro-Video Recommendation Dataset at Scale. arXiv:2309.15379"
)
COLUMNS = ("user", "item", "timestamp")
MILLISECONDS = 1000
# Pairs, titles, covers. No checksums are published.
RELEASES = {
    "50k": ("MicroLens-50k_pairs.csv", "MicroLens-50k_titles.csv", "MicroLens-50k_covers.zip"),
    "100k": ("MicroLens-100k_pairs.csv", "MicroLens-100k_title_en.csv", "MicroLens-100k_covers.zip"),
}


class Files(NamedTuple):
    """What a release consists of here."""

    pairs: Path
    titles: Path | None
    covers: Path | None  # a folder or an archive

    @classmethod
    def find(cls, folder: Path) -> "Files":
        pairs = _first(folder, "*_pairs.csv", "*_pairs.tsv")
        if pairs is None:
            raise SDAError(f"--source {folder} holds no *_pairs.csv nor *_pairs.tsv; see {PAGE} for the files")
        return cls(pairs, _first(folder, "*_title*.csv"), _first(folder, "*_covers", "*_covers.zip"))


def _first(folder: Path, *patterns: str) -> Path | None:
    """The only match of the first pattern that has one."""
    for pattern in patterns:
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            raise SDAError(
                f"--source {folder} holds several {pattern} ({', '.join(path.name for path in found)}); "
                "keep one release in a folder"
            )
        if found:
            return found[0]
    return None


def main(argv: Sequence[str] | None = None) -> int:
    return recipe.run("microlens.py", argv, parse_options, convert)


def parse_options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make a RecBole dataset of MicroLens.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--release", choices=RELEASES, help="download this one")
    source.add_argument("--source", type=Path, help="folder with the files as distributed")
    parser.add_argument("--covers", action="store_true", help="with --release: download the covers, too")
    recipe.add_options(parser, pictures="folder of covers")
    return parser.parse_args(argv)


def convert(options: argparse.Namespace, output: Path, command: str) -> str:
    """Read, filter and write; what is to be printed of it."""
    files = _download(options) if options.release else _in_source(options.source)
    interactions, funnel = recipe.narrowed(read_pairs(files.pairs), options)
    titles = read_titles(files.titles) if files.titles else pd.DataFrame({"item_id": []}, dtype=str)
    with ExitStack() as stack:
        if options.images is None and files.covers is not None:
            options.images = _covers(files.covers, output, stack)
        return recipe.write(
            output,
            interactions,
            titles,
            options,
            text_fields=list(titles.columns[1:]),
            domain="video",
            provenance=Provenance(f"MicroLens ({output.name})", [PAGE], TERMS, CITATION),
            files=[path for path in files if path is not None and path.is_file()],
            funnel=funnel,
            command=command,
        )


def _download(options: argparse.Namespace) -> Files:
    folder = options.raw / f"MicroLens-{options.release}"
    pairs, titles, covers = RELEASES[options.release]
    wanted = [pairs, titles, covers] if options.covers else [pairs, titles]
    got = [recipe.fetch(f"{SITE}/MicroLens-{options.release}-Dataset/{name}", folder / name) for name in wanted]
    return Files(*got) if options.covers else Files(*got, None)


def _in_source(source: Path) -> Files:
    if not source.is_dir():
        raise SDAError(f"--source {source} is not a folder; name the one with *_pairs.csv, or say --release")
    return Files.find(source)


def _covers(covers: Path, output: Path, stack: ExitStack) -> Path:
    """The folder of the pictures themselves; an archive is unpacked for as long as `stack` is open."""
    if covers.is_dir():
        return covers
    output.parent.mkdir(parents=True, exist_ok=True)
    work = stack.enter_context(tempfile.TemporaryDirectory(dir=output.parent, prefix=".microlens-"))
    folder = unpack(covers, Path(work) / "covers")
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def read_pairs(path: Path) -> Interactions:
    """All interactions of a pairs file; timestamps in seconds, or positions where there are none."""
    table = _read_sequences(path) if path.suffix == ".tsv" else _read_pairs_csv(path)
    for column in ("user", "item"):
        check_tokens(path, table[column], column)
    return Interactions.from_tokens(table["user"], table["item"], table["timestamp"].to_numpy())


def _read_pairs_csv(path: Path) -> pd.DataFrame:
    table = read_table(path)
    for column in COLUMNS:
        if column not in table:
            raise missing_column(path, column, table)
    times, dates = read_times(path, table["timestamp"], "timestamp", None)
    return table.assign(timestamp=pd.to_numeric(times) / (1 if dates else MILLISECONDS))


def _read_sequences(path: Path) -> pd.DataFrame:
    users, items, positions = [], [], []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        user, tab, sequence = line.partition("\t")
        if not tab:
            raise SDAError(f"{path}:{number}: no tab; a line is a user, a tab and items parted by blanks")
        watched = sequence.split()
        users += [user] * len(watched)
        items += watched
        positions += range(len(watched))
    if not users:
        raise SDAError(f"{path} holds no interaction; download it again")
    return pd.DataFrame({"user": users, "item": items, "timestamp": positions})


def read_titles(path: Path) -> pd.DataFrame:
    """item_id and title as strings; a first line `item,title` is a header, any other an item."""
    rows = [row for row in csv.reader(io.StringIO(_text(path), newline="")) if row]
    if not any(len(row) > 1 for row in rows):
        raise SDAError(f"{path} holds no item,title; download it again")
    if rows[0][1:] and rows[0][1].strip().lower() == "title":
        del rows[0]
    return pd.DataFrame(
        [(item.strip(), ",".join(title).strip()) for item, *title in rows], columns=["item_id", "title"]
    )


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SDAError(f"{path} cannot be read: {error}; download it again") from error


if __name__ == "__main__":
    sys.exit(main())
