"""Neighbours and links against a plain loop, with and without ties, in one block and in many."""

import itertools

import numpy as np
import pytest

from recbole_sda.laboratory import neighbours
from recbole_sda.laboratory.neighbours import centred_units, link_ranks, score_blocks, shared_values, value_columns


def plain_cosines(query, key):
    """One pair at a time."""
    query, key = query - query.mean(axis=0), key - key.mean(axis=0)
    return [[plain_cosine(one, other) for other in key] for one in query]


def plain_cosine(one, other):
    products = sum(a * b for a, b in zip(one, other, strict=True))
    return products / (np.sqrt(sum(a * a for a in one)) * np.sqrt(sum(b * b for b in other)))


def plain_purity(scores, values, k):
    """The mean over every order in which ties (to six digits) can be broken."""
    shares = []
    for item, row in enumerate(scores):
        others = sorted((-round(float(score), 5), other) for other, score in enumerate(row) if other != item)
        last = others[k - 1][0]
        sure = [other for score, other in others if score < last]
        tied = [other for score, other in others if score == last]
        draws = [sure + list(rest) for rest in itertools.combinations(tied, k - len(sure))]
        shares.append(np.mean([[values[other] == values[item] for other in near] for near in draws]))
    return shares


def plain_ranks(scores):
    return [sum(round(float(s), 5) >= round(float(row[item]), 5) for s in row) for item, row in enumerate(scores)]


def measured(query, key, values, k):
    shares, ranks = np.empty(len(query)), np.empty(len(query), dtype=int)
    columns = value_columns({"other": (values + 1) % 3, "factor": values})
    for rows, own, scores in score_blocks(centred_units(query), centred_units(key)):
        shares[rows] = shared_values(rows, scores, columns, neighbours=k)[:, 1]
        ranks[rows] = link_ranks(own, scores)
    return shares, ranks


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("block", [2**23, 1, 70])
def test_a_plain_loop_agrees(same, block, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK_SCORES", block)
    rng = np.random.default_rng(0)
    query = rng.normal(3, 1, size=(23, 6))
    key = query if same else query + rng.normal(size=query.shape)
    values = rng.integers(4, size=23)
    shares, ranks = measured(query, key, values, 5)
    scores = plain_cosines(query, key)
    np.testing.assert_allclose(shares, plain_purity(scores, values, 5), atol=1e-6)
    assert ranks.tolist() == plain_ranks(scores)


def test_ties_share_the_last_places_and_count_against_an_item():
    """Twelve items at four points, three on each."""
    rng = np.random.default_rng(1)
    points = rng.normal(size=(4, 5))
    at, values = np.arange(12) % 4, rng.integers(2, size=12)
    shares, ranks = measured(points[at], points[at], values, 4)
    scores = plain_cosines(points[at], points[at])
    np.testing.assert_allclose(shares, plain_purity(scores, values, 4), atol=1e-6)
    assert ranks.tolist() == [3] * 12 == plain_ranks(scores)


def test_where_all_are_equal_purity_is_chance_and_every_item_comes_last():
    values = np.array([0] * 5 + [1] * 7)
    flat = np.full((12, 3), 0.1, dtype=np.float32)
    shares, ranks = measured(flat, flat, values, 3)
    np.testing.assert_allclose(shares, np.where(values == 0, 4 / 11, 6 / 11), atol=1e-6)
    assert set(ranks) == {12}


def test_units_have_length_1_and_a_row_on_the_mean_is_0():
    rows = np.array([[1.0, 5.0], [3.0, 5.0], [2.0, 5.0]], dtype=np.float16)
    assert centred_units(rows).tolist() == [[-1, 0], [1, 0], [0, 0]]
    assert np.allclose(np.linalg.norm(centred_units(np.random.default_rng(0).normal(size=(40, 7))), axis=1), 1)
