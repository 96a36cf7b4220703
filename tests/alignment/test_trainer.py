import itertools
import logging

import numpy as np
import pytest
import torch
from conftest import adapted_tiny, open_demo
from conftest import alignment_settings as settings
from peft import LoraConfig, get_peft_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recbole_sda.adapters import routing
from recbole_sda.alignment import AlignmentLoss, CMSALoss, InfoNCELoss, encoding, held_out, trainer
from recbole_sda.alignment.health import mean_pairwise_cosine, retrieval
from recbole_sda.alignment.sampling import BatchSampler, split_items, step_seed
from recbole_sda.alignment.trainer import align
from recbole_sda.catalog import Catalog
from recbole_sda.catalog.demo import write_demo
from recbole_sda.encoders.batching import collate_items
from recbole_sda.errors import SDAError


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

    def compare(self, pair, teachers):
        self.steps_left -= pair[0].requires_grad
        return (pair[0] * pair[1]).sum().expand(2, 2) * (float("nan") if self.steps_left <= 0 else 1)


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
    assert not any(record["warnings"] for record in records)
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
    (warning,) = records[-1]["warnings"]
    assert "embeddings are collapsing" in warning
    assert "center=True" in warning
    assert warning in caplog.text
    assert "step 20" in caplog.text
    for name in ("image", "text"):
        assert records[0]["mean_pairwise_cosine"][name] < 0.97
        assert records[-1]["mean_pairwise_cosine"][name] > 0.98
    assert records[-1]["held_out_loss"] < 0.01 * records[0]["held_out_loss"]  # the loss is content
    assert records[-1]["mrr"] < 1.3 * records[0]["mrr"]  # and nothing was learned

    _, centred = train(catalog, CMSALoss(0.05), **values)
    assert not any(record["warnings"] for record in centred)
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
    look = held_out.HeldOut.look

    def judge(self, step):
        seen[step] = adapter_weights(backbone)
        return {**look(self, step), "mrr": 0.9 if step == best_at else 0.1 - 0.01 * next(looks)}

    monkeypatch.setattr(held_out.HeldOut, "look", judge)
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
    monkeypatch.setattr(trainer, "restore_parameters", lambda *best: None)  # keep the last state

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

    monkeypatch.setattr(encoding, "collate_items", watch)
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


def test_batch_larger_than_the_catalogue_takes_what_there_is_and_says_so(catalog, caplog):
    with caplog.at_level(logging.INFO, logger=trainer.logger.name):
        _, records = train(catalog, steps=1, batch_size=10_000, holdout_share=0.9)
    assert records[-1]["loss"] > 0
    assert "align_batch_size=10000, but there are 6 items to train on: every step compares them all" in caplog.text


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
    message = f"loss of step {step} cannot be used, not finite .items P.*lower align_learning_rate=0.005.*float32"
    with pytest.raises(SDAError, match=message):
        train(catalog, Spoiled(step), steps=4)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_embeddings_that_are_no_numbers_name_their_items(catalog, monkeypatch, modality):
    backbone = adapted()
    whole, spoiled = backbone.forward, []

    def forward(asked, inputs):
        rows = whole(asked, inputs)
        if backbone.training and asked == modality:
            rows = rows * torch.tensor([1.0, float("nan")] + [1.0] * (len(rows) - 2)).unsqueeze(1)
        return rows

    def remember(catalog, backbone, asked, rows):
        spoiled.append(catalog.tokens[rows[1]])
        return collate_items(catalog, backbone, asked, rows)

    monkeypatch.setattr(backbone, "forward", forward)
    monkeypatch.setattr(encoding, "collate_items", remember)
    message = rf"the {modality} embeddings of step 1 cannot be used, not finite .items P\d+.; .*float32"
    with pytest.raises(SDAError, match=message) as error:
        train(catalog, backbone=backbone)
    assert f"(items {spoiled[-1]})" in str(error.value)


@pytest.mark.parametrize(("at", "when"), [(0, "before the first step"), (5, "at step 1")])
def test_no_memory_left_names_step_sizes_and_remedy(catalog, monkeypatch, at, when):
    calls = itertools.count()

    def forward(modality, inputs):
        if next(calls) == at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return whole(modality, inputs)

    backbone = adapted()
    whole = backbone.forward
    monkeypatch.setattr(backbone, "forward", forward)
    message = (
        f"out of memory {when}, with align_batch_size=24 in micro-batches of align_micro_batch=20: CUDA out of "
        r"memory.*GiB\. Lower align_micro_batch .*max_pixels.*align_gradient_checkpointing=True"
    )
    with pytest.raises(SDAError, match=message):
        train(catalog, backbone=backbone, batch_size=24, micro_batch=20, eval_every=1)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_gradients_that_are_no_numbers_stop_before_they_are_applied(catalog, tmp_path, value):
    """The loss is finite, and the checkpoint from before the step stays good."""
    backbone, step = adapted(), itertools.count(1)
    (parameter, *_) = (p for p in backbone.parameters() if p.requires_grad)
    parameter.register_hook(lambda grad: grad * value if next(step) > 2 else grad)
    run = {"settings": settings(checkpoint_every=1), "folder": tmp_path, "show_progress": False}
    with pytest.raises(SDAError, match=r"the gradient of step 3 is not finite; lower align_learning_rate=0.005"):
        align(backbone, catalog, CMSALoss(0.2), **run)
    assert align(adapted(), catalog, CMSALoss(0.2), **run)[-1]["step"] == 3


def test_held_out_embeddings_that_are_no_numbers_name_their_items(catalog, monkeypatch):
    backbone = adapted()
    whole = backbone.forward
    monkeypatch.setattr(backbone, "forward", lambda modality, inputs: whole(modality, inputs) * float("nan"))
    with pytest.raises(SDAError, match=r"the held-out image embeddings of step 0 cannot .*items P\d+, P\d+, .*…"):
        train(catalog, backbone=backbone)


# sizes, precision, patience


def test_micro_batches_change_nothing_but_memory(catalog, monkeypatch):
    """Pictures are read in micro-batches, twice in a step, and never more at once."""
    read = []

    def watch(catalog, backbone, modality, rows):
        read.append((modality, backbone.training, len(rows)))
        return collate_items(catalog, backbone, modality, rows)

    monkeypatch.setattr(encoding, "collate_items", watch)

    def trained(micro_batch):
        torch.manual_seed(0)
        return train(
            catalog, backbone=adapted_tiny(lora_dropout=0.0), steps=2, batch_size=20, micro_batch=micro_batch
        )

    whole, records = trained(64)
    read.clear()
    cached, again = trained(6)
    for name, weights in adapter_weights(whole).items():
        torch.testing.assert_close(adapter_weights(cached)[name], weights, rtol=1e-3, atol=1e-4)
    assert again[-1]["loss"] == pytest.approx(records[-1]["loss"], rel=1e-4)
    assert again[-1]["mrr"] == pytest.approx(records[-1]["mrr"], rel=1e-2)
    assert max(count for *_, count in read) == 6
    for modality in ("image", "text"):
        assert [count for m, training, count in read if training and m == modality] == [6, 6, 6, 2] * 4


def test_bf16_trains_in_autocast(catalog):
    _, exact = train(catalog, steps=2)
    backbone, mixed = train(catalog, steps=2, mixed_precision="bf16")
    assert {weights.dtype for weights in adapter_weights(backbone).values()} == {torch.float32}
    assert mixed[-1]["loss"] == pytest.approx(exact[-1]["loss"], rel=0.05)
    assert mixed[-1]["loss"] != exact[-1]["loss"]


def test_patience_ends_a_training_that_does_not_get_better(catalog, monkeypatch):
    scores = iter([0.1, 0.3, 0.2, 0.2, 0.5])
    look = held_out.HeldOut.look
    monkeypatch.setattr(held_out.HeldOut, "look", lambda self, step: {**look(self, step), "mrr": next(scores)})
    _, records = train(catalog, steps=9, eval_every=2, patience=2)
    assert [record["step"] for record in records] == [0, 2, 4, 6]


def test_frozen_base_teaches_a_training(catalog, monkeypatch):
    loss, bases = CMSALoss(0.2, teacher="base"), []
    whole = loss.parts

    def parts(*embeddings, base=None, **options):
        bases.append([rows.clone() for rows in base])
        return whole(*embeddings, base=base, **options)

    monkeypatch.setattr(loss, "parts", parts)
    values = {"steps": 3, "batch_size": 41, "learning_rate": 0.05, "holdout_share": 0.3, "micro_batch": 20}
    train(catalog, loss, **values)
    bare = adapted(seed=5)  # B = 0
    sampler = BatchSampler(split_items(catalog, settings(**values))[0], 41, 1)
    rows = [sampler.batch(step) for step in (1, 2, 3)]
    training = [base for base in bases if len(base[0]) == 41]
    for step_rows, base in zip(rows, training, strict=True):
        for expected, found in zip(embeddings(bare.eval(), catalog, step_rows).values(), base, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


# what is told


def test_records_tell_the_parts_of_the_loss_and_the_gates(catalog):
    _, records = train(catalog, CMSALoss(0.2, learn_temperature=True), steps=4, eval_every=2)
    last = records[-1]
    divergences = [last[f"divergence_{a}_to_{b}"] for a, b in (("image", "text"), ("text", "image"))]
    assert last["loss"] == pytest.approx(sum(divergences) / 2, rel=1e-5)
    assert 0 < last["teacher_entropy_image_to_text"] < np.log(8)
    assert last["temperature"] != 0.2
    assert records[0]["distance_to_base"] == {"image": 0, "text": 0}
    assert min(last["distance_to_base"].values()) > 0
    assert len(last["gates"]) == 14
    for name, modalities in records[0]["gates"].items():
        assert "language_model.layers." in name
        assert list(modalities) == ["image", "text"]
        assert [len(shares) for shares in modalities.values()] == [4, 4]
        assert all(sum(shares) == pytest.approx(1, abs=1e-3) for shares in modalities.values())
    assert last["gates"] != records[0]["gates"]


def test_lora_has_no_gates(catalog):
    backbone = load_tiny_lora()
    _, records = train(catalog, backbone=backbone, steps=1)
    assert records[-1]["gates"] == {}


def load_tiny_lora():
    torch.manual_seed(0)
    backbone = adapted_tiny()
    backbone.model = get_peft_model(backbone.model.unload(), LoraConfig(target_modules=["q_proj"]))
    return backbone


def test_figures_reach_tensorboard(catalog, tmp_path):
    backbone = adapted()
    records = align(
        backbone, catalog, CMSALoss(0.2), settings(steps=4, eval_every=2, trackers=("tensorboard",)),
        folder=tmp_path, show_progress=False,
    )  # fmt: skip
    events = EventAccumulator(str(tmp_path / "recbole_sda"), size_guidance={"scalars": 0}).Reload()
    names = set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    rates = [event.value for event in events.Scalars("train/learning_rate")]
    assert rates == pytest.approx([0.005, 0.00375, 0.0025, 0.00125])
    assert [event.step for event in events.Scalars("held_out/mrr")] == [0, 2, 4]
    assert min(event.value for event in events.Scalars("train/tokens_per_second")) > 0
    assert "held_out/divergence_image_to_text" not in names  # it is the training's
    assert [event.value for event in events.Scalars("held_out/loss")] == pytest.approx(
        [record["held_out_loss"] for record in records]
    )
    assert {"held_out/image_to_text_recall@5", "train/divergence_image_to_text"} <= names
    assert {"effective_rank/text", "distance_to_base/image"} <= names
    assert sum(name.startswith("gate/") for name in names) == 14 * 2 * 4


def test_progress_bar_shows_learning_rate_and_tokens(catalog, capsys):
    align(adapted(), catalog, CMSALoss(0.2), settings(steps=2))
    shown = capsys.readouterr().err
    assert "adapt" in shown
    assert all(word in shown for word in ("lr=", "tok/s=", "loss=", "mrr="))


# the order of the items


def test_batches_are_a_function_of_the_step():
    sampler = BatchSampler(np.arange(100, 140), 13, seed=3)
    forward = [sampler.batch(step).tolist() for step in range(1, 8)]
    backward = [BatchSampler(np.arange(100, 140), 13, seed=3).batch(step).tolist() for step in range(7, 0, -1)]
    assert forward == backward[::-1]
    assert forward != [BatchSampler(np.arange(100, 140), 13, seed=4).batch(step).tolist() for step in range(1, 8)]
    for first in (0, 3):
        epoch = [row for batch in forward[first : first + 3] for row in batch]
        assert len(set(epoch)) == 39
    assert len(BatchSampler(np.arange(5), 13, seed=3).batch(9)) == 5


def test_every_step_and_process_has_a_seed_of_its_own():
    seeds = [step_seed(seed, step, process) for seed in (0, 1) for step in (1, 2, 3) for process in (0, 1)]
    assert len(set(seeds)) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds[0] == step_seed(0, 1, 0)


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
