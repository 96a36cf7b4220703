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

SCRIPT = Path(__file__).resolve().parents[2] / "dataset_scripts" / "from_csv.py"
sys.path.insert(0, str(SCRIPT.parent))  # as Python itself does for a script
import columns  # noqa: E402
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
    assert len(os.listdir(shop / "out/shop/images")) == 3
    assert "the pictures in images/ were kept" in capsys.readouterr().out
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
    "short row": ("user,item,timestamp\nu,a,1\nu,b\n", None, [], "line 3 has 2 columns, but the header has 3"),
    "long row": ("user,item,timestamp\nu,a,1,2\n", None, [], "line 2 has 4 columns, but the header has 3"),
    "open quote": (
        'user,item,timestamp,note\nu,a,1,\nu,b,2,"good\nu,a,3,\n',
        None,
        [],
        "line 3 begins a row with a quote",
    ),
    "column twice": ("user,user,item,timestamp\nu,u,a,1\n", None, [], "'user' stands twice"),
    "other ids": ("user,item,timestamp\nu,A,1\n", None, [], "no item of .* 'A' there, 'a' here"),
    "two rows of an item": (INTERACTIONS, "item,title\na,x\na,y\n", [], "item 'a' stands in several rows"),
    "no item column": (INTERACTIONS, "id,title\na,x\n", [], "no column 'item'; it has id, title"),
    "no text field": (INTERACTIONS, None, ["--text-fields=title,plot"], "no column 'plot'"),
    "colliding fields": (INTERACTIONS, "item,a:b,a b\na,x,y\n", [], "both become field 'a_b'"),
    "field named item_id": (INTERACTIONS, "item,item_id\na,x\n", ["--text-fields=item_id"], "both become"),
    "no such column to rename": (INTERACTIONS, None, ["--column=title=name"], "neither table has a column 'name'"),
    "new name taken": (INTERACTIONS, None, ["--column=title=genres"], "has a column 'title' already"),
    "other date": ("user,item,timestamp\nu,a,31/01/2014\n", None, [], "--time-format=%d/%m/%Y"),
    "no such date": ("user,item,timestamp\nu,a,2014-02-30\n", None, [], "row 1: timestamp '2014-02-30'"),
    "date of another form": (
        "user,item,timestamp\nu,a,2014-02-01\n",
        None,
        ["--time-format=%d/%m/%Y"],
        "not a date of the form %d/%m/%Y",
    ),
    "no such directive": (INTERACTIONS, None, ["--time-format=%Q"], "--time-format %Q: .* bad directive"),
    "long separator": (INTERACTIONS, None, ["--separator=::"], "--separator '::' is not one character"),
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
        ("x.csv", b'user,item,timestamp\nu,"a,1\n', "never closes"),
        ("x.csv", b'user,item,timestamp\nu,"a,1', "never closes"),
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


def write_table(path, rows):
    """The same rows in the form that the name asks for; numbers stay numbers where a form knows them."""
    frame = pd.DataFrame(rows)
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        frame.to_parquet(path)
    elif name.endswith(".jsonl"):
        frame.to_json(path, orient="records", lines=True, date_format="iso")
    else:
        frame.to_csv(path, index=False, sep="\t" if name.endswith(".tsv") else ",")


@pytest.mark.parametrize("suffix", [".csv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet"])
def test_every_form_of_table_gives_the_same_dataset(tmp_path, suffix):
    inter = [{"user": 7, "item": 10**12 + i, "rating": 4.5, "timestamp": 1_600_000_000 + i} for i in range(3)]
    items = [{"item": 10**12 + i, "title": t, "tags": ["a", t]} for i, t in enumerate(["x", "é\u2028y", "z"])]
    items[2]["title"] = None  # missing
    write_table(tmp_path / f"i{suffix}", inter)
    write_table(tmp_path / f"p{suffix}", items)
    argv = {"interactions": f"i{suffix}", "items": f"p{suffix}", "images": False}
    assert convert(tmp_path, **argv) == 0
    out = tmp_path / "out" / "shop"
    rows = read_like_recbole(out / "shop.inter").to_numpy().tolist()
    assert rows == [["7", str(10**12 + i), "4.5", str(1_600_000_000 + i)] for i in range(3)]
    items = read_like_recbole(out / "shop.item").fillna("")
    assert items.to_numpy().tolist() == [
        [str(10**12), "x", "a, x"],
        [str(10**12 + 1), "é y", "a, é y"],
        [str(10**12 + 2), "", "a, z"],
    ]


def test_json_keeps_numbers_as_they_are_written(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1.10, "b": 1e3, "c": 12345678901234567890}\n\n{"a": null, "d": {"k": 1}}\n')
    assert tables.read_table(path).to_dict("records") == [
        {"a": "1.10", "b": "1e3", "c": "12345678901234567890", "d": ""},
        {"a": "", "b": "", "c": "", "d": '{"k": "1"}'},
    ]


def test_a_picture_in_a_parquet_is_no_text(tmp_path):
    frame = pd.DataFrame({"item": ["a"], "image": [{"bytes": b"\xff", "path": "a.jpg"}], "raw": [b"\xff"]})
    frame.to_parquet(tmp_path / "x.parquet")
    assert tables.read_table(tmp_path / "x.parquet").to_dict("records") == [
        {"item": "a", "image": '{"bytes": "", "path": "a.jpg"}', "raw": ""}
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 is no object"),
        ('{"item": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 2 nests lists or objects too deeply"),
    ],
)
def test_a_damaged_line_of_json_is_named(shop, capsys, line, message):
    (shop / "x.jsonl").write_text('{"item": "a"}\n' + line + "\n")
    assert convert(shop, items="x.jsonl") == 1
    assert message in capsys.readouterr().err


def test_half_a_character_of_json_is_replaced(shop, capsys):
    (shop / "x.jsonl").write_text(r'{"item": "a", "title": "x\ud83d", "tags": ["\ud83d\ude00", "\ude00"]}' + "\n")
    assert convert(shop, "--describe", items="x.jsonl") == 0
    capsys.readouterr().out.encode()
    assert convert(shop, items="x.jsonl") == 0
    items = read_like_recbole(shop / "out/shop/shop.item")
    assert items.to_numpy().tolist() == [["a", "x\ufffd", "\U0001f600, \ufffd"]]


def test_rows_that_a_stray_quote_swallowed_are_told(shop, capsys):
    rows = ["u,a,1,fine", 'u,b,2,"good', "u,a,3,fine", 'u,b,4,bad"', "u,a,5,"]
    (shop / "inter.csv").write_text("\n".join(["user,item,timestamp,note", *rows]))
    assert convert(shop) == 0
    printed = capsys.readouterr().out
    assert "3 interactions" in printed
    assert "inter.csv: 1 rows span several lines, from line 3" in printed


@pytest.mark.parametrize(
    "text",
    ["a,b\r\n1,2\r\n\r\n  \n3,4", 'a,b\n"1\r\n,""x",2\n3,"4"\n\n', "a,b\r1,2\r3,4\r", '"a\nb",b\n1,2"3\n4,\n'],
)
def test_rows_are_counted_as_pandas_does(tmp_path, text):
    (tmp_path / "x.csv").write_bytes(text.encode())
    assert len(tables.read_table(tmp_path / "x.csv", note=lambda _: None)) == 2


def test_columns_without_a_name_are_left_out(shop, capsys):
    (shop / "items.csv").write_text(",item,title,\n0,a,x,\n1,b,y,\n")
    assert convert(shop) == 0
    assert "items.csv: left out 2 columns without a name" in capsys.readouterr().out
    assert read_like_recbole(shop / "out/shop/shop.item").columns.tolist() == ["item_id:token", "title:token"]


def test_pictures_that_cannot_be_read_are_told_and_copied(shop, capsys):
    (shop / "pictures/b.jpg").write_text("<html>")
    assert convert(shop, "--describe", "--k-core=1") == 0
    printed = capsys.readouterr().out
    assert "4 pictures; 2 items without one" in printed
    assert "1 pictures cannot be read (copied all the same): b.jpg: not a JPEG" in printed
    assert "of the 3 items of the 1-core 1 have no text, 1 have no picture" in printed
    assert convert(shop) == 0
    assert (shop / "out/shop/images/b.jpg").is_file()


def test_the_example_of_a_field_keeps_the_table_whole(shop, capsys):
    (shop / "items.csv").write_text('item,title\na,"one\n\x1b[31mtwo\x9b|three"\n')
    assert convert(shop, "--describe") == 0
    assert r"| one [31mtwo\x9b\|three" in capsys.readouterr().out


def test_stopping_is_no_traceback(shop, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(from_csv, "write_dataset", stop)
    assert convert(shop) == 130
    assert capsys.readouterr().err == "stopped; the output is as it was\n"


def test_columns_are_read_under_other_names(shop):
    (shop / "inter.csv").write_text(INTERACTIONS.replace("user,item", "who,sku"))
    (shop / "items.csv").write_text(ITEMS.replace("item,title", "sku,product_name"))
    argv = ["--column=user=who", "--column=item=sku", "--column=title=product_name", "--text-fields=title"]
    assert convert(shop, *argv) == 0
    assert read_like_recbole(shop / "out/shop/shop.item").columns.tolist() == ["item_id:token", "title:token"]


def test_columns_can_change_their_names(shop):
    (shop / "items.csv").write_text("item,short,title\na,A,long a\n")
    assert convert(shop, "--column=title=short", "--column=description=title") == 0
    frame = read_like_recbole(shop / "out/shop/shop.item")
    assert frame.iloc[0].to_dict() == {"item_id:token": "a", "title:token": "A", "description:token": "long a"}


def test_markup_missing_values_and_lists(shop):
    items = [
        "item,title,categories,path,note",
        """a,<b>Bold</b>er &amp; <br/>new&nbsp;x,"['Art', ['Art', 'Oil & co']]",/a|b,NULL""",
        r"""b,3 < 4,"[""Print""]",/c,\N""",
        "c,<p></p>,,,n/a",
        "d,plain,[],,x",
    ]
    (shop / "items.csv").write_text("\n".join(items) + "\n")
    argv = ["--text-fields=title,categories,path,note", "--list-separator=|"]
    assert convert(shop, *argv, "--clean-html", r"--missing=NULL,\N,n/a") == 0
    frame = read_like_recbole(shop / "out/shop/shop.item").fillna("")
    assert frame.to_numpy().tolist() == [
        ["a", "Bolder & new x", "Art, Oil & co", "/a, b", ""],
        ["b", "3 < 4", "Print", "/c", ""],
        ["c", "", "", "", ""],
        ["d", "plain", "", "", "x"],
    ]


def test_without_the_options_texts_stay_as_they_are(shop):
    (shop / "items.csv").write_text("item,title\na,<b>x</b>\nb,[1] one\nc,NULL\n")
    assert convert(shop) == 0
    assert read_like_recbole(shop / "out/shop/shop.item")["title:token"].tolist()[:2] == ["<b>x</b>", "[1] one"]
    assert "NULL" in (shop / "out/shop/shop.item").read_text()


@pytest.mark.parametrize(
    ("dates", "options", "seconds"),
    [
        (["2014-01-31", "2014-01-31T00:00:01Z", "2014-01-31 02:00:02+02:00"], [], [0, 1, 2]),
        (["31/01/2014", "01/02/2014", "02/02/2014"], ["--time-format=%d/%m/%Y"], [0, 86400, 172800]),
        (["20140131", "20140201", "20140202"], ["--time-format=%Y%m%d"], [0, 86400, 172800]),
    ],
)
def test_dates_become_seconds(shop, capsys, dates, options, seconds):
    rows = "".join(f"u,{item},{date}\n" for item, date in zip("abc", dates, strict=True))
    (shop / "inter.csv").write_text("user,item,timestamp\n" + rows)
    assert convert(shop, *options) == 0
    start = 1391126400  # date -ud 2014-01-31 +%s
    found = read_like_recbole(shop / "out/shop/shop.inter")["timestamp:float"].tolist()
    assert found == [str(start + second) for second in seconds]
    assert "timestamp: dates, written as seconds" in capsys.readouterr().out


def test_parts_of_a_second_are_kept():
    values, dates = columns.read_times(Path("x"), pd.Series(["2014-01-31T00:00:00.25"]), "time", None)
    assert (values.tolist(), dates) == (["1391126400.25"], True)


def test_rows_are_written_in_order_of_time_and_ties_as_they_were(shop):
    (shop / "inter.csv").write_text("user,item,timestamp\nu,a,1600000003\nu,b,1600000001\nu,c,1600000003\nu,d,9\n")
    assert convert(shop) == 0
    assert read_like_recbole(shop / "out/shop/shop.inter")["item_id:token"].tolist() == ["d", "b", "a", "c"]


def test_encodings(shop, capsys):
    text = ITEMS + "e,Café crème,,5\n"
    (shop / "items.csv").write_bytes(text.encode("cp1252"))
    assert convert(shop) == 1
    message = capsys.readouterr().err
    assert "line 7 is not UTF-8" in message  # row 2 has a line break
    assert "--encoding=cp1252 reads 'e,Café crème" in message
    assert convert(shop, "--encoding=cp1252") == 0
    (shop / "items.csv").write_bytes(text.encode("utf-16"))  # with its mark
    assert convert(shop, "--overwrite") == 0
    items = read_like_recbole(shop / "out/shop/shop.item")
    assert items["title:token"].tolist()[-1] == "Café crème"
    assert convert(shop, "--overwrite", "--encoding=klingon") == 1
    assert "--encoding klingon is unknown" in capsys.readouterr().err


def test_describe_writes_nothing_and_says_what_a_core_leaves(shop, capsys):
    rows = [f"u{user},{item},{user}" for user in range(3) for item in "ab"] + ["u9,a,1", "u1,zz,9", "u1,a,10"]
    (shop / "inter.csv").write_text("user,item,timestamp\n" + "\n".join(rows) + "\n")
    before = snapshot(shop)
    assert convert(shop, "--describe", "--k-core=2") == 0
    assert snapshot(shop) == before
    printed = capsys.readouterr().out
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if "|" in line]
    assert ["title", "75.0%", "3", "15", '"Quoted" start'] in table
    # in the 2-core stay u0, u1, u2 with a and b, and u1's second a
    assert ["as found", "9", "4", "3"] in table
    assert ["2-core", "7", "3", "2"] in table
    assert ["2-core, had repeats been left out", "6", "3", "2"] in table
    assert "of the 2 items of the 2-core 0 have no text, 1 have no picture" in printed
    assert "1 items of the interactions are not in it" in printed


def test_describe_needs_no_output_and_shows_the_usual_core(shop, capsys):
    argv = [f"--interactions={shop / 'inter.csv'}", f"--items={shop / 'items.csv'}"]
    assert from_csv.main([*argv, "--describe"]) == 0
    printed = capsys.readouterr().out
    assert "with --k-core=5, which is not asked for" in printed
    assert "columns left out: imdbId" in printed
    with pytest.raises(SystemExit):
        from_csv.main(argv)
    assert "one of --output and --describe" in capsys.readouterr().err


def test_recbole_keeps_what_the_funnel_says(shop):
    """RecBole's own filter, on the dataset that is written, against the numbers of --describe."""
    from recbole_sda.config import SDAConfig
    from recbole_sda.recommend import load_catalogue

    rows = [
        f"u{user},i{item},{user}" for user in range(8) for item in range(8) if (user * item) % 5 < 3 - user % 3
    ]
    (shop / "inter.csv").write_text("user,item,timestamp\n" + "\n".join(rows) + "\n")
    (shop / "items.csv").write_text("item,title\n" + "".join(f"i{item},t\n" for item in range(8)))
    assert convert(shop, "--k-core=3", images=False) == 0
    options = from_csv.parse_options(
        [f"--interactions={shop / 'inter.csv'}", f"--items={shop / 'items.csv'}", "--describe"]
    )
    source = from_csv.read_source(options)
    step = [cell.strip() for cell in from_csv.funnel(source, 3).splitlines()[3].split("|")]
    config = SDAConfig("BPR", "shop", config_dict={"data_path": str(shop / "out"), "state": "ERROR"})
    dataset = load_catalogue(config)
    kept = [dataset.inter_num, dataset.user_num - 1, dataset.item_num - 1]
    assert step[1:5] == ["3-core", *map(str, kept)]
    assert 0 < dataset.inter_num < len(rows)


def test_the_readme_has_the_command_the_checksums_and_the_counts(shop):
    assert convert(shop, "--k-core=1") == 0
    text = (shop / "out/shop/README.md").read_text()
    assert f"\npython dataset_scripts/from_csv.py --interactions={shop / 'inter.csv'}" in text
    assert "| inter.csv |" in text
    assert "| 1-core" in text
    assert "2 without interactions (kept)" in text


def test_missing_tokens_are_those_of_pandas():
    from pandas._libs.parsers import STR_NA_VALUES

    assert set(columns.MISSING_TOKENS) == set(STR_NA_VALUES)


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
