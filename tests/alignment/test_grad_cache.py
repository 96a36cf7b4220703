"""Cached gradients against the whole batch in one graph."""

import numpy as np
import pytest
import torch
from conftest import adapted_tiny
from torch import nn

from recbole_sda.adapters import checkpoint_routing
from recbole_sda.alignment import CMSALoss, InfoNCELoss, cached_step, split_inputs
from recbole_sda.encoders.batching import collate_items

ROWS = np.arange(2, 18)


class TwoTowers(nn.Module):
    """One shared layer with dropout and one layer a modality; (b, 6) -> (b, 5)."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.shared = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout))
        self.own = nn.ModuleDict({"image": nn.Linear(8, 5), "text": nn.Linear(8, 5)})
        self.calls = []

    def forward(self, modality, batch):
        self.calls.append((modality, len(batch), torch.is_grad_enabled()))
        return self.own[modality](self.shared(batch))


def inputs(rows=12):
    generator = torch.Generator().manual_seed(3)
    return {modality: torch.randn(rows, 6, generator=generator) for modality in ("image", "text")}


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    assert all(value.abs().max() > 0 for value in expected.values())
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **tolerance)


def whole_batch(tower, loss):
    batches = inputs()
    value = loss(*[tower(modality, batch) for modality, batch in batches.items()])
    value.backward()
    return value.detach()


@pytest.mark.parametrize("make", [CMSALoss, InfoNCELoss])
@pytest.mark.parametrize("size", [1, 5, 6])
def test_cached_equals_whole_batch(make, size):
    expected_tower, expected_loss = TwoTowers(), make(0.2, learn_temperature=True)
    expected = whole_batch(expected_tower, expected_loss)
    tower, loss = TwoTowers(), make(0.2, learn_temperature=True)
    value = cached_step(tower, {m: batch.split(size) for m, batch in inputs().items()}, loss)
    torch.testing.assert_close(value, expected)
    assert not value.requires_grad
    assert_same(gradients(tower), gradients(expected_tower))
    assert_same(gradients(loss), gradients(expected_loss))
    # twice each, first without a graph; never more than a micro-batch at once
    count = -(-12 // size)
    assert [grad for *_, grad in tower.calls] == [False] * 2 * count + [True] * 2 * count
    assert max(rows for _, rows, _ in tower.calls) == size


def test_single_micro_batch_is_computed_once():
    tower, loss = TwoTowers(), CMSALoss(0.2)
    expected_tower = TwoTowers()
    expected = whole_batch(expected_tower, CMSALoss(0.2))
    value = cached_step(tower, {m: [batch] for m, batch in inputs().items()}, loss)
    assert [(modality, grad) for modality, _, grad in tower.calls] == [("image", True), ("text", True)]
    torch.testing.assert_close(value, expected)
    assert not value.requires_grad
    assert_same(gradients(tower), gradients(expected_tower))


def test_modalities_may_be_cut_differently():
    expected_tower = TwoTowers()
    expected = whole_batch(expected_tower, CMSALoss(0.2))
    tower, batches = TwoTowers(), inputs()
    passes = {"image": batches["image"].split(2), "text": [batches["text"]]}
    torch.testing.assert_close(cached_step(tower, passes, CMSALoss(0.2)), expected)
    assert_same(gradients(tower), gradients(expected_tower))


def test_dropout_is_the_same_in_both_passes():
    """Equal to one graph over the same micro-batches with the same draws, which other draws are not."""
    passes = {m: batch.split(4) for m, batch in inputs().items()}

    def plain(seed):
        tower = TwoTowers(dropout=0.4)
        torch.manual_seed(seed)
        views = [torch.cat([tower(m, batch) for batch in batches]) for m, batches in passes.items()]
        CMSALoss(0.2)(*views).backward()
        return gradients(tower), torch.rand(1)

    tower = TwoTowers(dropout=0.4)
    torch.manual_seed(7)
    cached_step(tower, passes, CMSALoss(0.2))
    next_draw = torch.rand(1)
    expected, expected_draw = plain(7)
    assert_same(gradients(tower), expected)
    assert torch.equal(next_draw, expected_draw)  # the second pass leaves no trace in the random state
    other, _ = plain(8)
    assert (gradients(tower)["own.text.weight"] - other["own.text.weight"]).abs().max() > 1e-3


def test_steps_accumulate():
    tower, expected = TwoTowers(), TwoTowers()
    for _ in range(2):
        cached_step(tower, {m: batch.split(5) for m, batch in inputs().items()}, CMSALoss(0.2))
        whole_batch(expected, CMSALoss(0.2))
    assert_same(gradients(tower), gradients(expected))


def test_half_precision_embeddings_get_their_gradient():
    tower, expected = TwoTowers().bfloat16(), TwoTowers().bfloat16()
    halves = {m: batch.bfloat16() for m, batch in inputs().items()}
    cached_step(tower, {m: batch.split(4) for m, batch in halves.items()}, CMSALoss(0.2))
    CMSALoss(0.2)(*[expected(m, batch) for m, batch in halves.items()]).backward()
    assert_same(gradients(tower), gradients(expected), rtol=0.1, atol=0.01)


def test_modality_that_the_loss_ignores_gets_no_gradient():
    tower = TwoTowers()
    passes = {m: batch.split(4) for m, batch in inputs().items()}
    cached_step(tower, passes, lambda image, text: image.square().sum())
    assert tower.own["text"].weight.grad is None
    assert tower.own["image"].weight.grad.abs().max() > 0


# the real encoder


@pytest.fixture(scope="module")
def encoder_case(catalog):
    rows = ROWS[catalog.present("image")[ROWS] & catalog.present("text")[ROWS]]

    def gradients_of(size, *, checkpointing=False, dropout=0.0, whole_inputs=False):
        torch.manual_seed(0)
        backbone = adapted_tiny(lora_dropout=dropout, init_weights=False).train()
        if checkpointing:
            backbone.model.get_base_model().gradient_checkpointing_enable(
                {"use_reentrant": False, "context_fn": checkpoint_routing}
            )

        def encode(modality, batch):
            inputs = batch if whole_inputs else collate_items(catalog, backbone, modality, batch)
            return backbone(modality, inputs)

        if whole_inputs:
            passes = {m: split_inputs(collate_items(catalog, backbone, m, rows), size) for m in ("image", "text")}
        else:
            parts = [rows[first : first + size] for first in range(0, len(rows), size)]
            passes = {"image": parts, "text": parts}
        torch.manual_seed(1)
        value = cached_step(encode, passes, CMSALoss(0.2))
        return value, gradients(backbone)

    return gradients_of


@pytest.mark.parametrize(
    "options", [{}, {"checkpointing": True}, {"whole_inputs": True}], ids=["rows", "checkpointing", "packed"]
)
def test_adapters_gradient_is_the_whole_batchs(encoder_case, options):
    expected_value, expected = encoder_case(len(ROWS))
    value, found = encoder_case(3, **options)
    torch.testing.assert_close(value, expected_value, rtol=1e-4, atol=1e-5)
    assert len(expected) == 14 * 4
    assert_same(found, expected, rtol=1e-3, atol=1e-5)


def test_adapters_dropout_is_the_same_in_both_passes(encoder_case):
    """With dropout and checkpointing, whose recomputation is a third forward pass."""
    value, found = encoder_case(4, dropout=0.3)
    again, checkpointed = encoder_case(4, dropout=0.3, checkpointing=True)
    torch.testing.assert_close(value, again)
    assert_same(checkpointed, found, rtol=1e-3, atol=1e-5)


# inputs that are there as a whole


def test_packed_pictures_are_cut_where_they_end(tiny, catalog):
    rows = np.flatnonzero(catalog.present("image"))[:7]
    inputs = collate_items(catalog, tiny, "image", rows)
    assert len(inputs["pixel_values"]) != len(rows)
    parts = split_inputs(inputs, 3)
    assert [len(part["input_ids"]) for part in parts] == [3, 3, 1]
    for name, value in inputs.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), value)
    with torch.no_grad():
        whole = tiny("image", inputs)
        torch.testing.assert_close(
            torch.cat([tiny("image", part) for part in parts]), whole, rtol=1e-4, atol=1e-5
        )


def test_pictures_that_cannot_be_cut_are_refused(tiny, catalog):
    inputs = collate_items(catalog, tiny, "image", np.flatnonzero(catalog.present("image"))[:4])
    with pytest.raises(ValueError, match=r"one row of image_grid_thw for each of the 4 items; found \(3, 3\)"):
        split_inputs({**inputs, "image_grid_thw": inputs["image_grid_thw"][:3]}, 2)
    del inputs["image_grid_thw"]
    with pytest.raises(ValueError, match="found None"):
        split_inputs(inputs, 2)


def test_text_is_cut_by_rows(tiny):
    inputs = tiny.collate("text", [{"title": f"cup {number}"} for number in range(5)])
    parts = split_inputs(inputs, 2)
    assert [len(part["input_ids"]) for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part["input_ids"] for part in parts]), inputs["input_ids"])
