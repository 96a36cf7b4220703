import math

import pytest
import torch
from conftest import drawn
from oracles import rank_loop
from torch.nn import functional as F

from recbole_sda.alignment.health import (
    GATE_LOOKS,
    distance_to_base,
    effective_rank,
    mean_pairwise_cosine,
    retrieval,
    warnings,
)


@pytest.mark.parametrize("rows", [2, 3, 11])
def test_mean_pairwise_cosine_is_the_mean_over_pairs(rows):
    embeddings = drawn(rows)[0] + 1
    pairs = [
        F.cosine_similarity(embeddings[i], embeddings[j], dim=0).item()
        for i in range(rows)
        for j in range(rows)
        if i != j
    ]
    assert mean_pairwise_cosine(embeddings) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)


def test_mean_pairwise_cosine_of_known_rows():
    assert mean_pairwise_cosine(torch.ones(5, 3)) == pytest.approx(1)
    assert mean_pairwise_cosine(torch.eye(4)) == pytest.approx(0)
    assert mean_pairwise_cosine(torch.tensor([[1.0, 2], [-2, -4]])) == pytest.approx(-1)


def test_effective_rank_of_known_matrices():
    centred = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(centred - centred.mean(dim=0)).Q  # orthonormal columns of mean 0
    assert effective_rank(basis) == pytest.approx(4, abs=1e-4)
    assert effective_rank(3 * basis + torch.arange(4.0)) == pytest.approx(4, abs=1e-4)
    line = torch.arange(6.0).unsqueeze(1) * torch.tensor([1.0, 2, 3])
    assert effective_rank(line) == pytest.approx(1, abs=1e-6)
    assert effective_rank(torch.ones(6, 3)) == 0
    # singular values 3 : 1 give the entropy of the shares 3/4 and 1/4
    shares = torch.tensor([0.75, 0.25])
    expected = torch.exp(-(shares * shares.log()).sum()).item()
    assert effective_rank(basis[:, :2] * torch.tensor([3.0, 1.0])) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("k", [1, 3])
def test_retrieval_is_the_loop(center, k):
    first, second = drawn(rows=12, dtype=torch.float64)
    second = first + second
    measured = retrieval(first, second, k=k, center=center)
    forth, back = rank_loop(first, second, center=center), rank_loop(second, first, center=center)
    assert 1 < sum(forth) / 12 < 6  # neither perfect nor hopeless, so that the comparison says something
    assert measured == {
        f"image_to_text_recall@{k}": pytest.approx(sum(rank <= k for rank in forth) / 12),
        f"text_to_image_recall@{k}": pytest.approx(sum(rank <= k for rank in back) / 12),
        "mrr": pytest.approx(sum(1 / rank for rank in forth + back) / 24),
    }


def test_retrieval_of_a_planted_permutation():
    rows = torch.eye(8)
    perfect = retrieval(rows, rows, k=1)
    assert set(perfect.values()) == {1.0}
    order = [0, 1, 2, 4, 5, 6, 7, 3]  # three stay in place, five do not; all others tie at cosine 0
    planted = retrieval(rows, rows[order], k=7, center=False)
    assert planted["image_to_text_recall@7"] == planted["text_to_image_recall@7"] == 3 / 8
    assert planted["mrr"] == pytest.approx((3 + 5 / 8) / 8)


@pytest.mark.parametrize("center", [True, False])
def test_collapsed_and_broken_embeddings_score_at_the_bottom(center):
    for rows in (torch.full((16, 4), 0.5), torch.full((16, 4), math.nan)):
        assert retrieval(rows, rows, center=center) == {
            "image_to_text_recall@5": 0,
            "text_to_image_recall@5": 0,
            "mrr": pytest.approx(1 / 16),
        }


def test_distance_to_base_of_known_rows():
    base = torch.tensor([[2.0, 0], [-2, 0], [0, 2], [0, -2]])  # all two away from their mean
    assert distance_to_base(base, base) == 0
    assert distance_to_base(base + torch.tensor([0.3, 0.4]), base) == pytest.approx(0.25)
    assert distance_to_base(7 * base + 9, 7 * base) == pytest.approx(9 * 2**0.5 / 14)


# warnings


def record(step=0, *, cosine=0.5, distance=0.5, share=0.5):
    return {
        "step": step,
        "mean_pairwise_cosine": {"image": 0.5, "text": cosine},
        "effective_rank": {"image": 9.0, "text": 3.0},
        "distance_to_base": {"image": 0.0, "text": distance},
        "gates": {"layers.0": {"image": [share, 1 - share], "text": [1 - share, share]}},
    }


def test_collapse_is_a_tenth_of_the_spread_at_the_start():
    assert warnings([record(), record(10, cosine=0.94)], steps=100) == []
    (warning,) = warnings([record(), record(10, cosine=0.96)], steps=100)
    assert "the text embeddings are collapsing" in warning
    assert "fell from 5.00e-01 to 4.00e-02 (effective rank 3.0)" in warning
    assert all(remedy in warning for remedy in ("align_center=True", "align_temperature", "align_learning_rate"))
    # Embeddings that were narrow from the start are no collapse.
    assert warnings([record(cosine=0.99), record(10, cosine=0.995)], steps=100) == []


def test_adapted_that_is_the_base_model():
    assert warnings([record(), record(49, distance=0.001)], steps=100) == []  # it may still come
    (warning,) = warnings([record(), record(50, distance=0.001)], steps=100)
    assert "those of the base model: they have moved by 1.00e-03 of its spread" in warning
    assert "align_learning_rate" in warning
    assert warnings([record(), record(100, distance=0.02)], steps=100) == []


def test_gates_that_fluctuate():
    def looks(shares):
        return [record(10 * look, share=share) for look, share in enumerate(shares)]

    there_and_back = [0.5, 0.7] * GATE_LOOKS
    (warning,) = warnings(looks(there_and_back), steps=10_000)
    assert "the gates fluctuate: over the last 6 looks they moved by 1.00 in all and arrived 0.20 away" in warning
    assert warnings(looks(there_and_back[: GATE_LOOKS - 1]), steps=10_000) == []
    assert warnings(looks([0.5, 0.55, 0.6, 0.7, 0.8, 0.9]), steps=10_000) == []  # a long way, all of it forward
    assert warnings(looks([0.5, 0.51] * GATE_LOOKS), steps=10_000) == []  # trembling
    assert warnings(looks([*there_and_back, *[0.7] * GATE_LOOKS]), steps=10_000) == []  # it has settled
    without = [{**look, "gates": {}} for look in looks(there_and_back)]
    assert warnings(without, steps=10_000) == []
