import numpy as np
import pytest

from recbole_sda.features.provider import StoredModality
from recbole_sda.features.store import FeatureStore, write_store
from recbole_sda.report.page import spaces
from recbole_sda.report.page.spaces import Space

ITEMS, WIDTH = 37, 6


def make_space(folder, vectors, present=None, label="sda"):
    """A store of these vectors, as a space of all its items."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = [f"i{number}" for number in range(len(next(iter(vectors.values()))))]
    present = present or {modality: np.ones(len(tokens), bool) for modality in vectors}
    for modality, values in vectors.items():
        np.save(folder / f"{modality}.npy", np.where(present[modality][:, None], values, 0).astype(np.float32))
    write_store(folder, tokens, present, settings={"adapter": "none"})
    store = FeatureStore.open(folder)
    return Space(label, {m: StoredModality(store, m) for m in vectors}, tuple(tokens))


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A space with gaps whose slices have five rows; vectors share a direction, as pooled embeddings do."""
    monkeypatch.setattr(spaces, "SLICE_BYTES", 5 * 4 * WIDTH)
    generator = np.random.default_rng(3)
    vectors = {m: generator.normal(size=(ITEMS, WIDTH)) + 4 for m in ("image", "text")}
    present = {m: generator.random(ITEMS) > 0.2 for m in vectors}
    return make_space(tmp_path / "store", vectors, present), vectors, present


def units(values, present):
    centred = values.astype(np.float32) - values.astype(np.float32)[present].mean(axis=0)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)


def test_own_cosines_are_those_of_centred_vectors_and_undefined_where_one_is_missing(drawn):
    space, vectors, present = drawn
    both = present["image"] & present["text"]
    expected = (units(vectors["image"], present["image"]) * units(vectors["text"], present["text"])).sum(axis=1)
    found = space.pair_cosines("image", "text")
    assert np.array_equal(np.isnan(found), ~both)
    assert 0 < both.sum() < ITEMS
    np.testing.assert_allclose(found[both], expected[both], atol=1e-5)


@pytest.mark.parametrize("k", [1, 4, 100])
def test_neighbours_are_those_of_comparing_every_one(drawn, k):
    space, vectors, present = drawn
    rows = np.flatnonzero(present["text"])
    queries = [space.tokens[row] for row in rows[:6]]
    unit = units(vectors["text"], present["text"])
    for query, found in zip(queries, space.nearest("text", queries, k=k), strict=True):
        cosines = unit @ unit[space.tokens.index(query)]
        others = sorted((row for row in rows if space.tokens[row] != query), key=lambda row: -cosines[row])[:k]
        assert [neighbour.token for neighbour in found] == [space.tokens[row] for row in others]
        np.testing.assert_allclose([n.cosine for n in found], cosines[others], atol=1e-5)


def test_an_item_without_the_modality_has_no_neighbours(drawn):
    space, _, present = drawn
    lacking, having = (space.tokens[np.flatnonzero(has)[0]] for has in (~present["text"], present["text"]))
    found = space.nearest("text", [lacking, having, "unknown"], k=3)
    assert list(map(len, found)) == [0, 3, 0]


def test_an_item_that_the_store_lacks_counts_as_without_the_modality(drawn):
    space, _, _ = drawn
    known = space.tokens[np.flatnonzero(space.provider.present("image"))[0]]
    found = space.vectors("image", ["unknown", known])
    assert not found[0].any()
    assert np.linalg.norm(found[1]) == pytest.approx(1)
