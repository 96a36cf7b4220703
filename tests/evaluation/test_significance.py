"""Gains between variants: the interval and the p-values against plain formulas, and what is paired with what."""

import json
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from recbole_sda.errors import SDAError
from recbole_sda.evaluation import paired
from recbole_sda.evaluation.paired import holm, paired_gain
from recbole_sda.evaluation.significance import compare

NAN = float("nan")


def ndcg(rank):
    return np.where(rank <= 10, 1 / np.log2(rank + 1), 0.0)


def gain(base, other, *, resamples=500, seed=0, **values):
    return paired_gain(base, other, resamples=resamples, seed=seed, **values)


# --- the interval ---


def test_the_interval_is_that_of_all_resamples_where_they_can_be_counted():
    base, other = np.array([0.3, 0.5, 0.9, 0.2, 0.7]), np.array([0.4, 0.45, 1.0, 0.6, 0.65])
    picks = [list(pick) for pick in product(range(5), repeat=5)]
    found = gain(base, other, resamples=40_000)
    relative = np.array([100 * (other[pick].mean() / base[pick].mean() - 1) for pick in picks])
    absolute = np.array([other[pick].mean() - base[pick].mean() for pick in picks])
    for every, (low, high) in ((relative, found["relative_interval"]), (absolute, found["gain_interval"])):
        assert (every < low - 1e-9).mean() - 0.003 <= 0.025 <= (every <= low + 1e-9).mean() + 0.003
        assert (every > high + 1e-9).mean() - 0.003 <= 0.025 <= (every >= high - 1e-9).mean() + 0.003
    assert found["relative_gain"] == pytest.approx(100 * (other.sum() / base.sum() - 1))
    assert found["gain"] == pytest.approx(np.mean(other) - np.mean(base))


def test_the_interval_is_scipys():
    rng = np.random.default_rng(0)
    base, other = (ndcg(rng.integers(1, high, 500)) for high in (60, 45))

    def relative(x, y, axis):
        return 100 * (x.mean(axis) / y.mean(axis) - 1)

    theirs = stats.bootstrap(
        (other, base),
        relative,
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        batch=500,
        method="percentile",
        random_state=np.random.default_rng(1),
    )
    low, high = theirs.confidence_interval
    ours = gain(base, other, resamples=20_000)["relative_interval"]
    assert ours == pytest.approx([low, high], abs=0.05 * (high - low))


def test_batches_are_only_a_matter_of_memory(monkeypatch):
    base, other = np.random.default_rng(1).random((2, 300))
    whole = gain(base, other, resamples=1000)
    monkeypatch.setattr(paired, "CELLS", 300 * 7)  # 142 batches of 7, one of 6
    assert gain(base, other, resamples=1000) == whole


def test_a_user_with_several_rows_is_drawn_as_one():
    rng = np.random.default_rng(2)
    users = np.repeat(np.arange(40), rng.integers(1, 6, 40))
    own = rng.random(40)[users]  # rows of a user are alike, so to draw them one by one would promise too much
    base, other = own + 0.1, 1.3 * own + rng.normal(0, 0.02, len(users))
    rows_of = [np.flatnonzero(users == user) for user in range(40)]
    drawn = []
    for _ in range(4000):
        rows = np.concatenate([rows_of[user] for user in rng.integers(40, size=40)])
        drawn.append(100 * (other[rows].mean() / base[rows].mean() - 1))
    low, high = np.quantile(drawn, [0.025, 0.975])
    found = gain(base, other, users=users, resamples=20_000)
    assert found["relative_interval"] == pytest.approx([low, high], abs=0.06 * (high - low))
    assert found["relative_gain"] == pytest.approx(100 * (other.mean() / base.mean() - 1))
    assert found["users"] == 40
    alone = gain(base, other, resamples=4000)["relative_interval"]
    assert alone[1] - alone[0] < 0.9 * (high - low)


def test_a_base_of_zero_has_a_difference_but_no_ratio():
    found = gain(np.zeros(50), np.arange(50) % 5 == 0)
    assert (found["relative_gain"], found["relative_interval"]) == (None, None)
    assert found["gain"] == pytest.approx(0.2)
    assert 0 < found["gain_interval"][0] < 0.2 < found["gain_interval"][1]


def test_a_base_that_some_resamples_lack_has_a_ratio_without_an_interval():
    base = np.arange(50) == 7
    found = gain(base, base | (np.arange(50) == 8))
    assert found["relative_gain"] == pytest.approx(100)
    assert found["relative_interval"] is None


def test_users_outside_the_group_take_no_part():
    rng = np.random.default_rng(3)
    base, other = rng.random((2, 60))
    inside = rng.random(60) < 0.5
    masked = gain(np.where(inside, base, NAN), np.where(inside, other, NAN))
    assert masked == gain(base[inside], other[inside])
    assert masked["users"] == inside.sum()


def test_an_empty_group_is_undefined():
    found = gain([NAN, NAN], [NAN, NAN])
    assert found.pop("users") == 0
    assert set(found.values()) == {None}


def test_different_groups_are_refused():
    with pytest.raises(SDAError, match="in one variant only"):
        gain([0.1, NAN], [0.1, 0.2])


def test_the_same_seed_gives_the_same_numbers():
    base, other = np.random.default_rng(4).random((2, 40))
    assert gain(base, other, seed=5) == gain(base, other, seed=5)
    assert gain(base, other, seed=5)["gain_interval"] != gain(base, other, seed=6)["gain_interval"]


# --- the p-value ---


def test_p_is_the_share_of_all_signs_that_give_as_extreme_a_rank_sum():
    base, other = np.array([0.1, 0.5, 0.3, 0.0, 0.9, 0.4, 0.2]), np.array([0.2, 0.3, 0.9, 0.55, 0.93, 0.4, 0.95])
    differences = [d for d in other - base if d != 0]
    ranks = stats.rankdata(np.abs(differences))
    centre = ranks.sum() / 2
    sums = [np.dot(ranks, signs) for signs in product([0, 1], repeat=6)]
    observed = np.dot(ranks, np.array(differences) > 0)
    extreme = np.mean([abs(s - centre) >= abs(observed - centre) for s in sums])
    assert gain(base, other)["p"] == pytest.approx(extreme)


def test_p_is_of_the_users_means_whatever_number_of_rows_they_have():
    rng = np.random.default_rng(9)
    users = np.repeat(np.arange(30), rng.integers(1, 6, 30))
    base, other = rng.random((2, len(users)))
    means = [(other - base)[users == user].mean() for user in range(30)]
    assert gain(base, other, users=users)["p"] == pytest.approx(stats.wilcoxon(means).pvalue)


def test_equal_variants_have_p_one():
    values = np.array([0.0, 0.5, 1.0])
    found = gain(values, values)
    assert (found["p"], found["gain"], found["gain_interval"]) == (1.0, 0.0, [0.0, 0.0])


def test_rounding_in_means_over_seeds_makes_no_difference():
    base, other = [0.1 + 0.2 + 0.3] * 20, [0.3 + 0.2 + 0.1] * 20
    assert base != other
    assert gain(base, other)["p"] == 1.0


def test_without_effect_p_is_even_and_the_interval_holds_zero():
    rng = np.random.default_rng(7)
    found = [gain(*ndcg(rng.integers(1, 25, (2, 80))), resamples=300) for _ in range(300)]
    p_values = np.array([f["p"] for f in found])
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert 0.01 < (p_values < 0.05).mean() < 0.09
    low, high = np.array([f["gain_interval"] for f in found]).T
    assert 0.9 < ((low <= 0) & (high >= 0)).mean() < 0.99


def test_a_planted_effect_is_found():
    rng = np.random.default_rng(8)
    rank = rng.integers(2, 40, 400)
    found = gain(ndcg(rank), ndcg(np.maximum(1, rank - rng.integers(0, 4, 400))))
    assert found["p"] < 1e-6
    assert 0 < found["relative_interval"][0] < found["relative_gain"] < found["relative_interval"][1]


def test_holm_by_hand():
    # sorted: .01 × 4, .02 × 3, .03 × 2 (no lower than the .06 before it), .04 × 1 (likewise)
    assert holm([0.03, 0.01, None, 0.04, 0.02]) == pytest.approx([0.06, 0.04, None, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([None]) == [None]


# --- what is compared ---


@pytest.fixture
def tested(tmp_path):
    """Makes a run whose users have these ranks."""

    def make(variant, ranks, *, model="SASRec", seed=1, tail=(), users=None, targets=None, shuffle=False):
        ranks = np.asarray(ranks)
        users = [f"u{n}" for n in range(len(ranks))] if users is None else users
        table = pd.DataFrame({"user": users, "target": targets or [[f"i{n}"] for n in range(len(ranks))]})
        for name, values in (("hit", (ranks <= 10).astype(float)), ("ndcg", ndcg(ranks))):
            table[f"{name}@10"] = values
            table[f"tail{name}@10"] = np.where(np.isin(np.arange(len(ranks)), tail), values, NAN)
            table[f"{name}@5"] = values
        if shuffle:
            table = table.sample(frac=1, random_state=0)
        path = tmp_path / f"{model}-{variant}-{seed}.parquet"
        table.to_parquet(path)
        return {"model": model, "variant": variant, "seed": seed, "artefacts": {"user_results": str(path)}}

    return make


def compared(runs, **values):
    return compare(runs, **{"k": 10, "resamples": 200, "seed": 0, **values})


def ranks_of(seed, users=30):
    return np.random.default_rng(seed).integers(1, 25, users)


def pairs_of(gains):
    return list(dict.fromkeys((g["model"], g["variant"], g["over"]) for g in gains))


def test_every_variant_is_compared_with_every_baseline_of_its_model_once(tested):
    runs = [
        tested(variant, ranks_of(n), model=model, tail=range(9))
        for model in ("SASRec", "VBPR")
        for n, variant in enumerate(("sda", "zero_shot", "ids"))
    ]
    gains = compared(runs)
    of_one = [("sda", "ids"), ("zero_shot", "ids"), ("sda", "zero_shot")]
    assert pairs_of(gains) == [(model, *pair) for model in ("SASRec", "VBPR") for pair in of_one]
    assert [g["metric"] for g in gains[:4]] == ["hit@10", "ndcg@10", "tailhit@10", "tailndcg@10"]
    assert len(gains) == 2 * 3 * 4
    assert [g["p_holm"] for g in gains] == holm([g["p"] for g in gains])
    assert gains[2]["users"] == 9
    assert json.loads(json.dumps(gains, allow_nan=False)) == gains


def test_without_a_baseline_the_first_variant_is_one_and_one_variant_alone_gains_nothing(tested):
    runs = [tested(variant, ranks_of(n)) for n, variant in enumerate(("info_nce", "sda", "lora"))]
    assert pairs_of(compared(runs)) == [("SASRec", "sda", "info_nce"), ("SASRec", "lora", "info_nce")]
    assert compared(runs[:1]) == []


def test_rows_are_paired_by_user_and_target_not_by_position(tested):
    targets = [f"i{n}" for n in range(30)]
    straight = compared([tested("ids", ranks_of(0), targets=targets), tested("sda", ranks_of(1), targets=targets)])
    mixed = compared([tested("ids", ranks_of(0)), tested("sda", ranks_of(1), shuffle=True)])
    expected = gain(ndcg(ranks_of(0)), ndcg(ranks_of(1)), resamples=200)
    for gains in (straight, mixed):
        (found,) = (g for g in gains if g["metric"] == "ndcg@10")
        assert all(found[key] == pytest.approx(value) for key, value in expected.items())


def test_several_targets_are_a_set(tested):
    runs = [
        tested("ids", [1, 20], targets=[["a", "b"], ["c"]]),
        tested("sda", [2, 3], targets=[["b", "a"], ["c"]]),
    ]
    assert compared(runs)[0]["gain"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "other", [[["a", "b c"], ["d"]], [["a b c"], ["d"]], [["a b"], ["c", "d"]], [["a b", "c"], []]]
)
def test_sets_that_are_written_alike_are_not_the_same(tested, other):
    runs = [tested("ids", [1, 20], targets=[["a b", "c"], ["d"]]), tested("sda", [2, 3], targets=other)]
    with pytest.raises(SDAError, match="SASRec: sda and ids were not tested on the same"):
        compared(runs)


def test_each_user_is_averaged_over_the_seeds(tested):
    runs = [tested(v, ranks_of(10 * n + s), seed=s) for n, v in enumerate(("ids", "sda")) for s in (1, 2, 3)]
    base, other = (np.mean([ndcg(ranks_of(10 * n + s)) for s in (1, 2, 3)], axis=0) for n in (0, 1))
    (found,) = (g for g in compared(runs, resamples=5000) if g["metric"] == "ndcg@10")
    assert found["users"] == 30
    assert found["gain"] == pytest.approx(other.mean() - base.mean())
    assert found["p"] == pytest.approx(stats.wilcoxon(other - base).pvalue)
    low, high = gain(base, other, resamples=5000)["relative_interval"]
    assert found["relative_interval"] == pytest.approx([low, high], abs=0.05 * (high - low))


def test_a_split_that_moves_with_the_seed_is_paired_within_each(tested):
    runs = [
        tested(v, ranks_of(10 * n + s), seed=s, targets=[[f"i{s}-{u}"] for u in range(30)], tail=range(5 * s))
        for n, v in enumerate(("ids", "sda"))
        for s in (1, 2)
    ]
    tail = next(g for g in compared(runs) if g["metric"] == "tailhit@10")
    assert tail["users"] == 10
    hits = np.concatenate([ranks_of(10 + s)[: 5 * s] <= 10 for s in (1, 2)])
    assert tail["other"] == pytest.approx(hits.mean())


def test_only_the_metrics_at_k_that_were_measured(tested):
    runs = [tested("ids", ranks_of(0)), tested("sda", ranks_of(1))]
    assert [g["metric"] for g in compared(runs, k=5)] == ["hit@5", "ndcg@5"]
    assert compared(runs, k=20) == []


def test_an_empty_tail_is_undefined_and_counts_in_no_correction(tested):
    gains = compared([tested("ids", ranks_of(0)), tested("sda", ranks_of(1))])
    hit, ndcg_, *tail = gains
    assert [g["p_holm"] for g in tail] == [None, None]
    assert [hit["p_holm"], ndcg_["p_holm"]] == holm([hit["p"], ndcg_["p"]])


@pytest.mark.parametrize(
    "difference",
    [{"users": [*(f"u{n}" for n in range(29)), "stranger"]}, {"targets": [["i0"]] * 30}, {"seed": 2}],
    ids=lambda value: next(iter(value)),
)
def test_other_users_targets_or_seeds_are_refused(tested, difference):
    runs = [tested("ids", ranks_of(0)), tested("sda", ranks_of(1), **difference)]
    with pytest.raises(SDAError, match="SASRec: sda and ids were not tested on the same"):
        compared(runs)


def test_missing_users_are_refused(tested):
    with pytest.raises(SDAError, match=r"\(20 and 30 rows\)"):
        compared([tested("ids", ranks_of(0)), tested("sda", ranks_of(1, users=20))])
