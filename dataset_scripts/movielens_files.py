"""MovieLens as distributed: three layouts of files, read to interactions and a table of films.

100k            u.data     tab        u.item    |     one column a genre, named by u.genre
1M, 10M         ratings.dat  ::       movies.dat  ::  (10M also tags.dat)
20M and later   ratings.csv  ,        movies.csv  ,   tags.csv, links.csv
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from interactions import Interactions, TokenCodes
from tables import read_table
from texts import joined

from recbole_sda.errors import SDAError

MOST_TAGS = 10  # of a film, those that most users gave it
TEXT_FIELDS = ("title", "year", "genres", "tags")
_NO_GENRE = frozenset({"(no genres listed)", "unknown"})
_YEAR = re.compile(r"\((\d{4})(?:\s*[-–]\s*\d{0,4})?\)$")


class Layout(NamedTuple):
    """The files of a release, and how the ratings' columns are parted."""

    ratings: str
    movies: str
    others: tuple[str, ...]  # read where they are there
    separator: str
    columns: tuple[str, ...]  # of the ratings; `_` is nothing
    header_rows: int


_COLUMNS = ("user", "item", "rating", "timestamp")
_DOUBLE_COLON = ("user", "_", "item", "_", "rating", "_", "timestamp")  # between two colons is nothing
LAYOUTS = (
    Layout("u.data", "u.item", ("u.genre",), "\t", _COLUMNS, 0),
    Layout("ratings.dat", "movies.dat", ("tags.dat",), ":", _DOUBLE_COLON, 0),
    Layout("ratings.csv", "movies.csv", ("tags.csv", "links.csv"), ",", _COLUMNS, 1),
)


class Release(NamedTuple):
    """A folder of MovieLens files."""

    folder: Path
    layout: Layout

    @classmethod
    def find(cls, source: Path) -> "Release":
        """The files in `source` or in a folder within, the nearest first."""
        for layout in LAYOUTS:
            found = sorted(source.rglob(layout.ratings), key=lambda path: (len(path.parts), path))
            for path in found:
                if (path.parent / layout.movies).is_file():
                    return cls(path.parent, layout)
        pairs = " or ".join(f"{layout.ratings} with {layout.movies}" for layout in LAYOUTS)
        raise SDAError(f"{source} is no MovieLens release: it holds neither {pairs}")

    def files(self) -> list[Path]:
        names = (self.layout.ratings, self.layout.movies, *self.layout.others)
        return [self.folder / name for name in names if (self.folder / name).is_file()]


def read_ratings(release: Release) -> Interactions:
    """Every rating in file order, read in blocks: memory grows by 20 bytes a rating."""
    path, layout = release.folder / release.layout.ratings, release.layout
    names = [f"_{position}" if name == "_" else name for position, name in enumerate(layout.columns)]
    token = pa.dictionary(pa.int32(), pa.string())
    types = {"user": token, "item": token, "rating": pa.float32(), "timestamp": pa.int64()}
    users, items, ratings, times = TokenCodes(), TokenCodes(), [], []
    try:
        blocks = pa.csv.open_csv(
            path,
            pa.csv.ReadOptions(column_names=names, skip_rows=layout.header_rows),
            pa.csv.ParseOptions(delimiter=layout.separator, quote_char=False),
            pa.csv.ConvertOptions(column_types=types, include_columns=list(types), null_values=[]),
        )
        for block in blocks:
            users.add(block.column("user"))
            items.add(block.column("item"))
            ratings.append(block.column("rating").to_numpy())
            times.append(block.column("timestamp").to_numpy())
    except (pa.ArrowException, OSError) as error:
        raise SDAError(
            f"{path} cannot be read as {', '.join(_COLUMNS)}: {' '.join(str(error).split())}; unpack it again"
        ) from error
    (user, user_tokens), (item, item_tokens) = users.finish(), items.finish()
    if not len(user):
        raise SDAError(f"{path} holds no rating; unpack it again")
    return Interactions(user, item, np.concatenate(times), np.concatenate(ratings), user_tokens, item_tokens)


def read_films(release: Release) -> pd.DataFrame:
    """item_id, title, year, genres, and where the release has them tags, imdbId and tmdbId; all strings."""
    films = _READERS[release.layout.movies](release.folder)
    split = [split_title(title) for title in films["title"]]
    films = films.assign(title=[title for title, _ in split])
    films.insert(2, "year", [year for _, year in split])
    films["genres"] = [joined(genre for genre in genres if genre not in _NO_GENRE) for genres in films["genres"]]
    tags = release.folder / release.layout.movies.replace("movies", "tags")
    if tags.is_file() and tags.name in release.layout.others and len(given := _read_tags(tags)):
        films["tags"] = films["item_id"].map(common_tags(given)).fillna("")
    if (links := release.folder / "links.csv").is_file():
        linked = read_table(links, may_be_empty=True).rename(columns={"movieId": "item_id"})
        films = films.merge(linked, on="item_id", how="left")
    return films.fillna("")


def split_title(title: str) -> tuple[str, str]:
    """`Toy Story (1995)` as title and year; the year is "" where none stands at the end."""
    title = title.strip()
    found = _YEAR.search(title)
    return (title[: found.start()].strip(), found[1]) if found else (title, "")


def common_tags(tags: pd.DataFrame, most: int = MOST_TAGS) -> pd.Series:
    """item_id → its tags, those given most often first, at most `most`; `Pixar` and `pixar` are one."""
    tags = tags.assign(tag=tags["tag"].str.split().str.join(" "))
    tags = tags[tags["tag"] != ""].assign(key=lambda table: table["tag"].str.casefold())
    counted = tags.groupby(["item_id", "key"], sort=False)["tag"].agg(["first", "size"]).reset_index()
    ranked = counted.sort_values("size", ascending=False, kind="stable")
    return ranked.groupby("item_id", sort=False).head(most).groupby("item_id", sort=False)["first"].agg(joined)


def _films_of_100k(folder: Path) -> pd.DataFrame:
    genres = [line.rpartition("|")[0] for line in _lines(folder / "u.genre")]
    rows = []
    for number, line in enumerate(_lines(folder / "u.item"), start=1):
        fields = line.split("|")
        if len(fields) != 5 + len(genres):
            raise SDAError(
                f"{folder / 'u.item'}:{number}: {len(fields)} fields, but 5 and {len(genres)} genres of u.genre "
                "are expected; unpack it again"
            )
        marked = [genre for genre, mark in zip(genres, fields[5:], strict=True) if mark == "1"]
        rows.append((fields[0], fields[1], marked))
    return pd.DataFrame(rows, columns=["item_id", "title", "genres"])


def _films_of_dat(folder: Path) -> pd.DataFrame:
    rows = _split(folder / "movies.dat", "MovieID::Title::Genres")
    films = [(item, "::".join(title), genres.split("|")) for item, *title, genres in rows]
    return pd.DataFrame(films, columns=["item_id", "title", "genres"])


def _films_of_csv(folder: Path) -> pd.DataFrame:
    table = _need(folder / "movies.csv", ("movieId", "title", "genres"))
    return table.assign(genres=table["genres"].str.split("|")).set_axis(["item_id", "title", "genres"], axis=1)


_READERS = {"u.item": _films_of_100k, "movies.dat": _films_of_dat, "movies.csv": _films_of_csv}


def _read_tags(path: Path) -> pd.DataFrame:
    if path.suffix == ".csv":
        return _need(path, ("movieId", "tag"), may_be_empty=True).set_axis(["item_id", "tag"], axis=1)
    rows = _split(path, "UserID::MovieID::Tag::Timestamp")
    return pd.DataFrame([(item, "::".join(tag)) for _, item, *tag, _ in rows], columns=["item_id", "tag"])


def _split(path: Path, form: str) -> list[list[str]]:
    """The fields of every line; a title or tag may itself hold `::`, so there may be more than `form` has."""
    rows = [line.split("::") for line in _lines(path)]
    for number, row in enumerate(rows, start=1):
        if len(row) < form.count("::") + 1:
            raise SDAError(f"{path}:{number}: {row[0]!r}… is not {form}; unpack it again")
    return rows


def _need(path: Path, columns: Sequence[str], *, may_be_empty: bool = False) -> pd.DataFrame:
    table = read_table(path, may_be_empty=may_be_empty)
    if missing := [column for column in columns if column not in table]:
        raise SDAError(f"{path} has no column {missing[0]!r}; it has {', '.join(table)}; unpack it again")
    return table[list(columns)]


def _lines(path: Path) -> list[str]:
    """The lines that are not blank; UTF-8 (10M), or else Latin-1 (100k, 1M), in which any bytes are text."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SDAError(f"{path} cannot be read: {error.strerror}; unpack the release again") from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return [line.rstrip("\r") for line in text.split("\n") if line.strip()]
