"""Gradient conflict along a training and on held-out items: measured beside it, without touching it."""

import itertools
import json
import logging
from pathlib import Path

import pytest
import torch
from conftest import adapted_tiny, alignment_settings
from test_stages import PlainConfig

from recbole_sda import cli, stage_conflict
from recbole_sda.alignment import CMSALoss, TeacherAttack
from recbole_sda.alignment.checkpoint import KEPT, kept_parameters
from recbole_sda.alignment.conflict import measure_conflict, rows_to_draw
from recbole_sda.alignment.sampling import split_items
from recbole_sda.alignment.trainer import align
from recbole_sda.artefacts import digest
from recbole_sda.catalog.demo import write_demo
from recbole_sda.errors import SDAError
from recbole_sda.report.conflict_steps import steps_table, write_steps_plot
from recbole_sda.stages import EncoderStages

WEIGHTS = "adapter_model.safetensors"
CELLS = 26  # of four experts and four projections, all together, and gates aside


def stages_of(catalog, folder, **values):
    return EncoderStages(PlainConfig(checkpoint_dir=str(folder), **values), catalog)


# keeping


def test_kept_steps_are_those_of_the_training_and_change_nothing(catalog, tmp_path):
    """A training of four steps, kept at three; one that is cut short goes through the same states."""

    def trained(folder=None, **keys):
        torch.manual_seed(0)
        backbone, loss = adapted_tiny(), CMSALoss(0.3, learn_temperature=True)
        settings = alignment_settings(steps=4, checkpoint_every=1, patience=None)
        records = align(backbone, catalog, loss, settings, folder=folder, show_progress=False, **keys)
        weights = {name: p.detach().clone() for name, p in backbone.named_parameters() if p.requires_grad}
        return weights, loss.current_temperature, records

    weights, temperature, records = trained()
    again, same_temperature, same_records = trained(tmp_path, keep_steps=(0, 2, 4))
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert (same_temperature, same_records) == (temperature, records)
    assert sorted(path.stem for path in (tmp_path / KEPT).iterdir()) == ["0", "2", "4"]
    start, middle, end = (kept_parameters(tmp_path, step) for step in (0, 2, 4))
    assert kept_parameters(tmp_path, 3) is None
    assert start.keys() == middle.keys() == {*weights, "loss.learned_temperature"}
    assert not any(value.any() for name, value in start.items() if "moda_B" in name)
    assert float(start["loss.learned_temperature"]) == pytest.approx(0.3)
    assert all(not torch.equal(middle[name], end[name]) for name in end if "moda_B" in name)
    if max(records, key=lambda record: record["mrr"])["step"] == 4:
        assert all(torch.equal(end[name], weights[name]) for name in weights)


# measuring


def test_held_out_items_are_drawn_where_they_are_asked_for(catalog, monkeypatch):
    settings = alignment_settings(batch_size=6)
    train, held = split_items(catalog, settings)
    assert rows_to_draw(catalog, settings).tolist() == train.tolist()
    assert rows_to_draw(catalog, settings, held_out=True).tolist() == held.tolist()
    drawn = []

    def watch(embed, loss, passes, parameters):
        drawn.extend(passes["image"][0].tolist())
        return {m: {"q_proj": torch.ones(4, 8)} for m in passes}

    monkeypatch.setattr("recbole_sda.alignment.conflict.modality_gradients", watch)
    for held_out, rows in ((True, held), (False, train)):
        drawn.clear()
        measure_conflict(
            adapted_tiny(), catalog, CMSALoss(0.3), settings, batches=3, num_experts=4, held_out=held_out,
            show_progress=False,
        )  # fmt: skip
        assert set(drawn) <= set(rows.tolist())
    with pytest.raises(SDAError, match=r"takes all 17 held-out items .*, or raise align_holdout_share"):
        rows_to_draw(catalog, alignment_settings(batch_size=17), held_out=True)


def test_an_attacked_teacher_is_measured_as_it_taught(catalog):
    settings, backbone = alignment_settings(batch_size=8), adapted_tiny(init_weights=False)

    def measured(**keys):
        return measure_conflict(
            backbone, catalog, CMSALoss(0.5, **keys), settings, batches=2, num_experts=4, show_progress=False
        )

    plain = measured()
    assert measured(attack=TeacherAttack(0.0, 1)) == plain
    assert measured(attack=TeacherAttack(0.6, 1)) != plain


@pytest.fixture(scope="module")
def measured(catalog, tmp_path_factory):
    """Stages and their records at three steps of two; the learned temperature is part of the state."""
    stages = stages_of(catalog, tmp_path_factory.mktemp("over") / "saved", align_learn_temperature=True)
    return stages, stages.conflict_over_training([2, 0])


def test_records_over_training(measured, catalog):
    stages, records = measured
    assert [(r["step"], r["held_out"]) for r in records[::CELLS]] == list(itertools.product((0, 2), (False, True)))
    assert all(len(record["cosines"]) == 10 for record in records)
    start, start_held = stages.conflict(trained=False), stages.conflict(trained=False, held_out=True)
    assert start == [{k: v for k, v in r.items() if k not in ("step", "held_out")} for r in records[:CELLS]]
    assert start_held == [
        {k: v for k, v in r.items() if k not in ("step", "held_out")} for r in records[CELLS : 2 * CELLS]
    ]
    assert start != start_held
    assert records[0]["mean"] != records[2 * CELLS]["mean"]


def test_the_adapter_is_that_of_an_unwatched_training(measured, catalog, tmp_path, monkeypatch):
    stages, _ = measured
    name = digest(stages.settings.adapter)
    watched = Path(stages.config["checkpoint_dir"]) / "adapters" / name
    alone = stages_of(catalog, tmp_path, align_learn_temperature=True).adapt()
    assert {path.name for path in watched.iterdir()} == {path.name for path in alone.iterdir()}
    assert (watched / WEIGHTS).read_bytes() == (alone / WEIGHTS).read_bytes()
    first, second = (json.loads((folder / "manifest.json").read_text()) for folder in (watched, alone))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}

    monkeypatch.setattr("recbole_sda.stages.align", None)  # nothing is trained again
    assert stages.adapt() == watched
    monkeypatch.setattr(stage_conflict, "measure_conflict", lambda *_, **__: [{"mean": 0.0}])
    assert len(stages.conflict_over_training([0, 2])) == 4


def test_a_training_that_ended_early_says_which_steps_it_lacks(catalog, tmp_path, monkeypatch, caplog):
    stages = stages_of(catalog, tmp_path, align_patience=1, align_learning_rate=1e-12, align_steps=9)
    monkeypatch.setattr(stage_conflict, "measure_conflict", lambda *_, **__: [{"mean": 0.0}])
    with caplog.at_level(logging.WARNING, logger=stage_conflict.logger.name):
        records = stages.conflict_over_training([0, 9])
    assert [record["step"] for record in records] == [0, 0]
    assert "align_patience ended the training before step 9, which is left out" in caplog.messages


def test_what_cannot_be_measured_over_training_is_found_before_it(catalog, tmp_path):
    with pytest.raises(SDAError, match=r"diagnose_steps=0,3: the training has no step 3; .* align_steps=2"):
        stages_of(catalog, tmp_path).conflict_over_training([0, 3])
    large = stages_of(catalog, tmp_path, align_batch_size=20)
    large.check_conflict()
    with pytest.raises(SDAError, match="align_batch_size=20 takes all 17 held-out items"):
        large.check_conflict([0])
    with pytest.raises(SDAError, match="align_batch_size=20 takes all 17 held-out items"):
        large.conflict(trained=False, held_out=True)
    assert list(tmp_path.iterdir()) == []


# the table and the plot


def invented(pairs=(("image", "text"),), steps=(0, 10)):
    """The cosine tells where it belongs."""
    cells = itertools.product(("lora", "moda"), steps, (False, True), pairs, (None, "each"))
    return {
        "dataset": "shop", "seed": 7, "alignment": "cmsa", "align_batch_size": 8, "batches": 10,
        "over_training": [
            {"adapter": adapter, "step": step, "held_out": held_out, "pair": list(pair), "expert": part,
             "projection": part, "mean": mean, "low": mean - 0.05, "high": mean + 0.05, "cosines": [mean] * 10}
            for adapter, step, held_out, pair, part in cells
            for mean in [0.4 * (adapter == "moda") + 0.01 * step + 0.2 * held_out - 0.5 * (part == "each")]
        ],
    }  # fmt: skip


def test_table_has_a_row_a_step():
    lines = steps_table(invented()).splitlines()
    titles = [line for line in lines if line.startswith("Cosine")]
    assert [title.partition(", ")[2].partition(":")[0] for title in titles] == ["all together", "gates aside"]
    assert lines[2].split() == ["step", "lora", "lora", "moda", "moda"]
    assert lines[3].split() == ["training", "held", "out", "training", "held", "out"]
    rows = [line.replace("[", "").replace("]", "").replace(",", "").split() for line in lines[5:7]]
    assert [row[0] for row in rows] == ["0", "10"]
    assert [row[1::3] for row in rows] == [
        ["+0.000", "+0.200", "+0.400", "+0.600"],
        ["+0.100", "+0.300", "+0.500", "+0.700"],
    ]
    assert rows[0][2:4] == ["-0.050", "+0.050"]
    assert "too narrow" in lines[-2]


def test_table_leaves_a_dash_where_a_training_had_ended():
    result = invented()
    kept = [r for r in result["over_training"] if (r["adapter"], r["step"]) != ("lora", 10)]
    lines = steps_table({**result, "over_training": kept}).splitlines()
    assert lines[6].split()[:3] == ["10", "–", "–"]


def test_plot_has_a_panel_a_pair_and_part_and_needs_no_network(tmp_path):
    pytest.importorskip("plotly")
    result = invented(pairs=(("image", "text"), ("audio", "text")))
    result["over_training"][0].update(mean=None, low=None, high=None)
    page = write_steps_plot(result, tmp_path / "steps.html").read_text(encoding="utf-8")
    assert "<script src=" not in page
    for title in ("image and text, all together", "audio and text, gates aside"):
        assert f'"text":"{title}"' in page
    for name in ("lora, training", "lora, held out", "moda, training", "moda, held out"):
        assert f'"name":"{name}"' in page
    assert page.count('"dash":"dash"') == page.count('"dash":"solid"') == 2 * 4
    assert page.count('"showlegend":true') == 4


# from the command line


def test_command_measures_over_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_demo(tmp_path / "dataset" / "shop", items=40, users=50)
    for file in (tmp_path / "dataset" / "shop").glob("demo.*"):
        file.rename(file.with_stem("shop"))
    monkeypatch.setattr(
        stage_conflict, "measure_conflict",
        lambda *_, **__: [{"pair": ["image", "text"], "expert": expert, "projection": projection, "mean": 0.1,
                           "low": 0.0, "high": 0.2, "cosines": [0.1]}
                          for expert, projection in ((None, None), (0, None), ("each", "each"))],
    )  # fmt: skip
    command = [
        "diagnose", "conflict", "--dataset=shop", "--diagnose_steps=2,0", "--num_experts=1", "--backbone=tiny",
        "--max_pixels=3136", "--use_gpu=False", "--show_progress=False", "--align_steps=2", "--align_eval_every=2",
        "--align_batch_size=4", "--align_holdout_share=0.3", "--prompt_value_chars=20", "--result_file=out.json",
    ]  # fmt: skip
    assert cli.main([*command, "--diagnose_steps=2,0,3"]) == 2
    assert "given twice" in capsys.readouterr().err
    assert cli.main([*command[:3], "--diagnose_steps=0,3", *command[4:]]) == 2
    assert "diagnose_steps=0,3: the training has no step 3" in capsys.readouterr().err
    assert cli.main(command) == 0
    out, result = capsys.readouterr().out, json.loads(Path("out.json").read_text())
    assert steps_table(result) in out
    assert result["steps"] == [0, 2]
    assert [(r["adapter"], r["step"], r["held_out"]) for r in result["over_training"][::3]] == list(
        itertools.product(("lora", "moda"), (0, 2), (False, True))
    )
    assert {path.name for path in Path("saved/adapters").iterdir() if path.is_dir()} == set(
        result["adapters"].values()
    )
    assert set(result["files"]) == {"json", "html", "steps_html"}
    assert Path(result["files"]["steps_html"]).is_file()
