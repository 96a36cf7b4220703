"""MovieLens as a RecBole dataset, with posters if you have them.

    python dataset_scripts/movielens.py --release latest-small --output dataset/ml-latest-small
    python dataset_scripts/movielens.py --source ml-1m.zip --images posters --output dataset/ml-1m

The first downloads the release from GroupLens; the second takes the archive, or the folder it was unpacked to.
Posters are files named by movieId; `links.csv` of the later releases leads to them at IMDb and TMDB. Films keep
title, year, genres and the tags that most users gave them.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import clone  # noqa: F401  (beside this file, like the other plain names)
import recipe
from archives import unpack
from dataset_readme import Provenance
from movielens_files import TEXT_FIELDS, Release, read_films, read_ratings

from recbole_sda.errors import SDAError

SITE = "https://files.grouplens.org/datasets/movielens"
TERMS = (
    "for research, with acknowledgement; no commercial use and no redistribution without GroupLens' permission; "
    "the README in the archive says exactly what holds for this release"
)
CITATION = (
    "F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context. "
    "ACM Transactions on Interactive Intelligent Systems 5, 4, Article 19. https://doi.org/10.1145/2827872"
)


class Archive(NamedTuple):
    """What GroupLens offers; `latest` ones change, so no checksum is known."""

    file: str
    md5: str | None


RELEASES = {
    "100k": Archive("ml-100k.zip", "0e33842e24a9c977be4e0107933c0723"),
    "1m": Archive("ml-1m.zip", "c4d9eecfca2ab87c1945afe126590906"),
    "10m": Archive("ml-10m.zip", "ce571fd55effeba0271552578f2648bd"),
    "20m": Archive("ml-20m.zip", "cd245b17a1ae2cc31bb14903e1204af3"),
    "25m": Archive("ml-25m.zip", "6b51fb2759a8657d3bfcbfc42b592ada"),
    "32m": Archive("ml-32m.zip", "d472be332d4daa821edc399621853b57"),
    "latest": Archive("ml-latest.zip", None),
    "latest-small": Archive("ml-latest-small.zip", None),
}


def main(argv: Sequence[str] | None = None) -> int:
    return recipe.run("movielens.py", argv, parse_options, convert)


def parse_options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make a RecBole dataset of MovieLens.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--release", choices=RELEASES, help="download this one from GroupLens")
    source.add_argument("--source", type=Path, help="an archive as downloaded, or the folder it was unpacked to")
    recipe.add_options(parser, pictures="folder of posters")
    return parser.parse_args(argv)


def convert(options: argparse.Namespace, output: Path, command: str) -> str:
    """Read, filter and write; what is to be printed of it."""
    source = options.source
    if options.release:
        archive = RELEASES[options.release]
        source = recipe.fetch(f"{SITE}/{archive.file}", options.raw / archive.file, md5=archive.md5)
    if not source.exists():
        raise SDAError(f"--source {source} does not exist; name an archive or folder, or say --release")
    if source.is_dir():
        return _convert_folder(source, None, options, output, command)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".movielens-") as folder:
        return _convert_folder(unpack(source, Path(folder) / "unpacked"), source, options, output, command)


def _convert_folder(
    folder: Path, archive: Path | None, options: argparse.Namespace, output: Path, command: str
) -> str:
    release = Release.find(folder)
    interactions, funnel = recipe.narrowed(read_ratings(release), options)
    films = read_films(release)
    page = "https://grouplens.org/datasets/movielens/"
    address = [f"{SITE}/{RELEASES[options.release].file}"] if options.release else []
    return recipe.write(
        output,
        interactions,
        films,
        options,
        text_fields=[field for field in TEXT_FIELDS if field in films],
        domain="movie",
        provenance=Provenance(f"MovieLens ({output.name})", [page, *address], TERMS, CITATION),
        files=[archive] if archive else release.files(),
        funnel=funnel,
        command=command,
    )


if __name__ == "__main__":
    sys.exit(main())
