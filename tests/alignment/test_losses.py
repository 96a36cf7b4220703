import math

import pytest
import torch
from conftest import drawn
from oracles import cmsa_loop, cosine_rows, info_nce_loop, perplexity_loop, reference_loop
from torch.nn import functional as F

from recbole_sda.alignment import AlignmentLoss, CMSALoss, InfoNCELoss, center_and_normalize
from recbole_sda.alignment.cmsa import temperature_of_perplexity
from recbole_sda.defaults import properties_folder, read_yaml

LOSSES = [CMSALoss, InfoNCELoss]


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
def test_teacher_carries_no_gradient_unless_asked(teacher):
    options = {"temperature": 0.1, "center": True, "teacher": teacher}
    pair = drawn(dtype=torch.float64)
    found = {}
    for stopped in (True, False):
        found[stopped] = gradients(CMSALoss(**options, stop_gradient=stopped), pair)
        expected = gradients(lambda *xy, stop=stopped: cmsa_loop(*xy, **options, stop_gradient=stop), pair)
        torch.testing.assert_close(found[stopped], expected)
    assert (found[True][0] - found[False][0]).abs().max() > 0.01


def test_teacher_settings_reach_their_own_direction():
    first, second = drawn()
    first, second = center_and_normalize(first), center_and_normalize(second)
    to_second, to_first = CMSALoss(0.1, teacher="per_modality").log_targets((first, second), slice(0, 6))
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
def test_too_few_rows_to_compare(make):
    for rows in (1, 2):
        with pytest.raises(ValueError, match=f"no two modalities share 3 items in this batch of {rows}; .*larger"):
            make()(*drawn(rows))
        with pytest.raises(ValueError, match=f"{rows} rows cannot be centred: give at least 3 .* center=False"):
            center_and_normalize(drawn(rows)[0])
    with pytest.raises(ValueError, match=r"no two modalities share 2 items in this batch of 1; .*larger batch"):
        make(center=False)(*drawn(1))
    assert make(center=False)(*drawn(2)).isfinite()
    assert make()(*drawn(3)).isfinite()


@pytest.mark.parametrize("make", LOSSES)
def test_shapes_that_do_not_match_are_named(make):
    for first, second in [((6, 5), (5, 5)), ((6, 5), (6, 4)), ((6,), (6,)), ((2, 6, 5), (2, 6, 5))]:
        with pytest.raises(ValueError, match=r"same \(items, width\) shape are compared; found ") as error:
            make()(torch.ones(first), torch.ones(second))
        assert f"shapes {first}, {second}" in str(error.value)
    with pytest.raises(ValueError, match="two or more modalities"):
        make()(torch.ones(6, 5))


@pytest.mark.parametrize("make", LOSSES)
def test_rows_that_are_not_finite_are_named(make):
    first, second = drawn(rows=8)
    second[3, 1], second[6, 0] = math.nan, math.inf
    with pytest.raises(ValueError, match=r"embeddings\[1\]: 2 of 8 rows are not finite, the first is row 3; mark"):
        make()(first, second)
    present = [torch.ones(8, dtype=torch.bool), second.isfinite().all(dim=1)]
    assert make()(first, second, present=present).isfinite()


@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize("temperature", [0, -0.1, math.nan])
def test_temperature_must_be_positive(make, temperature):
    with pytest.raises(ValueError, match=f"temperature={temperature} must be greater than 0"):
        make(temperature)


@pytest.mark.parametrize("temperature", [0, -1, math.nan])
def test_teacher_settings_are_checked(temperature):
    with pytest.raises(ValueError, match=f"teacher_temperature={temperature} must be greater than 0"):
        CMSALoss(teacher_temperature=temperature)
    for option in ("teacher", "scale_teacher", "divergence"):
        with pytest.raises(ValueError, match=f"{option}='median' is unknown; choose one of "):
            CMSALoss(**{option: "median"})
    with pytest.raises(ValueError, match=f"teacher_perplexity={temperature} must be greater than 1"):
        CMSALoss(teacher_perplexity=temperature)
    with pytest.raises(ValueError, match="chunk_rows=0 must be 1 or more"):
        CMSALoss(chunk_rows=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_temperature": 0.1}, "teacher_temperature=0.1 and teacher_perplexity=4 contradict each other"),
        ({"scale_teacher": "multiply"}, "teacher_perplexity=4 and scale_teacher='multiply' contradict"),
        ({"stop_gradient": False}, "teacher_perplexity=4 and stop_gradient=False contradict"),
        ({"transpose_target": True}, "teacher_perplexity=4 and transpose_target=True contradict"),
    ],
)
def test_options_that_contradict_each_other(options, message):
    with pytest.raises(ValueError, match=message):
        CMSALoss(teacher_perplexity=4, **options)
    CMSALoss(**options)


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
    assert repr(CMSALoss.reference()) == (
        "CMSALoss(temperature=3, center=False, normalize=False, learn_temperature=True, teacher=mean, "
        "teacher_temperature=3.0, stop_gradient=False, scale_teacher=multiply, divergence=cross_entropy, "
        "transpose_target=True)"
    )
    assert "teacher_perplexity=5" in repr(CMSALoss(teacher_perplexity=5))


# the public code's variant


def reference_pair(scale=2.0):
    return [scale * part for part in drawn(rows=7, dtype=torch.float64)]


@pytest.mark.parametrize("chunk_rows", [1024, 3])
def test_reference_is_the_public_formula_to_the_digit(chunk_rows):
    loss, pair = CMSALoss.reference(chunk_rows=chunk_rows).double(), reference_pair()
    leaves = [part.clone().requires_grad_() for part in pair]
    oracle_leaves = [part.clone().requires_grad_() for part in pair]
    temperature = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    value, expected = loss(*leaves), reference_loop(*oracle_leaves, temperature)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    value.backward()
    expected.backward()
    for ours, theirs in zip(leaves, oracle_leaves, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(loss.learned_temperature.grad, temperature.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "option",
    [
        {"normalize": True},
        {"center": True},
        {"scale_teacher": "divide"},
        {"transpose_target": False},
        {"divergence": "kl"},
    ],
)
def test_each_option_of_the_reference_changes_the_loss(option):
    names = ("temperature", "center", "normalize", "scale_teacher", "divergence", "transpose_target")
    given = read_yaml(properties_folder() / "preset" / "reference.yaml")
    options = {name: given[f"align_{name}"] for name in names}
    pair = reference_pair(0.5)  # larger dot products make the teacher one-hot, and its transpose the same
    assert abs(CMSALoss(**{**options, **option})(*pair) - CMSALoss(**options)(*pair)) > 1e-3


def test_preset_reference_is_the_reference():
    given = read_yaml(properties_folder() / "preset" / "reference.yaml")
    assert given.pop("alignment") == "cmsa"
    preset = CMSALoss(**{name.removeprefix("align_"): value for name, value in given.items()})
    assert repr(preset) == repr(CMSALoss.reference())


def test_cross_entropy_differs_from_kl_by_the_teachers_entropy():
    pair = drawn(rows=9, dtype=torch.float64)
    kl, cross_entropy = CMSALoss(0.2).parts(*pair), CMSALoss(0.2, divergence="cross_entropy").parts(*pair)
    for direction, entropy in kl.teacher_entropy.items():
        torch.testing.assert_close(
            kl.divergence[direction] + entropy, cross_entropy.divergence[direction], rtol=1e-9, atol=0
        )
    for ours, theirs in zip(
        gradients(CMSALoss(0.2), pair), gradients(CMSALoss(0.2, divergence="cross_entropy"), pair), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


# the teacher's softness


@pytest.mark.parametrize("perplexity", [1.5, 4, 9.9])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_perplexity_is_reached_in_every_row(perplexity, scale):
    similarity = scale * torch.randn(10, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    temperatures = temperature_of_perplexity(similarity, perplexity)
    assert temperatures.shape == (10, 1)
    for row, temperature in zip(similarity, temperatures, strict=True):
        assert perplexity_loop([s / temperature for s in row]).item() == pytest.approx(perplexity, rel=1e-6)


def test_perplexity_in_the_loss_is_the_entropy_of_its_teacher():
    parts = CMSALoss(teacher_perplexity=5).parts(*drawn(rows=20))
    assert all(entropy.exp().item() == pytest.approx(5, rel=1e-4) for entropy in parts.teacher_entropy.values())
    with pytest.raises(ValueError, match=r"teacher_perplexity=20 cannot be reached with 20 items .* larger batch"):
        CMSALoss(teacher_perplexity=20)(*drawn(rows=20))


def test_perplexity_of_rows_that_tie_does_its_best():
    tied = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]])
    probabilities = (tied / temperature_of_perplexity(tied, 1.5)).softmax(dim=-1)
    assert probabilities.isfinite().all()
    torch.testing.assert_close(probabilities[0], torch.tensor([0.5, 0.5, 0, 0]), atol=1e-3, rtol=0)


def test_parts_are_the_loop():
    pair = drawn(rows=7, dtype=torch.float64)
    parts = CMSALoss(0.1, teacher="per_modality").parts(*pair)
    x, y = (cosine_rows(part, center=True) for part in pair)
    for direction, (queries, keys) in {(0, 1): (x, y), (1, 0): (y, x)}.items():
        divergence = entropy = 0.0
        for query in queries:
            target = torch.stack([query @ other for other in queries]).div(0.1).softmax(dim=0)
            student = torch.stack([query @ key for key in keys]).div(0.1).softmax(dim=0)
            divergence = divergence + (target * (target.log() - student.log())).sum() / 7
            entropy = entropy - (target * target.log()).sum() / 7
        torch.testing.assert_close(parts.divergence[direction], divergence)
        torch.testing.assert_close(parts.teacher_entropy[direction], entropy)
    torch.testing.assert_close(parts.loss, sum(parts.divergence.values()) / 2)


def test_frozen_base_teaches():
    pair, base = drawn(rows=8), drawn(rows=8, seed=5)
    base = [part.requires_grad_() for part in base]
    loss = CMSALoss(0.1, teacher="base")
    targets = CMSALoss(0.1).log_targets([center_and_normalize(part) for part in base], slice(0, 8))
    students = [center_and_normalize(part) for part in pair]
    logits = students[0] @ students[1].T / 0.1
    expected = sum(
        F.kl_div(z.log_softmax(dim=1), target, reduction="batchmean", log_target=True) / 2
        for z, target in zip((logits, logits.T), targets, strict=True)
    )
    torch.testing.assert_close(loss(*pair, base=base), expected)
    pair[0].requires_grad_()
    loss(*pair, base=base).backward()
    assert pair[0].grad.abs().max() > 0
    assert base[0].grad is None
    for given in (None, base[:1]):
        with pytest.raises(ValueError, match=r"teacher='base' needs base=\[…\].* all 2 modalities"):
            loss(*pair, base=given)


# the students' temperature


@pytest.mark.parametrize("make", LOSSES)
def test_learned_temperature_has_the_gradient_of_the_formula(make):
    pair = drawn(dtype=torch.float64)
    loss = make(0.3, learn_temperature=True).double()
    loss(*pair).backward()
    step = 1e-6
    teacher = {"teacher_temperature": 0.3} if make is CMSALoss else {}  # the teacher stays where it began
    around = [make(0.3 + sign * step, **teacher)(*pair) for sign in (1, -1)]
    slope = (around[0] - around[1]).item() / 2 / step
    assert loss.learned_temperature.grad.item() == pytest.approx(slope, rel=1e-4)
    with torch.no_grad():
        loss.learned_temperature.fill_(-1)
    assert loss.current_temperature == pytest.approx(0.01)
    loss.learned_temperature.grad = None
    loss(*pair).backward()
    assert loss.learned_temperature.grad != 0  # there is a way back from the bound
    with pytest.raises(ValueError, match=r"temperature=0.005 with learn_temperature=True must be 0.01 or more"):
        make(0.005, learn_temperature=True)
    assert dict(make(0.3).named_parameters()) == {}


# more modalities, missing ones, many rows


@pytest.mark.parametrize("make", LOSSES)
def test_three_modalities_are_their_pairs(make):
    views = [*drawn(rows=9), drawn(rows=9, seed=4)[0]]
    loss = make(0.2)
    parts = loss.parts(*views)
    pairs = {(i, j): loss(views[i], views[j]) for i, j in ((0, 1), (0, 2), (1, 2))}
    torch.testing.assert_close(parts.loss, sum(pairs.values()) / 3)
    assert set(parts.divergence) == {(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)}
    torch.testing.assert_close((parts.divergence[0, 2] + parts.divergence[2, 0]) / 2, pairs[0, 2])


@pytest.mark.parametrize("make", LOSSES)
def test_missing_items_are_as_good_as_absent(make):
    first, second = drawn(rows=12)
    present = torch.tensor([True] * 9 + [False] * 3)
    loss = make(0.2)
    expected, gradient = loss(first[:9], second[:9]), gradients(loss, (first[:9], second[:9]))
    leaves = [part.clone().requires_grad_() for part in (first, second)]
    value = loss(*leaves, present=[present, present])
    value.backward()
    torch.testing.assert_close(value, expected)
    for leaf, rows in zip(leaves, gradient, strict=True):
        torch.testing.assert_close(leaf.grad[:9], rows)
        assert leaf.grad[9:].abs().max() == 0


def test_a_pair_compares_the_items_that_have_both():
    """Each modality is centred over all its items, also those that the other one lacks."""
    first, second = drawn(rows=10)
    masks = [torch.arange(10) < 8, torch.arange(10) >= 3]
    views = [torch.zeros_like(first), torch.zeros_like(second)]
    for view, rows, mask in zip(views, (first, second), masks, strict=True):
        view[mask] = center_and_normalize(rows[mask])
    expected = CMSALoss(0.2, center=False, normalize=False)(views[0][3:8], views[1][3:8])
    torch.testing.assert_close(CMSALoss(0.2)(first, second, present=masks), expected)


def test_pairs_with_too_few_common_items_are_left_out():
    views = [*drawn(rows=8), drawn(rows=8, seed=4)[0]]
    everyone, few = torch.ones(8, dtype=torch.bool), torch.arange(8) < 4
    for rare in (1, 2):
        parts = CMSALoss(0.2).parts(*views, present=[everyone, everyone, torch.arange(8) < rare])
        torch.testing.assert_close(parts.loss, CMSALoss(0.2)(*views[:2]))
        assert set(parts.divergence) == {(0, 1), (1, 0)}
    parts = CMSALoss(0.2).parts(*views, present=[everyone, ~few, few])
    assert set(parts.divergence) == {(0, 1), (1, 0), (0, 2), (2, 0)}
    with pytest.raises(ValueError, match="no two modalities share 3 items in this batch of 8"):
        CMSALoss(0.2)(views[1], views[2], present=[~few, few])
    with pytest.raises(ValueError, match=r"embeddings\[1\]: none of the 8 items has this modality"):
        CMSALoss(0.2)(views[0], views[1], present=[everyone, torch.zeros_like(everyone)])
    for wrong in ([everyone], [everyone, everyone[:5]], [everyone, everyone.float()]):
        with pytest.raises(ValueError, match=r"present needs a bool mask of shape \(8,\) for each modality"):
            CMSALoss(0.2)(views[0], views[1], present=wrong)


CHUNKED = [
    (CMSALoss, {}),
    (CMSALoss, {"teacher": "per_modality", "teacher_temperature": 0.3}),
    (CMSALoss, {"teacher_perplexity": 4}),
    (CMSALoss, {"stop_gradient": False, "transpose_target": True, "learn_temperature": True}),
    (InfoNCELoss, {"learn_temperature": True}),
]


@pytest.mark.parametrize(("make", "options"), CHUNKED)
@pytest.mark.parametrize("chunk_rows", [1, 4, 12])
def test_chunks_are_the_whole(make, options, chunk_rows):
    pair = drawn(rows=13, dtype=torch.float64)
    whole, chunked = (make(0.2, **options, chunk_rows=rows).double() for rows in (1024, chunk_rows))
    torch.testing.assert_close(chunked(*pair), whole(*pair))
    for ours, theirs in zip(gradients(chunked, pair), gradients(whole, pair), strict=True):
        torch.testing.assert_close(ours, theirs)
    for loss in (whole, chunked):
        loss.zero_grad()
        loss(*pair).backward() if options.get("learn_temperature") else None
    for ours, theirs in zip(chunked.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("make", LOSSES)
def test_memory_of_the_graph_is_linear_in_the_batch(make):
    """No tensor that the graph keeps has B² numbers, however large B is."""
    pair = [part.requires_grad_() for part in drawn(rows=96)]
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        make(chunk_rows=8)(*pair).backward()
    assert max(kept) <= 8 * 96
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        make(chunk_rows=96)(*pair)
    assert max(kept) == 96 * 96


def test_gradients_are_those_of_finite_differences():
    leaves = [part.requires_grad_() for part in drawn(rows=5, width=4, dtype=torch.float64)]
    for loss in (CMSALoss(0.3, stop_gradient=False), InfoNCELoss(0.3), CMSALoss.reference().double()):
        assert torch.autograd.gradcheck(lambda *xy, loss=loss: loss(*xy), leaves)
