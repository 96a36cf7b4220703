"""Tail metrics against a brute-force count, and what counts as the tail."""

import math

import numpy as np
import pytest
import torch

from recbole_sda.evaluation import SDACollector, register_metrics, tail_items

register_metrics()

from recbole.evaluator import Evaluator  # noqa: E402

POPULARITY = np.array([0, 9, 9, 7, 4, 4, 4, 2, 1, 0, 0])


def test_the_head_is_the_most_popular_share_rounded_up_and_ties_go_by_id():
    tail = tail_items(POPULARITY, head_share=0.25)  # 10 items: a head of 3
    assert tail.tolist() == [False] * 4 + [True] * 7


def test_ties_at_the_border_of_the_head_are_broken_by_item_id():
    tail = tail_items(POPULARITY, head_share=0.45)  # a head of 5: items 1, 2, 3, and 4 and 5 of the tied 4, 5, 6
    assert np.flatnonzero(tail).tolist() == [6, 7, 8, 9, 10]


def test_a_popularity_threshold_includes_its_value_and_items_never_seen():
    tail = tail_items(POPULARITY, head_share=0.2, max_popularity=2)
    assert np.flatnonzero(tail).tolist() == [7, 8, 9, 10]


@pytest.fixture
def config():
    return {
        "metrics": ["Hit", "NDCG", "TailHit", "TailNDCG"],
        "topk": [1, 3, 5],
        "metric_decimal_place": 6,
        "device": torch.device("cpu"),
        "eval_args": {"mode": {"valid": "full", "test": "full"}},
        "tail_head_share": 0.3,
        "tail_max_popularity": None,
    }


class _Training:
    """A train loader as far as the collector looks at it: twelve items, popularity falling with the id."""

    class _Dataset:
        @staticmethod
        def inter_matrix(form):
            from scipy.sparse import csr_matrix

            counts = [0, *range(12, 0, -1)]
            return csr_matrix(np.stack([np.array(counts), np.zeros(13, int)]))

    _dataset = _Dataset()


def evaluate(config, batches):
    collector = SDACollector(config)
    collector.data_collect(_Training())
    for scores, positives in batches:
        users = torch.tensor([u for u, items in enumerate(positives) for _ in items])
        items = torch.tensor([i for items in positives for i in items])
        collector.eval_batch_collect(scores, None, users, items)
    return Evaluator(config).evaluate(collector.get_data_struct())


def brute_force(batches, tail, ks):
    """Hit and NDCG of each user over tail targets, one user at a time."""
    values = {}
    for k in ks:
        hits, gains = [], []
        for scores, positives in batches:
            for row, items in zip(scores, positives, strict=True):
                targets = {i for i in items if tail[i]}
                if not targets:
                    continue
                ranked = torch.argsort(row, descending=True)[:k].tolist()
                hits.append(any(i in targets for i in ranked))
                dcg = sum(1 / math.log2(rank + 2) for rank, i in enumerate(ranked) if i in targets)
                ideal = sum(1 / math.log2(rank + 2) for rank in range(min(len(targets), k)))
                gains.append(dcg / ideal)
        values[f"tailhit@{k}"], values[f"tailndcg@{k}"] = np.mean(hits), np.mean(gains)
    return values


@pytest.mark.parametrize("targets", [1, 3], ids=["leave-one-out", "several targets"])
def test_tail_metrics_equal_a_brute_force_count(config, targets):
    generator = torch.Generator().manual_seed(targets)
    batches = []
    for users in (17, 5, 1):
        scores = torch.rand(users, 13, generator=generator)
        positives = [(torch.randperm(12, generator=generator)[:targets] + 1).tolist() for _ in range(users)]
        batches.append((scores, positives))
    tail = tail_items(np.array([0, *range(12, 0, -1)]), head_share=0.3)
    expected = brute_force(batches, tail, config["topk"])
    result = evaluate(config, batches)
    assert {key: result[key] for key in expected} == pytest.approx(expected, abs=1e-6)
    assert 0 < expected["tailhit@5"] < 1  # the case is no trivial one


def test_with_every_item_in_the_tail_the_tail_metrics_are_the_plain_ones(config):
    config["tail_max_popularity"] = 100
    scores = torch.rand(20, 13, generator=torch.Generator().manual_seed(0))
    result = evaluate(config, [(scores, [[1 + u % 12] for u in range(20)])])
    for k in config["topk"]:
        assert result[f"tailhit@{k}"] == result[f"hit@{k}"]
        assert result[f"tailndcg@{k}"] == result[f"ndcg@{k}"]


def test_without_a_tail_target_the_tail_metrics_are_undefined_not_zero(config):
    config["tail_max_popularity"] = 0
    result = evaluate(config, [(torch.rand(4, 13), [[1], [2], [3], [4]])])
    assert math.isnan(result["tailhit@5"])
    assert math.isnan(result["tailndcg@5"])
    assert not math.isnan(result["hit@5"])


def test_a_second_evaluation_starts_from_nothing(config):
    batches = [(torch.rand(6, 13), [[i] for i in range(7, 13)])]
    collector = SDACollector(config)
    collector.data_collect(_Training())
    for _ in range(2):
        scores, positives = batches[0]
        items = torch.tensor([i for (i,) in positives])
        collector.eval_batch_collect(scores, None, torch.arange(6), items)
        struct = collector.get_data_struct()
        assert len(struct.get("rec.tail")) == 6
