"""Gradient conflict: against a slow plain oracle, on planted gradients, and from the command line to the page."""

import dataclasses
import itertools
import json
import logging
import math
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import adapted_tiny, alignment_settings
from peft import LoraConfig, get_peft_model
from three_modalities import MODALITIES, Numbers

import recbole_sda
from recbole_sda import cli, pipeline, stage_conflict, stages
from recbole_sda.adapters.config import language_model_targets
from recbole_sda.alignment import CMSALoss, InfoNCELoss
from recbole_sda.alignment.conflict import (
    PROJECTIONS,
    last_layer_B,
    measure_conflict,
    modality_gradients,
    rows_to_draw,
)
from recbole_sda.alignment.cosines import EACH, batch_cosines, gradient_cosines, mean_interval, summarize
from recbole_sda.alignment.sampling import split_items
from recbole_sda.catalog.demo import write_demo
from recbole_sda.encoders.batching import collate_items
from recbole_sda.errors import SDAError
from recbole_sda.report.conflict import conflict_table, write_conflict_plot

EXPERTS = 2


def plain_gradients(embed, loss, rows, parameters, modalities) -> dict:
    """The loss once a modality, all other embeddings detached; one graph over the whole batch."""
    gradients = {}
    for own in modalities:
        shown = [embed(m, rows) if m == own else embed(m, rows).detach() for m in modalities]
        values = [loss(shown[i], shown[j]) for i in range(len(shown)) for j in range(i + 1, len(shown))]
        value = sum(values) / len(values)  # the mean over the pairs of modalities
        gradients[own] = dict(zip(parameters, torch.autograd.grad(value, list(parameters.values())), strict=True))
    return gradients


def plain_cosine(first, second, *, columns, projections) -> float:
    """Entry by entry over some columns of some projections' gradients."""
    dot = first_square = second_square = 0.0
    for name in projections:
        for row in range(first[name].shape[0]):
            for column in columns:
                a, b = first[name][row, column].item(), second[name][row, column].item()
                dot, first_square, second_square = dot + a * b, first_square + a * a, second_square + b * b
    return dot / math.sqrt(first_square * second_square)


class Toy:
    """Three modalities of 8 items through two low-rank updates in a row, the second after a tanh."""

    modalities = ("image", "text", "audio")

    def __init__(self):
        torch.manual_seed(3)
        self.items = {m: torch.randn(8, 5, dtype=torch.float64) for m in self.modalities}
        self.A = [torch.randn(4, width, dtype=torch.float64) for width in (5, 6)]
        self.B = {
            "q_proj": torch.randn(6, 4, dtype=torch.float64, requires_grad=True),
            "o_proj": torch.randn(7, 4, dtype=torch.float64, requires_grad=True),
        }

    def embed(self, modality, rows):
        hidden = torch.tanh(self.items[modality][rows] @ self.A[0].T @ self.B["q_proj"].T)
        return hidden @ self.A[1].T @ self.B["o_proj"].T


# --- the computation ---


@pytest.mark.parametrize("loss", [CMSALoss(0.5), InfoNCELoss(0.3)])
@pytest.mark.parametrize("modalities", [("image", "text"), ("image", "text", "audio")])
def test_gradients_are_those_of_the_loss_with_one_side_detached(loss, modalities):
    toy, rows = Toy(), [5, 0, 3, 7, 1, 6, 2]
    wanted = plain_gradients(toy.embed, loss, rows, toy.B, modalities)
    for parts in ([rows], [rows[:3], rows[3:6], rows[6:]]):
        found = modality_gradients(toy.embed, loss, dict.fromkeys(modalities, parts), toy.B)
        assert list(found) == list(modalities)
        for modality, gradients in wanted.items():
            for name, gradient in gradients.items():
                torch.testing.assert_close(found[modality][name], gradient, rtol=1e-5, atol=1e-7)


def test_cosines_are_those_of_the_flattened_columns():
    toy, rows = Toy(), list(range(8))
    gradients = plain_gradients(toy.embed, CMSALoss(0.5), rows, toy.B, toy.modalities)
    found = batch_cosines(gradients, EXPERTS)
    pairs = [("image", "text"), ("image", "audio"), ("text", "audio")]
    assert list(dict.fromkeys(key[:2] for key in found)) == pairs
    experts = {None: range(4), 0: (0, 1), 1: (2, 3)}
    projections = {None: tuple(toy.B), "q_proj": ("q_proj",), "o_proj": ("o_proj",)}
    assert len(found) == len(pairs) * (len(experts) * len(projections) + 1)
    for first, second in pairs:
        cells = []
        for expert, columns in experts.items():
            for projection, names in projections.items():
                wanted = plain_cosine(gradients[first], gradients[second], columns=columns, projections=names)
                assert found[first, second, expert, projection] == pytest.approx(wanted, abs=1e-9)
                cells += [wanted] if expert is not None and projection is not None else []
        assert found[first, second, EACH, EACH] == pytest.approx(sum(cells) / len(cells), abs=1e-9)


@pytest.mark.parametrize(
    ("image", "text", "towards", "wanted"),
    [
        # what B's columns see of the picture, of the text; where the losses pull them; all, expert 0, expert 1
        ([1, 1, 1, 1], [1, 1, 1, 1], 1, (1, 1, 1)),
        ([1, 1, 1, 1], [1, 1, 1, 1], -1, (-1, -1, -1)),
        ([1, 1, 1, 1], [2, 2, -2, -2], 1, (0, 1, -1)),
        ([1, 2, 0, 0], [0, 0, 2, 1], -1, (0, None, None)),
        ([3, 0, 1, 0], [3, 0, -1, 0], 1, (0.8, 1, -1)),
    ],
)
def test_planted_conflict_is_found(image, text, towards, wanted):
    """Embeddings B·a and losses c·e: the gradients are c aᵀ, so their cosine is known in one's head."""
    seen = {"image": torch.tensor(image).double(), "text": torch.tensor(text).double()}
    pull = torch.tensor([0.5, -1.0, 2.0]).double()
    B = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)

    def embed(modality, rows):
        return (B @ seen[modality]).expand(len(rows), 3)

    def loss(first, second):
        return (first @ pull + towards * second @ pull).sum()

    parts = [[0, 1], [2]]
    gradients = modality_gradients(embed, loss, {"image": parts, "text": parts}, {"q_proj": B})
    torch.testing.assert_close(gradients["text"]["q_proj"], 3 * towards * torch.outer(pull, seen["text"]))
    found = gradient_cosines(gradients["image"], gradients["text"], EXPERTS)
    for expert, cosine in zip((None, 0, 1), wanted, strict=True):
        for projection in (None, "q_proj"):
            assert found[expert, projection] == pytest.approx(math.nan if cosine is None else cosine, nan_ok=True)


def test_interval_is_students_over_the_batches():
    cosines = [0.1, 0.3, 0.2, 0.5, -0.1, 0.4, 0.0, 0.2, 0.3, 0.1]
    mean = 0.2
    deviation = math.sqrt(sum((c - mean) ** 2 for c in cosines) / 9)
    half = 2.262157 * deviation / math.sqrt(10)  # t of 97.5 % at 9 degrees of freedom, from a table
    assert mean_interval(cosines) == pytest.approx((mean, mean - half, mean + half), abs=1e-6)
    assert mean_interval([*cosines, math.nan]) == pytest.approx((mean, mean - half, mean + half), abs=1e-6)
    assert mean_interval([0.9, 1.0]) == pytest.approx((0.95, 0.95 - 12.706205 * 0.05, 1.0), abs=1e-6)
    assert mean_interval([-1.0, -0.9])[1] == -1.0
    assert mean_interval([0.4, math.nan]) == pytest.approx((0.4, math.nan, math.nan), nan_ok=True)
    assert all(math.isnan(value) for value in mean_interval([math.nan]))


def test_records_keep_every_batch_and_hold_no_nan():
    found = [{("image", "text", None, None): c, ("image", "text", 0, None): math.nan} for c in (0.1, 0.2, 0.6)]
    both, expert = summarize(found)
    assert (both["pair"], both["expert"], both["projection"]) == (["image", "text"], None, None)
    assert both["cosines"] == [0.1, 0.2, 0.6]
    assert (both["mean"], both["low"], both["high"]) == pytest.approx(mean_interval([0.1, 0.2, 0.6]))
    assert expert["cosines"] == [None] * 3
    assert expert["mean"] is expert["low"] is expert["high"] is None
    json.dumps([both, expert], allow_nan=False)


# --- on a backbone ---


def backbone_with(kind="moda", **keys):
    torch.manual_seed(0)
    if kind == "moda":
        return adapted_tiny(**keys)
    backbone = adapted_tiny()
    backbone.model = get_peft_model(backbone.model.unload(), LoraConfig(target_modules=language_model_targets()))
    return backbone


def embedder(backbone, catalog):
    return lambda modality, rows: backbone(modality, collate_items(catalog, backbone, modality, rows))


def cosines_of(backbone, catalog, rows=tuple(range(2, 10))):
    """Of one batch, experts as MoDA's default has them."""
    passes = {"image": [rows], "text": [rows]}
    found = modality_gradients(
        embedder(backbone.eval(), catalog), CMSALoss(0.2), passes, last_layer_B(backbone)
    )
    return {key[2:]: cosine for key, cosine in batch_cosines(found, 4).items()}


@pytest.mark.parametrize(("kind", "leaf"), [("moda", "moda_B.default"), ("lora", "lora_B.default.weight")])
def test_last_layers_B_are_found(kind, leaf):  # noqa: N802
    backbone = backbone_with(kind)
    found = last_layer_B(backbone)
    assert list(found) == ["q_proj", "k_proj", "v_proj", "o_proj"]
    by_name = dict(backbone.named_parameters())
    for name, parameter in found.items():
        full = f"model.base_model.model.model.language_model.layers.1.self_attn.{name}.{leaf}"
        assert parameter is by_name[full]
        assert parameter.shape == ({"k_proj": 32, "v_proj": 32}.get(name, 64), 8)


def test_what_is_adapted_of_the_last_layer_is_looked_at():
    only = backbone_with(target_modules=r".*language_model\.layers\.1\.self_attn\.(?:v|o)_proj")
    assert list(last_layer_B(only)) == ["v_proj", "o_proj"]
    for pattern in (language_model_targets(0), r".*language_model.*mlp\.up_proj", r"model\.visual.*attn\.qkv"):
        with pytest.raises(SDAError, match=r"target_modules adapts none of q_proj, .* last decoder layer, 1,"):
            last_layer_B(backbone_with(target_modules=pattern))


@pytest.mark.parametrize("keys", [{"init_weights": False}, {"num_experts": 2}])
def test_backbone_gradients_are_those_of_the_plain_loss(catalog, keys):
    backbone, rows, loss = backbone_with(**keys).eval(), np.arange(2, 9), CMSALoss(0.2)
    parameters = last_layer_B(backbone)
    embed, pair = embedder(backbone, catalog), ("image", "text")
    wanted = plain_gradients(embed, loss, rows, parameters, pair)
    parts = [rows[:3], rows[3:]]
    found = modality_gradients(embed, loss, {"image": parts, "text": parts}, parameters)
    for modality in pair:
        for name, gradient in wanted[modality].items():
            assert gradient.abs().max() > 0
            torch.testing.assert_close(
                found[modality][name], gradient, rtol=1e-3, atol=1e-3 * gradient.abs().max()
            )


def test_gates_change_no_experts_cosine(catalog):
    """At one projection never; over the four only through their weights; all together very much."""
    backbone = backbone_with()
    layers = [m for n, m in backbone.named_modules() if n.endswith(PROJECTIONS) and "layers.1." in n]
    assert len(layers) == 4
    plain = cosines_of(backbone, catalog)
    cells = [(expert, name) for expert in range(4) for name in PROJECTIONS]
    assert any(plain[cell] < -0.05 for cell in cells)
    assert any(plain[cell] > 0.05 for cell in cells)

    with torch.no_grad():
        for layer in layers:  # each its own gates, far from even, other ones for the image than for the text
            layer.moda_modality_embedding["default"].weight.mul_(2.0)
    other = cosines_of(backbone, catalog)
    for cell in [*cells, (EACH, EACH)]:
        assert other[cell] == pytest.approx(plain[cell], abs=1e-4)
    assert abs(other[None, None] - plain[None, None]) > 0.01
    assert max(abs(other[expert, None] - plain[expert, None]) for expert in range(4)) > 0.01

    together = []
    for scale in (0.5, 2.0):
        with torch.no_grad():
            weights = torch.randn(2, 64, generator=torch.Generator().manual_seed(1)) * scale
            for layer in layers:  # the same gates in all four: an expert's factor is one number, and cancels
                layer.moda_gate["default"].weight.copy_(layers[0].moda_gate["default"].weight)
                layer.moda_modality_embedding["default"].weight.copy_(weights)
        together.append(cosines_of(backbone, catalog))
    for expert in range(4):
        assert together[0][expert, None] == pytest.approx(together[1][expert, None], abs=1e-4)
    assert abs(together[0][None, None] - together[1][None, None]) > 0.01


def test_gates_that_part_the_modalities_hide_the_conflict_but_not_in_the_experts(catalog):
    backbone = backbone_with()
    plain = cosines_of(backbone, catalog)
    with torch.no_grad():
        for name, module in backbone.named_modules():
            if name.endswith(PROJECTIONS) and "layers.1." in name:
                module.moda_gate["default"].weight.zero_()[:, :2] = torch.tensor(
                    [[9.0, -9], [0, 0], [0, 0], [-9, 9]]
                )
                module.moda_modality_embedding["default"].weight.zero_()[:, :2] = torch.eye(2)
    parted = cosines_of(backbone, catalog)
    assert abs(parted[None, None]) < 1e-3
    assert parted[EACH, EACH] == pytest.approx(plain[EACH, EACH], abs=1e-3)


def measured(catalog, backbone=None, loss=None, batches=3, **keys):
    settings = alignment_settings(**{"batch_size": 8, "micro_batch": 5, **keys})
    return measure_conflict(
        backbone or backbone_with(), catalog, loss or CMSALoss(0.2), settings, batches=batches, num_experts=4,
        show_progress=False,
    )  # fmt: skip


@pytest.mark.parametrize("teacher", ["mean", "base"])
def test_batches_are_drawn_from_the_rows_and_each_leaves_a_cosine(catalog, monkeypatch, teacher):
    drawn = []

    def watch(catalog, backbone, modality, rows):
        drawn.append((modality, tuple(rows)))
        return collate_items(catalog, backbone, modality, rows)

    monkeypatch.setattr("recbole_sda.alignment.encoding.collate_items", watch)
    backbone = backbone_with().train()
    records = measured(catalog, backbone, loss=CMSALoss(0.2, teacher=teacher), micro_batch=100)
    assert len(records) == (1 + 4) * (1 + 4) + 1
    assert all(len(record["cosines"]) == 3 for record in records)
    assert all(record["low"] <= record["mean"] <= record["high"] for record in records)
    batches = {rows for _, rows in drawn}
    assert len(batches) == 3
    assert {modality for modality, _ in drawn} == {"image", "text"}
    trained_on = set(split_items(catalog, alignment_settings())[0])
    assert all(len(set(rows)) == 8 and set(rows) <= trained_on for rows in batches)
    looked_at = {id(parameter) for parameter in last_layer_B(backbone).values()}
    assert {id(p) for p in backbone.parameters() if p.requires_grad} == looked_at
    assert all(p.grad is None for p in backbone.parameters())
    assert not backbone.training  # dropout is off


def test_seed_decides_the_batches(catalog):
    first = measured(catalog, batches=2, batch_size=4)
    torch.manual_seed(99)
    assert measured(catalog, batches=2, batch_size=4) == first
    assert measured(catalog, batches=2, batch_size=4, seed=2) != first


def test_frozen_model_teaches_where_the_loss_asks_for_it(catalog):
    """With B = 0 the adapter changes nothing, so the frozen model teaches what the model itself does."""
    quick = {"batches": 2, "batch_size": 5}
    own, base = (measured(catalog, loss=CMSALoss(0.5, teacher=t), **quick) for t in ("mean", "base"))
    assert [r["cosines"] for r in own] == [pytest.approx(r["cosines"], abs=1e-4) for r in base]
    moved = backbone_with(init_weights=False)
    own, base = (measured(catalog, moved, CMSALoss(0.5, teacher=t), **quick) for t in ("mean", "base"))
    assert max(abs(a["mean"] - b["mean"]) for a, b in zip(own, base, strict=True)) > 2e-3


def test_what_cannot_be_measured_is_refused(catalog):
    with pytest.raises(SDAError, match="align_batch_size=41 takes all 41 training items that have every"):
        measured(catalog, batch_size=41)

    class Broken(torch.nn.Module):
        needs_base = needs_items = False

        def forward(self, first, second):
            return (first * second).sum() * float("nan")

    with pytest.raises(SDAError, match=r"the image pass gives q_proj .* not finite; use backbone_dtype=float32"):
        measured(catalog, loss=Broken())


def test_three_modalities_are_drawn_from_the_items_that_have_all():
    """24 items of which 12 have everything; half of those are too few for a batch of 9."""
    numbers, settings = Numbers(), alignment_settings(modalities=MODALITIES, holdout_share=0.4, batch_size=4)
    rows = rows_to_draw(numbers, settings)
    trained_on = split_items(numbers, settings)[0]
    assert rows.tolist() == [row for row in trained_on if row < 12]
    assert 4 < len(rows) < len(trained_on)
    message = f"align_batch_size=9 takes all {len(rows)} training items that have every modality, so that every"
    with pytest.raises(SDAError, match=message):
        rows_to_draw(numbers, dataclasses.replace(settings, batch_size=9))


def test_dual_encoders_have_no_layer_in_common():
    family = SimpleNamespace(shared=False, model_type="clip")
    with pytest.raises(SDAError, match=r"^a clip model is a dual encoder, .* share no layer.*choose"):
        last_layer_B(SimpleNamespace(family=family))


# --- the table and the page ---


def invented(**changed):
    """A result with two experts, two projections and a cosine that tells where it belongs."""
    parts = [(e, p) for e in (None, 0, 1) for p in (None, "q_proj", "v_proj")] + [(EACH, EACH)]
    records = [
        {"adapter": adapter, "trained": trained, "pair": ["image", "text"], "expert": expert,
         "projection": projection, "mean": mean, "low": mean - 0.05, "high": mean + 0.05, "cosines": [mean] * 10}
        for a, adapter in enumerate(("lora", "moda")) for trained in (False, True)
        for i, (expert, projection) in enumerate(parts)
        for mean in [round(-0.4 + 0.4 * a + 0.2 * trained + 0.01 * i, 3)]
    ]  # fmt: skip
    return {
        "dataset": "shop", "seed": 7, "alignment": "cmsa", "align_batch_size": 8, "batches": 10, "num_experts": 2,
        "adapters": {"lora": "a", "moda": "b"}, "conflict": records, **changed,
    }  # fmt: skip


def test_table_has_every_expert_side_by_side():
    lines = conflict_table(invented()).splitlines()
    assert "image and the text gradient" in lines[1]
    assert lines[1].endswith("cmsa on shop, seed 7")
    assert lines[2].split() == ["lora", "lora", "moda", "moda"]
    assert lines[3].split() == ["start", "trained", "start", "trained"]
    rows = {line[:12].strip(): line[12:].split("]")[:4] for line in lines[5:11]}
    assert list(rows) == ["all together", "expert 0", "expert 1", "q_proj", "v_proj", "gates aside"]
    starts = [[cell.split()[0] for cell in row] for row in rows.values()]
    assert starts[0] == ["-0.400", "-0.200", "+0.000", "+0.200"]
    assert starts[1] == ["-0.370", "-0.170", "+0.030", "+0.230"]
    assert starts[5] == ["-0.310", "-0.110", "+0.090", "+0.290"]
    assert rows["all together"][0].strip() == "-0.400 [-0.450, -0.350"
    assert "10 batches of 8 training items" in lines[11]


def three_pairs():
    pairs = [list(pair) for pair in itertools.combinations(MODALITIES, 2)]
    records = [
        {**record, "pair": pair, "mean": round(record["mean"] + 0.1 * i, 3)}
        for i, pair in enumerate(pairs) for record in invented()["conflict"]
    ]  # fmt: skip
    return pairs, invented(conflict=records)


def test_table_has_a_block_a_pair():
    pairs, result = three_pairs()
    lines = conflict_table(result).splitlines()
    titles = [line for line in lines if line.startswith("Cosine")]
    assert len(titles) == 3
    for (first, second), title in zip(pairs, titles, strict=True):
        assert title.startswith(f"Cosine of the {first} and the {second} gradient of B")
    starts = [line.split()[2] for line in lines if line.startswith("all together")]
    assert starts == ["-0.400", "-0.300", "-0.200"]
    assert sum("10 batches of 8" in line for line in lines) == 1


def test_plot_has_a_panel_a_pair(tmp_path):
    pytest.importorskip("plotly")
    page = write_conflict_plot(three_pairs()[1], tmp_path / "conflict.html").read_text(encoding="utf-8")
    for title in ("image and text", "image and audio", "text and audio"):
        assert f'"text":"{title}"' in page
    assert page.count('"type":"bar"') >= 3 * 4
    assert page.count('"showlegend":true') == 4


def test_table_says_what_is_missing_and_what_did_not_move():
    result = invented()
    for record in result["conflict"]:
        if record["expert"] == 1:
            record.update(mean=None, low=None, high=None)
        elif record["adapter"] == "lora" and record["trained"]:
            record["mean"] = round(record["mean"] - 0.2, 3)
    text = conflict_table(result)
    (line,) = (line for line in text.splitlines() if line.startswith("expert 1"))
    assert line.split() == ["expert", "1", "–", "–", "–", "–"]
    assert "lora: no step of the training beat the start" in text
    assert "moda: no step" not in text


def test_plot_needs_no_network(tmp_path):
    pytest.importorskip("plotly")
    result = invented()
    result["conflict"][0]["mean"] = None
    path = write_conflict_plot(result, tmp_path / "conflict.html")
    page = path.read_text(encoding="utf-8")
    assert "<script src=" not in page
    for label in ("lora, start", "lora, trained", "moda, start", "moda, trained", "expert 1", "gates aside"):
        assert label in page


def test_without_plotly_one_line_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "plotly", None)
    with caplog.at_level(logging.WARNING, logger="recbole_sda.report.conflict"):
        assert write_conflict_plot(invented(), tmp_path / "conflict.html") is None
    assert [record.getMessage() for record in caplog.records] == [
        "no plot: `pip install plotly` and run it again; nothing is measured twice"
    ]
    assert list(tmp_path.iterdir()) == []


# --- from the command line ---

QUICK = {
    "backbone": "tiny", "max_pixels": 3136, "use_gpu": False, "show_progress": False, "state": "ERROR",
    "align_steps": 2, "align_eval_every": 1, "align_batch_size": 4, "align_learning_rate": 0.01,
    "align_holdout_share": 0.3, "prompt_value_chars": 20,
}  # fmt: skip
ARGUMENTS = [f"--{key}={value}" for key, value in QUICK.items()]


@pytest.fixture
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def shop(working_folder):
    """Forty drawn items as anybody's dataset."""
    folder = write_demo(working_folder / "dataset" / "shop", items=40, users=50)
    for suffix in ("inter", "item"):
        if (folder / f"demo.{suffix}").exists():
            (folder / f"demo.{suffix}").rename(folder / f"shop.{suffix}")
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["diagnose"], "nothing to diagnose is named; choose conflict, for example"),
        (["diagnose", "--dataset=demo"], "nothing to diagnose is named; choose conflict, for example"),
        (["diagnose", "conflicts", "--dataset=demo"], "diagnose 'conflicts' is unknown; choose conflict,"),
        (["diagnose", "conflict", "more", "--dataset=demo"], "argument 'more' is not understood"),
        (["diagnose", "conflict"], "dataset is not given"),
        (["diagnose", "conflict", "--dataset=demo", "--diagnose_batches=9"],
         "diagnose_batches=9 must be a whole number of at least 10"),
        (["diagnose", "conflict", "--dataset=demo", "--diagnose_batches=1e2"],
         "diagnose_batches=100.0 must be a whole number of at least 10"),
        (["diagnose", "conflict", "--dataset=demo", "--adapter=lora"],
         "diagnose conflict compares lora and moda itself, and adapter=lora was given too; leave adapter out"),
        (["diagnose", "conflict", "--dataset=demo", "--modalities=text"],
         "modalities=text leaves no other modality to conflict with"),
        (["diagnose", "conflict", "--dataset=demo", "--num_experts=3"], "num_experts=3 does not divide lora_r=8"),
        (["diagnose", "conflict", "--dataset=demo", "--result_file=no/such/folder.json"],
         "result_file=no/such/folder.json: its folder does not exist"),
    ],
)  # fmt: skip
def test_mistakes_are_found_before_any_work(arguments, message, working_folder, capsys):
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"recbole_sda: {message}")
    assert err.count("\n") == 1
    assert list(working_folder.iterdir()) == []


def test_from_a_catalogue_to_the_table_the_numbers_and_the_page(shop, capsys, monkeypatch):
    command = ["diagnose", "conflict", "--dataset=shop", "--result_file=out.json", *ARGUMENTS]
    with monkeypatch.context() as without_plotly:
        without_plotly.setitem(sys.modules, "plotly", None)
        assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "no plot: `pip install plotly`" in out
    result = json.loads(Path("out.json").read_text())
    assert conflict_table(result) in out
    (folder,) = (path for path in Path("saved/diagnose").iterdir() if path.is_dir())
    files = {"json": str(folder / "conflict.json"), "html": None}
    assert {**json.loads((folder / "conflict.json").read_text()), "files": files} == result

    assert (result["dataset"], result["alignment"], result["batches"]) == ("shop", "cmsa", 10)
    assert len(records := result["conflict"]) == 2 * 2 * 26
    assert all(len(record["cosines"]) == 10 and -1 <= record["mean"] <= 1 for record in records)
    adapters = {path.name for path in Path("saved/adapters").iterdir() if path.is_dir()}
    assert adapters == set(result["adapters"].values())
    chosen = {"dataset": "shop", "config_dict": QUICK}
    assert recbole_sda.adapt(**chosen).name == result["adapters"]["moda"]  # the run's own sda variant

    pytest.importorskip("plotly")
    shutil.rmtree("saved/adapters")  # what was measured stays, and nothing is trained again
    monkeypatch.setattr(stage_conflict, "measure_conflict", None)
    again = recbole_sda.diagnose("conflict", **chosen)
    assert again == {**result, "files": {**files, "html": str(folder / "conflict.html")}}
    assert (folder / "conflict.html").stat().st_size > 1_000_000
    assert not Path("saved/adapters").exists()


class TrainingBeginsError(Exception):
    """Thrown where training would begin, with the backbone."""


def test_start_is_where_training_starts(shop, monkeypatch):
    """The adapter that the start's gradients are of is the one that training begins with, with B = 0."""

    def begin(backbone, *_, **__):
        raise TrainingBeginsError({n: p.detach().clone() for n, p in backbone.named_parameters() if "moda_" in n})

    monkeypatch.setattr(stage_conflict, "measure_conflict", begin)
    monkeypatch.setattr(stages, "align", begin)
    config = pipeline._config_without_model("shop", QUICK, None, ())
    sda = stages.EncoderStages(config, pipeline._catalog_of(config))
    with pytest.raises(TrainingBeginsError) as measured_at:
        sda.conflict(trained=False)
    with pytest.raises(TrainingBeginsError) as trained_from:
        sda.adapt()
    start, (begun,) = measured_at.value.args[0], trained_from.value.args
    assert start.keys() == begun.keys()
    assert all(torch.equal(value, begun[name]) for name, value in start.items())
    assert not any(value.any() for name, value in start.items() if name.endswith("moda_B.default"))
