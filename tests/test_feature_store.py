import json
import re

import numpy as np
import pytest
import torch
from conftest import open_demo

from recbole_sda.catalog import Catalog
from recbole_sda.encoders.batching import collate_items
from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureProvider, FeatureStore, write_store
from recbole_sda.features.embed import embed_catalog

TOKENS = ["b", "a", "Été 東京", "10", "with space"]
PRESENT = np.array([True, True, False, True, True])


def write(folder, tokens=TOKENS, dtype="float16", **modalities):
    """A store of drawn values. Returns: the folder, modality → what was put in."""
    folder.mkdir(exist_ok=True)
    draw = np.random.default_rng(0)
    values = {
        name: draw.normal(size=(len(tokens), 3 + number)).astype(dtype)
        for number, name in enumerate(("image", "text"))
    }
    for name, rows in values.items():
        np.save(folder / f"{name}.npy", rows)
    marks = {"image": PRESENT, "text": ~PRESENT, **modalities}
    write_store(folder, tokens, marks, settings={"domain": "Größe"})
    return folder, values


@pytest.fixture
def store(tmp_path):
    return write(tmp_path / "store")[0]


# the store


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("verify", [False, True])
def test_store_gives_back_what_went_in(tmp_path, dtype, verify):
    folder, values = write(tmp_path / "store", dtype=dtype)
    store = FeatureStore.open(folder, verify=verify)
    assert store.tokens == TOKENS
    assert len(store) == 5
    assert store.modalities == ("image", "text")
    for name, rows in values.items():
        found = store.values(name)
        assert isinstance(found, np.memmap)
        assert not found.flags.writeable
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, rows)
    np.testing.assert_array_equal(store.present("image"), PRESENT)
    np.testing.assert_array_equal(store.present("text"), ~PRESENT)
    assert store.manifest["modalities"] == {"image": 4, "text": 1}
    assert store.manifest["settings"] == {"domain": "Größe"}


def test_opening_reads_no_embedding(store, monkeypatch):
    loaded, load = [], np.load

    def watch(path, **options):
        loaded.append((path.name, options.get("mmap_mode")))
        return load(path, **options)

    monkeypatch.setattr(np, "load", watch)
    FeatureStore.open(str(store))
    assert all(mode == "r" for name, mode in loaded if not name.endswith(".present.npy"))


@pytest.mark.parametrize("sign", ["\x85", "\u2028", "\x0b", "\x1c", "\r"])
def test_tokens_may_hold_signs_that_python_takes_for_line_ends(tmp_path, sign):
    tokens = ["a", f"b{sign}c", "d", "e", f"{sign}"]
    store = FeatureStore.open(write(tmp_path / "store", tokens)[0])
    assert store.tokens == tokens


def test_unknown_modality_is_named(store):
    for read in (FeatureStore.open(store).values, FeatureStore.open(store).present):
        with pytest.raises(SDAError, match="holds image, text; it has no modality 'audio'"):
            read("audio")


def test_nothing_is_pickled(store):
    files = {path.name for path in store.iterdir()}
    assert files == {
        "items.txt",
        "manifest.json",
        "image.npy",
        "image.present.npy",
        "text.npy",
        "text.present.npy",
    }
    for path in store.glob("*.npy"):
        np.load(path, allow_pickle=False)
    # and a pickled file in its place is refused, not run
    np.save(store / "image.npy", np.array([{}] * 5, dtype=object))
    write_store(store, TOKENS, {"image": PRESENT, "text": PRESENT}, settings={})
    with pytest.raises(ValueError, match=r"[Oo]bject|allow_pickle"):
        FeatureStore.open(store)


# refusals


def change_manifest(folder, **values):
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def flip_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["image.npy", "text.npy", "image.present.npy", "text.present.npy", "items.txt"])
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


@pytest.mark.parametrize("number", [0, 2, "1", None])
def test_other_formats_are_refused(store, number):
    change_manifest(store, format=number)
    with pytest.raises(SDAError, match=re.escape(f"store format {number!r}, this version reads 1")):
        FeatureStore.open(store)


def test_counts_that_do_not_match_are_refused(store):
    change_manifest(store, items=6)
    with pytest.raises(SDAError, match=r"items\.txt has 5 items, the manifest 6; embed again"):
        FeatureStore.open(store)


@pytest.mark.parametrize(("tokens", "present"), [(TOKENS[:4], PRESENT), (TOKENS, PRESENT[:4])])
def test_rows_that_do_not_match_the_items_are_refused(store, tokens, present):
    write_store(store, tokens, {"image": PRESENT[: len(tokens)], "text": present}, settings={})
    with pytest.raises(SDAError, match=f"rows and . marks of presence for {len(tokens)} items"):
        FeatureStore.open(store)


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


def test_provider_names_the_items_it_does_not_know(store):
    with pytest.raises(SDAError, match="belongs to another catalogue: it lacks 7 of 8 items") as error:
        FeatureProvider(FeatureStore.open(store), ["a", *(f"z{number}" for number in range(7))])
    message = str(error.value)
    assert str(store) in message
    assert all(f"'z{number}'" in message for number in range(5))
    assert "z5" not in message


# from a catalogue


def embed(folder, catalog, backbone, **options):
    folder.mkdir()
    options = {"modalities": ["image", "text"], "batch_tokens": 200, "dtype": "float16", **options}
    embed_catalog(folder, catalog, backbone, settings={}, show_progress=False, **options)
    return FeatureStore.open(folder, verify=True)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, catalog, tiny):
    return embed(tmp_path_factory.mktemp("features") / "store", catalog, tiny)


@torch.no_grad()
@pytest.mark.parametrize("modality", ["image", "text"])
def test_rows_are_what_the_backbone_says_of_each_item(embedded, catalog, tiny, modality):
    assert embedded.tokens == list(catalog.tokens)
    rows, present = embedded.values(modality), embedded.present(modality)
    assert rows.dtype == np.float16
    assert rows.shape == (60, tiny.hidden_size)
    np.testing.assert_array_equal(present, catalog.present(modality))
    assert 0 < (~present).sum() < 60
    assert not rows[~present].any()
    for row in np.flatnonzero(present):
        alone = tiny(modality, collate_items(catalog, tiny, modality, [row]))[0].numpy()
        np.testing.assert_allclose(rows[row], alone, rtol=2e-3, atol=1e-4)
    assert len(np.unique(rows[present], axis=0)) > 50


def test_batch_size_does_not_change_the_store(tmp_path, embedded, catalog, tiny):
    alone = embed(tmp_path / "store", catalog, tiny, batch_tokens=1, dtype="float32", modalities=["text"])
    assert alone.modalities == ("text",)
    assert alone.values("text").dtype == np.float32
    np.testing.assert_allclose(embedded.values("text"), alone.values("text"), rtol=2e-3, atol=1e-4)


def test_item_without_anything_is_kept_as_missing(tmp_path, demo_folder, tiny):
    catalog = Catalog.open(demo_folder, ["P0003", "unheard of", "P0001"], show_progress=False)
    store = embed(tmp_path / "store", catalog, tiny)
    assert store.tokens == ["P0003", "unheard of", "P0001"]
    for modality in ("image", "text"):
        assert store.present(modality).tolist() == [True, False, True]
        assert not store.values(modality)[1].any()


@pytest.mark.parametrize("bad", [7e4, float("inf"), float("nan")])
def test_values_that_float16_cannot_hold_stop_with_the_remedy(tmp_path, demo_folder, tiny, monkeypatch, bad):
    forward = type(tiny).forward

    def spoil(self, modality, inputs):
        rows = forward(self, modality, inputs)
        rows[0, 0] = bad
        return rows

    monkeypatch.setattr(type(tiny), "forward", spoil)
    with pytest.raises(SDAError, match="text embeddings are not finite in feature_dtype=float16; use float32"):
        embed(tmp_path / "store", open_demo(demo_folder), tiny, modalities=["text"])
    if bad == 7e4:
        rows = embed(tmp_path / "wide", open_demo(demo_folder), tiny, modalities=["text"], dtype="float32")
        assert rows.values("text").max() == 7e4
