import hashlib

import numpy as np
import pytest

from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureStore, reusable_rows, write_store


def digests(contents):
    """(n, 16) uint8; zeros for the empty content."""
    rows = [hashlib.sha256(content.encode()).digest()[:16] if content else bytes(16) for content in contents]
    return np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(-1, 16)


def store_of(folder, contents, present=None):
    folder.mkdir(exist_ok=True)
    items = len(contents)
    np.save(folder / "text.npy", np.zeros((items, 1), dtype=np.float16))
    present = np.array([bool(content) for content in contents] if present is None else present)
    tokens = [f"i{row}" for row in range(items)]
    write_store(folder, tokens, {"text": present}, settings={}, contents={"text": digests(contents)})
    return FeatureStore.open(folder)


def loop(contents, present, wanted):
    """The first present row with the content, one at a time."""
    rows = []
    for content in wanted:
        found = [row for row, old in enumerate(contents) if present[row] and content and old == content]
        rows.append(found[0] if found else -1)
    return rows


def test_rows_are_those_of_the_loop(tmp_path):
    draw = np.random.default_rng(0)
    contents = [str(number) if number else "" for number in draw.integers(0, 60, 80)]
    wanted = [str(number) if number else "" for number in draw.integers(0, 100, 200)]
    present = draw.random(80) < 0.7
    store = store_of(tmp_path, contents, present)
    found = reusable_rows(store, "text", digests(wanted))
    assert found.dtype == np.int64
    assert found.tolist() == loop(contents, present, wanted)
    assert 0 < (found < 0).sum() < 200


def test_digests_that_share_a_half_differ(tmp_path):
    store = store_of(tmp_path, ["a", "b", "c"])
    for half in (slice(0, 8), slice(8, 16)):
        near = digests(["a", "b", "c"]).copy()
        near[:, half] ^= 1
        assert reusable_rows(store, "text", near).tolist() == [-1, -1, -1]
    assert reusable_rows(store, "text", digests(["c", "a"])).tolist() == [2, 0]


def test_nothing_asked_and_nothing_there(tmp_path):
    assert reusable_rows(store_of(tmp_path / "some", ["a"]), "text", digests([])).tolist() == []
    assert reusable_rows(store_of(tmp_path / "none", [""]), "text", digests(["a", ""])).tolist() == [-1, -1]


def test_nothing_is_no_content(tmp_path):
    """A row may be present without a digest: it is not what an item without content had."""
    store = store_of(tmp_path, ["", "a"], present=[True, True])
    assert reusable_rows(store, "text", digests(["", "a"])).tolist() == [-1, 1]


def test_a_store_that_does_not_know_its_contents_says_so(tmp_path):
    np.save(tmp_path / "text.npy", np.zeros((1, 1), dtype=np.float16))
    write_store(tmp_path, ["a"], {"text": np.array([True])}, settings={})
    with pytest.raises(SDAError, match="does not say what its text rows were made of; embed without append"):
        reusable_rows(FeatureStore.open(tmp_path), "text", digests(["a"]))
