"""Filters of interactions against slow plain ones, and codes that come in blocks."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "dataset_scripts"))
import interactions as module
from interactions import (
    Funnel,
    Interactions,
    TokenCodes,
    in_time_order,
    k_core,
    most_popular_items,
    rating_at_least,
    without_repeats,
)


def drawn(seed, *, users=30, items=25, rows=160):
    """Random interactions, popular ones more often, with repeats and equal times."""
    draw = np.random.default_rng(seed)
    return Interactions.from_tokens(
        [f"u{code}" for code in draw.integers(users, size=rows) * draw.integers(0, 2, size=rows)],
        [f"i{code}" for code in np.minimum(draw.geometric(0.15, size=rows), items)],
        draw.integers(20, size=rows),
        draw.integers(1, 6, size=rows).astype(np.float32),
    )


def made(pairs):
    """One interaction for each `user item` of a text."""
    users, items = zip(*(pair.split(".") for pair in pairs.split()), strict=True)
    return Interactions.from_tokens(users, items, range(len(users)))


def pairs(interactions):
    return [(user, item) for user, item, *_ in interactions.rows()]


def plain_k_core(rows, users, items):
    while True:
        of_user, of_item = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
        kept = [row for row in rows if of_user[row[0]] >= users and of_item[row[1]] >= items]
        if kept == rows:
            return rows
        # one after the other, unlike the real thing
        worst = next(row for row in rows if row not in kept)
        rows = [row for row in rows if row[0] != worst[0]] if of_user[worst[0]] < users else rows
        rows = [row for row in rows if row[1] != worst[1]] if of_item[worst[1]] < items else rows


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("users", "items"), [(1, 1), (3, 3), (5, 2), (2, 6)])
def test_k_core_equals_the_plain_one_and_is_a_fixed_point(seed, users, items):
    interactions = drawn(seed)
    core = k_core(interactions, users=users, items=items)
    assert list(core.rows()) == plain_k_core(list(interactions.rows()), users, items)
    assert list(k_core(core, users=users, items=items).rows()) == list(core.rows())
    assert not len(core) or min(Counter(user for user, _ in pairs(core)).values()) >= users
    assert not len(core) or min(Counter(item for _, item in pairs(core)).values()) >= items


def test_k_core_of_planted_cases():
    block = " ".join(f"{user}.{item}" for user in "abc" for item in "xyz")
    assert pairs(k_core(made(block), users=3, items=3)) == pairs(made(block))
    # d has three items, but w is his alone: without it he has too few, and with him goes nothing else
    assert pairs(k_core(made(f"{block} d.x d.y d.w"), users=3, items=3)) == pairs(made(block))
    # a chain unravels from its end, link by link, to nothing
    chain = " ".join(f"u{n}.i{n} u{n}.i{n + 1}" for n in range(50))
    assert len(k_core(made(chain), users=2, items=2)) == 0
    assert len(k_core(made(f"{chain} u50.i50 u50.i0"), users=2, items=2)) == 102  # a ring does not
    # what no order of users and items may leave: the core is the same when the rows are
    shuffled = drawn(3).take(np.random.default_rng(0).permutation(160))
    both = [k_core(found, users=3, items=3) for found in (drawn(3), shuffled)]
    assert sorted(both[0].rows()) == sorted(both[1].rows())
    assert len(both[0]) > 50


@pytest.mark.parametrize("seed", range(4))
def test_of_repeats_the_earliest_stays_and_of_equal_times_the_first_in_the_file(seed):
    interactions = drawn(seed)
    earliest = {}
    for position, (user, item, rating, time) in enumerate(interactions.rows()):
        earliest.setdefault((user, item), []).append((int(time), position, rating))
    expected = sorted(min(found)[1:] for found in earliest.values())
    rows = list(interactions.rows())
    assert list(without_repeats(interactions).rows()) == [rows[position] for position, _ in expected]
    assert len(rows) > len(expected)


@pytest.mark.parametrize("n", [1, 5, 1000])
def test_most_popular_items_with_ties_by_first_appearance(n):
    interactions = drawn(1)
    counts = Counter(item for _, item in pairs(interactions))  # in order of first appearance
    most = {item for item, _ in sorted(counts.items(), key=lambda pair: -pair[1])[:n]}
    assert pairs(most_popular_items(interactions, n)) == [p for p in pairs(interactions) if p[1] in most]


def test_threshold_and_order_of_time():
    interactions = drawn(2)
    rows = list(interactions.rows())
    assert list(rating_at_least(interactions, 4).rows()) == [row for row in rows if float(row[2]) >= 4]
    assert list(in_time_order(interactions).rows()) == sorted(rows, key=lambda row: int(row[3]))  # stable
    with pytest.raises(ValueError, match="without ratings"):
        rating_at_least(made("a.x"), 4)


def test_rows_say_what_was_read(monkeypatch):
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 2)
    columns = (["u", "v", "u"], ["x", "x", "y"], np.array([1588687728.923, 2.0, 1529193600.0]), [4.5, 1.0, 5.0])
    found = Interactions.from_tokens(*columns[:3], np.array(columns[3], dtype=np.float32))
    assert list(found.rows()) == [
        ("u", "x", "4.5", "1588687728.923"),
        ("v", "x", "1.0", "2.0"),
        ("u", "y", "5.0", "1529193600.0"),
    ]
    assert list(made("u.x v.x").rows()) == [("u", "x", "0"), ("v", "x", "1")]
    with pytest.raises(ValueError, match="1 ids are missing"):
        Interactions.from_tokens(["u", None], ["x", "x"], [1, 2])


@pytest.mark.parametrize("merge_at", [0, 7, 1 << 20])
def test_codes_of_blocks_are_those_of_the_whole(monkeypatch, merge_at):
    monkeypatch.setattr(TokenCodes, "MERGE_AT", merge_at)
    draw = np.random.default_rng(0)
    tokens = [f"t{code}" for code in draw.geometric(0.02, size=1000)]
    codes = TokenCodes()
    for begin in range(0, 1000, 90):
        codes.add(pa.array(tokens[begin : begin + 90]).dictionary_encode())
    found, known = codes.finish()
    assert known.to_pylist() == list(dict.fromkeys(tokens))
    assert found.dtype == np.int32
    assert known.take(pa.array(found)).to_pylist() == tokens
    assert [len(part) for part in TokenCodes().finish()] == [0, 0]


def test_funnel_counts_what_occurs():
    funnel, interactions = Funnel(), made("a.x a.y b.x")
    assert funnel.step("read", interactions) is interactions
    funnel.step("2-core", k_core(interactions, users=2, items=1))
    assert funnel.steps == [("read", 3, 2, 2), ("2-core", 2, 1, 2)]
    assert funnel.table().splitlines()[3].split() == ["|", "2-core", "|", "2", "|", "1", "|", "2", "|"]
    assert k_core(interactions, users=2, items=1).occurring_items().to_pylist() == ["x", "y"]
