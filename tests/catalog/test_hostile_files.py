"""Every hostile file: the right verdict, the right reason, and the right pixels where it is only odd."""

import os
import unicodedata

import numpy as np
import pytest
from hostile import GOOD, TEXTS, write_hostile_folder
from hostile_pictures import BLUE, QUARTERS, jpeg_of_many_scans, noise, odd_pictures, refused_pictures, saved
from PIL import Image

from recbole_sda.catalog import Catalog, item_tokens, read_skipped, write_skipped
from recbole_sda.catalog.checks import check_files
from recbole_sda.catalog.files import FileRefused
from recbole_sda.catalog.images import PICTURES, decode_picture, open_image
from recbole_sda.catalog.jpeg import count_scans
from recbole_sda.errors import SDAError

REFUSED, ODD = refused_pictures(), odd_pictures()
PIXELS = 50_000_000


def open_quietly(folder, tokens, **options):
    return Catalog.open(folder, tokens, show_progress=False, **options)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The folder, what is expected of each item with a file, and the catalogue."""
    folder = tmp_path_factory.mktemp("data") / "bazaar"
    expected = write_hostile_folder(folder)
    return folder, expected, open_quietly(folder, item_tokens(folder / "bazaar.item"))


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_one_line_of_reason(hostile, name):
    _, _, catalog = hostile
    (record,) = (record for record in catalog.skipped if record.item == name)
    assert (record.modality, record.file) == ("image", f"{name}.jpg")
    assert REFUSED[name][1] in record.reason
    row = catalog.tokens.index(name)
    assert not catalog.present("image")[row]
    assert catalog.contents("image")[row] == ""
    assert catalog.sizes("image")[row].tolist() == [0, 0]
    with pytest.raises(SDAError, match="has no image"):
        catalog.load("image", row)


@pytest.mark.parametrize("name", ODD)
def test_odd_but_good_with_the_right_pixels(hostile, name):
    _, _, catalog = hostile
    _, (width, height), colour = ODD[name]
    row = catalog.tokens.index(name)
    picture = catalog.load("image", row)
    assert picture.mode == "RGB"
    assert picture.size == (width, height)
    assert catalog.sizes("image")[row].tolist() == [height, width]
    np.testing.assert_allclose(picture.getpixel((0, 0)), colour, atol=2)


@pytest.mark.parametrize("name", [name for name in ODD if name.startswith("turned-")])
def test_every_orientation_stands_upright(name):
    picture = np.asarray(decode_picture(ODD[name][0], PIXELS)).astype(int)
    corners = np.array([[picture[3, 6], picture[3, -7]], [picture[-4, 6], picture[-4, -7]]])
    upright = np.array([[QUARTERS[3, 6], QUARTERS[3, -7]], [QUARTERS[-4, 6], QUARTERS[-4, -7]]])
    np.testing.assert_allclose(corners, upright, atol=0 if len(name) == len("turned-1") else 4)


def test_the_verdict_on_every_file_of_the_folder(hostile):
    _, expected, catalog = hostile
    found = {record.item: record.reason for record in catalog.skipped}
    assert set(found) == {item for item, reason in expected.items() if reason != GOOD}
    assert {item: reason for item, reason in found.items() if expected[item] not in reason} == {}
    present = {token for token, here in zip(catalog.tokens, catalog.present("image"), strict=True) if here}
    assert present == {item for item, reason in expected.items() if reason == GOOD}
    assert f"image: {len(found)} refused" in catalog.summary()
    assert catalog.counts()["skipped"] == len(found)
    assert list(found) == [token for token in catalog.tokens if token in found]
    assert all(part.isprintable() for record in catalog.skipped for part in record[2:])


def test_the_report_is_plain_lines_and_the_same_each_time(hostile, tmp_path):
    folder, _, catalog = hostile
    again = open_quietly(folder, catalog.tokens, index_folder=tmp_path / "index", workers=3)
    remembered = open_quietly(folder, catalog.tokens, index_folder=tmp_path / "index")
    for other in (again, remembered):
        assert other.skipped == catalog.skipped
        assert other.summary() == catalog.summary()
        assert other.fingerprint("image") == catalog.fingerprint("image")
    assert all(line.isprintable() for line in catalog.summary().split("\n"))
    write_skipped(tmp_path / "skipped.csv", catalog.skipped)
    assert read_skipped(tmp_path / "skipped.csv") == sorted(catalog.skipped)


def test_strict_stops_at_the_first_with_its_line(hostile):
    folder, expected, catalog = hostile
    for item in ("zero-bytes", "pipe", "png-bomb"):
        (record,) = (record for record in catalog.skipped if record.item == item)
        with pytest.raises(SDAError) as caught:
            open_quietly(folder, ["plain-0", item, "plain-1"], strict=True)
        assert f"item {item!r}, image {record.file}: {record.reason}; repair" in str(caught.value)
    good = [item for item, reason in expected.items() if reason == GOOD]
    assert open_quietly(folder, good, strict=True).present("image").all()


@pytest.mark.parametrize("item", TEXTS)
def test_texts_are_kept_on_one_line_or_count_as_missing(hostile, item):
    _, _, catalog = hostile
    title, present = TEXTS[item]
    row = catalog.tokens.index(item)
    assert catalog.present("text")[row] == present
    value = catalog.item(row).get("title", "")
    assert bool(value) == present
    assert not any(unicodedata.category(c) in {"Zl", "Zp"} or c < " " for c in value)
    if present:
        visible = [c for c in title if c.isalnum()]
        assert [c for c in value if c.isalnum()] == visible  # nothing lost, HTML included
    catalog.fingerprint("text")


def test_a_linked_picture_folder_is_the_users_choice_but_its_links_must_stay_inside(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "shop").mkdir()
    Image.new("RGB", (4, 4), BLUE).save(tmp_path / "disk" / "a.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "shop" / "secret.png")
    (tmp_path / "disk" / "b.png").symlink_to(tmp_path / "disk" / "a.png")
    (tmp_path / "disk" / "c.png").symlink_to(tmp_path / "shop" / "secret.png")
    (tmp_path / "shop" / "images").symlink_to(tmp_path / "disk")
    catalog = open_quietly(tmp_path / "shop", "abc")
    assert catalog.present("image").tolist() == [True, True, False]
    assert catalog.load_image(1).getpixel((0, 0)) == BLUE


@pytest.mark.parametrize("target", ["nowhere", "images", "file"])
def test_an_image_folder_that_is_none_is_an_error_not_an_absence(tmp_path, target):
    (tmp_path / "file").touch()
    (tmp_path / "images").symlink_to(target)
    with pytest.raises(SDAError, match="images of its pictures cannot be read"):
        open_quietly(tmp_path, ["a"])


def test_a_pipe_in_place_of_a_file_blocks_nobody(tmp_path):
    """The scan has seen a regular file; then a pipe takes its place."""
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(FileRefused, match="not a regular file"):
        open_image(tmp_path / "pipe.jpg", PIXELS)


def test_the_limit_of_bytes_is_checked_unread(tmp_path):
    with open(tmp_path / "a.jpg", "wb") as file:
        file.truncate(300 * 2**20)  # a hole, not 300 MiB on the disk
    with pytest.raises(FileRefused, match="314,572,800 bytes are more than the limit"):
        open_image(tmp_path / "a.jpg", PIXELS)


def test_a_reason_is_one_short_line_that_prints(tmp_path):
    def refuse(data, limit):
        raise FileRefused("no\nline\r\n break, \x1b[31mred\u202e " + "x" * 1_000)

    (tmp_path / "a.jpg").write_bytes(b"x")
    refusing = PICTURES._replace(decode=refuse)
    checks = check_files(tmp_path, ["a.jpg"], format=refusing, limit=1, show_progress=False)
    reason = checks["a.jpg"].problem
    assert reason.startswith("no line break, \\x1b[31mred\\u202e xxx")
    assert reason.isprintable()
    assert len(reason) == 300


def test_scans_are_counted_as_the_encoder_wrote_them():
    baseline, progressive = (saved(noise(), "JPEG", progressive=value) for value in (False, True))
    assert count_scans(baseline) == 1
    scans = count_scans(progressive)
    assert 2 <= scans <= 20
    assert count_scans(jpeg_of_many_scans(7)) == count_scans(jpeg_of_many_scans(0)) + 7
    thumbnail = saved(noise(), "JPEG", exif=b"Exif\0\0" + baseline[:-2])  # whose marks are not the picture's
    assert count_scans(thumbnail) == 1
    assert count_scans(b"\x89PNG" + progressive) == 0
    for cut in range(0, len(progressive), 7):
        assert count_scans(progressive[:cut]) <= scans
