"""MovieLens' three layouts of files, made small, with planted films, give the same dataset."""

import hashlib
import re
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from recbole_sda.catalog import Catalog
from recbole_sda.catalog.atomic import read_atomic
from recbole_sda.defaults import read_yaml

SCRIPTS = Path(__file__).resolve().parents[2] / "dataset_scripts"
sys.path.insert(0, str(SCRIPTS))  # as Python itself does for a script
import movielens  # noqa: E402
import movielens_files  # noqa: E402

# users 1-3 rate films 1-3; user 4 rates film 3 and film 4, which has no other rating
RATINGS = [(user, film, 5 - film, 1000 * user + 10 * (4 - film)) for user in (1, 2, 3) for film in (1, 2, 3)]
RATINGS += [(4, 3, 1, 50), (4, 4, 5, 51)]
FILMS = {
    1: ("Misérables, Les (1995)", ["Drama", "Musical"]),
    2: ("Star Wars: Episode IV - A New Hope (1977)", ["Action"]),
    3: ("Untitled", []),
    4: ("Rare One (2001)", ["Comedy"]),
}
GENRES = ("unknown", "Action", "Comedy", "Drama", "Musical")


def write_100k(folder):
    (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in RATINGS))
    (folder / "u.genre").write_text("".join(f"{name}|{i}\n" for i, name in enumerate(GENRES)) + "\n")
    rows = []
    for film, (title, genres) in FILMS.items():
        flags = [str(int(name in (genres or ["unknown"]))) for name in GENRES]
        rows.append("|".join([str(film), title, "01-Jan-1995", "", "http://us.imdb.com/", *flags]))
    (folder / "u.item").write_text("\n".join(rows), encoding="latin-1")


def write_1m(folder):
    (folder / "ratings.dat").write_text("".join("::".join(map(str, row)) + "\n" for row in RATINGS))
    rows = [f"{film}::{title}::{'|'.join(genres)}" for film, (title, genres) in FILMS.items()]
    (folder / "movies.dat").write_text("\n".join(rows), encoding="latin-1")


def write_10m(folder):
    write_1m(folder)
    films = (folder / "movies.dat").read_text(encoding="latin-1")
    (folder / "movies.dat").write_text(films, encoding="utf-8")
    tags = ["1::1::Pixar::1", "2::1::pixar::2", "2::1::sad::3", "2::2::two::colons::4", "3::2::  ::5"]
    (folder / "tags.dat").write_text("\n".join(tags))


def write_latest(folder):
    frame = pd.DataFrame(RATINGS, columns=["userId", "movieId", "rating", "timestamp"])
    frame.assign(rating=frame["rating"].astype(float)).to_csv(folder / "ratings.csv", index=False)
    rows = [(film, title, "|".join(g) or "(no genres listed)") for film, (title, g) in FILMS.items()]
    pd.DataFrame(rows, columns=["movieId", "title", "genres"]).to_csv(folder / "movies.csv", index=False)
    tags = "userId,movieId,tag,timestamp\n1,1,sad,1\n1,1,Pixar,1\n2,1,pixar,2\n2,2,two::colons,4\n"
    (folder / "tags.csv").write_text(tags)
    (folder / "links.csv").write_text("movieId,imdbId,tmdbId\n1,0114709,862\n2,0113497,\n")


WRITERS = {"100k": write_100k, "1m": write_1m, "10m": write_10m, "latest": write_latest}


@pytest.fixture(params=WRITERS)
def release(tmp_path, request):
    folder = tmp_path / "download" / "ml-small"  # as in the archives
    folder.mkdir(parents=True)
    WRITERS[request.param](folder)
    return folder


def convert(folder, *options, name="films"):
    out = folder.parent.parent / "dataset" / name
    return movielens.main([f"--output={out}", "--k-core=1", *options]), out


def rows(path):
    return [row for _, row in read_atomic(path)]


def test_every_layout_gives_the_same_films_and_ratings(release, capsys):
    code, out = convert(release, f"--source={release}")
    assert code == 0, capsys.readouterr().err
    header, *ratings = rows(out / "films.inter")
    assert header == ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    expected = sorted(RATINGS, key=lambda row: row[3])
    assert [(*map(int, row[:2]), float(row[2]), int(row[3])) for row in ratings] == expected

    header, *films = rows(out / "films.item")
    assert header[:4] == ["item_id:token", "title:token", "year:token", "genres:token"]
    assert [film[:4] for film in films] == [
        ["1", "Misérables, Les", "1995", "Drama, Musical"],
        ["2", "Star Wars: Episode IV - A New Hope", "1977", "Action"],
        ["3", "Untitled", "", ""],
        ["4", "Rare One", "2001", "Comedy"],
    ]
    if "tags:token" in header:
        assert [film[4] for film in films] == ["Pixar, sad", "two::colons", "", ""]
    if "imdbId:token" in header:
        assert [film[5:] for film in films] == [["0114709", "862"], ["0113497", ""], ["", ""], ["", ""]]

    settings = read_yaml(out / "films.yaml")
    assert settings["text_fields"] == [f.removesuffix(":token") for f in header[1:5]]
    assert settings["prompt_domain"] == "movie"
    assert settings["modalities"] == ["text"]
    printed, readme = capsys.readouterr().out, (out / "README.md").read_text()
    for text in (printed, readme):
        assert "Harper and Joseph A. Konstan" in text
        assert "no commercial use" in text
        assert "| read" in text


def test_filters_in_their_order_and_posters(release, capsys):
    posters = release.parent / "posters"
    posters.mkdir()
    for film in (1, 4):
        Image.new("RGB", (4, 6)).save(posters / f"{film}.png")
    code, out = convert(
        release, f"--source={release}", "--k-core=2", "--rating-threshold=2", f"--images={posters}"
    )
    assert code == 0, capsys.readouterr().err
    # below 2 only user 4's rating of film 3 falls; then film 4 has one user, and user 4 nothing else
    assert {(user, item) for user, item, *_ in rows(out / "films.inter")[1:]} == {
        (str(user), str(film)) for user in (1, 2, 3) for film in (1, 2, 3)
    }
    assert [film[0] for film in rows(out / "films.item")[1:]] == ["1", "2", "3"]
    catalog = Catalog.open(out, ["1", "2", "3"], show_progress=False)
    assert catalog.present("image").tolist() == [True, False, False]
    assert "modalities" not in read_yaml(out / "films.yaml")
    table = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [(step.strip(), int(count)) for step, count in table] == [
        ("read", 11),
        ("rated 2 or better", 10),
        ("earliest of each user and item", 10),
        ("2-core", 9),
    ]


def test_an_archive_is_the_same_as_its_folder(release):
    archive = release.parent.parent / "ml.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in release.iterdir():
            file.write(path, f"ml-small/{path.name}")
    _, unpacked = convert(release, f"--source={release}", name="a")
    code, packed = convert(release, f"--source={archive}", name="b")
    assert code == 0
    for kind in ("inter", "item"):
        assert (packed / f"b.{kind}").read_bytes() == (unpacked / f"a.{kind}").read_bytes()
    assert hashlib.sha256(archive.read_bytes()).hexdigest() in (packed / "README.md").read_text()
    assert sorted(path.name for path in packed.parent.iterdir()) == ["a", "b"]  # nothing left of the unpacking


@pytest.mark.parametrize(("writer", "tags"), [("latest", "userId,movieId,tag,timestamp\n"), ("10m", "")])
def test_no_tags_are_no_field(tmp_path, writer, tags):
    folder = tmp_path / "download" / "ml"
    folder.mkdir(parents=True)
    WRITERS[writer](folder)
    (folder / f"tags.{'csv' if writer == 'latest' else 'dat'}").write_text(tags)
    code, out = convert(folder, f"--source={folder}")
    assert code == 0
    assert "tags:token" not in rows(out / "films.item")[0]


def test_stopping_is_no_traceback(release, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(movielens, "read_films", stop)
    code, out = convert(release, f"--source={release}")
    assert (code, capsys.readouterr().err) == (130, "stopped; the output is as it was\n")
    assert not out.exists()


def test_a_release_is_fetched_with_its_published_checksum(release, monkeypatch):
    asked = {}

    def fetch(url, target, **checks):
        asked.update(url=url, target=target, **checks)
        return release

    monkeypatch.setattr(movielens.recipe, "fetch", fetch)
    code, out = convert(release, "--release=1m", f"--raw={release.parent}")
    assert code == 0
    assert asked["url"] == "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
    assert asked["target"] == release.parent / "ml-1m.zip"
    assert asked["md5"] == "c4d9eecfca2ab87c1945afe126590906"
    assert asked["url"] in (out / "README.md").read_text()


def test_the_most_common_tags_come_first_by_one_spelling():
    tags = pd.DataFrame(
        [("a", "b"), ("a", "Sci-Fi"), ("a", "sci-fi"), ("a", " c  d "), ("z", ""), ("y", "B")],
        columns=["item_id", "tag"],
    )
    assert movielens_files.common_tags(tags).to_dict() == {"a": "Sci-Fi, b, c d", "y": "B"}
    assert movielens_files.common_tags(tags, most=1).to_dict() == {"a": "Sci-Fi", "y": "B"}


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Toy Story (1995)", ("Toy Story", "1995")),
        ("Babylon 5 ", ("Babylon 5", "")),
        ("Show (2006–2007)", ("Show", "2006")),
        ("(500) Days of Summer (2009)", ("(500) Days of Summer", "2009")),
        ("1984", ("1984", "")),
    ],
)
def test_split_title(title, expected):
    assert movielens_files.split_title(title) == expected


def spoil(file, text):
    def change(folder):
        (folder / file).write_text(text)

    return change


@pytest.mark.parametrize(
    ("writer", "change", "options", "message"),
    [
        ("1m", lambda folder: (folder / "movies.dat").unlink(), [], "holds neither"),
        ("1m", spoil("ratings.dat", "1::2::x::4\n"), [], "ratings.dat cannot be read"),
        ("1m", spoil("ratings.dat", "1::2\n"), [], "ratings.dat cannot be read"),
        (
            "latest",
            spoil("ratings.csv", "userId,movieId,rating,timestamp\n"),
            [],
            "holds no rating|cannot be read",
        ),
        ("1m", spoil("movies.dat", "1;Title\n"), [], r"movies.dat:1: .* is not MovieID::Title::Genres"),
        ("100k", spoil("u.item", "1|Title|x\n"), [], r"u.item:1: 3 fields"),
        ("latest", spoil("movies.csv", "id,title\n1,x\n"), [], "no column 'movieId'"),
        ("1m", None, ["--k-core=9"], "no interaction is left"),
        ("1m", None, ["--k-core=0"], "--k-core 0 is not at least 1"),
        ("1m", None, ["--images=/nowhere"], "--images /nowhere is not a folder"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(tmp_path, capsys, writer, change, options, message):
    folder = tmp_path / "download" / "ml"
    folder.mkdir(parents=True)
    WRITERS[writer](folder)
    if change:
        change(folder)
    code, out = convert(folder, f"--source={folder}", *options)
    assert code == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert re.search(message, printed), printed
    assert not out.exists()


def test_a_source_that_is_not_there(tmp_path, capsys):
    assert movielens.main([f"--source={tmp_path / 'none.zip'}", f"--output={tmp_path / 'x'}"]) == 1
    assert "none.zip does not exist" in capsys.readouterr().err
