"""MicroLens' files as distributed, made small: both forms of pairs, titles with and without header, covers."""

import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from recbole_sda.catalog import Catalog
from recbole_sda.catalog.atomic import read_atomic
from recbole_sda.defaults import read_yaml

SCRIPTS = Path(__file__).resolve().parents[2] / "dataset_scripts"
sys.path.insert(0, str(SCRIPTS))  # as Python itself does for a script
import microlens  # noqa: E402

HISTORIES = {"1": ["30", "10", "20"], "2": ["10", "20"], "3": ["20", "10", "40"]}
TITLES = '10,"Cat, dog"\n20,Dance\n30,\n40,Song\n99,Nobody saw it\n'
START = 1_600_000_000_000  # milliseconds


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "MicroLens-100k-Dataset"
    folder.mkdir()
    rows, time = [], START
    for user, items in HISTORIES.items():
        for item in items:
            rows.append(f"{user},{item},{time}")
            time += 1500
    (folder / "MicroLens-100k_pairs.csv").write_text("\n".join(["user,item,timestamp", *reversed(rows)]) + "\n")
    (folder / "MicroLens-100k_pairs.tsv").write_text(
        "".join(f"{u}\t{' '.join(i)}\n" for u, i in HISTORIES.items())
    )
    (folder / "MicroLens-100k_title_en.csv").write_text(TITLES)
    covers = folder / "MicroLens-100k_covers"
    covers.mkdir()
    for item in ("10", "20", "99"):
        Image.new("RGB", (4, 4)).save(covers / f"{item}.jpg")
    return folder


def convert(source, *options):
    out = source.parent / "dataset" / "videos"
    return microlens.main([f"--output={out}", "--k-core=1", *options]), out


def rows(path):
    return [row for _, row in read_atomic(path)]


def histories(out):
    found = {}
    for user, item, _ in rows(out / "videos.inter")[1:]:
        found.setdefault(user, []).append(item)
    return found


def test_pairs_titles_and_covers(source, capsys):
    code, out = convert(source, f"--source={source}")
    assert code == 0, capsys.readouterr().err
    header, *pairs = rows(out / "videos.inter")
    assert header == ["user_id:token", "item_id:token", "timestamp:float"]
    assert [float(row[2]) for row in pairs] == [START / 1000 + 1.5 * position for position in range(8)]
    assert histories(out) == HISTORIES
    assert rows(out / "videos.item")[1:] == [["10", "Cat, dog"], ["20", "Dance"], ["30", ""], ["40", "Song"]]
    catalog = Catalog.open(out, ["10", "20", "30", "40"], show_progress=False)
    assert catalog.present("image").tolist() == [True, True, False, False]
    assert sorted(path.name for path in (out / "images").iterdir()) == ["10.jpg", "20.jpg"]
    settings = read_yaml(out / "videos.yaml")
    assert (settings["prompt_domain"], settings["text_fields"]) == ("video", ["title"])
    assert "modalities" not in settings
    for text in (capsys.readouterr().out, (out / "README.md").read_text()):
        assert "arXiv:2309.15379" in text
        assert "1 of 4 items have no text" in text
        assert "2 of 4 items have no picture" in text


def test_sequences_give_the_same_histories(source):
    (source / "MicroLens-100k_pairs.csv").unlink()
    code, out = convert(source, f"--source={source}")
    assert code == 0
    assert histories(out) == HISTORIES


def test_dates_are_seconds_already(source):
    (source / "MicroLens-100k_pairs.csv").write_text("user,item,timestamp\n1,10,2014-01-31\n1,20,2014-02-01\n")
    code, out = convert(source, f"--source={source}")
    assert code == 0
    assert [float(row[2]) for row in rows(out / "videos.inter")[1:]] == [1391126400, 1391126400 + 86400]


def test_a_header_in_the_titles_and_an_archive_of_covers(source):
    with_header, archive = source / "MicroLens-100k_title_en.csv", source / "MicroLens-100k_covers.zip"
    with_header.write_bytes(b"\xef\xbb\xbf" + ("item,title\n" + TITLES).encode())
    covers = source / "MicroLens-100k_covers"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(covers.iterdir()):
            file.write(path, f"covers/{path.name}")
            path.unlink()
    covers.rmdir()
    code, out = convert(source, f"--source={source}")
    assert code == 0
    assert rows(out / "videos.item")[1] == ["10", "Cat, dog"]
    assert sorted(path.name for path in (out / "images").iterdir()) == ["10.jpg", "20.jpg"]
    assert [path.name for path in out.parent.iterdir()] == ["videos"]


def test_pairs_alone_are_a_dataset_of_ids(source, capsys):
    for path in source.glob("*title*"):
        path.unlink()
    for path in [*(source / "MicroLens-100k_covers").iterdir(), source / "MicroLens-100k_covers"]:
        path.rmdir() if path.is_dir() else path.unlink()
    code, out = convert(source, f"--source={source}")
    assert code == 0
    assert read_yaml(out / "videos.yaml")["modalities"] == ["text"]
    assert "4 of 4 items have no text" in capsys.readouterr().out


def test_a_release_is_fetched_file_by_file(source, monkeypatch):
    asked = []

    def fetch(url, target):
        asked.append(url.removeprefix("https://recsys.westlake.edu.cn/MicroLens-100k-Dataset/"))
        return source / target.name

    monkeypatch.setattr(microlens.recipe, "fetch", fetch)
    code, out = convert(source, "--release=100k", f"--raw={source.parent}")
    assert code == 0
    assert asked == ["MicroLens-100k_pairs.csv", "MicroLens-100k_title_en.csv"]
    assert histories(out) == HISTORIES


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("MicroLens-100k_pairs.csv", b"user,video,timestamp\n1,2,3\n", "has no column 'item'"),
        ("MicroLens-100k_pairs.csv", b"user,item,timestamp\n1,2,x\n", "timestamp 'x' is not"),
        ("MicroLens-100k_pairs.csv", b"user,item,timestamp\n1,,3\n", "item '' cannot be an id"),
        ("MicroLens-100k_title_en.csv", b"\xff\xfe,x\n", "title_en.csv cannot be read"),
        ("MicroLens-100k_title_en.csv", b"10\n20\n", "holds no item,title"),
        ("other_pairs.csv", b"", "holds several *_pairs.csv"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(source, capsys, file, data, message):
    (source / file).write_bytes(data)
    code, out = convert(source, f"--source={source}")
    assert code == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(("data", "message"), [(b"1 2 3\n", "1: no tab"), (b"", "holds no interaction")])
def test_mistakes_in_sequences(source, capsys, data, message):
    (source / "MicroLens-100k_pairs.csv").unlink()
    (source / "MicroLens-100k_pairs.tsv").write_bytes(data)
    assert convert(source, f"--source={source}")[0] == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--source=/nowhere"], "--source /nowhere is not a folder"),
        (["--source=SOURCE", "--rating-threshold=3"], "this dataset has no ratings"),
    ],
)
def test_mistakes_in_options(source, capsys, options, message):
    assert convert(source, *(option.replace("SOURCE", str(source)) for option in options))[0] == 1
    assert message in capsys.readouterr().err


def test_an_empty_source_names_what_it_lacks(tmp_path, capsys):
    assert microlens.main([f"--source={tmp_path}", f"--output={tmp_path / 'x'}"]) == 1
    assert "holds no *_pairs.csv nor *_pairs.tsv" in capsys.readouterr().err
