import math

import pytest
import torch
from oracles import cmsa_loop, info_nce_loop, rank_loop
from torch.nn import functional as F

from recbole_sda.alignment import AlignmentLoss, CMSALoss, InfoNCELoss, center_and_normalize
from recbole_sda.alignment.health import CollapseWatch, effective_rank, mean_pairwise_cosine, retrieval

LOSSES = [CMSALoss, InfoNCELoss]


def drawn(rows=6, width=5, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, width, generator=generator, **options) for _ in range(2)]


def gradients(function, pair):
    leaves = [part.clone().requires_grad_() for part in pair]
    return torch.autograd.grad(function(*leaves), leaves)


def matches_loop(loss, loop, pair):
    doubles = [part.double() for part in pair]
    torch.testing.assert_close(loss(*pair).double(), loop(*doubles), rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(gradients(loss, pair), gradients(loop, doubles), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-5)


# losses


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("teacher", ["mean", "per_modality"])
@pytest.mark.parametrize("temperature", [0.05, 0.2, 3.0])
@pytest.mark.parametrize("teacher_temperature", [None, 0.1])
def test_cmsa_and_its_gradients_are_the_loop_over_pairs(center, teacher, temperature, teacher_temperature):
    options = {"center": center, "teacher": teacher, "teacher_temperature": teacher_temperature}

    def loop(first, second):
        return cmsa_loop(first, second, temperature=temperature, **options)

    matches_loop(CMSALoss(temperature, **options), loop, drawn())


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("temperature", [0.05, 0.2, 3.0])
def test_info_nce_and_its_gradients_are_the_loop_over_pairs(center, temperature):
    def loop(first, second):
        return info_nce_loop(first, second, temperature=temperature, center=center)

    matches_loop(InfoNCELoss(temperature, center=center), loop, drawn())


@pytest.mark.parametrize("options", [{}, {"teacher": "per_modality"}, {"teacher_temperature": 0.4}])
def test_options_of_cmsa_change_the_loss(options):
    pair = drawn()
    assert abs(CMSALoss(0.1, **options)(*pair) - CMSALoss(0.1, center=False)(*pair)) > 1e-3
    if options:
        assert abs(CMSALoss(0.1, **options)(*pair) - CMSALoss(0.1)(*pair)) > 1e-3


@pytest.mark.parametrize("teacher", ["mean", "per_modality"])
def test_teacher_carries_no_gradient(teacher):
    first, second = drawn()
    targets = CMSALoss(0.1, teacher=teacher).soft_targets(first.requires_grad_(), second.requires_grad_())
    assert not any(target.requires_grad for target in targets)
    torch.testing.assert_close(targets[0].exp().sum(dim=1), torch.ones(6))

    # The same loss with a teacher that learns has another gradient: the comparison above can tell them apart.
    options = {"temperature": 0.1, "center": True, "teacher": teacher}
    pair = drawn(dtype=torch.float64)
    stopped = gradients(lambda *xy: cmsa_loop(*xy, **options), pair)
    learning = gradients(lambda *xy: cmsa_loop(*xy, **options, stop_gradient=False), pair)
    assert (stopped[0] - learning[0]).abs().max() > 0.01


def test_teacher_settings_reach_their_own_direction():
    first, second = drawn()
    first, second = center_and_normalize(first), center_and_normalize(second)
    to_second, to_first = CMSALoss(0.1, teacher="per_modality").soft_targets(first, second)
    torch.testing.assert_close(to_second, F.log_softmax(first @ first.T / 0.1, dim=1))
    torch.testing.assert_close(to_first, F.log_softmax(second @ second.T / 0.1, dim=1))


@pytest.mark.parametrize("make", [*LOSSES, lambda: CMSALoss(teacher="per_modality")])
def test_losses_are_symmetric_and_indifferent_to_order_and_scale(make):
    loss, (first, second) = make(), drawn(rows=9)
    value = loss(first, second)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss(second, first), value)
    torch.testing.assert_close(loss(first[order], second[order]), value)
    assert abs(loss(first[order], second) - value) > 1e-3
    torch.testing.assert_close(loss(7 * first, second / 3), value)


def test_cmsa_is_zero_where_both_modalities_agree_and_never_below():
    first, second = drawn(rows=8)
    assert CMSALoss()(first, first).item() == pytest.approx(0, abs=1e-6)
    assert CMSALoss()(first, second) > 0.5


def test_trap_all_embeddings_fall_together():
    """Uncentred CMSA is satisfied by a collapse; the centred one does not even notice it."""
    first, second = drawn(rows=8, width=16)
    common = torch.randn(16, generator=torch.Generator().manual_seed(2))
    fallen = [common + 1e-3 * part for part in (first, second)]
    for temperature in (0.05, 0.2):
        uncentred = CMSALoss(temperature, center=False)
        assert uncentred(*fallen) < 1e-4 * uncentred(first, second)
        assert uncentred(common.expand(8, -1), common.expand(8, -1)).item() == pytest.approx(0, abs=1e-6)
        centred = CMSALoss(temperature)
        torch.testing.assert_close(centred(*fallen), centred(first, second), rtol=0.01, atol=0)
    # InfoNCE has no such optimum.
    assert InfoNCELoss(center=False)(*fallen).item() == pytest.approx(math.log(8), abs=0.01)


def test_center_and_normalize():
    rows = drawn()[0]
    unit = center_and_normalize(rows)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(unit, center_and_normalize(rows + 4), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(center_and_normalize(rows, center=False), F.normalize(rows, dim=1))
    assert center_and_normalize(rows.bfloat16()).dtype is torch.float32


@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize("rows", [1, 2])
def test_centring_needs_three_rows(make, rows):
    with pytest.raises(ValueError, match=f"{rows} rows cannot be centred: give at least 3 .* center=False"):
        make()(*drawn(rows))
    assert make(center=False)(*drawn(rows)).isfinite()
    assert make()(*drawn(3)).isfinite()


@pytest.mark.parametrize("make", LOSSES)
def test_shapes_that_do_not_match_are_named(make):
    for first, second in [((6, 5), (5, 5)), ((6, 5), (6, 4)), ((6,), (6,)), ((2, 6, 5), (2, 6, 5))]:
        with pytest.raises(ValueError, match=r"first\.shape = ") as error:
            make()(torch.ones(first), torch.ones(second))
        assert str(first) in str(error.value)
        assert str(second) in str(error.value)


@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize("temperature", [0, -0.1, math.nan])
def test_temperature_must_be_positive(make, temperature):
    with pytest.raises(ValueError, match=f"temperature={temperature} must be greater than 0"):
        make(temperature)


@pytest.mark.parametrize("temperature", [0, -1, math.nan])
def test_teacher_settings_are_checked(temperature):
    with pytest.raises(ValueError, match=f"teacher_temperature={temperature} must be greater than 0"):
        CMSALoss(teacher_temperature=temperature)
    with pytest.raises(ValueError, match="teacher='median' is unknown; choose one of mean, per_modality"):
        CMSALoss(teacher="median")


def test_base_loss_leaves_the_comparison_to_its_subclasses():
    with pytest.raises(NotImplementedError):
        AlignmentLoss()(*drawn())


@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(make, dtype):
    loss = make(0.01)
    halves = [part.to(dtype) for part in drawn(rows=16, width=32)]
    exact = loss(*(part.float() for part in halves))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(*halves)
    assert mixed.dtype is torch.float32
    assert torch.equal(mixed, exact)
    assert loss(*halves).dtype is torch.float32


def test_repr_tells_the_settings():
    assert repr(CMSALoss(0.1, teacher_temperature=0.2)) == (
        "CMSALoss(temperature=0.1, center=True, teacher=mean, teacher_temperature=0.2)"
    )
    assert repr(InfoNCELoss(center=False)) == "InfoNCELoss(temperature=0.05, center=False)"


# health


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


def test_collapse_watch():
    start = dict(zip(("image", "text"), drawn(rows=20, width=8), strict=True))
    watch = CollapseWatch(start)
    assert watch.check(start) is None
    spread = {name: 1 - mean_pairwise_cosine(rows) for name, rows in start.items()}
    assert watch.check({"image": start["image"] + 0.7, "text": start["text"]}) is None

    fallen = {"image": start["image"], "text": 0.05 * start["text"] + 1}
    warning = watch.check(fallen)
    assert "the text embeddings are collapsing" in warning
    assert "image" not in warning
    assert f"{spread['text']:.2e}" in warning
    assert all(remedy in warning for remedy in ("center=True", "temperature", "align_learning_rate"))
    # Embeddings that were narrow from the start are no collapse.
    assert CollapseWatch(fallen).check(fallen) is None
