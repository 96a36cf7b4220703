import json
import re

import numpy as np
import pytest
import torch

from recbole_sda.catalog.skipped import Skipped
from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureProvider, FeatureStore, write_store
from recbole_sda.features.arrays import array_dtype, create_array

TOKENS = ["b", "a", "Été 東京", "10", "with space"]
PRESENT = np.array([True, True, False, True, True])


SKIPPED = [Skipped("a", "image", "a,1.jpg", 'truncated "at" 12 bytes'), Skipped("10", "image", "10.gif", "a bomb")]


def write(folder, tokens=TOKENS, dtype="float16", **modalities):
    """A store of drawn values. Returns: the folder, modality → what was put in."""
    folder.mkdir(exist_ok=True)
    draw = np.random.default_rng(0)
    values, marks = {}, {"image": PRESENT, "text": ~PRESENT, **modalities}
    for number, name in enumerate(marks):
        values[name] = draw.normal(size=(len(tokens), 3 + number)).astype(array_dtype(dtype))
        array = create_array(folder / f"{name}.npy", dtype=values[name].dtype, shape=values[name].shape)
        array[:] = values[name]
        array.flush()
    contents = {"text": np.arange(len(tokens) * 16, dtype=np.uint8).reshape(-1, 16)}
    write_store(folder, tokens, marks, settings={"domain": "Größe"}, contents=contents, skipped=SKIPPED)
    return folder, values


@pytest.fixture
def store(tmp_path):
    return write(tmp_path / "store")[0]


# the store


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("verify", [False, True])
def test_store_gives_back_what_went_in(tmp_path, dtype, verify):
    folder, values = write(tmp_path / "store", dtype=dtype)
    store = FeatureStore.open(folder, verify=verify)
    assert store.tokens == TOKENS
    assert len(store) == 5
    assert store.modalities == ("image", "text")
    assert store.dtype == array_dtype(dtype)
    for name, rows in values.items():
        found = store.values(name)
        assert isinstance(found, np.memmap)
        assert not found.flags.writeable
        assert found.dtype == dtype
        assert found.tobytes() == rows.tobytes()
        assert store.width(name) == rows.shape[1]
    np.testing.assert_array_equal(store.present("image"), PRESENT)
    np.testing.assert_array_equal(store.present("text"), ~PRESENT)
    assert store.contents("image") is None
    np.testing.assert_array_equal(store.contents("text").ravel(), np.arange(80))
    assert store.skipped() == sorted(SKIPPED)
    assert store.manifest["settings"] == {"domain": "Größe"}
    assert repr(store) == f"FeatureStore('{folder}', 5 items, image 3 + text 4, {dtype})"


@pytest.mark.parametrize("at_once", [1, 2, 1024])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rows_by_item_token(tmp_path, monkeypatch, dtype, at_once):
    monkeypatch.setattr("recbole_sda.features.store.TAKEN_ROWS", at_once)
    folder, values = write(tmp_path / "store", dtype=dtype)
    store = FeatureStore.open(folder)
    for wanted in (TOKENS[::-1], ["10", "b", "10"], []):
        rows = store.rows(wanted)
        assert rows.dtype == np.int64
        assert [TOKENS[row] for row in rows] == wanted
        got = store.get("text", wanted)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, values["text"][rows].astype(np.float32))
        assert store.take("text", rows).dtype == array_dtype(dtype)
    with pytest.raises(SDAError, match=r"lacks 2 of 3 items, the first 'x', ' b'"):
        store.get("text", ["x", "b", " b"])


def test_plain_numpy_opens_bfloat16_without_a_pickle(tmp_path):
    folder, values = write(tmp_path / "store", dtype="bfloat16")
    plain = np.load(folder / "image.npy", allow_pickle=False)
    assert plain.dtype == np.dtype("V2")
    bits = torch.from_numpy(plain.view(np.int16)).view(torch.bfloat16)
    np.testing.assert_array_equal(bits.float().numpy(), values["image"].astype(np.float32))


def test_opening_reads_neither_tokens_nor_embeddings(tmp_path):
    """A terabyte that is not there: sparse files, whose bytes would take hours to read."""
    items, width = 150_000_000, 3584
    for name, shape in (("image.npy", (items, width)), ("image.present.npy", (items,))):
        with (tmp_path / name).open("wb") as file:
            header = {"descr": "<f2" if len(shape) == 2 else "|b1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + items * (width * 2 if len(shape) == 2 else 1))
    (tmp_path / "items.txt").write_bytes(b"")
    (tmp_path / "skipped.csv").write_bytes(b"")
    manifest = {
        "format": 2,
        "items": items,
        "dtype": "float16",
        "modalities": {"image": {"width": width, "present": 0, "contents": False}},
        "settings": {},
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": "0" * 64} for path in list(tmp_path.iterdir())
        },
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    store = FeatureStore.open(tmp_path)
    assert store.values("image").shape == (items, width)
    assert not store.take("image", np.array([items - 1, 0])).any()
    with pytest.raises(SDAError, match="has 0 items, the manifest 150000000"):
        _ = store.tokens


@pytest.mark.parametrize("sign", ["\x85", "\u2028", "\x0b", "\x1c", "\r"])
def test_tokens_may_hold_signs_that_python_takes_for_line_ends(tmp_path, sign):
    tokens = ["a", f"b{sign}c", "d", "e", f"{sign}"]
    store = FeatureStore.open(write(tmp_path / "store", tokens)[0])
    assert store.tokens == tokens


def test_a_store_of_no_items(tmp_path):
    none = np.zeros(0, dtype=bool)
    create_array(tmp_path / "image.npy", dtype=np.dtype(np.float16), shape=(0, 4))
    write_store(tmp_path, [], {"image": none}, settings={})
    store = FeatureStore.open(tmp_path, verify=True)
    assert store.get("image", []).shape == (0, 4)


def test_unknown_modality_is_named(store):
    opened = FeatureStore.open(store)
    for read in (opened.values, opened.present, opened.contents, opened.width, lambda m: opened.get(m, ["a"])):
        with pytest.raises(SDAError, match="holds image, text; it has no modality 'audio'"):
            read("audio")


def test_nothing_is_pickled(store):
    assert {path.name for path in store.iterdir()} == {
        *("items.txt", "manifest.json", "skipped.csv", "image.npy", "image.present.npy"),
        *("text.npy", "text.present.npy", "text.content.npy"),
    }
    for path in store.glob("*.npy"):
        np.load(path, allow_pickle=False)
    # and a pickled file in its place is refused, not run
    np.save(store / "image.npy", np.array([{}] * 5, dtype=object))
    change_manifest(store, files={**read_files(store), "image.npy": recorded(store / "image.npy")})
    with pytest.raises(SDAError, match=r"image\.npy cannot be read as an \.npy array: .*Python objects"):
        FeatureStore.open(store)


# refusals


def change_manifest(folder, **values):
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def read_files(folder):
    return json.loads((folder / "manifest.json").read_text())["files"]


def recorded(path):
    return {"bytes": path.stat().st_size, "sha256": "0" * 64}


def flip_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name", ["image.npy", "image.present.npy", "text.content.npy", "items.txt", "skipped.csv"]
)
def test_damaged_files_are_refused_by_name(tmp_path, name):
    flipped = write(tmp_path / "flipped")[0]
    flip_last_byte(flipped / name)
    with pytest.raises(SDAError, match=f"{re.escape(name)} does not match its checksum; embed again"):
        FeatureStore.open(flipped, verify=True)

    cut = write(tmp_path / "cut")[0]
    whole = (cut / name).read_bytes()
    (cut / name).write_bytes(whole[:-1])
    message = f"{re.escape(name)} has {len(whole) - 1} bytes, {len(whole)} were written; embed again"
    with pytest.raises(SDAError, match=message):
        FeatureStore.open(cut)

    (cut / name).unlink()
    with pytest.raises(SDAError, match=f"lacks .*{re.escape(name)}; embed again"):
        FeatureStore.open(cut)


def test_folders_that_are_no_store_are_refused(tmp_path, store):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(SDAError, match=r"is no feature store: it has no manifest\.json"):
            FeatureStore.open(folder)
    (store / "manifest.json").unlink()
    with pytest.raises(SDAError, match=f"{re.escape(str(store))} is no feature store"):
        FeatureStore.open(store)


def test_broken_manifest_is_refused(store):
    file = store / "manifest.json"
    file.write_text(file.read_text()[:-20])
    with pytest.raises(SDAError, match=r"manifest\.json is not JSON .* embed again"):
        FeatureStore.open(store)


@pytest.mark.parametrize("number", [0, 1, 3, "2", 2.0, None])
def test_other_formats_are_refused(store, number):
    change_manifest(store, format=number)
    with pytest.raises(SDAError, match=re.escape(f"store format {number!r}, this version reads 2")):
        FeatureStore.open(store)


@pytest.mark.parametrize(
    ("tokens", "marks", "dtype", "message"),
    [
        (TOKENS[:4], PRESENT[:4], "float16", "image: 5 rows"),
        (TOKENS, PRESENT[:4], "float16", r"\(4,\) marks of presence for 5 items"),
        (TOKENS, PRESENT, "float64", "float64, not"),
        (TOKENS, PRESENT, "float32", "one dtype"),
    ],
)
def test_what_does_not_fit_together_is_not_finished(store, tokens, marks, dtype, message):
    np.save(store / "image.npy", np.zeros((5, 3), dtype=dtype))
    with pytest.raises(ValueError, match=message):
        write_store(store, tokens, {"image": marks, "text": PRESENT}, settings={})
    with pytest.raises(SDAError, match="no feature store"):
        FeatureStore.open(store)


@pytest.mark.parametrize(
    ("token", "message"), [("two\nlines", "line break"), ("a", "'a' is there twice; 1 identifiers are repeated")]
)
def test_tokens_that_a_store_cannot_hold_are_refused(tmp_path, token, message):
    with pytest.raises(SDAError, match=message):
        write(tmp_path / "store", [*TOKENS[:4], token])


# by item token


def test_provider_finds_rows_by_token(tmp_path):
    folder, values = write(tmp_path / "store")
    for wanted in (TOKENS, TOKENS[::-1], ["10", "b"], ["a", "a"], []):
        provider = FeatureProvider(FeatureStore.open(folder), wanted)
        assert len(provider) == len(wanted)
        assert provider.modalities == ("image", "text")
        rows = [TOKENS.index(token) for token in wanted]
        for name, given in values.items():
            assert provider.width(name) == given.shape[1]
            np.testing.assert_array_equal(provider.values(name), given[rows])
            np.testing.assert_array_equal(provider.values(name, 1, 3), given[rows[1:3]])
            np.testing.assert_array_equal(provider.values(name, 1), given[rows[1:]])
        np.testing.assert_array_equal(provider.present("image"), PRESENT[rows])


def test_provider_gives_torch_a_dtype_that_it_knows(tmp_path):
    for stored, given in (("float16", "float16"), ("float32", "float32"), ("bfloat16", "float32")):
        folder, values = write(tmp_path / stored, dtype=stored)
        rows = FeatureProvider(FeatureStore.open(folder), ["10", "b"]).values("image")
        assert torch.from_numpy(rows).dtype == getattr(torch, given)
        np.testing.assert_array_equal(rows, values["image"][[3, 0]].astype(given))


def test_provider_names_the_items_it_does_not_know(store):
    with pytest.raises(SDAError, match=r"lacks 7 of 8 items, the first .*--missing_features=learn") as error:
        FeatureProvider(FeatureStore.open(store), ["a", *(f"z{number}" for number in range(7))])
    message = str(error.value)
    assert str(store) in message
    assert all(f"'z{number}'" in message for number in range(5))
    assert "z5" not in message
