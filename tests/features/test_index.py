"""The flat index is the plain formula; the graph finds what was planted; no file is trusted unseen."""

import json
import re
import sys

import numpy as np
import pytest

pytest.importorskip("faiss")

from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureStore, index, write_store
from recbole_sda.features.arrays import array_dtype, create_array
from recbole_sda.features.index import build_index, nearest


def make(folder, values, present, dtype="float32"):
    folder.mkdir(exist_ok=True)
    array = create_array(folder / "image.npy", dtype=array_dtype(dtype), shape=values.shape)
    array[:] = np.where(present[:, None], values, 0)
    array.flush()
    write_store(folder, [f"i{row}" for row in range(len(values))], {"image": present}, settings={})
    return FeatureStore.open(folder)


def drawn(items=60, width=8, offset=5.0):
    """Embeddings around one dominant direction, a fifth of the items without."""
    draw = np.random.default_rng(0)
    return draw.normal(size=(items, width)) + offset, draw.random(items) < 0.8


def neighbours_loop(store, token, k):
    """Cosines of centred rows, one pair at a time."""
    values, present = store.values("image").astype(np.float64), store.present("image")
    centred = values - values[present].mean(axis=0)
    own = store.tokens.index(token)
    cosines = {
        row: centred[own] @ centred[row] / np.linalg.norm(centred[own]) / np.linalg.norm(centred[row])
        for row in np.flatnonzero(present)
        if row != own
    }
    best = sorted(cosines, key=cosines.get, reverse=True)[:k]
    return best, [cosines[row] for row in best]


@pytest.fixture
def store(tmp_path):
    return make(tmp_path / "store", *drawn())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("chunk_bytes", [1, 2**26])
def test_flat_is_the_plain_formula(tmp_path, monkeypatch, dtype, chunk_bytes):
    monkeypatch.setattr("recbole_sda.features.arrays.CHUNK_BYTES", chunk_bytes)
    store = make(tmp_path / "store", *drawn(), dtype)
    assert build_index(store, "image", show_progress=False) == store.path / "image.faiss"
    tokens = [store.tokens[row] for row in np.flatnonzero(store.present("image"))]
    found = nearest(store, "image", tokens, k=5)
    assert found.rows.shape == found.cosines.shape == (len(tokens), 5)
    for token, rows, cosines in zip(tokens, found.rows, found.cosines, strict=True):
        expected_rows, expected = neighbours_loop(store, token, 5)
        assert rows.tolist() == expected_rows
        np.testing.assert_allclose(cosines, expected, atol=1e-5)
    FeatureStore.open(store.path, verify=True)  # the store is as it was


def test_the_graph_finds_planted_neighbours(tmp_path, monkeypatch):
    """Groups of five around distant centres: an item's four nearest are the others of its group."""
    monkeypatch.setattr(index, "FLAT_ITEMS", 100)
    draw = np.random.default_rng(0)
    values = np.repeat(draw.normal(size=(300, 16)), 5, axis=0) + 0.02 * draw.normal(size=(1500, 16)) + 3
    present = np.ones(1500, dtype=bool)
    store = make(tmp_path / "store", values, present)
    build_index(store, "image", show_progress=False)
    assert json.loads((store.path / "image.faiss.json").read_text())["kind"] == index.GRAPH
    found = nearest(store, "image", store.tokens, k=4).rows
    group = np.arange(1500) // 5
    assert (found != np.arange(1500)[:, None]).all()
    assert (group[found] == group[:, None]).mean() > 0.99


def test_the_rule_of_the_kind(tmp_path, monkeypatch):
    store = make(tmp_path / "store", *drawn(items=50, offset=0))
    count = int(store.present("image").sum())
    for limit, kind in ((count, index.FLAT), (count - 1, index.GRAPH)):
        monkeypatch.setattr(index, "FLAT_ITEMS", limit)
        side = build_index(store, "image", show_progress=False).with_name("image.faiss.json")
        assert json.loads(side.read_text())["kind"] == kind


def test_fewer_items_than_asked_for(tmp_path):
    store = make(tmp_path / "store", np.eye(3), np.ones(3, dtype=bool))
    build_index(store, "image", show_progress=False)
    found = nearest(store, "image", ["i0"], k=4)
    assert sorted(found.rows[0].tolist()) == [-1, -1, 1, 2]
    assert np.isneginf(found.cosines[0][found.rows[0] < 0]).all()


def test_equal_items_never_name_themselves(tmp_path):
    store = make(tmp_path / "store", np.repeat(np.eye(2), 6, axis=0), np.ones(12, dtype=bool))
    build_index(store, "image", show_progress=False)
    found = nearest(store, "image", store.tokens, k=3).rows
    assert (found != np.arange(12)[:, None]).all()
    assert (found // 6 == np.arange(12)[:, None] // 6).all()


def test_an_index_may_lie_elsewhere(tmp_path, store):
    path = tmp_path / "elsewhere.faiss"
    build_index(store, "image", path, show_progress=False)
    assert not (store.path / "image.faiss").exists()
    token = store.tokens[int(np.flatnonzero(store.present("image"))[0])]
    assert nearest(store, "image", [token], k=2, path=path).rows[0].tolist() == neighbours_loop(store, token, 2)[0]


# refusals


def test_unknown_items_and_missing_ones_are_named(store):
    build_index(store, "image", show_progress=False)
    gone = [store.tokens[row] for row in np.flatnonzero(~store.present("image"))[:2]]
    with pytest.raises(SDAError, match=f"2 of 2 items have no image, the first '{gone[0]}', '{gone[1]}'"):
        nearest(store, "image", gone, k=2)
    with pytest.raises(SDAError, match="lacks 1 of 1 items, the first 'x'"):
        nearest(store, "image", ["x"], k=2)
    with pytest.raises(SDAError, match="k=0: ask for 1 neighbour at least"):
        nearest(store, "image", ["i0"], k=0)
    with pytest.raises(SDAError, match="no modality 'text'"):
        build_index(store, "text")


def test_nothing_to_index(tmp_path):
    store = make(tmp_path / "store", np.ones((2, 2)), np.zeros(2, dtype=bool))
    with pytest.raises(SDAError, match="no item has image; there is nothing to index"):
        build_index(store, "image")


def refuse(store, match, monkeypatch):
    import faiss

    def read_index(path):
        raise AssertionError("faiss was given the file")

    token = store.tokens[int(np.flatnonzero(store.present("image"))[0])]
    monkeypatch.setattr(faiss, "read_index", read_index)
    with pytest.raises(SDAError, match=match):
        nearest(store, "image", [token], k=2)


def test_no_index(store, monkeypatch):
    refuse(store, r"image\.faiss is no index with its image\.faiss\.json; build it again", monkeypatch)


@pytest.mark.parametrize("position", [0, 100, -1])
def test_a_damaged_index_is_not_read(store, monkeypatch, position):
    path = build_index(store, "image", show_progress=False)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    refuse(store, "does not match its checksum", monkeypatch)


@pytest.mark.parametrize("side", [b"", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000])
def test_a_broken_side_file_is_refused(store, monkeypatch, side):
    path = build_index(store, "image", show_progress=False)
    path.with_name("image.faiss.json").write_bytes(side)
    refuse(store, r"image\.faiss\.json does not describe an index", monkeypatch)


def test_a_link_out_of_the_folder_is_not_read(tmp_path, store, monkeypatch):
    path = build_index(store, "image", show_progress=False)
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    refuse(store, "is a link that leaves its folder", monkeypatch)


def test_an_index_of_other_embeddings_is_refused(tmp_path, store, monkeypatch):
    build_index(store, "image", show_progress=False)
    values, present = drawn(offset=4.0)
    refuse(
        make(store.path, values, present), f"other image embeddings than {re.escape(str(store.path))}", monkeypatch
    )


def test_without_faiss_the_command_is_named(store, monkeypatch):
    monkeypatch.delitem(sys.modules, "faiss")
    monkeypatch.setattr(sys, "meta_path", [_NoFaiss(), *sys.meta_path])
    with pytest.raises(SDAError, match=r"faiss is needed and not installed: pip install 'recbole_sda\[index\]'"):
        build_index(store, "image")


class _NoFaiss:
    def find_spec(self, name, path=None, target=None):
        if name == "faiss":
            raise ImportError(name)
