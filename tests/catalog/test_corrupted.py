"""A corrupted catalogue: exactly the share asked for, the same items, and nothing else."""

import logging
import pickle

import numpy as np
import pytest
from PIL import Image

from recbole_sda.catalog import Catalog
from recbole_sda.catalog.audio import Audio
from recbole_sda.catalog.corrupted import corrupt, corrupted_rows, moved_modality
from recbole_sda.catalog.demo import write_demo
from recbole_sda.catalog.items import item_tokens
from recbole_sda.errors import SDAError

SEED = 7


@pytest.fixture(scope="module")
def rich(tmp_path_factory) -> Catalog:
    """Forty items with picture, text, recording and, but for ten, a vector; of some something is missing."""
    pytest.importorskip("soundfile")
    folder = write_demo(tmp_path_factory.mktemp("rich") / "demo", items=40, users=30, audio=True)
    tokens = item_tokens(folder / "demo.item")
    np.save(folder / "signal.npy", np.random.default_rng(0).normal(size=(30, 16)).astype(np.float32))
    (folder / "signal.items.txt").write_text("\n".join(tokens[:30]) + "\n")
    modalities = ("image", "text", "audio", "signal")
    return Catalog.open(folder, tokens, modalities=modalities, show_progress=False)


def loaded(catalog, modality, row):
    """Something that can be compared."""
    content = catalog.load(modality, row)
    if isinstance(content, Image.Image):
        return content.size, content.mode, content.tobytes()
    if isinstance(content, Audio):
        return content.samples.dtype, content.rate, len(content.samples), content.samples.tobytes()
    return content.tobytes() if isinstance(content, np.ndarray) else tuple(content.items())


def changed(before, after, modality) -> set[int]:
    rows = np.flatnonzero(before.present(modality))
    return {int(row) for row in rows if loaded(before, modality, row) != loaded(after, modality, row)}


@pytest.mark.parametrize("modality", ["image", "text", "audio", "signal"])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_share_of_one_modality_is_noise_and_all_else_is_as_it_was(rich, modality, share):
    noisy = corrupt(rich, {modality: share}, seed=SEED)
    chosen = corrupted_rows(rich, modality, share, seed=SEED)
    assert len(chosen) == round(share * rich.present(modality).sum())
    for other in rich.kinds:
        np.testing.assert_array_equal(noisy.present(other), rich.present(other))
        same = other != modality
        assert changed(rich, noisy, other) == (set() if same else set(chosen))
        assert (noisy.fingerprint(other) == rich.fingerprint(other)) == same
        if other != "text":
            np.testing.assert_array_equal(noisy.sizes(other), rich.sizes(other))
            said = zip(rich.contents(other), noisy.contents(other), strict=True)
            assert {row for row, (a, b) in enumerate(said) if a != b} == (set() if same else set(chosen))
    assert noisy.counts() == rich.counts()
    assert (noisy.tokens, noisy.skipped) == (rich.tokens, rich.skipped)
    assert rich.fields == corrupt(rich, {"image": 0.5}, seed=SEED).fields


@pytest.mark.parametrize("name", ["image", "text", "audio", "signal", "pairs"])
def test_items_of_a_smaller_share_are_among_those_of_a_larger_one(rich, name):
    few, many = (corrupted_rows(rich, name, share, seed=SEED) for share in (0.1, 0.3))
    assert few.tolist() == many[: len(few)].tolist()
    assert len(few) < len(many)
    assert set(corrupted_rows(rich, name, 0.3, seed=8)) != set(many)


@pytest.mark.parametrize("modality", ["image", "text", "audio", "signal"])
def test_noise_is_the_same_at_every_share_and_another_with_another_seed(rich, modality):
    low, high, same, other = (
        corrupt(rich, {modality: share}, seed=seed) for share, seed in ((0.2, 7), (0.9, 7), (0.2, 7), (0.9, 8))
    )
    rows = corrupted_rows(rich, modality, 0.2, seed=7)
    for row in rows:
        assert loaded(low, modality, row) == loaded(high, modality, row) == loaded(same, modality, row)
    assert low.fingerprint(modality) == same.fingerprint(modality) != high.fingerprint(modality)
    assert high.fingerprint(modality) != other.fingerprint(modality)
    both = set(corrupted_rows(rich, modality, 0.9, seed=8)) & set(rows)
    assert all(loaded(high, modality, row) != loaded(other, modality, row) for row in both)


def test_noise_is_as_large_as_what_it_replaces_and_means_nothing(rich):
    noisy = corrupt(rich, {"image": 0.9, "text": 0.9, "audio": 0.9, "signal": 0.9}, seed=SEED)
    vocabulary = {word for row in range(len(rich)) for text in rich.item(row).values() for word in text.split()}
    for row in corrupted_rows(rich, "text", 0.9, seed=SEED):
        before, after = rich.item(row), noisy.item(row)
        assert {field: len(value.split()) for field, value in before.items()} == {
            field: len(value.split()) for field, value in after.items()
        }
        assert {word for text in after.values() for word in text.split()} <= vocabulary
        assert noisy.load("text", row) == after  # prompts read the one, fingerprints the other
    for row in corrupted_rows(rich, "signal", 0.9, seed=SEED):
        before, after = rich.load("signal", row), noisy.load("signal", row)
        assert sorted(before) == sorted(after)
        assert after.dtype == np.float32
    rows = corrupted_rows(rich, "image", 0.9, seed=SEED)
    pictures = [np.asarray(noisy.load("image", row), float) for row in rows]
    assert all(60 < picture.std() < 90 for picture in pictures)
    first, second = (picture[:20, :20].ravel() for picture in pictures[:2])
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.15
    small = pictures[0].reshape(-1, 3).mean(axis=0)
    assert abs(small - 127.5).max() < 15


def test_a_noise_picture_survives_being_shrunk():
    from types import SimpleNamespace

    from recbole_sda.catalog.corrupted import _noise_picture

    pictures = SimpleNamespace(sizes=np.array([[900, 1200]], np.int32))
    picture = _noise_picture(pictures, 0, np.random.default_rng(0))
    assert picture.size == (1200, 900)
    assert np.asarray(picture.resize((112, 112), Image.Resampling.BICUBIC), float).std() > 50


@pytest.mark.parametrize("share", [0.06, 0.5, 0.99])
def test_pairs_pass_one_content_on_and_nobody_keeps_their_own(rich, share):
    wrong = corrupt(rich, {"pairs": share}, seed=SEED)
    chosen = corrupted_rows(rich, "pairs", share, seed=SEED)
    assert moved_modality(rich) == "text"
    candidates = rich.present("text") & (rich.present("image") | rich.present("audio") | rich.present("signal"))
    assert len(chosen) == round(share * candidates.sum())
    before, after = ([catalog.item(row) for row in range(len(rich))] for catalog in (rich, wrong))
    assert {row for row in range(len(rich)) if before[row] != after[row]} == set(chosen)
    assert sorted(map(str, before)) == sorted(map(str, after))  # every text once, as it was
    for other in ("image", "audio", "signal"):
        assert changed(rich, wrong, other) == set()
    np.testing.assert_array_equal(wrong.present("text"), rich.present("text"))
    assert wrong.fingerprint("text") != rich.fingerprint("text")


def test_pairs_of_pictures_move_the_files_with_their_sizes(rich):
    """Without a text the picture is the last by name; vectors would be moved in the same way."""
    pictured = Catalog.open(
        rich.item_file.parent, rich.tokens, modalities=("audio", "image"), show_progress=False
    )
    wrong = corrupt(pictured, {"pairs": 0.5}, seed=SEED)
    chosen = corrupted_rows(pictured, "pairs", 0.5, seed=SEED)
    assert changed(pictured, wrong, "image") == set(chosen)
    contents, moved = pictured.contents("image"), wrong.contents("image")
    for row, giver in zip(chosen, np.roll(chosen, 1), strict=True):
        assert moved[row] == contents[giver]
        assert loaded(wrong, "image", row) == loaded(pictured, "image", giver)
        assert wrong.sizes("image")[row].tolist() == pictured.sizes("image")[giver].tolist()


def test_corruptions_are_drawn_apart_and_can_be_combined(rich):
    both = corrupt(rich, {"pairs": 0.3, "text": 0.3, "image": 0.3}, seed=SEED)
    rows = {name: corrupted_rows(rich, name, 0.3, seed=SEED) for name in ("pairs", "text", "image")}
    assert len({frozenset(chosen) for chosen in rows.values()}) == 3
    assert changed(rich, both, "image") == set(rows["image"])
    noisy = corrupt(rich, {"text": 0.3}, seed=SEED)
    giver = dict(zip(rows["pairs"], np.roll(rows["pairs"], 1), strict=True))
    assert all(both.item(row) == noisy.item(giver.get(row, row)) for row in range(len(rich)))


def test_corrupted_catalogue_goes_to_other_processes(rich):
    noisy = corrupt(rich, {"image": 0.3, "pairs": 0.3, "signal": 0.3}, seed=SEED)
    sent = pickle.loads(pickle.dumps(noisy))
    for modality in rich.kinds:
        assert changed(noisy, sent, modality) == set()


def test_how_many_are_corrupted_is_said(rich, caplog):
    with caplog.at_level(logging.INFO, logger="recbole_sda.catalog.corrupted"):
        corrupt(rich, {"image": 0.25, "pairs": 0.5}, seed=SEED)
    counts = {name: len(corrupted_rows(rich, name, s, seed=SEED)) for name, s in (("image", 0.25), ("pairs", 0.5))}
    assert caplog.messages == [f"corrupted: {name} of {count} items of 40" for name, count in counts.items()]


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"image": 0.01}, r"align_corrupt: image=0.01 is 0 of the \d+ items of 'demo' .* 1 at least"),
        ({"pairs": 0.03}, r"align_corrupt: pairs=0.03 is 1 of the \d+ items of 'demo' .* 2 at least"),
        ({"smell": 0.5}, r"modality 'smell' is unknown"),
    ],
)
def test_what_cannot_be_corrupted_is_refused(rich, shares, message):
    with pytest.raises(SDAError, match=message):
        corrupt(rich, shares, seed=SEED)
