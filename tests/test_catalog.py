import csv
import hashlib
import io
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from recbole_sda.catalog import Catalog, checks, images, is_text_field, item_tokens, open_image
from recbole_sda.catalog.atomic import one_line, read_atomic, replacing_folder, unquote, write_atomic
from recbole_sda.catalog.files import FileRefused
from recbole_sda.errors import SDAError

NASTY = [
    'starts "with" quotes', '"quoted"', '"open', 'close"', '""', '"', 'a "b', "it's", "comma, here",
    "été – 東京 🎬", "", " blank ", "back\\slash", "#hash", 'say ""twice""', '"a" and "b"',
]  # fmt: skip


def make_dataset(folder, items, header=("item_id:token", "title:token", "price:float")):
    folder.mkdir(exist_ok=True)
    write_atomic(folder / f"{folder.name}.item", header, items)
    return folder


def save_picture(path, colour="red", size=(6, 5), **options):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def png_claiming(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )


@pytest.fixture
def shop(tmp_path):
    folder = make_dataset(tmp_path / "shop", [["a", "Apple", "1.5"], ["b", "", ""], ["c", "NaN", "2"]])
    save_picture(folder / "images" / "a.JPG", "red")
    save_picture(folder / "images" / "b.png", "blue")
    return folder


def open_quietly(folder, tokens, **options):
    return Catalog.open(folder, tokens, show_progress=False, **options)


def reasons_of(catalog):
    return {record.item: f"{record.file}: {record.reason}" for record in catalog.skipped}


# atomic files


def test_atomic_round_trip_through_both_readers(tmp_path):
    path = tmp_path / "x.item"
    rows = [[f"i{k}", text, "t"] for k, text in enumerate(NASTY)]
    assert write_atomic(path, ["item_id:token", "title:token", "tail:token"], rows) == len(rows)
    ours = [fields for _, fields in read_atomic(path)][1:]
    assert ours == rows
    # as recbole/data/dataset/dataset.py reads it
    frame = pd.read_csv(path, delimiter="\t", dtype=str, encoding="utf-8", engine="python", keep_default_na=False)
    assert frame.to_numpy().tolist() == rows


def test_writer_leaves_no_break_inside_a_field(tmp_path):
    path = tmp_path / "x.item"
    write_atomic(path, ["a:token", "b:token"], [["1", "x\ty\r\nz\0w\x85\u2028v"], ["2", "next"]])
    assert [fields for _, fields in read_atomic(path)][1:] == [["1", "x y z w v"], ["2", "next"]]
    assert one_line("\t\n") == " "


def test_stray_quotes_swallow_no_line(tmp_path):
    path = tmp_path / "raw.item"
    path.write_text('item_id:token\ttitle:token\n1\t"Unclosed start\n2\tplain\n3\tends"\n4\t"fine"\n')
    assert [fields[1] for _, fields in read_atomic(path)][1:] == ['"Unclosed start', "plain", 'ends"', "fine"]


@pytest.mark.parametrize("value", NASTY)
def test_unquote_undoes_csv_quoting(value):
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="").writerow([value])
    assert unquote(buffer.getvalue()) == value


def test_replacing_folder_is_all_or_nothing(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()

    def stop_half_way():
        with replacing_folder(target) as new:
            (new / "half").touch()
            raise KeyError

    with pytest.raises(KeyError):
        stop_half_way()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]
    with replacing_folder(target) as new:
        (new / "whole").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["out", "whole"]


@pytest.mark.parametrize("failing", [1, 2])
def test_old_folder_survives_a_failing_rename(tmp_path, monkeypatch, failing):
    """The second rename fails once: the old folder is back; it fails for good: the old folder is not deleted."""
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()
    rename, failures = os.rename, []

    def stubborn(source, destination):
        if Path(destination) == target and len(failures) < failing:
            failures.append(source)
            raise OSError("disk full")
        rename(source, destination)

    monkeypatch.setattr(os, "rename", stubborn)
    with pytest.raises(OSError, match="disk full"), replacing_folder(target) as new:
        (new / "whole").touch()
    assert len(failures) == failing
    assert len(list(tmp_path.rglob("old/old" if failing == 2 else "out/old"))) == 1
    if failing == 1:
        assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


# the catalogue


def test_open_keeps_order_and_counts_what_is_missing(shop):
    catalog = open_quietly(shop, ["c", "zz", "b", "a"])
    assert len(catalog) == 4
    assert catalog.name == "shop"
    assert catalog.tokens == ("c", "zz", "b", "a")
    assert catalog.fields == {"title": ["", "", "", "Apple"], "price": ["2", "", "", "1.5"]}
    assert catalog.present("text").tolist() == [True, False, False, True]
    assert catalog.present("image").tolist() == [False, False, True, True]
    assert catalog.present("image").dtype == np.bool_
    assert catalog.item(3) == {"title": "Apple", "price": "1.5"}
    assert catalog.absent == ("zz",)
    assert catalog.load_image(2).getpixel((0, 0)) == (0, 0, 255)
    assert catalog.counts() == {
        "items": 4, "with_all": 1, "without_image": 2, "without_text": 2, "absent": 1, "skipped": 0, "ignored": 0,
    }  # fmt: skip
    assert "4 items, 1 with image and text" in catalog.summary()
    assert "zz" in catalog.summary()
    assert "text fields: title, price" in catalog.summary().split("\n  ")
    with pytest.raises(SDAError, match="no image"):
        catalog.load_image(0)
    with pytest.raises(SDAError, match="choose image or text"):
        catalog.present("audio")
    with pytest.raises(SDAError, match="choose image or text"):
        catalog.fingerprint("audio")


@pytest.mark.parametrize("empty", ["", "  ", "nan", "NaN", "None", "null", " null "])
def test_values_that_stand_for_nothing_are_missing(tmp_path, empty):
    folder = make_dataset(tmp_path / "d", [["a", empty, empty], ["b", "nano", ""]])
    assert open_quietly(folder, ["a", "b"]).present("text").tolist() == [False, True]


def test_without_item_file_all_text_is_missing(tmp_path):
    save_picture(tmp_path / "images" / "1.webp")
    catalog = open_quietly(tmp_path, ["1", "2"])
    assert catalog.absent == ()
    assert not catalog.present("text").any()
    assert catalog.present("image").tolist() == [True, False]
    assert "no .item file" in catalog.summary()
    with pytest.raises(SDAError, match=r"text_fields=\['title'\]"):
        open_quietly(tmp_path, ["1"], text_fields=["title"])


def test_text_fields_by_name_rule_and_by_choice(tmp_path):
    header = ["item_id", "title", "imdbId", "imUrl", "image_src", "sales_rank", "vector", "price"]
    kinds = ["token"] * 6 + ["float_seq", "float"]
    row = ["1", "T", "2", "http://x", "y", "3", "0.1 0.2", "12.50"]
    folder = make_dataset(tmp_path / "d", [row], [f"{n}:{k}" for n, k in zip(header, kinds, strict=True)])
    catalog = open_quietly(folder, ["1"])
    assert catalog.item(0) == {"title": "T", "price": "12.50"}
    line = "text fields: title, price; columns left out: imdbId, imUrl, image_src, sales_rank, vector"
    assert line in catalog.summary().split("\n  ")
    chosen = open_quietly(folder, ["1"], text_fields=["price", "imdbId"])
    assert chosen.unused_columns == ("title", "imUrl", "image_src", "sales_rank", "vector")
    assert list(chosen.item(0).items()) == [("price", "12.50"), ("imdbId", "2")]
    with pytest.raises(SDAError, match=r"no field 'titel'; it has item_id, title"):
        open_quietly(folder, ["1"], text_fields=["titel"])
    with pytest.raises(SDAError, match="ITEM_ID_FIELD"):
        open_quietly(folder, ["1"], item_field="iid")


@pytest.mark.parametrize(
    ("name", "text"),
    [("title", True), ("genres", True), ("sales_type", True), ("video_game", True), ("parent_asin", False),
     ("imageURLHighRes", False), ("salesRank", False), ("ids", False), ("idea", True), ("題名", True),
     ("video_title", True), ("image_caption", True), ("link_text", True), ("rank_title", True),
     ("image_url", False), ("item_id", False), ("sales_rank", False), ("img_path", False), ("imUrl", False),
     ("asin", False), ("image_2", False), ("file_name", False), ("brand_name", True), ("2", True)],
)  # fmt: skip
def test_name_rule(name, text):
    assert is_text_field(name) is text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"item_id:token\ttitle:token\n1\ta\n2\tb\tc\n", r"d\.item:3: 3 fields, but the header has 2"),
        (b"item_id:token\ttitle:token\n1\n", r"d\.item:2: 1 fields"),
        (b"item_id:token\ttitle:token\n1\tcaf\xe9\n", r"d\.item:2: byte 0xe9 .* UTF-8"),
        (b"item_id\ttitle:token\n1\ta\n", "not `name:type`"),
        (b"item_id:token\ta:token\ta:token\n", "'a' stands twice"),
        (b"", "the file is empty"),
        (b"item_id:token\ttitle:token\n1\ta\n1\tb\n", r"d\.item:3: item '1' stands on line 2 too"),
    ],
)
def test_bad_item_files_are_named(tmp_path, content, message):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "d.item").write_bytes(content)
    with pytest.raises(SDAError, match=message):
        open_quietly(tmp_path / "d", ["1"])


def test_bom_crlf_blank_lines_and_identical_rows_are_fine(tmp_path):
    (tmp_path / "d").mkdir()
    path = tmp_path / "d" / "d.item"
    path.write_bytes(b"\xef\xbb\xbfitem_id:token\ttitle:token\r\n1\ta\r\n\r\n1\ta\r\n2\tb\r\n")
    assert open_quietly(tmp_path / "d", ["1"]).fields == {"title": ["a"]}
    assert item_tokens(path) == ("1", "2")


def test_missing_folders_and_repeated_tokens(tmp_path):
    with pytest.raises(SDAError, match="does not exist"):
        open_quietly(tmp_path / "no", [])
    with pytest.raises(SDAError, match="image_folder"):
        open_quietly(tmp_path, [], image_folder=tmp_path / "no")
    with pytest.raises(ValueError, match="distinct"):
        open_quietly(tmp_path, ["a", "a"])
    assert len(open_quietly(tmp_path, [])) == 0


def test_fingerprint_changes_with_content_and_order_only(shop):
    def prints(tokens=("a", "b", "c")):
        catalog = open_quietly(shop, tokens)
        return catalog.fingerprint("image"), catalog.fingerprint("text")

    image, text = prints()
    assert prints() == (image, text)
    swapped = prints(("b", "a", "c"))
    assert swapped[0] != image
    assert swapped[1] != text

    picture = shop / "images" / "b.png"
    data = picture.read_bytes()
    picture.write_bytes(data + b"x")  # decoders ignore what follows the picture; the fingerprint does not
    assert prints()[0] != image
    assert prints()[1] == text
    picture.write_bytes(data)
    make_dataset(shop, [["a", "Apples", "1.5"], ["b", "", ""], ["c", "NaN", "2"]])
    assert prints()[0] == image
    assert prints()[1] != text


def test_text_moved_to_the_next_item_changes_the_fingerprint(tmp_path):
    one = make_dataset(tmp_path / "one", [["a", "xy", ""], ["b", "", ""]])
    two = make_dataset(tmp_path / "two", [["a", "x", ""], ["b", "y", ""]])
    assert open_quietly(one, ["a", "b"]).fingerprint("text") != open_quietly(two, ["a", "b"]).fingerprint("text")


# pictures


def test_hostile_files_are_refused_by_name_and_the_rest_kept(tmp_path):
    folder = tmp_path / "images"
    good = save_picture(folder / "good.jpg", size=(64, 64), quality=95)
    Image.effect_noise((64, 64), 90).save(folder / "noise.jpg")
    secret = save_picture(tmp_path / "secret.png")
    files = {
        "zero": b"",
        "text": b"this is no picture",
        "html": b"<!DOCTYPE html><html>404</html>",
        "cut": (folder / "noise.jpg").read_bytes()[:-200],
        "bomb": png_claiming(60_000, 60_000),
        "wide": png_claiming(8_000, 8_000),
        "gif": b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
    }
    for name, data in files.items():
        (folder / f"{name}.jpg").write_bytes(data)
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "outside.png").symlink_to(secret)
    (folder / "nowhere.png").symlink_to(folder / "gone.png")
    (folder / "inside.png").symlink_to(good)
    refused = {*files, "folder", "pipe", "outside", "nowhere"}

    tokens = [*sorted(refused), "good", "inside", "noise", "none", "../secret"]
    catalog = open_quietly(tmp_path, tokens)
    reasons = reasons_of(catalog)
    assert set(reasons) == refused
    assert {t for t, here in zip(tokens, catalog.present("image"), strict=True) if here} == {
        "good",
        "inside",
        "noise",
    }
    assert reasons["zero"] == "zero.jpg: an empty file"
    assert "not a JPEG" in reasons["html"]
    assert "truncated" in reasons["cut"]
    assert "max_image_pixels" in reasons["bomb"]
    assert "8000x8000" in reasons["wide"]
    assert "link out of" in reasons["outside"]
    assert "regular" in reasons["pipe"]
    assert all(catalog.contents("image")[tokens.index(token)] == "" for token in refused)
    assert "image: 11 refused" in catalog.summary()
    with pytest.raises(SDAError, match=r"item 'folder', image folder\.png: not a regular file; .* out strict"):
        open_quietly(tmp_path, tokens, strict=True)


def test_every_cut_of_a_picture_is_refused_or_whole(tmp_path):
    for kind in ("jpg", "png", "webp"):
        path = tmp_path / f"x.{kind}"
        Image.effect_noise((24, 24), 90).convert("RGB").save(path)
        data = path.read_bytes()
        for length in range(0, len(data) * 9 // 10, 37):
            path.write_bytes(data[:length])
            with pytest.raises(FileRefused):
                open_image(path, 10_000)


def test_pixel_limit_is_the_catalogues(tmp_path):
    save_picture(tmp_path / "images" / "a.png", size=(10, 10))
    assert open_quietly(tmp_path, ["a"], max_image_pixels=100).present("image").all()
    assert "10x10 pixels" in reasons_of(open_quietly(tmp_path, ["a"], max_image_pixels=99))["a"]


def test_elongated_pictures_are_refused(tmp_path):
    sizes = {"tall": (2, 900), "wide": (900, 2), "limit": (200, 1), "long": (199, 1)}
    for token, size in sizes.items():
        save_picture(tmp_path / "images" / f"{token}.png", size=size)
    catalog = open_quietly(tmp_path, sizes)
    reasons = reasons_of(catalog)
    assert set(reasons) == {"tall", "wide", "limit"}
    assert reasons["tall"].startswith("tall.png: 2x900 pixels: one side is 200 times the other")
    assert catalog.counts()["skipped"] == 3
    assert "image: 3 refused: tall.png: 2x900" in catalog.summary()


def test_the_side_ratio_is_that_of_the_image_processor():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    smart_resize(images.MAX_SIDE_RATIO - 1, 1)
    with pytest.raises(ValueError, match="aspect ratio"):
        smart_resize(images.MAX_SIDE_RATIO + 1, 1)


def test_open_image_gives_plain_rgb(tmp_path):
    see_through = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    see_through.save(tmp_path / "alpha.png")
    assert open_image(tmp_path / "alpha.png", 99).getpixel((0, 0)) == (255, 255, 255)

    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "palette.png", transparency=0)
    assert open_image(tmp_path / "palette.png", 99).getpixel((0, 0)) == (0, 255, 0)

    Image.fromarray(np.full((4, 4), 0x8000, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert open_image(tmp_path / "deep.png", 99).getpixel((0, 0)) == (128, 128, 128)

    Image.new("L", (4, 4), 7).save(tmp_path / "grey.jpg")
    assert open_image(tmp_path / "grey.jpg", 99).mode == "RGB"

    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert open_image(tmp_path / "moving.webp", 99).getpixel((0, 0)) == (255, 0, 0)

    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg", 99).size == (4, 8)

    (tmp_path / "liar.jpg").write_bytes((tmp_path / "alpha.png").read_bytes())
    assert open_image(tmp_path / "liar.jpg", 99).size == (4, 4)


def test_second_picture_of_an_item_is_named(tmp_path):
    for name, colour in (("a.png", "blue"), ("a.jpg", "red"), ("a.webp", "green")):
        save_picture(tmp_path / "images" / name, colour)
    catalog = open_quietly(tmp_path, ["a"])
    assert catalog.load_image(0).getpixel((0, 0))[0] > 250
    assert catalog.content["image"].ignored == ("a.png", "a.webp")
    assert catalog.counts()["ignored"] == 2
    assert "2 second files of an item not used: a.png, a.webp" in catalog.summary()


@pytest.fixture
def decoded(monkeypatch):
    """How many files were decoded since the list was last cleared."""
    calls = []
    read = checks.read_file

    def counting(path):
        calls.append(path)
        return read(path)

    monkeypatch.setattr(checks, "read_file", counting)
    return calls


def test_second_run_decodes_only_what_changed(tmp_path, decoded):
    tokens = [f'odd, "name" {k}' for k in range(5)]
    for token in tokens[:4]:
        save_picture(tmp_path / "images" / f"{token}.png")
    (tmp_path / "images" / f"{tokens[4]}.jpg").write_bytes(b'no, "picture"')
    index_folder = tmp_path / "cache"

    def run(**options):
        decoded.clear()
        catalog = open_quietly(tmp_path, tokens, name="shop", index_folder=index_folder, **options)
        return len(decoded), (catalog.fingerprint("image"), catalog.skipped, catalog.sizes("image").tolist())

    count, first = run(workers=3)
    assert count == 5
    assert first[2] == [[5, 6]] * 4 + [[0, 0]]
    assert run() == (0, first)
    save_picture(tmp_path / "images" / f"{tokens[1]}.png", "blue", size=(9, 9))
    count, second = run()
    assert count == 1
    assert second != first
    assert run(max_image_pixels=10)[0] == 5  # another limit, another verdict
    assert os.listdir(index_folder) == ["shop-image.csv"]


def test_index_sees_a_change_that_keeps_name_size_and_time(tmp_path, decoded):
    path = save_picture(tmp_path / "images" / "a.png")
    picture = path.read_bytes()  # decoders ignore what follows the picture

    def run():
        decoded.clear()
        (digest,) = open_quietly(tmp_path, "a", index_folder=tmp_path).contents("image")
        assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
        return len(decoded)

    def replace(content, by_way_of):
        before = path.stat()
        by_way_of.write_bytes(content)
        os.utime(by_way_of, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(by_way_of, path)
        after = path.stat()
        assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)

    path.write_bytes(picture + b"1")
    assert (run(), run()) == (1, 0)
    time.sleep(0.05)  # the clock of a file system may tick every few milliseconds
    replace(picture + b"2", by_way_of=path)
    assert (run(), run()) == (1, 0)
    replace(picture + b"3", by_way_of=tmp_path / "new.png")
    assert (run(), run()) == (1, 0)


@pytest.mark.parametrize("part", range(4))
def test_index_compares_every_part_of_a_files_state(tmp_path, monkeypatch, decoded, part):
    save_picture(tmp_path / "images" / "a.png")
    open_quietly(tmp_path, "a", index_folder=tmp_path)
    state = checks.file_state

    def changed(path):
        values = list(state(path))
        values[part] += 1
        return tuple(values)

    monkeypatch.setattr(checks, "file_state", changed)
    decoded.clear()
    open_quietly(tmp_path, "a", index_folder=tmp_path)
    assert len(decoded) == 1


def test_index_of_another_folder_or_older_checks_is_ignored(tmp_path, decoded):
    """Hard links: the same names, sizes, times and inodes in both folders; only the folder differs."""
    save_picture(tmp_path / "one" / "a.png")
    (tmp_path / "two").mkdir()
    os.link(tmp_path / "one" / "a.png", tmp_path / "two" / "a.png")
    index = tmp_path / "shop-image.csv"

    def run(folder):
        decoded.clear()
        open_quietly(tmp_path, "a", name="shop", image_folder=folder, index_folder=tmp_path)
        return len(decoded)

    assert [run(tmp_path / folder) for folder in ("one", "one", "two", "two", "one")] == [1, 0, 1, 0, 1]
    (tmp_path / "link").symlink_to(tmp_path / "one")
    assert run(tmp_path / "link") == 0

    *lines, _ = index.read_text().splitlines(keepends=True)
    old = "".join(lines).replace("files 3", "files 2")
    assert old != "".join(lines)
    index.write_text(f"{old},{hashlib.sha256(old.encode()).hexdigest()}\n")
    assert run(tmp_path / "one") == 1


@pytest.mark.parametrize("damage", ["cut", "flip", "binary", "empty", "foreign"])
def test_damaged_index_is_rebuilt(tmp_path, decoded, damage):
    for token in "abc":
        save_picture(tmp_path / "images" / f"{token}.png")
    index = tmp_path / "shop-image.csv"

    def contents():
        return open_quietly(tmp_path, "abc", name="shop", index_folder=tmp_path).contents("image")

    before = contents()
    data = index.read_bytes()
    bad = {
        "cut": data[:-80],
        "flip": data.replace(before[0].encode(), b"0" * 64),
        "binary": bytes(range(256)),
        "empty": b"",
        "foreign": b"a,b\n1,2\n",
    }[damage]
    index.write_bytes(bad)
    decoded.clear()
    assert contents() == before
    assert len(decoded) == 3
    assert index.read_bytes() == data


def test_interrupted_check_keeps_what_it_did(tmp_path, monkeypatch, decoded):
    names = [save_picture(tmp_path / f"{token}.png").name for token in "abcd"]
    index = tmp_path / "index.csv"
    check = checks._check

    def stopping(path, *options):
        if path.name == "c.png":
            raise KeyboardInterrupt
        return check(path, *options)

    options = {
        "format": images.PICTURES, "limit": 100, "index_file": index, "workers": 1, "show_progress": False,
    }  # fmt: skip
    monkeypatch.setattr(checks, "_check", stopping)
    with pytest.raises(KeyboardInterrupt):
        checks.check_files(tmp_path, names, **options)
    monkeypatch.setattr(checks, "_check", check)
    decoded.clear()
    assert len(checks.check_files(tmp_path, names, **options)) == 4
    assert len(decoded) == 2


def test_index_that_cannot_be_written_only_warns(tmp_path):
    save_picture(tmp_path / "images" / "a.png")
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="cannot be written"):
        catalog = open_quietly(tmp_path, ["a"], index_folder=tmp_path / "file")
    assert catalog.present("image").all()


def test_picture_that_changes_after_opening_is_an_error(shop):
    catalog = open_quietly(shop, ["a"])
    path = shop / "images" / "a.JPG"
    content = path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(SDAError, match=r"a\.JPG changed after .* run again"):
        catalog.load_image(0)
    save_picture(path, "blue")  # a good picture, but not the one of the digest
    with pytest.raises(SDAError, match=r"a\.JPG changed after .* run again"):
        catalog.load_image(0)
    path.unlink()
    with pytest.raises(SDAError, match=r"changed after .* \(cannot be read: No such file"):
        catalog.load_image(0)
    path.write_bytes(content)
    assert catalog.load_image(0).size == (6, 5)


def test_catalog_needs_neither_recbole_nor_torch():
    code = "import sys, recbole_sda.catalog; print(*{'recbole', 'torch', 'transformers'} & set(sys.modules))"
    root = str(Path(__file__).resolve().parent.parent)
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
