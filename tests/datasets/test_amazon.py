"""The Amazon converter on small files of all three releases, and on files as they should not be."""

import csv
import errno
import gzip
import hashlib
import json
import sys
import tracemalloc
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from recbole_sda.catalog.atomic import read_atomic
from recbole_sda.errors import SDAError

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "dataset_scripts"))  # as Python itself does
import amazon
import amazon_enrich
import amazon_items
import amazon_reviews
import amazon_sources
from amazon_formats import FORMATS, ItemRow, check_release, clean, clean_price, parse_row
from amazon_reviews import read_reviews
from raw_lines import BadLines, first_lines, read_blocks

# user, item, rating, time: u1 rated A twice, the earlier time stands later in the file
RATINGS = [
    ("U1" * 7, "B00000000A", 5.0, 1400000300),
    ("U2" * 7, "B00000000A", 4.0, 1400000200),
    ("U1" * 7, "B00000000B", 2.0, 1400000100),
    ("U2" * 7, "B00000000B", 3.0, 1400000000),
    ("U1" * 7, "B00000000A", 1.0, 1400000050),
    ("U3" * 7, "000000000C", 5.0, 1400000400),
]
METADATA = {
    2014: [
        {"asin": "B00000000A", "title": "Bob's &quot;Brush&quot;", "imUrl": "http://pictures.test/a.jpg",
         "price": 37.12, "brand": "Bob's", "categories": [["Beauty", "Tools & More"], ["Beauty", "Brushes"]],
         "description": "Soft.\n\n<b>Very</b> soft."},
        {"asin": "B00000000B", "salesRank": {"Beauty": 3}, "related": {"also_bought": ["B00000000A"]}},
        {"asin": "B0000000ZZ", "title": "Nobody's", "categories": [["Toys"]]},
    ],
    2018: [
        {"category": ["Beauty", "Brushes", "</span></span>"], "description": ["Soft.", "<p>Very soft.</p>"],
         "title": "A &amp; B", "brand": "by\n    \n    Bob", "feature": ["<span>round</span>", "small"],
         "also_buy": ["B00000000B"], "main_cat": "Beauty", "price": "$1,005.00", "asin": "B00000000A",
         "imageURL": ["https://pictures.test/a_40.jpg"], "imageURLHighRes": ["https://pictures.test/a.jpg"]},
        {"category": [], "title": '<span class="a-size-medium a-color-secondary"', "price": ".a-box{color:#fff}",
         "also_buy": [], "main_cat": "Beauty", "asin": "B00000000B", "imageURL": [], "imageURLHighRes": []},
        {"category": ["Toys"], "title": "Nobody's", "also_buy": [], "main_cat": "Toys", "asin": "B0000000ZZ"},
    ],
    2023: [
        {"main_category": "Beauty", "title": "Brush", "average_rating": 4.0, "features": ["round", "small"],
         "description": ["Soft."], "price": 16.99, "store": "Bob", "categories": ["Beauty", "Brushes"],
         "images": [{"thumb": "https://pictures.test/b_40.jpg", "large": "https://pictures.test/b.jpg",
                     "variant": "PT01", "hi_res": None},
                    {"thumb": "https://pictures.test/a_40.jpg", "large": "https://pictures.test/a.jpg",
                     "variant": "MAIN", "hi_res": "https://pictures.test/a_1500.jpg"}],
         "parent_asin": "B00000000A", "details": {"asin": "B0000000ZZ"}},
        {"main_category": "Beauty", "title": "", "features": [], "description": [], "price": None, "images": [],
         "store": None, "parent_asin": "B00000000B", "average_rating": 1.0},
        {"main_category": "Toys", "title": "Nobody's", "parent_asin": "B0000000ZZ", "store": "x"},
    ],
}  # fmt: skip
TEXTS_OF_A = {
    2014: ('Bob\'s "Brush"', "37.12", "Bob's", "Beauty, Tools & More, Brushes", "Soft. Very soft.", ""),
    2018: ("A & B", "1,005.00", "Bob", "Beauty, Brushes", "Soft. Very soft.", "round small"),
    2023: ("Brush", "16.99", "Bob", "Beauty, Brushes", "Soft.", "round small"),
}
URLS_OF_A = {
    2014: ["http://pictures.test/a.jpg"],
    2018: ["https://pictures.test/a.jpg", "https://pictures.test/a_40.jpg"],
    2023: [f"https://pictures.test/{name}.jpg" for name in ("a", "a_1500", "b", "a_40")],
}
MARKS = {
    2014: {"helpful": [0, 1]},
    2018: {"verified": True, "style": {"asin": "x"}},
    2023: {"helpful_vote": 0, "asin": "B0000000XX"},
}
YEARS = sorted(METADATA)


def write_lines(path, lines):
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def review(year, rating, text="Good."):
    values = (*rating[:3], rating[3] * FORMATS[year].ticks)
    return {**dict(zip(FORMATS[year].review_fields, values, strict=True)), "text": text, **MARKS[year]}


def write_reviews(path, year, ratings=RATINGS, dump=json.dumps, **more):
    return write_lines(path, [dump(review(year, rating, **more)) for rating in ratings])


def write_ratings(path, year, header=None):
    lines = [",".join(header)] if header else []
    names = dict(zip(FORMATS[year].review_fields, ("user", "item", "rating", "timestamp"), strict=True))
    columns = [names[name] for name in header] if header else FORMATS[year].csv_columns
    for user, item, rating, time in RATINGS:
        values = {"user": user, "item": item, "rating": rating, "timestamp": time * FORMATS[year].ticks}
        lines.append(",".join(str(values[column]) for column in columns))
    return write_lines(path, lines)


def write_metadata(path, year, rows=None):
    dump = repr if year == 2014 else json.dumps
    return write_lines(path, [dump(row) for row in METADATA[year] if rows is None or row in rows])


def strict():
    return BadLines(skip=False)


def values(interactions):
    return [(user, item, float(rating), float(time)) for user, item, rating, time in interactions.rows()]


def convert(folder, *options, year=2018, name="shop", k_core=1, images=False):
    """Run the converter on `folder`'s files."""
    core = [] if any(option.startswith("--enrich") for option in options) else [f"--k-core={k_core}"]
    argv = [f"--year={year}", *core, *options, *([] if images else ["--no-images"])]
    if not any(option.startswith(("--describe", "--enrich")) for option in options):
        argv.append(f"--output={folder / 'out' / name}")
    for option, file in (("--reviews", "reviews"), ("--metadata", "metadata")):
        if (folder / file).exists():
            argv.append(f"{option}={folder / file}")
    return amazon.main(argv)


@pytest.fixture
def shop(tmp_path):
    write_reviews(tmp_path / "reviews", 2018)
    write_metadata(tmp_path / "metadata", 2018)
    return tmp_path


def rows_of(path):
    return [fields for _, fields in read_atomic(path)]


# Reviews


@pytest.mark.parametrize("name", ["reviews.json", "reviews.json.gz"])
@pytest.mark.parametrize("block_bytes", [1, 200, 1 << 23])
@pytest.mark.parametrize("year", YEARS)
def test_reviews_of_all_years_in_blocks_of_any_size(tmp_path, monkeypatch, year, block_bytes, name):
    path = write_reviews(tmp_path / name, year)
    monkeypatch.setattr(amazon_reviews, "read_blocks", partial(read_blocks, block_bytes=block_bytes))
    assert values(read_reviews(path, year, strict())) == RATINGS


@pytest.mark.parametrize("year", [2014, 2018])
def test_ratings_without_a_header(tmp_path, year):
    assert values(read_reviews(write_ratings(tmp_path / "r.csv", year), year, strict())) == RATINGS


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_ratings_with_a_header(tmp_path, monkeypatch, order):
    header = [FORMATS[2023].review_fields[position] for position in order]
    path = write_ratings(tmp_path / "r.csv.gz", 2023, header)
    assert values(read_reviews(path, 2023, strict())) == RATINGS
    monkeypatch.setattr(amazon_reviews._CsvRows, "read_block", lambda *_: None)
    assert values(read_reviews(path, 2023, strict())) == RATINGS


@pytest.mark.parametrize("year", YEARS)
def test_line_by_line_is_the_same_as_by_block(tmp_path, monkeypatch, year):
    text = 'Ä "quoted" \\ text, with {"asin": "B00000000B"}\u2028 and line\nbreaks'
    path = write_reviews(tmp_path / "r", year, text=text)
    whole = values(read_reviews(path, year, strict()))
    monkeypatch.setattr(amazon_reviews._JsonRows, "read_block", lambda *_: None)
    assert values(read_reviews(path, year, strict())) == whole == RATINGS


def test_python_literals_and_numbers_in_quotes_are_read_too(tmp_path):
    literal = write_reviews(tmp_path / "literal", 2014, dump=repr)
    assert values(read_reviews(literal, 2014, strict())) == RATINGS
    quoted = [(user, item, str(rating), time) for user, item, rating, time in RATINGS]
    assert values(read_reviews(write_reviews(tmp_path / "q", 2018, quoted), 2018, strict())) == RATINGS


def test_milliseconds_order_what_happened_within_a_second(tmp_path):
    lines = [f"u{n},B00000000A,5.0,{1588687728000 + n}" for n in (923, 7)]
    header = ",".join(FORMATS[2023].review_fields)
    found = read_reviews(write_lines(tmp_path / "r", [header, *lines]), 2023, strict())
    assert found.timestamp.tolist() == [1588687728.923, 1588687728.007]


def test_literals_are_never_run(tmp_path):
    mark = tmp_path / "mark"
    for line in (f"{{'asin': open({str(mark)!r}, 'w').close()}}", f"__import__('os').mkdir({str(mark)!r})"):
        with pytest.raises(ValueError, match="no JSON row"):
            parse_row(line.encode())
    assert not mark.exists()


GOOD = json.dumps(review(2018, RATINGS[0])).encode()
BAD_REVIEWS = {
    "half a line": (GOOD[:60], "is it cut off"),
    "a web page": (b"<html><title>404</title>", "a web page stands in place"),
    "no user": (GOOD.replace(b'"reviewerID"', b'"user"'), "no field 'reviewerID'"),
    "an empty id": (GOOD.replace(b'"B00000000A"', b'""'), "'' is no item"),
    "an id that RecBole takes for missing": (GOOD.replace(b'"B00000000A"', b'"null"'), "'null' is no item"),
    "an id that is a number": (GOOD.replace(b'"B00000000A"', b"7"), "7 is no item"),
    "no number": (GOOD.replace(b"5.0", b'"five"'), "rating 'five' is no number"),
    "not a number": (GOOD.replace(b"5.0", b"NaN"), "rating nan is no number"),
    "true": (GOOD.replace(b"1400000300", b"true"), "time True is no number"),
    "no moment": (GOOD.replace(b"1400000300", b"1" + b"0" * 30), "000 is none"),
    "Latin-1 in an id": (GOOD.replace(b"B00000000A", b"B\xe9"), "0xe9 at position"),
    "a list": (b"[1]", "no row of fields"),
}


@pytest.mark.parametrize("case", BAD_REVIEWS)
def test_a_bad_line_is_named_or_counted(tmp_path, case):
    line, reason = BAD_REVIEWS[case]
    path = tmp_path / "reviews"
    path.write_bytes(b"\n".join([GOOD, b"", GOOD, line, GOOD]))
    with pytest.raises(SDAError, match=reason) as caught:
        read_reviews(path, 2018, strict())
    assert str(caught.value).startswith(f"{path}:4: ")
    assert "\n" not in str(caught.value)
    assert "--skip-bad-lines" in str(caught.value)
    bad = BadLines(skip=True)
    assert len(read_reviews(path, 2018, bad)) == 3
    assert bad.count == 1
    assert reason in bad.note()


def test_the_line_number_counts_over_blocks(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "reviews", [GOOD.decode()] * 20 + ["{"])
    monkeypatch.setattr(amazon_reviews, "read_blocks", partial(read_blocks, block_bytes=3 * len(GOOD)))
    with pytest.raises(SDAError, match=r"reviews:21: "):
        read_reviews(path, 2018, strict())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"u,B00000000A,5.0", "3 values in place of user, item, rating, timestamp"),
        (b"u,B00000000A,x,1", "rating 'x' is no number"),
        (b",B00000000A,5.0,1", "'' is no user"),
        (b"u\xe9,B00000000A,5.0,1", "byte 0xe9 at position 1"),
    ],
)
def test_a_bad_rating_is_named(tmp_path, line, reason):
    path = tmp_path / "ratings"
    path.write_bytes(b"u,B00000000A,5.0,1\n" + line + b"\n")
    with pytest.raises(SDAError, match=f"ratings:2: {reason}"):
        read_reviews(path, 2014, strict())


def test_damaged_files_are_refused(tmp_path):
    whole = write_reviews(tmp_path / "whole.gz", 2018, RATINGS * 200).read_bytes()
    damaged = {
        "cut": (whole[:-30], "cut off or damaged"),
        "flipped": (whole[:40] + bytes([whole[40] ^ 255]) + whole[41:], "cut off or damaged"),
        "empty": (b"", "is empty"),
        "blank": (b"\n\n", "holds no interaction"),
        "page": (b"<!DOCTYPE html>\n<html>", "page:1: a web page stands"),
    }
    for name, (data, reason) in damaged.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SDAError, match=reason):
            read_reviews(tmp_path / name, 2018, strict())
    for path, reason in ((tmp_path / "missing", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(SDAError, match=reason):
            read_reviews(path, 2018, strict())


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path):
    path = tmp_path / "reviews"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([GOOD, GOOD]))
    assert values(read_reviews(path, 2018, strict())) == [RATINGS[0]] * 2
    assert first_lines(path) == [GOOD, GOOD]


@pytest.mark.parametrize("metadata", [False, True])
@pytest.mark.parametrize("real", YEARS)
@pytest.mark.parametrize("year", YEARS)
def test_another_release_or_kind_is_told_by_its_fields(tmp_path, year, real, metadata):
    kinds = {"reviews": write_reviews(tmp_path / "r", real), "metadata": write_metadata(tmp_path / "m", real)}
    for kind, path in kinds.items():
        if (year, metadata) == (real, kind == "metadata"):
            check_release(path, year, metadata=metadata)
            continue
        with pytest.raises(SDAError, match=f"looks like {kind} of {real}, not"):
            check_release(path, year, metadata=metadata)


@pytest.mark.parametrize("real", YEARS)
@pytest.mark.parametrize("year", YEARS)
def test_ratings_of_another_release_are_told_by_their_columns(tmp_path, year, real):
    path = write_ratings(tmp_path / "r.csv", real, FORMATS[2023].review_fields if real == 2023 else None)
    if year == real:
        return check_release(path, year, metadata=False)
    with pytest.raises(SDAError, match=f"looks like ratings of {real}; add --year {real}"):
        check_release(path, year, metadata=False)


def test_memory_does_not_grow_with_the_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(amazon_reviews, "read_blocks", partial(read_blocks, block_bytes=1 << 15))
    peaks = []
    for length in (100, 10_000):
        path = write_reviews(tmp_path / "r", 2018, RATINGS * 50, text="x" * length)
        tracemalloc.start()
        assert len(read_reviews(path, 2018, strict())) == 300
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert path.stat().st_size > 3_000_000
    assert peaks[1] < peaks[0] + 300_000  # some blocks


# Metadata


@pytest.mark.parametrize("year", YEARS)
def test_texts_and_pictures_of_an_item(year):
    first, second, _ = map(FORMATS[year].read_item, METADATA[year])
    assert first == ItemRow(TEXTS_OF_A[year], tuple(URLS_OF_A[year]))
    assert first.filled == (*map(bool, TEXTS_OF_A[year]), True)
    assert not any(second.filled)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('<span class="a-size-medium a-color-secondary"', ""),
        ("var aPageStart = (new Date()).getTime();", ""),
        ("\n\n\n<script", ""),
        (".a-box-inner{background-color:#fff}", ""),
        ("<b>Bold</b> claim", "Bold claim"),
        ("3 < 5 &amp; 7", "3 < 5 & 7"),
        ("varied", "varied"),
        (".5 ml", ".5 ml"),
        (["one.", None, "", "one.", "two."], "one. two."),
        (None, ""),
        (7, "7"),
    ],
)
def test_leftovers_of_pages_are_no_text(value, text):
    assert clean(value) == text


@pytest.mark.parametrize(
    ("value", "price"),
    [("$5.00", "5.00"), (5, "5"), ("$1,005.00", "1,005.00"), ("$1.00 - $2.50", "1.00 - 2.50"), ("from $5", ""),
     ("None", ""), (None, ""), (".a-box{x}", "")],
)  # fmt: skip
def test_prices(value, price):
    assert clean_price(value) == price


@pytest.mark.parametrize("year", YEARS)
@pytest.mark.parametrize("block_bytes", [1, 1 << 23])
def test_only_wanted_rows_are_parsed(tmp_path, monkeypatch, year, block_bytes):
    path = write_metadata(tmp_path / "m", year)
    monkeypatch.setattr(amazon_items, "read_blocks", partial(read_blocks, block_bytes=block_bytes))
    parsed = []
    monkeypatch.setattr(amazon_items, "parse_row", lambda line: parsed.append(line) or parse_row(line))
    wanted = amazon_items.pa.array(["B00000000A", "000000000C"])
    with amazon_items.read_items(path, year, wanted, strict(), tmp_path) as items:
        assert list(items) == [("B00000000A", ItemRow(TEXTS_OF_A[year], tuple(URLS_OF_A[year])))]
        assert (len(items), items.found, items.rows, items.strangers) == (2, 1, 3, 2)
        assert (items.repeated, items.differing, items.pictured) == (0, 0, 1)
        assert items.get("B00000000A").texts == TEXTS_OF_A[year]
        assert items.get("000000000C") is None
        assert items.get("B0000000ZZ") is None
    assert len(parsed) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def test_of_several_rows_of_an_item_the_fullest_is_taken_then_the_first(tmp_path):
    poor, rich = METADATA[2018][1] | {"asin": "B00000000A"}, METADATA[2018][0]
    other = rich | {"title": "Another"}
    twice = [METADATA[2018][1]] * 2
    path = write_lines(tmp_path / "m", map(json.dumps, [poor, rich, other, poor, *twice]))
    with amazon_items.read_items(
        path, 2018, amazon_items.pa.array(["B00000000A", "B00000000B"]), strict(), tmp_path
    ) as items:
        assert items.get("B00000000A").texts == TEXTS_OF_A[2018]
        assert (items.repeated, items.differing, items.found) == (4, 1, 2)


def test_bad_rows_of_metadata_are_named_or_counted(tmp_path):
    good = [json.dumps(row) for row in METADATA[2018]]
    wanted = amazon_items.pa.array(["B00000000A"])
    for line, reason in (
        (good[0][:90], "is it cut off"),
        (good[2][:-9], "is it cut off"),  # of an item that is not wanted
        ('{"also_buy": [], "title": "x"}', "no field 'asin', only also_buy, title"),
    ):
        path = write_lines(tmp_path / "m", [*good, line])
        with (
            pytest.raises(SDAError, match=f"m:4: .*{reason}"),
            amazon_items.read_items(path, 2018, wanted, strict(), tmp_path),
        ):
            pass
        bad = BadLines(skip=True)
        with amazon_items.read_items(path, 2018, wanted, bad, tmp_path) as items:
            assert (items.found, bad.count) == (1, 1)
    mixed = tmp_path / "mixed"
    mixed.write_bytes(b"\n".join([good[1].encode(), good[0].encode().replace(b"A &amp;", b"\xe9")]))
    with (
        pytest.raises(SDAError, match=r"mixed:2: byte 0xe9 at position \d+ is not UTF-8"),
        amazon_items.read_items(mixed, 2018, wanted, strict(), tmp_path),
    ):
        pass


# The whole


@pytest.mark.parametrize("year", YEARS)
def test_a_dataset_of_each_year(tmp_path, capsys, year):
    reviews = write_reviews(tmp_path / "reviews", year)
    write_metadata(tmp_path / "metadata", year)
    assert convert(tmp_path, "--category=Beauty", year=year) == 0
    out, printed = tmp_path / "out" / "shop", capsys.readouterr().out
    header, *rows = rows_of(out / "shop.inter")
    assert header == ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    earliest = [rating for rating in RATINGS if rating != RATINGS[0]]
    assert [(*row[:2], float(row[2]), float(row[3])) for row in rows] == sorted(earliest, key=lambda row: row[3])
    header, *rows = rows_of(out / "shop.item")
    fields = {name.partition(":")[0]: value for name, value in zip(header, rows[0], strict=True)}
    expected = dict(zip(amazon.ITEM_FIELDS, TEXTS_OF_A[year], strict=True))
    assert fields == {"item_id": "B00000000A", **{name: text for name, text in expected.items() if text}}
    assert [row[0] for row in rows] == ["B00000000A", "B00000000B"]
    with open(out / "image_urls.csv", newline="") as file:
        assert list(csv.reader(file)) == [["item_id", "url"], *(["B00000000A", url] for url in URLS_OF_A[year])]
    settings = yaml.safe_load((out / "shop.yaml").read_text())
    assert settings["text_fields"] == ["title", "price", "brand", "categories", "description"]
    assert (settings["prompt_domain"], settings["modalities"]) == ("product", ["text"])
    assert settings["user_inter_num_interval"] == "[0,inf)"
    text = (out / "README.md").read_text()
    for part in (
        "| read                           |              6 |       3 |       3 |",
        "| earliest of each user and item |              5 |       3 |       3 |",
        "2 of 3 items have metadata; 1 have none (kept)",
        "3 rows of metadata; 1 are about no item that is left",
        amazon_sources.RELEASES[year].citation,
    ):
        assert part in printed
        assert part in text
    assert (
        f"| reviews | {reviews.stat().st_size:,} | `{hashlib.sha256(reviews.read_bytes()).hexdigest()}` |" in text
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["shop"]


def test_the_steps_and_their_order(tmp_path, capsys):
    # two rings of three users and items; the second one's first user rates badly
    ring = [(f"user-{a}{n}-------", f"B0000000{a}{(n + d) % 3}", 4.0, 100 + n) for a in "PQ" for n in range(3)
            for d in range(2)]  # fmt: skip
    ring[6] = (*ring[6][:2], 1.0, 100)
    write_reviews(tmp_path / "reviews", 2018, [*ring, *ring[:6], *ring[:2]])
    rows = [METADATA[2018][0] | {"asin": item} for _, item, *_ in ring]
    write_lines(tmp_path / "metadata", map(json.dumps, rows))
    options = ("--rating-threshold=2", "--max-items=5", "--text-fields=title,features", "--domain=brush")
    assert convert(tmp_path, *options, k_core=2) == 0
    table = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines()[2:7]]
    assert [(step.strip(), int(count)) for step, count in table] == [
        ("read", 20),
        ("rated 2 or better", 19),
        ("earliest of each user and item", 11),
        ("5 most popular items", 10),
        ("2-core", 6),
    ]
    out = tmp_path / "out" / "shop"
    assert {row[1] for row in rows_of(out / "shop.inter")[1:]} == {"B0000000P0", "B0000000P1", "B0000000P2"}
    settings = yaml.safe_load((out / "shop.yaml").read_text())
    assert (settings["text_fields"], settings["prompt_domain"]) == (["title", "features"], "brush")
    assert settings["item_inter_num_interval"] == "[2,inf)"


def test_users_and_items_may_have_their_own_core(shop, capsys):
    assert convert(shop, "--user-core=2", "--item-core=1") == 0
    assert "| 2-core of users, 1-core of items |              4 |" in capsys.readouterr().out
    assert 'user_inter_num_interval: "[0,inf)"' in (shop / "out" / "shop" / "shop.yaml").read_text()


def test_nothing_is_written_when_nothing_is_left(shop, capsys):
    assert convert(shop, k_core=4) == 1
    printed = capsys.readouterr()
    assert "| 4-core                         |              0 |" in printed.out
    assert printed.err == (
        "error: no interaction is left after the step '4-core' (see the table); ask for less there\n"
    )
    assert list((shop / "out").iterdir()) == []


def test_metadata_about_none_of_the_items_is_refused(shop, capsys):
    write_lines(shop / "metadata", [json.dumps(METADATA[2018][2])])
    assert convert(shop) == 1
    assert "none of its 1 rows is about one of the 3 items wanted, such as 'B00000000A'" in capsys.readouterr().err
    assert list((shop / "out").iterdir()) == []


def test_describe_writes_nothing(shop, capsys):
    assert convert(shop, "--describe") == 0
    assert "2 of 3 items have metadata" in capsys.readouterr().out
    assert sorted(path.name for path in shop.iterdir()) == ["metadata", "reviews"]


def test_skipped_lines_are_printed_and_kept_in_the_readme(shop, capsys):
    for name in ("reviews", "metadata"):
        (shop / name).write_text((shop / name).read_text() + "{half\n")
    assert convert(shop) == 1
    assert "reviews:7: no JSON row" in capsys.readouterr().err
    assert convert(shop, "--skip-bad-lines") == 0
    note = "2 lines could not be read and were left out: "
    assert note in capsys.readouterr().out
    assert note in (shop / "out" / "shop" / "README.md").read_text()


def test_overwriting_keeps_the_old_dataset_until_the_new_one_is_whole(shop, capsys, monkeypatch):
    assert convert(shop) == 0
    assert convert(shop) == 1
    assert "exists; choose another folder or add --overwrite" in capsys.readouterr().err
    out = shop / "out" / "shop"
    before = (out / "shop.item").read_bytes()

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        spool_in = amazon_items.spool_in
        patch.setattr(amazon_items, "spool_in", lambda folder: Full(spool_in(folder)))
        assert convert(shop, "--overwrite") == 1
    assert "cannot take the texts: No space left on device; make room there" in capsys.readouterr().err
    assert (out / "shop.item").read_bytes() == before
    assert convert(shop, "--overwrite", "--rating-threshold=5") == 0
    assert len(rows_of(out / "shop.inter")) == 3
    assert sorted(path.name for path in (shop / "out").iterdir()) == ["shop"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--k-core=0"], "--k-core 0 is not at least 1"),
        (["--item-core=-1"], "--item-core -1 is not at least 1"),
        (["--max-items=0"], "--max-items 0 is not at least 1"),
        (["--text-fields=title,colour"], "--text-fields colour is no field of an item; choose from title, price"),
        (["--enrich=x", "--output=y"], "leave out --output"),
        ([], "--output is not given"),
        (["--output=x", "--category=Bread"], "2018 has no --category Bread; it has AMAZON_FASHION, All_Beauty"),
        (["--output=x"], "--reviews is not given: name a local file, or --category to download it"),
    ],
)
def test_options_that_cannot_be(tmp_path, monkeypatch, capsys, options, reason):
    monkeypatch.chdir(tmp_path)
    assert amazon.main(["--year=2018", *options]) == 1
    assert reason in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_found_before_the_reading(shop, capsys, monkeypatch):
    monkeypatch.setattr(amazon, "read_reviews", lambda *_: pytest.fail("was read"))
    (shop / "out").write_text("a file")
    assert convert(shop) == 1
    assert "out cannot be written: " in capsys.readouterr().err


# Downloads and pictures


def test_what_is_not_local_is_downloaded(tmp_path, monkeypatch):
    fetched = []

    def fetch(url, target):
        fetched.append(url)
        target.parent.mkdir(parents=True, exist_ok=True)
        write = write_metadata if "meta" in url else write_ratings
        return write(target, 2018)

    monkeypatch.setitem(sys.modules, "downloads", SimpleNamespace(fetch=fetch))
    assert convert(tmp_path, "--category=all beauty", f"--raw={tmp_path / 'raw'}") == 0
    release = amazon_sources.RELEASES[2018]
    assert fetched == [release.ratings.format("All_Beauty"), release.metadata.format("All_Beauty")]
    names = sorted(path.name for path in (tmp_path / "raw" / "amazon-2018").iterdir())
    assert names == ["All_Beauty.csv", "meta_All_Beauty.json.gz"]
    assert release.page in (tmp_path / "out" / "shop" / "README.md").read_text()


def test_without_the_extra_the_error_says_what_to_do(shop, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "downloads", None)
    monkeypatch.setitem(sys.modules, "pictures", None)
    assert convert(shop, images=True) == 1
    assert "then run python dataset_scripts/pictures.py" in capsys.readouterr().err
    assert (shop / "out" / "shop" / "shop.inter").is_file()
    (shop / "reviews").unlink()
    assert convert(shop, "--category=Software", "--overwrite") == 1
    assert "save https://mcauleylab.ucsd.edu/" in capsys.readouterr().err


def test_pictures_are_fetched_last_and_their_status_is_the_commands(shop, monkeypatch):
    seen = []

    def main(argv):
        seen.append((argv, sorted(path.name for path in Path(argv[0]).iterdir())))
        return 3

    monkeypatch.setitem(sys.modules, "pictures", SimpleNamespace(main=main))
    assert convert(shop, images=True) == 3
    out = shop / "out" / "shop"
    assert seen == [([str(out)], ["README.md", "image_urls.csv", "shop.inter", "shop.item", "shop.yaml"])]
    assert "modalities" not in yaml.safe_load((out / "shop.yaml").read_text())


# Enriching

RECBOLE_ITEMS = (
    "item_id:token\ttitle:token\tsales_rank:float\tcategories:token_seq\tprice:float\tbrand:token\n"
    "B00000000B\tOld\t1.0\t'Beauty'\t\t\n"
    "B00000000A\t\t2.0\tnan\t\tMine\n"
    '000000000C\t"C\tc"\t\t\t\t\n'
)


@pytest.fixture
def beauty(tmp_path):
    folder = tmp_path / "amazon-beauty"
    folder.mkdir()
    (folder / "amazon-beauty.item").write_text(RECBOLE_ITEMS.replace('"C\tc"', "Cc"))
    (folder / "amazon-beauty.inter").write_text("user_id:token\titem_id:token\nu\tB00000000A\n")
    return folder


@pytest.mark.parametrize("year", YEARS)
def test_enriching_fills_what_is_missing_and_changes_nothing_else(beauty, capsys, year):
    before = {path.name: path.read_bytes() for path in beauty.iterdir()}
    write_metadata(beauty.parent / "metadata", year)
    assert convert(beauty.parent, f"--enrich={beauty}", year=year) == 0
    old = rows_of(beauty / "amazon-beauty.item.original")
    header, *rows = rows_of(beauty / "amazon-beauty.item")
    more = ["description:token"] + ["features:token"] * (year != 2014)
    assert header == [*old[0], *more]
    title, price, _, categories, *rest = TEXTS_OF_A[year]
    filled_price = price if "," not in price else ""  # no number for a field of numbers
    assert rows == [
        ["B00000000B", "Old", "1.0", "'Beauty'", "", "", *[""] * len(more)],
        ["B00000000A", title, "2.0", categories, filled_price, "Mine", *rest[: len(more)]],
        ["000000000C", "Cc", "", "", "", "", *[""] * len(more)],
    ]
    assert (beauty / "amazon-beauty.item.original").read_bytes() == before["amazon-beauty.item"]
    assert (beauty / "amazon-beauty.inter").read_bytes() == before["amazon-beauty.inter"]
    assert "2 of 3 items are in the metadata" in capsys.readouterr().out
    assert "2 of 3 items are in the metadata" in (beauty / "README.md").read_text()
    assert yaml.safe_load((beauty / "amazon-beauty.yaml").read_text()) == {
        "text_fields": ["title", "price", "brand", "categories", "description"]
    }
    with open(beauty / "image_urls.csv", newline="") as file:
        assert list(csv.reader(file))[1:] == [["B00000000A", url] for url in URLS_OF_A[year]]


def test_enriching_leaves_a_yaml_of_the_users_and_narrows_nothing(beauty, capsys):
    write_metadata(beauty.parent / "metadata", 2018)
    (beauty / "amazon-beauty.yaml").write_text("text_fields: [title]\n")
    assert convert(beauty.parent, f"--enrich={beauty}") == 0
    assert (beauty / "amazon-beauty.yaml").read_text() == "text_fields: [title]\n"
    assert "now there could be text_fields: [title, price, brand, categories, desc" in capsys.readouterr().out
    assert convert(beauty.parent, f"--enrich={beauty}", "--max-items=5") == 1
    assert "leaves the interactions as they are; leave --max-items out" in capsys.readouterr().err


def test_enriching_twice_adds_up_and_keeps_the_first_original(beauty):
    for year in (2014, 2018):
        write_metadata(beauty.parent / "metadata", year)
        assert convert(beauty.parent, f"--enrich={beauty}", year=year) == 0
    header, _, row, _ = rows_of(beauty / "amazon-beauty.item")
    named = dict(zip(header, row, strict=True))
    assert named["title:token"] == TEXTS_OF_A[2014][0]
    assert named["features:token"] == TEXTS_OF_A[2018][5]
    assert len(rows_of(beauty / "amazon-beauty.item.original")[0]) == 6
    with open(beauty / "image_urls.csv", newline="") as file:
        assert list(csv.reader(file))[1:] == [["B00000000A", url] for url in URLS_OF_A[2014]]


def test_enriching_leaves_the_items_alone_when_it_fails(beauty, capsys, monkeypatch):
    write_metadata(beauty.parent / "metadata", 2018)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = (beauty / "amazon-beauty.item").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(amazon_enrich, "write_atomic", full)
        assert convert(beauty.parent, f"--enrich={beauty}") == 1
    assert "amazon-beauty cannot be written: No space left on device" in capsys.readouterr().err
    assert (beauty / "amazon-beauty.item").read_bytes() == before
    assert not list(beauty.glob(".*"))
    assert convert(beauty.parent, f"--enrich={beauty.parent}") == 1
    assert "name a dataset folder with its items" in capsys.readouterr().err
    (beauty / "amazon-beauty.item").write_text("asin:token\nx\n")
    assert convert(beauty.parent, f"--enrich={beauty}") == 1
    assert "has no field item_id, only asin" in capsys.readouterr().err
