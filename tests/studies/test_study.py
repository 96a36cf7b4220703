"""A tiny study from its YAML to its table: what it writes, finds again, goes on from and refuses."""

import errno
import json
from pathlib import Path

import pytest
import yaml

import recbole_sda
from recbole_sda import recommend, stage_backbone
from recbole_sda.artefacts import digest
from recbole_sda.errors import SDAError
from recbole_sda.report import figures
from recbole_sda.studies import records
from recbole_sda.studies.measures import MEASURES

STUDY = {
    "question": "Does it run?",
    "settings": {
        **{"model": "SASRec", "epochs": 1, "align_steps": 2, "align_eval_every": 2},
        **{"align_batch_size": 8, "align_holdout_share": 0.4},
    },
    "seeds": [1, 2],
    "arms": {
        "zero_shot": {"features": "auto", "adapter": "none"},
        "sda": {"features": "auto", "adapter": "moda", "alignment": "cmsa"},
    },
    "figures": {
        "links": ["structure.mrr/image-text", "structure.mrr/text-image"],
        "chance": "structure.chance/colour",
        "held out": "alignment.mrr",
        "held-out structure": "structure_held_out.mrr/image-text",
        "cosine": "conflict.gates aside",
        "entropy": "training.teacher_entropy_*",
        "NDCG@10": "recommender.ndcg@10",
    },
    "baseline": "zero_shot",
    "claims": {"links": {"says": "SDA links", "arm": "sda", "over": "zero_shot", "figure": "links"}},
}
WORLD = {"demo_items": 40, "demo_users": 50, "use_gpu": False, "state": "ERROR"}


def study_file(**values) -> str:
    """`mine.yaml` in the working directory."""
    Path("mine.yaml").write_text(yaml.safe_dump({**STUDY, **values}, sort_keys=False), encoding="utf-8")
    return "mine.yaml"


def run(dataset="demo", *, keys=None, **values) -> dict:
    return recbole_sda.study(study_file(**values), dataset, {**WORLD, **(keys or {})})


@pytest.fixture(scope="module", autouse=True)
def no_browser():
    """A plot's page is enough here; pictures have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "write_picture", lambda figure, path: False)
        yield


@pytest.fixture(scope="module")
def done(no_browser, tmp_path_factory):
    """The study's result, and the folder in which it ran."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("study")
        patch.chdir(folder)
        yield run(control={"image_signal": 0.0}), folder


def measured(result: dict) -> list[dict]:
    return [{key: cell[key] for key in ("arm", "seed", "control", "figures")} for cell in result["cells"]]


def test_every_arm_is_measured_with_every_seed_with_the_signal_and_without(done):
    result, _ = done
    cells = [(cell["arm"], cell["seed"], cell["control"]) for cell in result["cells"]]
    arms = ("zero_shot", "sda")
    assert cells == [(a, seed, control) for seed in (1, 2) for control in (False, True) for a in arms]
    for cell in result["cells"]:
        undefined = [figure for figure, value in cell["figures"].items() if value is None]
        assert undefined == (["cosine", "entropy"] if cell["arm"] == "zero_shot" else [])


def test_what_stage_1_said_is_that_of_the_adapter(done):
    result, folder = done
    (cell,) = (c for c in result["cells"] if (c["arm"], c["seed"], c["control"]) == ("sda", 1, False))
    manifest = json.loads((folder / "saved/adapters" / _adapter_digest(cell) / "manifest.json").read_text())
    last, found = manifest["held_out"][-1], cell["measured"]["training"]["figures"]
    assert found["step"] == last["step"] == 2
    assert found["held_out_loss"] == last["held_out_loss"]
    ways = [last[f"teacher_entropy_{way}"] for way in ("image_to_text", "text_to_image")]
    assert cell["figures"]["entropy"] == pytest.approx(sum(ways) / 2)


def _adapter_digest(cell: dict) -> str:
    return digest(cell["measured"]["training"]["depends_on"]["adapter"])


def test_table_plot_and_json_are_written_and_the_json_is_what_is_returned(done):
    result, folder = done
    assert json.loads((folder / result["files"]["json"]).read_text()) == result
    assert "| sda (control)" in (folder / result["files"]["table"]).read_text()
    assert set(result) >= {"config", "versions", "hardware", "seeds", "summary", "comparisons", "claims", "notes"}
    assert result["claims"][0]["signal"]["verdict"] == "not decided"


def test_the_plot_needs_no_network(done):
    pytest.importorskip("plotly")
    result, folder = done
    page = (folder / result["files"]["html"]).read_text(encoding="utf-8")
    assert "<script src=" not in page


def test_each_seed_draws_a_world_of_its_own_and_the_control_keeps_it(done):
    chances = {(cell["seed"], cell["control"]): cell["figures"]["chance"] for cell in done[0]["cells"]}
    assert chances[1, False] != chances[2, False]
    assert chances[1, False] == chances[1, True]  # other pictures of the same items


def test_arms_differ_in_what_they_are_about_alone(done):
    by_arm = {cell["arm"]: cell for cell in done[0]["cells"] if (cell["seed"], cell["control"]) == (1, False)}
    ours, theirs = (by_arm[arm]["measured"]["recommender"]["depends_on"] for arm in ("sda", "zero_shot"))
    assert ours["data"] == theirs["data"]
    assert {key for key in ours["config"] if ours["config"][key] != theirs["config"][key]} == set()


def _must_not_run(*args, **kwargs):
    raise AssertionError("something was made again")


def test_a_second_run_measures_nothing_and_finds_the_same(done, monkeypatch):
    result, folder = done
    monkeypatch.chdir(folder)
    monkeypatch.setattr(stage_backbone, "load_backbone", _must_not_run)
    monkeypatch.setattr(recommend, "build", _must_not_run)
    again = run(control={"image_signal": 0.0})
    assert again["cells"] == result["cells"]
    assert again["files"] == result["files"]


def test_a_study_that_shares_arms_finds_their_figures(done, monkeypatch):
    result, folder = done
    monkeypatch.chdir(folder)
    monkeypatch.setattr(stage_backbone, "load_backbone", _must_not_run)
    links = {"links, image to text": "structure.mrr/image-text"}
    other = run(arms={"ours": STUDY["arms"]["sda"]}, figures=links, baseline=None, claims=None, seeds=[2])
    (cell,) = other["cells"]
    (same,) = (c for c in result["cells"] if (c["arm"], c["seed"], c["control"]) == ("sda", 2, False))
    assert cell["figures"]["links, image to text"] == same["measured"]["structure"]["figures"]["mrr/image-text"]
    assert other["model"] is None


def test_a_killed_study_goes_on_and_ends_as_one_left_alone(done, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = {name: STUDY["figures"][name] for name in ("links", "held out")}
    calls, real = [], MEASURES["alignment"]

    def dies_at_the_third(bench):
        calls.append(bench.config["seed"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real.figures(bench)

    monkeypatch.setitem(MEASURES, "alignment", real._replace(figures=dies_at_the_third))
    with pytest.raises(KeyboardInterrupt):
        run(figures=wanted)
    assert len(list(Path("saved/studies/cells").glob("alignment-*"))) == 2
    result = run(figures=wanted)
    assert calls == [1, 1, 2, 2, 2]  # the third again, the first two never
    alone = [cell for cell in done[0]["cells"] if not cell["control"]]
    assert [cell["figures"] for cell in result["cells"]] == [
        {figure: cell["figures"][figure] for figure in wanted} for cell in alone
    ]


def test_a_cell_that_fails_leaves_the_others_and_is_told(done, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    wanted, real = {"held out": STUDY["figures"]["held out"]}, MEASURES["alignment"]
    calls = []

    def fails_at_the_second(bench):
        calls.append(bench.config["seed"])
        if len(calls) == 2:
            raise RuntimeError("no\nmemory")
        return real.figures(bench)

    monkeypatch.setitem(MEASURES, "alignment", real._replace(figures=fails_at_the_second))
    result = run(figures=wanted, claims=None)
    (failed,) = result["failed"]
    assert failed["error"] == "RuntimeError: no memory"
    assert f"{failed['cell']} failed, the others go on: RuntimeError: no memory" in caplog.text
    assert "RuntimeError: no memory); run the command again" in "\n".join(result["notes"])
    figures = [cell["figures"]["held out"] for cell in result["cells"]]
    assert [figure is None for figure in figures] == [False, True, False, False]
    assert {row["arm"]: row["seeds"] for row in result["summary"]} == {"zero_shot": 2, "sda": 1}
    again = run(figures=wanted, claims=None)
    assert len(calls) == 5  # the failed one alone
    assert again["failed"] == []
    alone = [cell["figures"]["held out"] for cell in done[0]["cells"] if not cell["control"]]
    assert [cell["figures"]["held out"] for cell in again["cells"]] == alone


def test_a_study_without_a_single_figure_says_what_went_wrong_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def fails(bench):
        raise RuntimeError(f"seed {bench.config['seed']}")

    monkeypatch.setitem(MEASURES, "alignment", MEASURES["alignment"]._replace(figures=fails))
    with pytest.raises(SDAError, match=r"nothing could be measured; the first: .*, seed 1: RuntimeError: seed 1"):
        run(figures={"held out": STUDY["figures"]["held out"]}, claims=None)


def test_a_full_disk_ends_the_study(done, monkeypatch):
    monkeypatch.chdir(done[1])

    def no_room(bench):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(MEASURES, "effective", MEASURES["alignment"]._replace(figures=no_room))
    with pytest.raises(OSError, match="No space left"):
        run(figures={"held out": "effective.rank"}, claims=None)


def test_a_damaged_record_is_measured_anew(done, monkeypatch, caplog):
    result, folder = done
    monkeypatch.chdir(folder)
    record = next(Path("saved/studies/cells").glob("structure-*"))
    record.write_text(record.read_text()[:40])
    with caplog.at_level("WARNING", "recbole_sda"):
        again = run(control={"image_signal": 0.0})
    assert f"{record} is damaged" in caplog.text
    assert measured(again) == measured(result)


def test_a_figure_that_nothing_is_called_ends_the_study_with_the_first_cell(done, monkeypatch):
    monkeypatch.chdir(done[1])
    with pytest.raises(SDAError, match=r"figure 'links': nothing measured is called structure.mmr/.*mrr"):
        run(figures={"links": "structure.mmr/image-text"}, claims=None)


def test_a_claim_of_a_figure_that_is_not_measured_is_left_out_and_told(done, monkeypatch):
    monkeypatch.chdir(done[1])
    claims = {
        "hit": {"says": "SDA hits", "arm": "sda", "over": "zero_shot", "figure": "NDCG@10"},
        "held out": {"says": "SDA finds", "arm": "sda", "over": "zero_shot", "figure": "held out"},
    }
    result = run(claims=claims, keys={"study_measures": "alignment"})
    assert [claim["says"] for claim in result["claims"]] == ["SDA finds"]
    assert "claim hit (SDA hits): left out, for NDCG@10 is not measured" in result["notes"]


def test_without_a_name_the_presets_are_listed(caplog):
    with caplog.at_level("INFO", "recbole_sda"):
        found = recbole_sda.study()
    assert "claims" in found["studies"]
    assert found["studies"]["claims"] in caplog.text


# --- what it refuses, before any work ---


@pytest.mark.usefixtures("elsewhere")
class TestRefusals:
    @pytest.fixture
    def elsewhere(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(records, "_measured_once", _must_not_run)

    def test_a_key_that_nobody_knows(self):
        with pytest.raises(SDAError, match=r"arm b: key 'adaptor' is unknown; did you mean adapter"):
            run(arms={"zero_shot": {}, "sda": {"adapter": "moda"}, "b": {"adaptor": "lora"}})

    def test_a_value_that_cannot_be(self):
        with pytest.raises(SDAError, match=r"arm sda: num_experts=3 does not divide lora_r=8"):
            run(arms={"zero_shot": {"adapter": "none"}, "sda": {"adapter": "moda", "num_experts": 3}})

    def test_a_measure_that_is_none(self):
        with pytest.raises(SDAError, match=r"measure 'recomender' is unknown; choose alignment"):
            run(figures={"NDCG@10": "recomender.ndcg@10"}, claims=None)
        with pytest.raises(SDAError, match=r"measure 'nothing' is unknown"):
            run(keys={"study_measures": "nothing"})

    def test_a_recommender_without_a_model(self):
        with pytest.raises(SDAError, match=r"measures a recommender; say --model=SASRec.*--study_measures="):
            run(settings={"epochs": 1})

    def test_a_control_and_seeds_of_keys_that_nobody_knows(self):
        with pytest.raises(SDAError, match=r"control: key 'image_sginal' is unknown; did you mean image_signal"):
            run(control={"image_sginal": 0})
        with pytest.raises(SDAError, match=r"seed_keys: key 'sead' is unknown; did you mean seed"):
            run(seed_keys=["sead"])

    def test_a_metric_that_is_not_computed(self):
        with pytest.raises(SDAError, match=r"arm zero_shot: figure 'NDCG': nothing measured is called .*ndcg@50"):
            run(figures={"NDCG": "recommender.ndcg@50"}, claims=None)

    def test_a_key_that_the_arms_are_about(self):
        with pytest.raises(SDAError, match=r"zero_shot sets adapter=none, and adapter was given too"):
            run(keys={"adapter": "lora"})

    def test_a_single_seed(self):
        with pytest.raises(SDAError, match=r"sets seed itself; say --seeds=1,2,3"):
            run(keys={"seed": 3})

    def test_nothing_left_to_measure(self):
        with pytest.raises(SDAError, match=r"has nothing to measure .* study_measures=conflict_start"):
            run(keys={"study_measures": "conflict_start"})

    def test_what_is_needed_and_not_given(self):
        with pytest.raises(SDAError, match=r"needs backbones; say --backbones=A,B"):
            run(needs=["backbones"])

    def test_backbones_beside_another_backbone(self):
        keys = {"backbones": ["a", "b"]}
        with pytest.raises(SDAError, match=r"backbone is given, and backbones, too; leave one of them out"):
            run(keys={**keys, "backbone": "tiny"})
        arms = {"one": {"features": "auto", "adapter": "none", "backbone": "tiny"}, "two": {"features": "none"}}
        with pytest.raises(SDAError, match=r"one sets backbone, and backbones, too"):
            run(keys=keys, arms=arms, baseline=None, claims=None)

    def test_an_axis_of_a_key_that_is_no_list(self):
        with pytest.raises(SDAError, match=r"axis: align_steps=2 is no list; name a key that holds one"):
            run(axis={"label": "step", "key": "align_steps"}, figures={"links": "conflict_steps.$x"}, claims=None)

    def test_features_to_append_to(self):
        with pytest.raises(SDAError, match=r"makes its own features; leave append out"):
            run(keys={"append": True})

    def test_too_few_items_are_held_out(self):
        with pytest.raises(SDAError, match=r"align_holdout_share=0.1: \d items with image, text .* needs 6"):
            run(settings={**STUDY["settings"], "align_holdout_share": 0.1})

    def test_a_dataset_without_a_known_truth_has_no_structure(self):
        with pytest.raises(SDAError, match=r"has nothing to measure on shop"):
            run("shop", figures={"links": "structure.mrr/image-text"}, claims=None)


# --- slow ---


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_cells_as_tasks_of_ray_are_those_of_this_process(done, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(control={"image_signal": 0.0}, keys={"study_workers": 2})
    assert measured(result) == measured(done[0])


@pytest.mark.slow
def test_alignment_links_what_is_planted_and_nothing_where_nothing_is(tmp_path, monkeypatch):
    """The whole where the answer is known: adapted embeddings find their pairs, in the control they do not."""
    monkeypatch.chdir(tmp_path)
    settings = {"align_steps": 40, "align_eval_every": 20, "align_holdout_share": 0.4}
    result = run(
        settings=settings,
        figures={"links": "alignment.mrr"},  # of held-out items: others can be learned by heart
        control={"image_signal": 0.0},
        seeds=[1],
        keys={"demo_items": 120},
    )
    found = {(cell["arm"], cell["control"]): cell["figures"]["links"] for cell in result["cells"]}
    assert found["sda", False] > 1.25 * found["zero_shot", False]
    assert found["sda", False] > 1.4 * found["sda", True]
