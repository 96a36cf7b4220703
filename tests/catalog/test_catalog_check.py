"""`catalog check`: planted faults come out in the right number, and a sound dataset without any."""

import json
import os
import re
import socket
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hostile import GOOD, write_hostile_folder
from hostile_pictures import BLUE, GREEN, RED, plain, saved
from pandas._libs.parsers import STR_NA_VALUES
from PIL import Image, ImageFont

from recbole_sda import cli
from recbole_sda.catalog import Catalog, checks, contact_sheet, interaction_counts
from recbole_sda.catalog.__main__ import main
from recbole_sda.catalog.check import inter_files, popularity
from recbole_sda.catalog.contact_sheet import choose_items, draw_contact_sheet
from recbole_sda.catalog.interaction_counts import count_interactions
from recbole_sda.catalog.settings import dataset_settings
from recbole_sda.defaults import read_properties

FIELDS = {"user_field": "user_id", "item_field": "item_id", "time_field": "timestamp", "loaded": None}
HEADER = b"user_id:token\titem_id:token\ttimestamp:float\n"
LONG = "x" * 120

FAULTY = HEADER + (
    b"u1\ta\t10\nu1\tb\t20\nu1\ta\t30\n"  # the third repeats the first
    b'u2\ta\t40\nu2\tb\t50\n"u3"\ta\t60\nu3\tghost\t70\nu3\tc\t80\n'
    b"u4\td\n"  # two fields
    b"NA\td\t45\n"  # pandas, and so RecBole, sees no user
    b"u\xff\td\t45\n"
    b"u4\te\tsoon\n"
)
ITEMS = (
    "item_id:token\ttitle:token_seq\tabout:token_seq\timage_url:token\n"
    "a\tred lamp\tbright\thttp://x\nb\tred lamp\tbright\thttp://y\nc\t\tNaN\thttp://z\n"
    f"d\t{LONG} word\t\t\ne\tblue chair\t\t\nf\t\t\t\n"
)


def write_dataset(folder, inter, items=ITEMS, pictures=None, settings=""):
    (folder / "images").mkdir(parents=True)
    (folder / f"{folder.name}.inter").write_bytes(inter)
    (folder / f"{folder.name}.item").write_text(items, encoding="utf-8")
    (folder / f"{folder.name}.yaml").write_text(settings, encoding="utf-8")
    for name, data in (pictures or {}).items():
        (folder / "images" / name).write_bytes(data)
    return folder


@pytest.fixture
def faulty(tmp_path):
    pictures = {
        "a.png": saved(plain(RED)),
        "b.png": saved(plain(RED)),  # a's file
        "c.jpg": b"<html>404</html>",
        "d.jpg": saved(plain(BLUE), "JPEG"),
        "d.png": saved(plain(GREEN)),  # one too many
    }
    return write_dataset(tmp_path / "shop", FAULTY, pictures=pictures)


@pytest.fixture
def sound(tmp_path):
    items = "item_id:token\ttitle:token\na\tlamp\nb\tchair\n"
    pictures = {"a.png": saved(plain(RED)), "b.png": saved(plain(BLUE))}
    return write_dataset(tmp_path / "fine", HEADER + b"u\ta\t1\nu\tb\t2\nv\ta\t1\n", items, pictures)


@pytest.fixture
def check(tmp_path):
    """Runs the command with its index in a temporary folder: status and report."""

    def run(folder, *arguments):
        output = tmp_path / "report.json"
        status = main(
            ["check", str(folder), f"--checkpoint_dir={tmp_path / 'saved'}", f"--output={output}", *arguments]
        )
        return status, json.loads(output.read_text(encoding="utf-8")) if output.exists() else None

    return run


def test_planted_numbers_of_the_interactions(faulty, check):
    status, report = check(faulty)
    assert status == 1
    found = report["interactions"]
    assert (found["interactions"], found["users"], found["items"], found["repeats"]) == (9, 4, 5, 1)
    assert found["sparsity"] == pytest.approx(1 - 8 / 20)
    assert found["per_user"] == {"min": 1, "median": 2.5, "mean": 2.25, "max": 3}
    assert found["per_item"] == {"min": 1, "median": 1, "mean": 1.8, "max": 4}
    assert found["time_span"] == [10, 80]
    assert found["lost"] == 3
    assert {cause: fault["count"] for cause, fault in found["faults"].items()} == {
        "another number of fields than the header": 1,
        "timestamp is no number": 1,
        "no user_id": 1,
        "user_id is not UTF-8": 1,
    }
    assert found["faults"]["another number of fields than the header"]["examples"] == ["shop.inter:10: 2 fields"]
    assert report["popularity"]["top"] == pytest.approx({"1": 4 / 9, "5": 4 / 9, "20": 4 / 9, "50": 7 / 9})


def test_planted_numbers_of_the_items(faulty, check):
    _, report = check(faulty)
    assert report["items"] == {
        "items": 7,
        "with_a_row": 6,
        "without_a_row": {"count": 1, "examples": ["ghost"]},
        "without_interactions": {"count": 2, "examples": ["d", "f"]},
    }
    both = {**report["modalities"], **report["together"]}
    assert {name: one["items"] for name, one in both.items()} == {"image": 3, "text": 4, "all": 3, "none": 3}
    shares = {name: one["share_of_interactions"] for name, one in both.items()}
    assert shares == pytest.approx({"image": 6 / 9, "text": 7 / 9, "all": 6 / 9, "none": 2 / 9})
    assert both["none"]["items_with_interactions"] == 2  # ghost, and c with its broken picture
    refused = {"not a JPEG, PNG or WebP picture": {"count": 1}}
    images = report["files"]["image"]
    assert {cause: {"count": one["count"]} for cause, one in images["refused"].items()} == refused
    assert images["second_files"] == {"count": 1, "examples": ["d.png"]}
    assert images["duplicates"] == {"items": 2, "groups": 1, "examples": [{"count": 2, "examples": ["a", "b"]}]}
    texts = report["texts"]
    assert texts["duplicates"] == images["duplicates"]
    assert (texts["fields"], texts["columns_left_out"]) == (["title", "about"], ["image_url"])
    assert texts["words"] == {"median": 2.5, "p95": pytest.approx(3), "max": 3}
    assert {field: one["items"] for field, one in texts["cut"].items()} == {"title": 1, "about": 0}
    assert report["problems"] == [
        "1 interaction: another number of fields than the header",
        "1 interaction: timestamp is no number",
        "1 interaction: no user_id",
        "1 interaction: user_id is not UTF-8",
        "image: 1 refused",
        "2 items with interactions and nothing of image, text",
    ]


def test_a_sound_dataset(sound, check, capsys):
    status, report = check(sound, "--strict")
    assert (status, report["problems"], report["warnings"]) == (0, [], [])
    assert capsys.readouterr().out.endswith("a run on fine loses no data\n")


def test_strict_counts_warnings(sound, check):
    with open(sound / "fine.item", "a") as file:
        file.write("c\tnobody's\n")
    status, report = check(sound)
    assert (status, report["problems"]) == (0, [])
    assert report["warnings"] == ["1 item without interactions", "1 item without image"]
    assert check(sound, "--strict")[0] == 1


def test_the_command_line_is_the_same(faulty, check, capsys, tmp_path):
    check(faulty)
    printed = capsys.readouterr().out
    assert cli.main(["catalog", "check", str(faulty), f"--checkpoint_dir={tmp_path / 'saved'}"]) == 1
    assert capsys.readouterr().out == printed
    assert "interactions" in printed
    assert "2 items share 1 file: a, b" in printed
    assert re.search(r"^an item +1.0", printed, re.M)


def test_the_datasets_own_settings_count_as_in_a_run(faulty, check):
    (faulty / "shop.yaml").write_text(
        'modalities: [text]\ntext_fields: ["about"]\nuser_inter_num_interval: "[5,inf)"\n'
    )
    _, report = check(faulty)
    assert list(report["modalities"]) == ["text"]
    assert report["modalities"]["text"]["items"] == 2
    assert report["files"] == {}
    assert report["filters"] == {"user_inter_num_interval": "[5,inf)"}
    _, report = check(faulty, "--text_fields=title", "--modalities=image,text")  # the command line wins
    assert report["texts"]["fields"] == ["title"]
    assert report["modalities"]["image"]["items"] == 3


def test_settings_are_those_of_a_run(faulty):
    from recbole_sda.config import SDAConfig

    (faulty / "shop.yaml").write_text(
        "backbone: tiny\nprompt_value_chars: 7\nload_col: {inter: [user_id, item_id]}\n"
    )
    typed = {
        "text_fields": "title,about",
        "image_folder": "x",
        "max_image_pixels": "99",
        "ITEM_ID_FIELD": "item_id",
    }
    config = SDAConfig("BPR", "shop", config_dict={"data_path": str(faulty.parent), **typed})
    settings = dataset_settings(faulty, typed=typed)
    keys = set(read_properties("overall")) | {"USER_ID_FIELD", "TIME_FIELD", "load_col", "checkpoint_dir", "seed"}
    given = {key: (settings[key] or None, config[key] or None) for key in keys}
    assert {key: pair for key, pair in given.items() if pair[0] != pair[1]} == {}
    assert settings["prompt_value_chars"] == 7


def test_pictures_are_decoded_once(faulty, check, monkeypatch):
    _, first = check(faulty)
    monkeypatch.setattr(checks, "_check", lambda *_: pytest.fail("decoded again"))
    assert check(faulty)[1] == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--outptu=x"], "key 'outptu' is unknown"),
        (
            ["--modalities=image,text", "--sheet-items=0", "--contact-sheet=x.png"],
            "--sheet-items=0 must lie between",
        ),
        (["--modalities=text", "--contact-sheet=x.png"], "--contact-sheet needs pictures"),
        (["--contact-sheet=nowhere/x.png"], "nowhere/x.png: its folder does not exist"),
        (["--contact-sheet=x.png", "--sheet-font=no.ttf"], "--sheet-font=no.ttf cannot be read"),
        (["--contact-sheet=x.png", "--sheet-seed=-1"], "--sheet-seed=-1 must be 0 or more"),
        (["--text_fields=nope"], "text_fields: "),
        (["--modalities=image,audio"], "modality 'audio': neither "),
        (["--image_folder=nowhere"], "image_folder=nowhere is not a folder"),
        (["--tokenizer=./nowhere"], "--tokenizer=./nowhere cannot be had"),
        (["--max_image_pixels=many"], "max_image_pixels='many' must be a whole number"),
        (["--config_files=none.yaml"], "none.yaml cannot be read"),
    ],
)
def test_wrong_usage(arguments, message, sound, capsys):
    assert main(["check", str(sound), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"recbole_sda: {message}") or message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("USER_ID_FIELD: [a]", r"USER_ID_FIELD=\['a'\] must be text"),
        ("checkpoint_dir: 5", "checkpoint_dir=5 must be text"),
        ("benchmark_filename: 5", "benchmark_filename=5 must be names"),
        ("load_col: {inter: 5}", r"load_col=\{'inter': 5\} must be a mapping"),
        ("load_col: [inter]", r"load_col=\['inter'\] must be a mapping"),
        ("load_col: {inter: [[a]]}", "must be a mapping"),
        ("text_fields: [nope]", "text_fields: .* has no field 'nope'; it has item_id, title"),
        ("a: b: c\n'", "fine.yaml is not YAML: mapping values are not allowed here"),
    ],
)
def test_wrong_settings_of_the_dataset(settings, message, sound, capsys):
    (sound / "fine.yaml").write_text(settings)
    assert main(["check", str(sound)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(message, err)
    assert err.count("\n") == 1


def test_all_columns_are_looked_at_where_all_are_loaded(sound, check):
    (sound / "fine.inter").write_text("user_id:token\titem_id:token\trating:float\nu\ta\tgood\n")
    for wanted, faults in (("'*'", ["rating is no number"]), ("[user_id, item_id]", [])):
        (sound / "fine.yaml").write_text(f"load_col: {{inter: {wanted}}}")
        assert list(check(sound)[1]["interactions"]["faults"]) == faults


def test_items_that_the_filters_may_leave_out(sound, check):
    with open(sound / "fine.inter", "a") as file:
        file.write("u\tghost\t3\n")
    bare = "1 item with interactions and nothing of image, text"
    assert check(sound)[1]["problems"] == [bare]
    _, report = check(sound, "--item_inter_num_interval=[2,inf)")
    assert report["problems"] == [f"{bare}; counted before the filters, which may leave them out anyway"]


def test_a_tokenizer_without_network(sound, monkeypatch, capsys):
    """The hub is tried once; then the name is looked for on this machine only."""
    tried = []

    def getaddrinfo(*address, **_):
        tried.append(address)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert main(["check", str(sound), "--tokenizer=nope/nope"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(tried) <= 1  # none where the environment says HF_HUB_OFFLINE
    assert err.startswith("recbole_sda: --tokenizer=nope/nope cannot be had")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["chekc", "x"], ["check"], ["check", "x", "y"], ["check", "x", "-z"]])
def test_wrong_usage_of_options(arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_no_folder(tmp_path, capsys):
    assert main(["check", str(tmp_path / "no")]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("fine.inter", HEADER, "holds no interaction"),
        ("fine.inter", b"", "the file is empty"),
        ("fine.inter", b"user\titem\n", "is not `name:type`"),
        ("fine.inter", b"uid:token\titem_id:token\n1\t2\n", "USER_ID_FIELD"),
        ("fine.inter", HEADER + b"a\tb\n", "not one interaction can be read|holds no interaction"),
        ("fine.item", b"item_id:token\ttitle:token\na\n", "1 fields, but the header has 2"),
        ("fine.item", b"item_id:token\ttitle:token\na\tx\na\ty\n", "stands on line 2 too"),
    ],
)
def test_a_file_that_cannot_be_read_loses_data(name, content, message, sound, check, capsys):
    (sound / name).write_bytes(content)
    assert check(sound) == (1, None)
    assert re.search(message, capsys.readouterr().err)


def random_interactions(path, rows=3000):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "user_id:token": [f"ü{n}" for n in rng.integers(0, 200, rows)],
            "item_id:token": [
                f'"{n}"' if n % 7 == 0 else str(n) for n in (90 * rng.random(rows) ** 3).astype(int)
            ],
            "timestamp:float": rng.integers(1_400_000_000, 1_500_000_000, rows),
        }
    )
    path.write_text(table.to_csv(sep="\t", index=False, quoting=3), encoding="utf-8")
    return pd.read_csv(path, sep="\t", dtype={0: str, 1: str}, engine="python")  # as RecBole does


@pytest.mark.parametrize("block", [2**25, 2000])
def test_interactions_are_counted_as_pandas_counts(block, tmp_path, monkeypatch):
    monkeypatch.setattr(interaction_counts, "_BLOCK_BYTES", block)
    path = tmp_path / "x.inter"
    table = random_interactions(path)
    user, item, time = table.columns
    found = count_interactions([path], **FIELDS)
    assert dict(zip(found.item_tokens, found.per_item, strict=True)) == table[item].value_counts().to_dict()
    assert (np.diff(found.per_item) <= 0).all()
    assert sorted(found.per_user) == sorted(table[user].value_counts())
    assert found.repeats == table.duplicated([user, item]).sum() > 0
    assert found.time_span == (table[time].min(), table[time].max())
    assert (found.lost, found.faults) == (0, {})


def test_ids_that_pandas_takes_for_missing(tmp_path):
    users = [*sorted(STR_NA_VALUES), "na", "Null", "0", "none"]
    path = tmp_path / "x.inter"
    path.write_text("user_id:token\titem_id:token\n" + "".join(f"{user}\ti\n" for user in users))
    missing = pd.read_csv(path, sep="\t", dtype=str, engine="python")["user_id:token"].isna().sum()
    found = count_interactions([path], **FIELDS)
    assert found.faults["no user_id"].count == found.lost == missing == len(STR_NA_VALUES)
    assert found.time_span is None


def test_a_split_made_already(tmp_path):
    for part, row in (("train", b"u\ta\t1\n"), ("test", b"u\tb\t2\n")):
        (tmp_path / f"shop.{part}.inter").write_bytes(HEADER + row)
    paths = inter_files(tmp_path.with_name("shop"), ["train", "test"])
    assert [path.name for path in paths] == ["shop.train.inter", "shop.test.inter"]
    found = count_interactions([tmp_path / path.name for path in paths], **FIELDS)
    assert (sorted(found.item_tokens), found.time_span) == (["a", "b"], (1, 2))


@pytest.mark.parametrize("counts", [[5], [3, 3, 3, 3], [50, 9, 4, 4, 1, 1, 1]])
def test_gini_is_half_the_relative_mean_difference(counts):
    values = np.array(counts)
    differences = np.abs(values[:, None] - values[None, :]).mean()
    assert popularity(values)["gini"] == pytest.approx(differences / (2 * values.mean()))


def test_hostile_files_and_texts(tmp_path, check):
    expected = write_hostile_folder(tmp_path / "bazaar")
    sheet = tmp_path / "sheet.png"
    status, report = check(
        tmp_path / "bazaar", f"--contact-sheet={sheet}", "--sheet-items=500", "--tokenizer=tiny"
    )
    assert status == 1
    refused = report["files"]["image"]["refused"]
    assert sum(one["count"] for one in refused.values()) == sum(reason != GOOD for reason in expected.values())
    assert report["interactions"]["items"] == report["items"]["items"]
    assert report["interactions"]["faults"] == {}
    assert report["texts"]["words"]["max"] == 200_000
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"


def open_shop(folder):
    return Catalog.open(folder, ["d", "a", "c", "e"], show_progress=False)


def colours(sheet, rows, columns):
    """At the middle of each picture."""
    step_x, step_y = contact_sheet._CELL_WIDTH, contact_sheet._CELL_HEIGHT
    middle = contact_sheet._MARGIN + contact_sheet._PICTURE // 2
    return [
        [sheet.getpixel((middle + x * step_x, middle + y * step_y)) for x in range(columns)] for y in range(rows)
    ]


def test_the_contact_sheet_shows_the_items_in_their_order(faulty):
    catalog = open_shop(faulty)
    sheet = draw_contact_sheet(catalog, range(4))
    assert sheet.width == 3 * contact_sheet._CELL_WIDTH + contact_sheet._MARGIN
    (blue, red, broken), (missing, *_) = colours(sheet, 2, 3)
    assert np.abs(np.subtract(blue, BLUE)).max() < 8  # a JPEG
    assert red == RED
    assert (255, 255, 255) not in (broken, missing)  # grey fields, with words on them
    second_row = (contact_sheet._MARGIN, contact_sheet._MARGIN + contact_sheet._CELL_HEIGHT)
    assert sheet.getpixel(second_row) == (238, 238, 238)


def test_a_sample_is_seeded(faulty):
    catalog = open_shop(faulty)
    assert list(choose_items(catalog, 3, None)) == [0, 1, 2]
    samples = [choose_items(catalog, 2, seed) for seed in range(20)]
    assert samples == [choose_items(catalog, 2, seed) for seed in range(20)]
    assert len(set(map(tuple, samples))) > 1
    assert sorted(choose_items(catalog, 99, 1)) == [0, 1, 2, 3]


@pytest.mark.parametrize("bitmap", [False, True])
def test_titles_of_any_script(bitmap, tmp_path, monkeypatch):
    titles = [
        "مرحبا \u202e",
        "映画のタイトル" * 30,
        "👩‍👩‍👧‍👦🏳️‍🌈",
        "Z" + "\u0351" * 5000,
        "\ufeff\u200b",
        "ascii",
        "wide " * 9999,
    ]
    items = "item_id:token\ttitle:token\n" + "".join(f"{n}\t{title}\n" for n, title in enumerate(titles))
    folder = write_dataset(tmp_path / "scripts", HEADER, items)
    if bitmap:
        monkeypatch.setattr(contact_sheet, "load_font", lambda _: ImageFont.load_default_imagefont())
    catalog = Catalog.open(folder, map(str, range(len(titles))), show_progress=False)
    sheet = draw_contact_sheet(catalog, range(len(titles)))
    assert np.asarray(sheet).min() == 0  # black words stand there


def test_tokens_are_counted_on_the_prompt(faulty, check):
    _, report = check(faulty, "--tokenizer=tiny")
    start = "The product item has the following attributes: "
    lines = [
        f"{start}title is red lamp; about is bright;",
        f"{start}title is red lamp; about is bright;",
        f"{start}title is blue chair;",
        f"{start}title is {LONG[:100]};",
    ]
    counts = [len(re.findall(r"\w+|[^\w\s]", line)) for line in lines]
    assert report["texts"]["tokens"] == {
        "tokenizer": "tiny",
        "median": np.median(counts),
        "p95": np.percentile(counts, 95),
        "max": max(counts),
        "limit": 2048,
        "over_limit": 0,
    }


def test_texts_over_the_limit(faulty):
    from recbole_sda.encoders.text_lengths import TextLengths
    from recbole_sda.encoders.tiny import HashingTokenizer

    settings = dataset_settings(faulty)
    count = TextLengths("tiny", HashingTokenizer(), 13, settings)
    catalog = open_shop(faulty)
    assert count(catalog, np.array([0, 1, 3]))["over_limit"] == 1  # a's two fields take 16


@pytest.mark.parametrize("door", ["recbole_sda.catalog.__main__", "recbole_sda.catalog.check"])
def test_what_an_import_brings_along(door):
    heavy = {"accelerate", "peft", "ray", "recbole", "torch", "transformers"}
    code = f"import sys, {door}; print(*{heavy!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_terminal_that_knows_only_ascii(sound, tmp_path):
    os.rename(sound / "images" / "b.png", sound / "images" / "é.png")
    (sound / "fine.item").write_text("item_id:token\ttitle:token\na\tlamp\né\tchair\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "recbole_sda.catalog", "check", str(sound), f"--checkpoint_dir={tmp_path}"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr  # b is left without anything
    assert "1 without interactions: \\xe9" in done.stdout
