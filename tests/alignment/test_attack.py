"""An attacked teacher: wrong about the share asked for, in the same way everywhere, and about nothing else."""

import pytest
import torch
from conftest import drawn

from recbole_sda.alignment import CMSALoss, InfoNCELoss, TeacherAttack, center_and_normalize

KINDS = [
    {},
    {"teacher": "per_modality"},
    {"teacher_perplexity": 6},
    {"transpose_target": True},
    {"scale_teacher": "multiply", "normalize": False, "center": False, "stop_gradient": False},
]


def values_and_gradients(loss, pair, **told):
    leaves = [part.clone().requires_grad_() for part in pair]
    value = loss(*leaves, **told)
    return value, *torch.autograd.grad(value, leaves)


def structure_of(views, attack, items):
    structure = views @ views.T
    return structure, attack(structure, *attack.sample([views]), items, slice(None))


@pytest.fixture(scope="module")
def views():
    return center_and_normalize(torch.randn(400, 12, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("options", KINDS)
def test_an_attack_on_nothing_is_the_plain_loss_to_the_bit(options):
    pair, items = drawn(rows=40), torch.arange(40)
    plain = values_and_gradients(CMSALoss(0.2, **options), pair)
    idle = values_and_gradients(CMSALoss(0.2, attack=TeacherAttack(0.0, 3), **options), pair, items=items)
    assert all(torch.equal(a, b) for a, b in zip(plain, idle, strict=True))
    hit = values_and_gradients(CMSALoss(0.2, attack=TeacherAttack(0.5, 3), **options), pair, items=items)
    assert not torch.equal(plain[0], hit[0])


@pytest.mark.parametrize("options", KINDS)
def test_chunks_are_attacked_as_the_whole(options):
    pair, items = drawn(rows=40), torch.arange(100, 140)
    whole, parts = (
        values_and_gradients(
            CMSALoss(0.2, attack=TeacherAttack(0.4, 3), chunk_rows=rows, **options), pair, items=items
        )
        for rows in (40, 7)
    )
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_share_of_the_pairs_is_replaced_symmetrically_and_never_an_item_with_itself(views, share):
    clean, attacked = structure_of(views, TeacherAttack(share, 5), torch.arange(400))
    assert torch.equal(attacked, attacked.T)
    assert torch.equal(attacked.diagonal(), clean.diagonal())
    replaced = (attacked != clean).float()
    assert replaced.sum() / (400 * 399) == pytest.approx(share, abs=0.01)
    assert replaced.mean(dim=1).std() < 0.05  # no item bears it alone


def test_replaced_similarities_are_distributed_as_before_and_have_forgotten_what_they_were(views):
    clean, attacked = structure_of(views, TeacherAttack(0.999, 5), torch.arange(400))
    pairs = torch.triu_indices(400, 400, offset=1)
    before, after = clean[*pairs], attacked[*pairs]
    assert abs(torch.corrcoef(torch.stack([before, after]))[0, 1]) < 0.02
    quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    torch.testing.assert_close(before.quantile(quantiles), after.quantile(quantiles), atol=0.03, rtol=0.05)


def test_a_smaller_attack_is_part_of_a_larger_one(views):
    items = torch.arange(400)
    clean, few = structure_of(views, TeacherAttack(0.1, 5), items)
    _, many = structure_of(views, TeacherAttack(0.3, 5), items)
    hit = few != clean
    assert torch.equal(few[hit], many[hit])
    _, other = structure_of(views, TeacherAttack(0.1, 6), items)
    assert ((other != clean) & hit).sum() / hit.sum() == pytest.approx(0.1, abs=0.02)


def test_a_pair_is_attacked_alike_in_every_batch(views):
    """Which pairs are hit, and whether they are said to be alike or not, does not depend on the company."""
    attack, items = TeacherAttack(0.3, 5), torch.arange(1000, 1400)
    clean, everyone = structure_of(views, attack, items)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(2))[:200]
    some_clean, some = structure_of(views[order], attack, items[order])
    hit = some != some_clean
    assert torch.equal(hit, (everyone != clean)[order][:, order])
    said = torch.stack([some[hit], everyone[order][:, order][hit]])
    assert torch.corrcoef(said)[0, 1] > 0.99


def test_items_that_lack_a_modality_do_not_move_the_attack_to_others():
    pair, items, loss = drawn(rows=30), torch.arange(30), CMSALoss(0.2, attack=TeacherAttack(0.4, 3))
    present = [torch.ones(30, dtype=torch.bool), torch.arange(30) % 3 > 0]
    found = loss(*pair, present=present, items=items)
    # centring is each modality's own, over all its rows: only the second is cut down to the rows in common
    both = present[1]
    first = center_and_normalize(pair[0])[both]
    second = center_and_normalize(pair[1][both])
    alone = CMSALoss(0.2, attack=TeacherAttack(0.4, 3), center=False)
    torch.testing.assert_close(found, alone(first, second, items=items[both]))


def test_who_the_items_are_has_to_be_said():
    loss, pair = CMSALoss(0.2, attack=TeacherAttack(0.4, 3)), drawn(rows=10)
    assert loss.needs_items
    assert "attack=TeacherAttack(share=0.4, seed=3)" in repr(loss)
    with pytest.raises(ValueError, match=r"needs items of shape \(10,\), .* found None"):
        loss(*pair)
    with pytest.raises(ValueError, match=r"needs items of shape \(10,\), .* found \(9,\)"):
        loss(*pair, items=torch.arange(9))
    with pytest.raises(ValueError, match=r"share=1 must lie in \[0, 1\)"):
        TeacherAttack(1, 3)
    for plain in (CMSALoss(0.2), InfoNCELoss(0.2)):
        assert not plain.needs_items
        assert torch.equal(plain(*pair), plain(*pair, items=torch.arange(10)))
        assert "attack" not in repr(plain)
