"""Differences over seeds: against plain oracles, with planted answers, without any."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from recbole_sda.evaluation.paired import holm
from recbole_sda.evaluation.seeds_paired import FAILS, HOLDS, OPEN, paired_difference, signed_rank_p, verdict


def by_all_signs(differences) -> float:
    """The definition: of all 2^n patterns of signs, how many are as extreme?"""
    differences = [d for d in differences if d != 0]
    ranks = stats.rankdata(np.abs(differences))
    found = sum(rank for rank, d in zip(ranks, differences, strict=True) if d > 0)
    sums = np.array([np.dot(ranks, signs) for signs in product((0, 1), repeat=len(ranks))])
    return min(1.0, 2 * min(np.mean(sums <= found), np.mean(sums >= found)))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [1, 6], ids=["ties", "no ties"])
def test_p_is_that_of_all_patterns_of_signs(seed, decimals):
    differences = np.random.default_rng(seed).normal(0.3, 1, size=9).round(decimals)
    assert signed_rank_p(differences) == pytest.approx(by_all_signs(differences))


def test_without_ties_p_is_scipys():
    differences = np.random.default_rng(0).normal(0.4, 1, size=20)
    assert signed_rank_p(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)


def test_p_does_not_see_which_way_round_the_arms_are():
    differences = np.random.default_rng(1).normal(size=12)
    assert signed_rank_p(differences) == pytest.approx(signed_rank_p(-differences))


@pytest.mark.parametrize(("seeds", "least"), [(5, 0.0625), (6, 0.03125), (10, 2 / 1024)])
def test_the_smallest_p_is_two_of_all_patterns(seeds, least):
    assert signed_rank_p(np.arange(1.0, seeds + 1)) == pytest.approx(least)


def test_zeros_say_nothing():
    assert signed_rank_p([0.0, 0.0, 0.0]) == 1.0
    assert signed_rank_p([0.0, 1.0, 2.0]) == signed_rank_p([1.0, 2.0])
    assert signed_rank_p([0.1 + 0.2 - 0.3, 1.0]) == signed_rank_p([1.0])


def test_interval_is_students():
    arm, over = [3.0, 5.0, 4.0], [1.0, 2.0, 3.0]
    found = paired_difference(arm, over)
    expected = stats.ttest_rel(arm, over).confidence_interval(0.95)
    assert found["difference"] == pytest.approx(2.0)
    assert found["interval"] == pytest.approx([expected.low, expected.high])
    assert (found["arm"], found["over"], found["seeds"]) == (4.0, 2.0, 3)


def test_a_seed_without_a_value_is_left_out_of_both():
    found = paired_difference([1.0, None, 3.0], [0.0, 5.0, 1.0])
    assert (found["difference"], found["seeds"]) == (1.5, 2)
    assert paired_difference([None], [1.0]) == {
        **dict.fromkeys(("arm", "over", "difference", "interval", "p", "rank_sum")),
        "seeds": 0,
    }
    assert paired_difference([2.0], [1.0])["interval"] is None


@pytest.mark.parametrize(("shift", "expected"), [(1.0, HOLDS), (-1.0, FAILS), (0.0, OPEN)])
def test_a_planted_difference_is_found_its_reverse_too_and_none_is_left_open(shift, expected):
    rng = np.random.default_rng(7)
    over = rng.normal(size=10)
    arm = over + shift + 0.3 * rng.normal(size=10)
    found = paired_difference(arm, over)
    (p,) = holm([found["p"]])
    assert verdict(found["difference"], p, rank_sum=found["rank_sum"], seeds=found["seeds"]) == expected


def test_too_few_seeds_decide_nothing():
    found = paired_difference(np.arange(1.0, 10), np.zeros(9))
    said = {"rank_sum": found["rank_sum"], "seeds": 9}
    assert verdict(found["difference"], found["p"], **said) == HOLDS
    assert verdict(found["difference"], found["p"], **said, least_seeds=10) == OPEN
    assert verdict(None, None, rank_sum=None, seeds=0) == OPEN


def test_where_one_seed_turns_the_mean_against_the_ranks_nothing_is_decided():
    found = paired_difference([*[1.0] * 11, -100.0], [0.0] * 12)
    assert found["p"] < 0.05
    assert found["difference"] < 0 < found["rank_sum"]
    assert verdict(found["difference"], found["p"], rank_sum=found["rank_sum"], seeds=12) == OPEN


def test_a_p_that_one_claim_could_stand_on_falls_to_the_correction_for_many():
    p = signed_rank_p(np.arange(1.0, 7))
    assert verdict(1.0, p, rank_sum=21.0, seeds=6) == HOLDS
    assert verdict(1.0, holm([p, p])[0], rank_sum=21.0, seeds=6) == OPEN
