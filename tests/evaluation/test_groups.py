"""Metrics of groups of items against a brute-force count, and what counts as a group."""

import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from recbole_sda.errors import SDAError
from recbole_sda.evaluation import SDACollector, known_metrics, register_metrics, tail_items
from recbole_sda.evaluation.checks import check_group_metric
from recbole_sda.evaluation.groups import COMPLEMENTS, GROUPS, group_items

register_metrics()

from recbole.evaluator import Evaluator  # noqa: E402

POPULARITY = np.array([0, 9, 9, 7, 4, 4, 4, 2, 1, 0, 0])
COLD = np.array([False] * 9 + [True, False, True, False])  # items 9 and 11 of 12


# --- the tail ---


def test_the_head_is_the_most_popular_share_rounded_up_and_ties_go_by_id():
    tail = tail_items(POPULARITY, head_share=0.25)  # 10 items: a head of 3
    assert tail.tolist() == [False] * 4 + [True] * 7


def test_ties_at_the_border_of_the_head_are_broken_by_item_id():
    tail = tail_items(POPULARITY, head_share=0.45)  # a head of 5: items 1, 2, 3, and 4 and 5 of the tied 4, 5, 6
    assert np.flatnonzero(tail).tolist() == [6, 7, 8, 9, 10]


def test_a_popularity_threshold_includes_its_value_and_items_never_seen():
    tail = tail_items(POPULARITY, head_share=0.2, max_popularity=2)
    assert np.flatnonzero(tail).tolist() == [7, 8, 9, 10]


# --- groups ---


@pytest.fixture
def config():
    return {
        "metrics": ["Hit", "NDCG", *(group.title() + metric for group in GROUPS for metric in ("Hit", "NDCG"))],
        "topk": [1, 3, 5],
        "metric_decimal_place": 6,
        "device": torch.device("cpu"),
        "eval_args": {"mode": {"valid": "full", "test": "full"}},
        "USER_ID_FIELD": "user_id",
        "tail_head_share": 0.3,
        "tail_max_popularity": None,
        "valid_metric": "NDCG@5",
    }


def splits(cold=COLD, targets=()):
    """A loader as far as evaluation looks at it: twelve items, popularity falling with the id."""
    counts = np.array([0, *range(12, 0, -1)])
    dataset = SimpleNamespace(
        inter_matrix=lambda form: csr_matrix(np.stack([counts, np.zeros(13, int)])),
        item_num=13,
        cold_items=cold,
        iid_field="item_id",
        inter_feat={"item_id": torch.tensor(targets, dtype=torch.long)},
    )
    return SimpleNamespace(_dataset=dataset, dataset=dataset)


def collect(collector, batches):
    for scores, positives in batches:
        users = torch.tensor([u for u, items in enumerate(positives) for _ in items])
        items = torch.tensor([i for items in positives for i in items])
        collector.eval_batch_collect(scores, {"user_id": torch.arange(len(scores))}, users, items)
    return collector.get_data_struct()


def evaluate(config, batches, cold=COLD):
    collector = SDACollector(config)
    collector.data_collect(splits(cold))
    return Evaluator(config).evaluate(collect(collector, batches))


def brute_force(batches, group, members, ks):
    """Hit and NDCG of each user over targets of the group, one user at a time."""
    values = {}
    for k in ks:
        hits, gains = [], []
        for scores, positives in batches:
            for row, items in zip(scores, positives, strict=True):
                targets = {i for i in items if members[i]}
                if not targets:
                    continue
                ranked = torch.argsort(row, descending=True)[:k].tolist()
                hits.append(any(i in targets for i in ranked))
                dcg = sum(1 / math.log2(rank + 2) for rank, i in enumerate(ranked) if i in targets)
                ideal = sum(1 / math.log2(rank + 2) for rank in range(min(len(targets), k)))
                gains.append(dcg / ideal)
        values[f"{group}hit@{k}"], values[f"{group}ndcg@{k}"] = np.mean(hits), np.mean(gains)
    return values


def random_batches(targets):
    generator = torch.Generator().manual_seed(targets)
    for users in (37, 25, 1):
        scores = torch.rand(users, 13, generator=generator)
        yield scores, [(torch.randperm(12, generator=generator)[:targets] + 1).tolist() for _ in range(users)]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("targets", [1, 3], ids=["leave-one-out", "several targets"])
def test_metrics_of_a_group_equal_a_brute_force_count(config, targets, group):
    batches = list(random_batches(targets))
    members = {
        "tail": np.arange(13) > 4,  # a head of 4 = ⌈0.3 · 12⌉
        "head": (np.arange(13) > 0) & (np.arange(13) <= 4),
        "cold": COLD,
        "warm": ~COLD & (np.arange(13) > 0),
    }[group]
    expected = brute_force(batches, group, members, config["topk"])
    result = evaluate(config, batches)
    assert {key: result[key] for key in expected} == pytest.approx(expected, abs=1e-6)
    assert 0 < expected[f"{group}hit@3"] < 1  # the case is no trivial one


@pytest.mark.parametrize("group", COMPLEMENTS)
def test_every_item_but_padding_is_in_a_group_or_in_its_complement(config, group):
    one, other = (group_items(g, config, splits()._dataset) for g in (group, COMPLEMENTS[group]))
    assert (one ^ other).tolist() == [False] + [True] * 12
    assert not one[0]
    assert not other[0]


def test_without_cold_items_every_user_is_warm(config):
    batches = list(random_batches(1))
    result = evaluate(config, batches, cold=None)
    for k in config["topk"]:
        assert result[f"warmhit@{k}"] == result[f"hit@{k}"]
        assert result[f"warmndcg@{k}"] == result[f"ndcg@{k}"]
        assert math.isnan(result[f"coldhit@{k}"])


def test_with_every_item_in_the_tail_the_tail_metrics_are_the_plain_ones(config):
    config["tail_max_popularity"] = 100
    scores = torch.rand(20, 13, generator=torch.Generator().manual_seed(0))
    result = evaluate(config, [(scores, [[1 + u % 12] for u in range(20)])])
    for k in config["topk"]:
        assert result[f"tailhit@{k}"] == result[f"hit@{k}"]
        assert result[f"tailndcg@{k}"] == result[f"ndcg@{k}"]


def test_without_a_target_in_the_group_its_metrics_are_undefined_not_zero_and_it_is_said(config, caplog):
    config["tail_max_popularity"] = 0
    with caplog.at_level(logging.WARNING, logger="recbole_sda"):
        result = evaluate(config, [(torch.rand(4, 13), [[1], [2], [3], [4]])])
    assert math.isnan(result["tailhit@5"])
    assert math.isnan(result["tailndcg@5"])
    assert not math.isnan(result["hit@5"])
    assert result["headhit@5"] == result["hit@5"]
    assert (
        "no item is tail, so its metrics are NaN; tail_head_share or tail_max_popularity decides it" in caplog.text
    )


def test_a_second_evaluation_starts_from_nothing(config):
    collector = SDACollector(config)
    collector.data_collect(splits())
    batch = (torch.rand(6, 13), [[i] for i in range(7, 13)])
    for _ in range(2):
        assert len(collect(collector, [batch]).get("rec.topk")) == 6
    collector.eval_batch_collect(batch[0], {"user_id": torch.arange(6)}, torch.arange(6), torch.arange(1, 7))
    collector.begin(None)  # that evaluation was interrupted
    assert len(collect(collector, [batch]).get("rec.topk")) == 6


def test_the_names_are_known_to_recbole_and_to_the_user():
    assert {"TailHit", "HeadNDCG", "ColdHit", "WarmNDCG", "Recall", "GiniIndex"} <= set(known_metrics())


# --- choosing by a group ---


@pytest.mark.parametrize(
    ("metric", "targets", "words"),
    [
        ("TailNDCG@5", [1, 2, 4], "no validation target is a tail item; change tail_head_share or"),
        ("headhit@5", [5, 12], "no validation target is a head item; change tail_head_share or"),
        ("ColdHit@5", [1, 12], "no validation target is a cold item; change cold_share"),
        ("WarmHit@5", [9, 11], "no validation target is a warm item; change cold_share"),
    ],
)
def test_a_valid_metric_of_a_group_that_validation_lacks_is_refused(config, metric, targets, words):
    config["valid_metric"] = metric
    with pytest.raises(SDAError, match=rf"valid_metric={metric} is undefined: {words}"):
        check_group_metric(config, splits(), splits(targets=targets))
    check_group_metric(config, splits(), splits(targets=range(1, 13)))


def test_other_valid_metrics_are_nobodys_group(config):
    for metric in ("NDCG@5", "TailPercentage@5"):
        config["valid_metric"] = metric
        check_group_metric(config, splits(), splits(targets=[1]))
