"""Modalities by name and kind: what is read from where, and what an unknown or absent one says."""

import pickle

import numpy as np
import pytest
from PIL import Image

from recbole_sda.catalog import Audio, Catalog, Skipped, read_skipped, write_demo, write_skipped
from recbole_sda.catalog import checks as checks_module
from recbole_sda.catalog.atomic import write_atomic
from recbole_sda.catalog.sounds import write_wave
from recbole_sda.errors import SDAError

pytest.importorskip("soundfile")

TOKENS = ("a", "b", "c")


def open_quietly(folder, tokens=TOKENS, **options):
    return Catalog.open(folder, tokens, show_progress=False, **options)


@pytest.fixture
def shop(tmp_path):
    """Text, image, a second kind of pictures, audio and vectors; item c has none of them."""
    folder = tmp_path / "shop"
    for name, colour in (("images", "red"), ("back", "blue")):
        (folder / name).mkdir(parents=True)
        for token in "ab":
            Image.new("RGB", (6, 5), colour).save(folder / name / f"{token}.png")
    (folder / "audio").mkdir()
    for number, token in enumerate("ab"):
        write_wave(folder / "audio" / f"{token}.wav", np.full(800 + number, 1000 * number, dtype="<i2"))
    np.save(folder / "graph.npy", np.arange(8, dtype=np.float64).reshape(2, 4))
    (folder / "graph.items.txt").write_text("b\na\n")
    write_atomic(folder / "shop.item", ["item_id:token", "title:token"], [["a", "A"], ["b", "B"], ["c", ""]])
    return folder


ALL = {"image": "image", "text": "text", "audio": "audio", "back": "image", "graph": "vectors"}


def test_every_kind_side_by_side(shop):
    catalog = open_quietly(shop, modalities=[*ALL], kinds={"back": "image"})
    assert list(catalog.kinds.items()) == list(ALL.items())
    for modality in ALL:
        assert catalog.present(modality).tolist() == [True, True, False]
        assert catalog.present(modality).dtype == np.bool_
    assert catalog.load("image", 0).getpixel((0, 0)) == (255, 0, 0)
    assert catalog.load("back", 0).getpixel((0, 0)) == (0, 0, 255)
    assert isinstance(catalog.load("audio", 1), Audio)
    assert catalog.load("graph", 0).tolist() == [4, 5, 6, 7]
    assert catalog.load("text", 1) == {"title": "B"} == catalog.item(1)
    assert {modality: catalog.sizes(modality).tolist() for modality in ALL if modality != "text"} == {
        "image": [[5, 6], [5, 6], [0, 0]],
        "back": [[5, 6], [5, 6], [0, 0]],
        "audio": [[800, 16_000], [801, 16_000], [0, 0]],
        "graph": [[1, 4], [1, 4], [0, 0]],
    }
    assert all(catalog.sizes(modality).dtype == np.int32 for modality in ALL if modality != "text")
    for ask in (catalog.sizes, catalog.contents):
        with pytest.raises(ValueError, match="prompt"):
            ask("text")
    for modality in ("image", "audio", "graph"):
        with pytest.raises(SDAError, match=f"item 'c' has no {modality}; ask present"):
            catalog.load(modality, 2)
    assert catalog.counts() == {
        "items": 3, "with_all": 2, "without_image": 1, "without_text": 1, "without_audio": 1, "without_back": 1,
        "without_graph": 1, "absent": 0, "skipped": 0, "ignored": 0,
    }  # fmt: skip
    assert "3 items, 2 with image, text, audio, back and graph, 1 without image" in catalog.summary()
    with pytest.raises(SDAError, match="'video' is unknown to the catalogue; choose image, text, audio, back or"):
        catalog.present("video")


def test_it_travels_to_other_processes_without_its_contents(shop):
    np.save(shop / "graph.npy", np.zeros((2, 500_000), dtype=np.float32))
    catalog = open_quietly(shop, modalities=[*ALL], kinds={"back": "image"})
    catalog.load("graph", 0)  # opens what must not travel
    data = pickle.dumps(catalog)
    assert len(data) < 10_000
    other = pickle.loads(data)
    for modality in ALL:
        assert other.fingerprint(modality) == catalog.fingerprint(modality)
    assert other.load("audio", 1).samples.tolist() == catalog.load("audio", 1).samples.tolist()
    assert other.load("graph", 1).shape == (500_000,)


def test_equal_contents_are_equal_by_content_not_by_name(shop):
    (shop / "images" / "c.jpg").write_bytes((shop / "images" / "a.png").read_bytes())
    Image.new("RGB", (6, 5), "green").save(shop / "images" / "b.png")
    first, second, third = open_quietly(shop).contents("image")
    assert first == third != second
    assert len(first) == 64


def test_only_what_is_asked_for_is_read(shop):
    (shop / "images" / "a.png").write_bytes(b"broken")
    catalog = open_quietly(shop, modalities=["text", "graph"], strict=True)
    assert catalog.skipped == []
    assert list(catalog.kinds) == ["text", "graph"]


def test_fingerprints_of_image_and_text_do_not_depend_on_the_other_modalities(shop):
    two, five = open_quietly(shop), open_quietly(shop, modalities=[*ALL], kinds={"back": "image"})
    for modality in two.kinds:
        assert two.fingerprint(modality) == five.fingerprint(modality)
    assert len({five.fingerprint(modality) for modality in five.kinds}) == 5


def test_fingerprints_keep_their_value(tmp_path):
    """As the first stores were made with: another value would make every one of them anew."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(PIXEL)
    write_atomic(tmp_path / "d.item", ["item_id:token", "title:token"], [["a", "A"]])
    catalog = open_quietly(tmp_path, ["a", "b"], name="d")
    assert catalog.present("image").tolist() == [True, False]
    assert [catalog.fingerprint(modality)[:16] for modality in ("image", "text")] == FIRST_FINGERPRINTS


PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c4944415478da63f8cfc0000003010100f7034143"
    "0000000049454e44ae426082"
)
FIRST_FINGERPRINTS = ["309cb2c126c7bf7d", "ca72d6fcf5b34695"]


@pytest.mark.parametrize("modality", ["image", "audio", "text"])
def test_a_standard_modality_whose_place_is_missing_may_be_vectors(tmp_path, modality):
    np.save(tmp_path / f"{modality}.npy", np.ones((1, 2)))
    (tmp_path / f"{modality}.items.txt").write_text("a\n")
    catalog = open_quietly(tmp_path, modalities=[modality])
    assert catalog.kinds == {modality: "vectors"}
    assert catalog.present(modality).tolist() == [True, False, False]


def test_files_go_before_vectors_of_the_same_name(shop):
    np.save(shop / "audio.npy", np.ones((1, 2)))
    assert open_quietly(shop, modalities=["audio"]).kinds == {"audio": "audio"}
    (shop / "audio.items.txt").write_text("a\n")
    assert open_quietly(shop, modalities=["audio"], kinds={"audio": "vectors"}).kinds == {"audio": "vectors"}


@pytest.mark.parametrize(
    ("modalities", "kinds", "message"),
    [
        (["smell"], {}, r"modality 'smell': no .*smell\.npy exists; .*modality_kinds=\{smell: KIND\} \(text"),
        (["audio"], {}, r"modality 'audio': neither .*/audio nor .*/audio\.npy exists"),
        (["cover"], {"cover": "image"}, r"modality 'cover' of kind image: .*/cover does not exist; put it there"),
        (["sound"], {"sound": "audio"}, r"modality 'sound' of kind audio: .*/sound does not exist"),
        (["text"], {"text": "vectors"}, r"modality 'text' of kind vectors: .*text\.npy does not exist"),
        (["x"], {"x": "video"}, r"modality_kinds: x: 'video' is unknown; choose text, image, audio, vectors"),
        (["../x"], {}, r"modalities: '\.\./x' is no name"),
        ([""], {}, "modalities: '' is no name"),
        ([3], {}, "modalities: 3 is no name"),
        (["text", "text"], {}, r"modalities=\['text', 'text'\] names one twice"),
    ],
)
def test_what_is_not_there_is_named_with_where_it_was_looked_for(tmp_path, modalities, kinds, message):
    with pytest.raises(SDAError, match=message):
        open_quietly(tmp_path, modalities=modalities, kinds=kinds)


def test_a_dataset_without_pictures_and_texts_is_one_where_no_item_has_them(tmp_path):
    catalog = open_quietly(tmp_path)
    assert not catalog.present("image").any()
    assert not catalog.present("text").any()
    assert catalog.counts()["with_all"] == 0


def test_names_of_items_and_files_print_as_plain_text(shop):
    for name in ("a\x1b[2J\n.png", "a\x1b[2J\n.jpg"):
        (shop / "images" / name).write_bytes((shop / "images" / "a.png").read_bytes())
    catalog = open_quietly(shop, ["a\x1b[2J\n"])
    assert catalog.present("image").tolist() == [True]
    lines = catalog.summary().split("\n  ")
    assert "1 items are not in shop.item: a\\x1b[2J\\n" in lines
    assert "image: 1 second files of an item not used: a\\x1b[2J\\n.png" in lines


def test_an_item_file_that_is_none_is_an_error(tmp_path):
    (tmp_path / "d.item").mkdir()
    with pytest.raises(SDAError, match=r"d\.item is not a regular file"):
        open_quietly(tmp_path, name="d")


def test_one_index_a_modality(shop, tmp_path, monkeypatch):
    options = {"modalities": ["image", "back", "audio"], "kinds": {"back": "image"}}
    options["index_folder"] = tmp_path / "index"
    first = open_quietly(shop, **options)
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
        "shop-audio.csv",
        "shop-back.csv",
        "shop-image.csv",
    ]
    monkeypatch.setattr(checks_module, "_check", None)  # nothing is left to check
    second = open_quietly(shop, **options)
    for modality in first.kinds:
        assert second.fingerprint(modality) == first.fingerprint(modality)
        assert second.sizes(modality).tolist() == first.sizes(modality).tolist()


def test_strict_does_not_check_the_rest(tmp_path, monkeypatch):
    tokens = [f"{number:03}" for number in range(200)]
    (tmp_path / "images").mkdir()
    for token in tokens:
        (tmp_path / "images" / f"{token}.png").write_bytes(b"no picture")
    read, seen = checks_module.read_file, []

    def counting(path):
        seen.append(path)
        return read(path)

    monkeypatch.setattr(checks_module, "read_file", counting)
    with pytest.raises(SDAError, match=r"item '000', image 000\.png: not a JPEG"):
        open_quietly(tmp_path, tokens, strict=True, workers=1)
    assert len(seen) < 100


def test_the_demo_has_three_modalities_when_asked(tmp_path):
    folder = write_demo(tmp_path / "demo", items=50, users=5, audio=True)
    catalog = open_quietly(folder, [f"P{k:04}" for k in range(50)], modalities=["image", "text", "audio"])
    counts = catalog.counts()
    assert [counts[f"without_{modality}"] for modality in catalog.kinds] == [1, 1, 1]
    assert catalog.skipped == []
    assert set(map(tuple, catalog.sizes("audio")[catalog.present("audio")].tolist())) == {(8_000, 16_000)}


# the list of refused files


RECORDS = [
    Skipped("b", "image", "b.png", "an empty file"),
    Skipped('a "quoted", item', "image", "x, y.png", 'says "no", twice'),
    Skipped("a\tb", "audio", "\\n.wav", ""),
    Skipped("line\r\nbreak\rhere", "image", "é🎬.jpg", "x"),
    Skipped("", "graph", "graph.npy[3]", "value 1 is nan"),
]


def test_the_list_round_trips_sorted_and_to_the_byte(tmp_path):
    path = tmp_path / "skipped.csv"
    write_skipped(path, RECORDS)
    data = path.read_bytes()
    assert data.startswith(b'"item","modality","file","reason"\n')
    assert read_skipped(path) == sorted(RECORDS)
    write_skipped(path, reversed(RECORDS))
    assert path.read_bytes() == data
    write_skipped(path, [])
    assert read_skipped(path) == []


@pytest.mark.parametrize(
    "content", [b"", b"item,modality\na,b\n", b"item,modality,file,reason\na,b\n", b"\xff\xfe", b"a\n" * 9]
)
def test_another_file_is_no_list(tmp_path, content):
    (tmp_path / "skipped.csv").write_bytes(content)
    with pytest.raises(SDAError, match="needs the columns item, modality, file, reason"):
        read_skipped(tmp_path / "skipped.csv")
    with pytest.raises(SDAError, match="cannot be read: No such file"):
        read_skipped(tmp_path / "gone.csv")
