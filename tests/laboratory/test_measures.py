"""What the measures say of embeddings whose structure is known."""

import math

import numpy as np
import pytest
import torch
from laboratory.worlds import VALUES, drawn_truth, one_hot

from recbole_sda.alignment import health
from recbole_sda.catalog.demo_plan import make_plan
from recbole_sda.catalog.demo_world import World
from recbole_sda.errors import SDAError
from recbole_sda.evaluation.popularity import tail_items
from recbole_sda.laboratory import measure_links, measure_structure, neighbours
from recbole_sda.laboratory.measures import head_items
from recbole_sda.laboratory.spread import effective_rank, mean_pairwise_cosine
from recbole_sda.laboratory.tail import popularity_buckets

PAIRS = ("image-image", "image-text", "text-image", "text-text")
LINKS = PAIRS[1:3]


def random_pair(items, width=16, seed=1):
    rng = np.random.default_rng(seed)
    return {modality: rng.normal(size=(items, width)) for modality in ("image", "text")}


def test_one_factor_as_embedding_is_pure_in_it_and_chance_in_the_others():
    truth = drawn_truth(400)
    measured = measure_structure(dict.fromkeys(("image", "text"), one_hot(truth, "colour")), truth)
    for pair in PAIRS:
        assert measured[f"purity/{pair}/colour"] == pytest.approx(1)
        for name in ("shape", "pattern", "brand"):
            # The neighbours are the 50 of one colour, all tied: their shares of a value vary by 1/√(50·400).
            assert measured[f"purity/{pair}/{name}"] == pytest.approx(measured[f"chance/{name}"], abs=0.03)


def test_random_embeddings_are_at_chance():
    truth = drawn_truth(600)
    measured = measure_structure(random_pair(600), truth)
    for name, count in VALUES.items():
        chance = measured[f"chance/{name}"]
        assert chance == pytest.approx(1 / count, abs=0.02)
        bound = 5 * math.sqrt(chance * (1 - chance) / (600 * 10))  # five standard errors, were draws independent
        assert all(abs(measured[f"purity/{pair}/{name}"] - chance) < bound for pair in PAIRS)
    for pair in LINKS:
        assert measured[f"recall@10/{pair}"] == pytest.approx(10 / 600, abs=5 * math.sqrt(10 / 600 / 600))


def test_chance_is_the_share_of_pairs_of_different_items_with_one_value():
    truth = drawn_truth(37)
    colours = truth.factors["colour"]
    same = [colours[i] == colours[j] for i in range(37) for j in range(37) if i != j]
    assert measure_structure(random_pair(37), truth)["chance/colour"] == pytest.approx(np.mean(same))


def test_equal_spaces_link_every_item():
    truth = drawn_truth(100)
    embeddings = random_pair(100)["image"]
    measured = measure_structure({"image": embeddings, "text": 3 * embeddings + 7}, truth)
    names = [f"{name}/{pair}" for pair in LINKS for name in ("recall@1", "recall@10", "mrr")]
    names += [f"recall@10/{pair}/{part}" for pair in LINKS for part in ("head", "tail")]
    assert {measured[name] for name in names} == {1.0}
    assert set(measure_links({"image": embeddings, "text": embeddings}, truth).values()) == {1.0}


def test_links_are_those_that_stage_1_logs():
    truth, rng = drawn_truth(120), np.random.default_rng(3)
    image = rng.normal(size=(120, 12))
    text = image + rng.normal(size=image.shape)
    measured = measure_structure({"image": image, "text": text}, truth)
    logged = health.retrieval(torch.tensor(image), torch.tensor(text), k=10)
    assert measured["recall@10/image-text"] == pytest.approx(logged["image_to_text_recall@10"])
    assert measured["recall@10/text-image"] == pytest.approx(logged["text_to_image_recall@10"])
    mrr = (measured["mrr/image-text"] + measured["mrr/text-image"]) / 2
    assert mrr == pytest.approx(logged["mrr"])
    assert 0.1 < measured["recall@1/image-text"] < measured["recall@10/image-text"] < 1


def test_blocks_give_what_the_whole_gives(monkeypatch):
    truth = drawn_truth(150, missing=10)
    embeddings = random_pair(150)
    whole = {**measure_structure(embeddings, truth), **measure_links(embeddings, truth)}
    monkeypatch.setattr(neighbours, "BLOCK_SCORES", 1000)
    parts = {**measure_structure(embeddings, truth), **measure_links(embeddings, truth)}
    assert parts == pytest.approx(whole, rel=1e-9)


def test_items_that_lack_a_modality_are_left_out():
    truth = drawn_truth(80, missing=8)
    embeddings = random_pair(80)
    kept = list(truth.tokens[16:])
    expected = measure_structure({m: values[16:] for m, values in embeddings.items()}, truth.of(kept))
    for values in embeddings.values():
        values[:16] = np.nan
    measured = measure_structure(embeddings, truth)
    heads = {name for name in measured if name.endswith(("/head", "/tail"))}  # of the whole world's items
    head = head_items(truth.popularity)[16:].mean()
    assert head != head_items(truth.popularity[16:]).mean()
    shares = (head * measured["recall@10/image-text/head"], (1 - head) * measured["recall@10/image-text/tail"])
    assert sum(shares) == pytest.approx(measured["recall@10/image-text"])
    assert {n: v for n, v in measured.items() if n not in heads} == pytest.approx(
        {n: v for n, v in expected.items() if n not in heads}
    )


def test_the_head_is_the_evaluations_and_the_first_of_five_buckets():
    for items in (20, 33, 101):
        popularity = np.random.default_rng(items).integers(6, size=items).astype(float)  # with ties
        tail = tail_items(np.concatenate([[0], popularity]), head_share=0.2)[1:]
        assert (head_items(popularity) == ~tail).all()
        buckets = popularity_buckets(popularity)
        assert ((buckets == 0) == head_items(popularity)).all()
        assert np.ptp(np.bincount(buckets, minlength=5)) <= 1
        assert all(popularity[buckets == n].min() >= popularity[buckets == n + 1].max() for n in range(4))


def test_links_by_popularity_find_where_the_links_are():
    """Text equals picture for the most popular two fifths, and is drawn anew for all others."""
    truth = drawn_truth(250)
    image = random_pair(250)["image"]
    linked = popularity_buckets(truth.popularity) < 2
    text = np.where(linked[:, None], image, random_pair(250, seed=9)["image"])
    found = measure_links({"image": image, "text": text}, truth)
    for pair in LINKS:
        assert [found[f"recall@10/{pair}/bucket{n}"] for n in (1, 2)] == [1, 1]
        assert max(found[f"recall@10/{pair}/bucket{n}"] for n in (3, 4, 5)) < 0.25
    measured = measure_structure({"image": image, "text": text}, truth)
    assert measured["recall@10/image-text/head"] == 1
    mean = np.mean([found[f"recall@10/image-text/bucket{n}"] for n in (2, 3, 4, 5)])
    assert measured["recall@10/image-text/tail"] == pytest.approx(mean)
    whole = np.mean([found[f"recall@10/image-text/bucket{n}"] for n in (1, 2, 3, 4, 5)])
    assert measured["recall@10/image-text"] == pytest.approx(whole)


@pytest.mark.parametrize("shape", [(90, 12), (12, 90), (30, 30)])
def test_spread_is_defined_as_in_stage_1(shape, monkeypatch):
    rows = np.random.default_rng(0).normal(2, 1, size=shape) * np.linspace(0.1, 3, shape[1])
    for block in (2**23, 100):
        monkeypatch.setattr(neighbours, "BLOCK_SCORES", block)
        assert effective_rank(rows) == pytest.approx(health.effective_rank(torch.tensor(rows)), rel=1e-6)
        assert mean_pairwise_cosine(rows) == pytest.approx(health.mean_pairwise_cosine(torch.tensor(rows)))


def test_effective_rank_of_known_spaces():
    rng = np.random.default_rng(0)
    line = rng.normal(size=(50, 1)) * rng.normal(size=(1, 8)) + 5
    assert effective_rank(line) == pytest.approx(1, abs=1e-4)
    assert effective_rank(line.astype(np.float32).T) == pytest.approx(1, abs=1e-4)
    corners = np.concatenate([np.eye(6), -np.eye(6)])
    assert effective_rank(corners) == pytest.approx(6)
    assert effective_rank(np.full((50, 8), 0.1)) == 0
    assert effective_rank(np.full((5, 8), 0.1, dtype=np.float32)) == 0


def test_collapse_is_seen():
    truth = drawn_truth(60)
    measured = measure_structure(dict.fromkeys(("image", "text"), np.full((60, 8), 0.3, dtype=np.float16)), truth)
    for pair in LINKS:
        assert measured[f"recall@10/{pair}"] == 0
        assert measured[f"mrr/{pair}"] == pytest.approx(1 / 60)
    for pair in PAIRS:
        assert measured[f"purity/{pair}/colour"] == pytest.approx(measured["chance/colour"])
    assert measured["effective_rank/image"] == 0
    assert measured["mean_cosine/text"] == pytest.approx(1)


@pytest.mark.parametrize("noise", [0, 0.3])
def test_in_the_control_nothing_made_of_pictures_finds_its_text(noise):
    """The best reader of pictures: it knows every value that they show. Beside it the same with the signal on."""
    measured = {}
    for signal in (0.0, 1.0):
        plan = make_plan(World(items=400, image_signal=signal))
        truth = drawn_truth(400)
        truth.factors.update(plan.attributes)
        rng = np.random.default_rng(5)
        embeddings = {}
        for modality in ("image", "text"):
            values = {name: plan.views[modality].values[name] for name in ("colour", "shape")}
            shown = np.concatenate([np.eye(VALUES[name])[numbers] for name, numbers in values.items()], axis=1)
            embeddings[modality] = shown + noise * rng.normal(size=shown.shape)
        measured[signal] = measure_structure(embeddings, truth)
    control, real = measured[0.0], measured[1.0]
    for pair in LINKS:
        assert control[f"recall@10/{pair}"] <= 10 / 400 + 4 * math.sqrt(10 / 400 / 400)
        assert real[f"recall@10/{pair}"] > 0.3
        for name in ("colour", "shape"):
            assert control[f"purity/{pair}/{name}"] == pytest.approx(control[f"chance/{name}"], abs=0.06)
            assert real[f"purity/{pair}/{name}"] > 0.5


class TestRefuses:
    def refuse(self, embeddings, truth, match, **options):
        with pytest.raises(SDAError, match=match):
            measure_structure(embeddings, truth, **options)

    def test_another_number_of_items(self):
        self.refuse(random_pair(39), drawn_truth(40), r"image: found shape \(39, 16\), needed \(40, width\)")

    def test_a_modality_of_no_world(self):
        embeddings = {"image": np.ones((40, 2)), "smell": np.ones((40, 2))}
        self.refuse(embeddings, drawn_truth(40), "'smell': this world has image, text")

    def test_values_that_are_not_finite(self):
        embeddings = random_pair(40)
        embeddings["text"][7, 3] = np.inf
        self.refuse(embeddings, drawn_truth(40), "text: 1 rows are not finite, the first of item 'P0007'")

    def test_too_few_items(self):
        self.refuse(random_pair(40), drawn_truth(40, missing=15), "only 10 items have image, text, and 11")
        self.refuse(random_pair(40), drawn_truth(40), "and 41 are needed", neighbours=40)
