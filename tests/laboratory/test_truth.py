"""What is read back of a world is what was planted."""

import subprocess
import sys

import numpy as np
import pytest

from recbole_sda.catalog import write_demo
from recbole_sda.catalog.demo_plan import make_plan
from recbole_sda.catalog.demo_world import World
from recbole_sda.errors import SDAError
from recbole_sda.features import write_store
from recbole_sda.laboratory import measure, open_embeddings, read_truth

SMALL = {"items": 60, "users": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    settings = {"image_signal": 0.5, "factors": 5, "image_factors": ["colour", "size"], "audio": True}
    return write_demo(tmp_path_factory.mktemp("world") / "demo", **SMALL, **settings)


def test_truth_is_the_plan(folder):
    truth = read_truth(folder)
    plan = make_plan(World(items=60, factors=5, image_signal=0.5, image_factors=["colour", "size"], audio=True))
    assert truth.tokens == tuple(plan.tokens)
    assert list(truth.factors) == ["colour", "shape", "pattern", "brand", "size"]
    for name, values in plan.attributes.items():
        pairs = set(zip(truth.factors[name].tolist(), values.tolist(), strict=True))
        assert len(pairs) == len(set(values.tolist())) == len(set(truth.factors[name].tolist()))
    np.testing.assert_allclose(truth.popularity, plan.popularity, rtol=1e-5)
    for modality, view in plan.views.items():
        assert set(np.flatnonzero(~truth.present[modality])) == view.missing


def test_truth_says_what_each_modality_shows(folder):
    truth = read_truth(folder)
    own = make_plan(World(items=60, image_signal=0.5)).views["image"].own
    assert 10 < own.sum() < 50
    for name in truth.factors:
        assert (truth.shown["image"][name] == (own if name in ("colour", "size") else False)).all()
        assert truth.shown["text"][name].all() == (name != "pattern")
        assert truth.shown["audio"][name].all() == (name in ("colour", "brand"))
    assert not truth.shown["text"]["pattern"].any()


def test_a_world_of_before_shows_what_it_always_did(tmp_path):
    truth = read_truth(write_demo(tmp_path / "demo", **SMALL))
    assert set(truth.present) == {"image", "text"}
    shown = {modality: [n for n, flags in by.items() if flags.all()] for modality, by in truth.shown.items()}
    assert shown == {"image": ["colour", "shape", "pattern"], "text": ["colour", "shape", "brand"]}


def test_another_order_of_items(folder):
    truth = read_truth(folder)
    tokens = ["P0031", "P0002", "P0059"]
    part = truth.of(tokens)
    assert part.tokens == tuple(tokens)
    for name in truth.factors:
        assert part.factors[name].tolist() == truth.factors[name][[31, 2, 59]].tolist()
        assert part.shown["image"][name].tolist() == truth.shown["image"][name][[31, 2, 59]].tolist()
    assert part.popularity.tolist() == truth.popularity[[31, 2, 59]].tolist()
    assert part.present["audio"].tolist() == truth.present["audio"][[31, 2, 59]].tolist()
    with pytest.raises(SDAError, match=r"1 of 2 items are not in demo\.truth\.csv, the first 'x'"):
        truth.of(["P0001", "x"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("demo.truth.csv", None, "has no demo.truth.csv: only what the demo generator wrote"),
        ("demo.truth.csv", "", "not what the demo generator writes"),
        ("demo.truth.csv", "item_id,colour,popularity\n", "it has no items"),
        ("demo.truth.csv", "item_id,colour,popularity\nP1,red,0.5\nP2\n", "line 3 has another number of columns"),
        ("demo.truth.csv", "item_id,colour\nP1,red\n", "popularity"),
        ("demo.truth.csv", "item_id,colour,popularity\nP1,red,high\n", "high"),
        ("demo.truth.csv", "item,popularity,picture_own\nP1,1,1\n", "has_picture"),
        ("demo.json", None, "demo.json"),
        ("demo.json", "{", "demo.json"),
        ("demo.json", "[]", "it holds no settings"),
    ],
)
def test_broken_worlds_are_named(folder, tmp_path, name, content, message):
    for file in ("demo.truth.csv", "demo.json"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SDAError, match=message):
        read_truth(tmp_path)


def test_a_store_is_measured_in_its_own_order(folder, tmp_path):
    truth = read_truth(folder)
    tokens = list(reversed(truth.tokens))
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, 5)).astype(np.float16)
    present = {modality: truth.of(tokens).present[modality].copy() for modality in ("image", "text")}
    refused = int(np.flatnonzero(present["image"])[0])
    present["image"][refused] = False  # a file that could not be read
    arrays = {modality: np.where(flags[:, None], values, 0) for modality, flags in present.items()}
    (tmp_path / "store").mkdir()
    for modality, array in arrays.items():
        np.save(tmp_path / "store" / f"{modality}.npy", array)
        np.save(tmp_path / "store" / f"{modality}.present.npy", present[modality])
    write_store(tmp_path / "store", tokens, present, settings={})
    embeddings, aligned = open_embeddings(tmp_path / "store", folder)
    assert aligned.tokens == tuple(tokens)
    assert not aligned.present["image"][refused]
    assert (embeddings["text"] == arrays["text"]).all()
    found = measure(tmp_path / "store", folder)
    assert found["recall@10/image-text"] == found["recall@10/text-image/bucket3"] == 1
    assert found["effective_rank/image"] == pytest.approx(found["effective_rank/text"])


def test_importing_it_brings_neither_torch_nor_recbole():
    heavy = {"torch", "recbole", "transformers", "pandas", "ray"}
    code = f"import sys, recbole_sda.laboratory; print(*{heavy!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
