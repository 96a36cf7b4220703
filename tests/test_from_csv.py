import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

from recbole_sda.catalog import Catalog, item_tokens

SCRIPT = Path(__file__).resolve().parent.parent / "dataset_scripts" / "from_csv.py"
sys.path.insert(0, str(SCRIPT.parent))  # as Python itself does for a script
import from_csv  # noqa: E402
import tables  # noqa: E402

INTERACTIONS = "user,item,rating,timestamp\nu1,a,5,10\nu1,b,4,11\nu 2,a,3,12\nu 2,zz,1,13\nu 2,zz,1,14\n"
ITEMS = (
    "item,title,genres,imdbId\n"
    'a,"""Quoted"" start",x|y| z,1\n'
    'b,"two\nlines\tand tab",,2\n'
    'c,"a ""stray"" quote",w,3\n'
    "d,nan,,4\n"
)


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "inter.csv").write_text(INTERACTIONS)
    (tmp_path / "items.csv").write_text(ITEMS)
    (tmp_path / "pictures").mkdir()
    for name in ("a.jpg", "a.png", "c.PNG", "zz.webp", "stranger.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / "pictures" / name)
    return tmp_path


def convert(folder, *options, images=True, interactions="inter.csv", items="items.csv"):
    argv = [
        f"--interactions={folder / interactions}",
        f"--items={folder / items}",
        f"--output={folder / 'out' / 'shop'}",
    ]
    if images:
        argv.append(f"--images={folder / 'pictures'}")
    return from_csv.main([*argv, *options])


def read_like_recbole(path):
    # recbole/data/dataset/dataset.py, _load_feat
    return pd.read_csv(path, delimiter="\t", dtype=str, encoding="utf-8", engine="python")


def test_round_trip_through_recboles_reader_and_the_catalogue(shop, capsys):
    assert convert(shop, "--list-separator=|", "--domain=film: noir", "--k-core=5") == 0
    out = shop / "out" / "shop"
    inter = read_like_recbole(out / "shop.inter")
    assert list(inter.columns) == ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    assert inter.to_numpy().tolist() == [line.split(",") for line in INTERACTIONS.splitlines()[1:]]

    items = read_like_recbole(out / "shop.item").fillna("")
    assert list(items.columns) == ["item_id:token", "title:token", "genres:token"]
    titles = ['"Quoted" start', "two lines and tab", 'a "stray" quote']
    assert items["title:token"].tolist()[:3] == titles
    assert items["genres:token"].tolist() == ["x, y, z", "", "w", ""]

    assert item_tokens(out / "shop.item") == ("a", "b", "c", "d")
    catalog = Catalog.open(out, ["a", "b", "c", "d", "zz"], show_progress=False)
    assert catalog.fields == {"title": [*titles, "", ""], "genres": ["x, y, z", "", "w", "", ""]}
    assert catalog.absent == ("zz",)
    assert catalog.present("image").tolist() == [True, False, True, False, True]
    assert sorted(os.listdir(out / "images")) == ["a.jpg", "c.PNG", "zz.webp"]

    properties = yaml.safe_load((out / "shop.yaml").read_text())
    assert properties == {
        "text_fields": ["title", "genres"],
        "prompt_domain": "film: noir",
        "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]},
        "user_inter_num_interval": "[5,inf)",
        "item_inter_num_interval": "[5,inf)",
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "valid_metric": "NDCG@10",
    }
    printed = capsys.readouterr().out
    for line in (
        "5 interactions of 2 users with 3 items; 1 repeat",
        "4 items in the items table; 2 without interactions",
        "1 items of the interactions are not in it (kept, without text): zz",
        "text fields: title, genres; 1 items have none",
        "3 pictures; 2 items without one",
        "1 pictures of no item",
        "1 second pictures of an item (not copied): a.png",
    ):
        assert line in printed


def test_recbole_itself_loads_it(shop):
    dataset = pytest.importorskip("recbole.data.dataset.dataset")
    convert(shop)
    config = dict.fromkeys(("load_col", "unload_col", "seq_len"))
    config |= {"field_separator": "\t", "seq_separator": " ", "encoding": "utf-8"}

    class Reader(dataset.Dataset):
        def __init__(self):
            self.config = config
            self.logger = dataset.getLogger()
            self.field2source, self.field2type, self.field2seqlen, self.field2bucketnum = {}, {}, {}, {}

    frame = Reader()._load_feat(str(shop / "out" / "shop" / "shop.item"), dataset.FeatureSource.ITEM)
    assert list(frame.columns) == ["item_id", "title", "genres"]
    assert frame["item_id"].tolist() == ["a", "b", "c", "d"]
    assert frame["title"].tolist()[:3] == ['"Quoted" start', "two lines and tab", 'a "stray" quote']


def test_tsv_gz_other_names_and_order_as_time(tmp_path):
    with gzip.open(tmp_path / "i.tsv.gz", "wt") as file:
        file.write("who\twhat\nu\tx\nu\ty\n")
    (tmp_path / "p.csv").write_text("what,Full title:en\nx,X\ny,Y\n")
    argv = ["--user=who", "--item=what", "--order-as-time"]
    assert convert(tmp_path, *argv, images=False, interactions="i.tsv.gz", items="p.csv") == 0
    out = tmp_path / "out" / "shop"
    inter = (out / "shop.inter").read_text()
    assert inter == "user_id:token\titem_id:token\ttimestamp:float\nu\tx\t0\nu\ty\t1\n"
    assert (out / "shop.item").read_text().splitlines()[0] == "item_id:token\tFull_title_en:token"
    assert not (out / "images").exists()


def test_text_fields_are_kept_in_the_order_given(shop):
    assert convert(shop, "--text-fields=imdbId, title") == 0
    assert read_like_recbole(shop / "out/shop/shop.item").columns.tolist()[1:] == [
        "imdbId:token",
        "title:token",
    ]


def test_linked_pictures_share_their_bytes(shop):
    assert convert(shop, "--link-images") == 0
    assert (shop / "out/shop/images/a.jpg").samefile(shop / "pictures/a.jpg")
    assert Catalog.open(shop / "out/shop", ["a"], show_progress=False).present("image").all()


def test_link_falls_back_to_a_copy(shop, monkeypatch):
    def no_links(*_):
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", no_links)
    assert convert(shop, "--link-images") == 0
    assert (shop / "out/shop/images/a.jpg").read_bytes() == (shop / "pictures/a.jpg").read_bytes()


def test_overwrite_only_when_asked_and_only_datasets(shop, capsys):
    assert convert(shop) == 0
    before = (shop / "out/shop/shop.inter").read_bytes()
    (shop / "inter.csv").write_text(INTERACTIONS + "u3,a,1,1\n")
    assert convert(shop) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert (shop / "out/shop/shop.inter").read_bytes() == before
    assert convert(shop, "--overwrite", images=False) == 0
    assert (shop / "out/shop/shop.inter").read_bytes() != before
    assert not (shop / "out/shop/images").exists()
    (shop / "out/shop/shop.inter").unlink()
    assert convert(shop, "--overwrite") == 1
    assert "no dataset to overwrite" in capsys.readouterr().err


def snapshot(folder):
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("strange", ["notes.md", "shop.user", "raw/x.csv"])
def test_overwrite_deletes_nothing_of_somebody_else(shop, capsys, strange):
    assert convert(shop) == 0
    path = shop / "out/shop" / strange
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    before = snapshot(shop)
    assert convert(shop, "--overwrite") == 1
    assert re.search(rf"did not write .*: {strange.split('/')[0]}; move it out", capsys.readouterr().err)
    assert snapshot(shop) == before
    path.unlink()
    if path.parent.name == "raw":
        path.parent.rmdir()
    assert convert(shop, "--overwrite") == 0


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("option", ["interactions", "items", "images"])
def test_overwrite_never_deletes_its_own_input(shop, capsys, option, linked):
    assert convert(shop) == 0
    out = shop / "out/shop"
    names = {"interactions": "inter.csv", "items": "items.csv", "images": "pictures"}
    inside = {"interactions": "shop.yaml", "items": "shop.item", "images": "images"}  # a name of our own
    if option != "images":
        (out / inside[option]).write_bytes((shop / names[option]).read_bytes())
    path = out / inside[option]
    if linked:
        (shop / "link").symlink_to(path)
        path = shop / "link"
    before = snapshot(shop)
    assert convert(shop, "--overwrite", f"--{option}={path}", "--separator=,") == 1
    assert f"--{option} {path} lies in --output" in capsys.readouterr().err
    assert snapshot(shop) == before


BAD = {
    "no file": (None, None, [], "does not exist"),
    "empty interactions": ("", None, [], "is empty"),
    "header only": ("user,item,timestamp\n", None, [], "no rows"),
    "no user column": (
        "who,item,timestamp\nu,a,1\n",
        None,
        [],
        "no column 'user'; it has who, item, timestamp",
    ),
    "no time": ("user,item\nu,a\n", None, [], "--timestamp, or take the rows' order with --order-as-time"),
    "text time": ("user,item,timestamp\nu,a,1\nu,b,2014-01-01\n", None, [], "row 2: timestamp '2014-01-01'"),
    "infinite time": ("user,item,timestamp\nu,a,inf\n", None, [], "row 1: timestamp 'inf'"),
    "text rating": ("user,item,rating,timestamp\nu,a,good,1\n", None, [], "rating 'good' is not a number"),
    "no such rating": (INTERACTIONS, None, ["--rating=stars"], "no column 'stars'"),
    "same column twice": (INTERACTIONS, None, ["--user=item"], "must name different columns"),
    "missing item": ("user,item,timestamp\nu,,1\n", None, [], "row 1: item '' cannot be an id"),
    "id that pandas drops": ("user,item,timestamp\nu,a,1\nNA,a,1\n", None, [], "row 2: user 'NA'"),
    "padding": ("user,item,timestamp\n[PAD],a,1\n", None, [], "padding token"),
    "tab in id": ('user,item,timestamp\n"u\t1",a,1\n', None, [], "a tab or line break"),
    "blank at end": ("user,item,timestamp\nu ,a,1\n", None, [], "begins or ends with a blank"),
    "short row": ("user,item,timestamp\nu,a,1\nu,b\n", None, [], "row 2: timestamp '' is not a number"),
    "long row": ("user,item,timestamp\nu,a,1,2\n", None, [], "cannot be read as a table"),
    "column twice": ("user,user,item,timestamp\nu,u,a,1\n", None, [], "'user' stands twice"),
    "other ids": ("user,item,timestamp\nu,A,1\n", None, [], "no item of .* 'A' there, 'a' here"),
    "two rows of an item": (INTERACTIONS, "item,title\na,x\na,y\n", [], "item 'a' stands in several rows"),
    "no item column": (INTERACTIONS, "id,title\na,x\n", [], "no column 'item'; it has id, title"),
    "no text field": (INTERACTIONS, None, ["--text-fields=title,plot"], "no column 'plot'"),
    "colliding fields": (INTERACTIONS, "item,a:b,a b\na,x,y\n", [], "both become field 'a_b'"),
    "field named item_id": (INTERACTIONS, "item,item_id\na,x\n", ["--text-fields=item_id"], "both become"),
    "no core": (INTERACTIONS, None, ["--k-core=0"], "--k-core 0"),
    "no image folder": (INTERACTIONS, None, ["--images=/nowhere/at/all"], "--images /nowhere/at/all"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_named_before_anything_is_written(shop, capsys, case):
    interactions, items, options, message = BAD[case]
    if interactions is None:
        (shop / "inter.csv").unlink()
    else:
        (shop / "inter.csv").write_text(interactions)
    if items is not None:
        (shop / "items.csv").write_text(items)
    assert convert(shop, *options) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert re.search(message, printed.err)
    assert not (shop / "out").exists()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.csv", b"user,item,timestamp\nu,caf\xe9,1\n", "not UTF-8"),
        ("x.txt", b"user item timestamp\n", "--separator"),
        ("x.csv.gz", b"no gzip at all", "cannot be read"),
        ("x.csv", b'user,item,timestamp\nu,"a,1\n', "cannot be read"),
    ],
)
def test_unreadable_tables(shop, capsys, name, data, message):
    (shop / name).write_bytes(data)
    assert convert(shop, interactions=name) == 1
    assert message in capsys.readouterr().err


def test_identical_rows_of_an_item_and_a_bom_are_fine(shop):
    (shop / "items.csv").write_bytes(b"\xef\xbb\xbf" + (ITEMS + "d,nan,,4\n").encode())
    assert convert(shop) == 0
    assert item_tokens(shop / "out/shop/shop.item") == ("a", "b", "c", "d")


def test_missing_tokens_are_those_of_pandas():
    from pandas._libs.parsers import STR_NA_VALUES

    assert set(tables.MISSING_TOKENS) == set(STR_NA_VALUES)


def test_runs_as_a_script_from_anywhere(shop):
    command = [
        sys.executable,
        str(SCRIPT),
        "--interactions=inter.csv",
        "--items=items.csv",
        "--output=data/shop",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=shop, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (shop / "data/shop/shop.item").is_file()
    again = subprocess.run(command, cwd=shop, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert again.stderr.startswith("error: ")
    assert "Traceback" not in again.stderr
