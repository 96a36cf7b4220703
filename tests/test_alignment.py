import itertools
import logging

import numpy as np
import pytest
import torch
from conftest import adapted_tiny, open_demo

from recbole_sda.adapters import routing
from recbole_sda.alignment import AlignmentLoss, CMSALoss, InfoNCELoss, trainer
from recbole_sda.alignment.health import mean_pairwise_cosine, retrieval
from recbole_sda.alignment.trainer import AlignmentSettings, align, split_items
from recbole_sda.catalog import Catalog
from recbole_sda.catalog.demo import write_demo
from recbole_sda.encoders.batching import collate_items
from recbole_sda.errors import SDAError


def settings(**values) -> AlignmentSettings:
    defaults = {
        "batch_size": 8,
        "steps": 3,
        "learning_rate": 5e-3,
        "max_grad_norm": 1.0,
        "holdout_share": 0.3,
        "holdout_max": 512,
        "eval_every": 10,
        "seed": 1,
    }
    return AlignmentSettings(**{**defaults, **values})


def adapted(seed=0):
    torch.manual_seed(seed)
    return adapted_tiny()


def train(catalog, loss=None, *, backbone=None, **values):
    """Returns: the backbone after training, the records."""
    backbone = backbone or adapted()
    return backbone, align(backbone, catalog, loss or CMSALoss(0.2), settings(**values), show_progress=False)


def adapter_weights(backbone):
    return {name: p.detach().clone() for name, p in backbone.named_parameters() if p.requires_grad}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@torch.no_grad()
def embeddings(backbone, catalog, rows):
    return {m: backbone(m, collate_items(catalog, backbone, m, rows)) for m in ("image", "text")}


class Spoiled(AlignmentLoss):
    """A loss that is not a number from its n-th training step on."""

    def __init__(self, step):
        super().__init__()
        self.steps_left = step

    def compare(self, first, second):
        self.steps_left -= first.requires_grad
        return (first * second).sum() * (float("nan") if self.steps_left <= 0 else 1)


# does it learn?


@pytest.fixture(scope="module")
def larger_catalog(tmp_path_factory):
    return open_demo(write_demo(tmp_path_factory.mktemp("larger") / "demo", items=180, users=20))


def test_training_finds_the_planted_pairs(larger_catalog):
    values = {"batch_size": 56, "steps": 24, "learning_rate": 0.01, "eval_every": 8}
    backbone, records = train(larger_catalog, **values)
    held = split_items(larger_catalog, settings(**values))[1]
    chance = sum(1 / rank for rank in range(1, len(held) + 1)) / len(held)
    start, best = records[0]["mrr"], max(record["mrr"] for record in records)
    assert best > 2 * chance
    assert best > 1.5 * start
    assert records[-1]["loss"] < 0.6 * records[1]["loss"]
    assert records[-1]["held_out_loss"] < 0.85 * records[0]["held_out_loss"]
    assert not any("warning" in record for record in records)
    assert retrieval(*embeddings(backbone, larger_catalog, held).values())["mrr"] == pytest.approx(best)


@pytest.mark.slow
def test_training_finds_nothing_where_nothing_is_planted(tmp_path):
    catalog = open_demo(write_demo(tmp_path / "demo", items=180, users=20, image_signal=0))
    _, records = train(catalog, batch_size=56, steps=30)
    assert max(record["mrr"] for record in records) < 1.3 * records[0]["mrr"]
    assert records[-1]["loss"] < 0.8 * records[1]["loss"]  # it did learn what it was shown


@pytest.mark.slow
@pytest.mark.parametrize("loss", [CMSALoss(0.1), InfoNCELoss(0.2), CMSALoss(0.2, teacher="per_modality")])
def test_other_losses_find_the_planted_pairs(larger_catalog, loss):
    _, records = train(larger_catalog, loss, batch_size=56, steps=40)
    assert max(record["mrr"] for record in records) > 1.4 * records[0]["mrr"]


def test_uncentred_cmsa_collapses_and_the_watch_says_so(catalog, caplog):
    values = {"batch_size": 38, "steps": 20, "learning_rate": 1e-2, "eval_every": 20}
    with caplog.at_level(logging.WARNING, logger=trainer.logger.name):
        _, records = train(catalog, CMSALoss(0.05, center=False), **values)
    assert "embeddings are collapsing" in records[-1]["warning"]
    assert "center=True" in records[-1]["warning"]
    assert records[-1]["warning"] in caplog.text
    assert "step 20" in caplog.text
    for name in ("image", "text"):
        assert records[0]["mean_pairwise_cosine"][name] < 0.97
        assert records[-1]["mean_pairwise_cosine"][name] > 0.98
    assert records[-1]["held_out_loss"] < 0.01 * records[0]["held_out_loss"]  # the loss is content
    assert records[-1]["mrr"] < 1.3 * records[0]["mrr"]  # and nothing was learned

    _, centred = train(catalog, CMSALoss(0.05), **values)
    assert not any("warning" in record for record in centred)
    assert max(centred[-1]["mean_pairwise_cosine"].values()) < 0.98


# what is left behind


def test_records_and_the_best_state(catalog):
    backbone, records = train(catalog, steps=5, eval_every=2)
    assert [record["step"] for record in records] == [0, 2, 4, 5]
    assert records[0]["loss"] is None
    assert all(record["loss"] > 0 for record in records[1:])
    held = split_items(catalog, settings())[1]
    now = embeddings(backbone, catalog, held)
    best = max(records, key=lambda record: record["mrr"])
    assert retrieval(*now.values()) == {key: pytest.approx(best[key]) for key in retrieval(*now.values())}
    for name, rows in now.items():
        assert best["mean_pairwise_cosine"][name] == pytest.approx(mean_pairwise_cosine(rows), abs=1e-5)
    assert best["held_out_loss"] == pytest.approx(float(CMSALoss(0.2)(*now.values())), rel=1e-4)
    assert not backbone.training


@pytest.mark.parametrize("best_at", [0, 2, 5])
def test_the_best_state_comes_back(catalog, monkeypatch, best_at):
    """Whichever look at the held-out items was the best, and also when none beats the start."""
    looks, seen = itertools.count(), {}

    def judge(step, *args):
        seen[step] = adapter_weights(backbone)
        return {"step": step, "loss": 1.0, "mrr": 0.9 if step == best_at else 0.1 - 0.01 * next(looks)}

    monkeypatch.setattr(trainer, "_record", judge)
    backbone = adapted()
    train(catalog, backbone=backbone, steps=5, eval_every=2)
    assert list(seen) == [0, 2, 4, 5]
    assert [step for step in seen if same(seen[step], adapter_weights(backbone))] == [best_at]


def test_only_the_adapter_moves(catalog):
    backbone = adapted()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone, records = train(catalog, backbone=backbone, steps=4, learning_rate=0.02, eval_every=1)
    moved = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert max(record["mrr"] for record in records) > records[0]["mrr"]  # so that the best is not the start
    assert moved
    assert all("moda_" in name for name in moved)
    inputs = collate_items(catalog, backbone, "text", [0, 1])
    with torch.no_grad(), routing("text"), backbone.model.disable_adapter():
        disabled = backbone("text", inputs)
        bare = adapted(seed=5)("text", inputs)  # B = 0: a new adapter is the base model
    torch.testing.assert_close(disabled, bare)


def test_seed_decides_everything(catalog, monkeypatch):
    monkeypatch.setattr(trainer._HeldOut, "restore_best", lambda self: self.best[0])  # keep the last state

    def trained(state, seed):
        backbone = adapted()
        torch.manual_seed(state)  # whatever ran before leaves another state of torch's generator behind
        return train(catalog, backbone=backbone, steps=3, seed=seed)

    one, records = trained(state=11, seed=1)
    two, again = trained(state=12, seed=1)
    three, _ = trained(state=11, seed=2)
    assert same(adapter_weights(one), adapter_weights(two))
    assert records == again
    assert not same(adapter_weights(one), adapter_weights(three))
    assert not same(adapter_weights(one), adapter_weights(adapted()))


def test_held_out_items_never_train_and_each_epoch_is_fair(catalog, monkeypatch):
    batches = []

    def watch(catalog, backbone, modality, rows):
        if backbone.training:
            batches.append((modality, tuple(rows.tolist())))
        return collate_items(catalog, backbone, modality, rows)

    monkeypatch.setattr(trainer, "collate_items", watch)
    train(catalog, batch_size=13, steps=6, eval_every=100, holdout_share=0.3)
    train_rows, held = (set(part.tolist()) for part in split_items(catalog, settings()))
    images, texts = ([rows for m, rows in batches if m == modality] for modality in ("image", "text"))
    assert images == texts
    assert len(images) == 6
    assert all(len(set(rows)) == 13 for rows in images)
    assert all(train_rows.issuperset(rows) for rows in images)
    assert not held.intersection(*images)
    epochs = [[row for rows in images[first : first + 3] for row in rows] for first in (0, 3)]
    assert all(len(set(epoch)) == 39 for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_batch_larger_than_the_catalogue_takes_what_there_is(catalog):
    _, records = train(catalog, steps=1, batch_size=10_000, holdout_share=0.9)
    assert records[-1]["loss"] > 0


def test_learning_rate_falls_linearly_to_nothing(catalog, monkeypatch):
    rates = []

    class Watched(torch.optim.AdamW):
        def step(self, *args):
            rates.append(self.param_groups[0]["lr"])
            return super().step(*args)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    train(catalog, steps=4, learning_rate=0.4, max_grad_norm=1e-6)
    assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_gradients_are_clipped(catalog, monkeypatch):
    norms = []

    class Watched(torch.optim.SGD):
        def __init__(self, parameters, lr):
            super().__init__(parameters, lr=lr)

        def step(self, *args):
            gradients = [p.grad for p in self.param_groups[0]["params"] if p.grad is not None]
            norms.append(torch.cat([g.flatten() for g in gradients]).norm().item())
            return super().step(*args)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    train(catalog, steps=2, max_grad_norm=1e-3)
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-3)
    train(catalog, steps=1, max_grad_norm=1e6)
    assert norms[-1] > 1e-2


@pytest.mark.parametrize("step", [1, 3])
def test_loss_that_is_no_number_stops_with_step_and_remedy(catalog, step):
    message = f"loss is nan at step {step} .items P.*lower align_learning_rate=0.005 .*backbone_dtype=float32"
    with pytest.raises(SDAError, match=message):
        train(catalog, Spoiled(step), steps=4)


# the split


def test_split(catalog):
    train_rows, held = split_items(catalog, settings())
    both = np.flatnonzero(catalog.present("image") & catalog.present("text"))
    assert len(both) == 58
    assert sorted([*train_rows, *held]) == both.tolist()
    assert len(held) == round(0.3 * 58)
    again, other = split_items(catalog, settings()), split_items(catalog, settings(seed=2))
    assert all(np.array_equal(*pair) for pair in zip(again, (train_rows, held), strict=True))
    assert not np.array_equal(other[1], held)
    assert len(split_items(catalog, settings(holdout_max=5))[1]) == 5


def test_without_pairs_there_is_nothing_to_align(demo_folder, tmp_path):
    catalog = Catalog.open(
        demo_folder, ["P0000", "P0001"], text_fields=["title"], image_folder=tmp_path, show_progress=False
    )
    backbone = adapted()
    with pytest.raises(SDAError, match=r"no item of 'demo' has both an image and a text.*--modalities=text"):
        align(backbone, catalog, CMSALoss(), settings())


@pytest.mark.parametrize("values", [{"holdout_share": 0.04}, {"holdout_share": 0.97}, {"holdout_max": 2}])
def test_too_few_items_are_refused(catalog, values):
    with pytest.raises(SDAError, match=r"only 58 items of 'demo' have both .*--adapter=none"):
        split_items(catalog, settings(**values))
