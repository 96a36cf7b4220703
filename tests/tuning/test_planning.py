"""Which trials a command comes to, in which order, and what it refuses before any work."""

import pytest
import yaml

from recbole_sda.errors import SDAError
from recbole_sda.model.registry import _defaults
from recbole_sda.tuning import planning
from recbole_sda.tuning.planning import Trial, check_corners, plan
from recbole_sda.tuning.settings import read_command
from recbole_sda.tuning.sweep import tune


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def commanded(space: dict, *argv: str, model="SASRec", dataset="demo", **values):
    with open("space.yaml", "w") as file:
        yaml.safe_dump(space, file, sort_keys=False)
    return read_command(model, dataset, {"space": "space.yaml", **values}, None, argv)[:2]


def planned(space: dict, *argv: str, **values):
    return plan(*commanded(space, *argv, **values))


def choice(*values) -> dict:
    return {"choice": [*values]}


def test_a_grid_begins_with_each_adapter_once_whatever_the_order_of_its_keys():
    space = {
        "num_experts": choice(2, 4),
        "learning_rate": choice(0.01, 0.001),
        "align_temperature": choice(0.1, 0.2),
    }
    found = planned(space, model="SASRec,BPR")
    assert (len(found.trials), found.adapters) == (16, 4)
    adapters = [(t.values["num_experts"], t.values["align_temperature"]) for t in found.trials]
    assert {*adapters[:4]} == {*adapters} == {*adapters[4:8]} == {*adapters[8:12]}
    assert [trial.model for trial in found.trials] == ["SASRec"] * 8 + ["BPR"] * 8
    assert len({trial.name for trial in found.trials}) == 16


def test_a_key_that_a_model_does_not_read_is_left_out_for_it_and_doubles_run_once(caplog):
    caplog.set_level("INFO", "recbole_sda")
    found = planned({"n_layers": choice(1, 2), "learning_rate": choice(0.01, 0.001)}, model="SASRec,BPR")
    by_model = {m: [t.values for t in found.trials if t.model == m] for m in ("SASRec", "BPR")}
    assert len(by_model["SASRec"]) == 4
    assert by_model["BPR"] == [{"learning_rate": 0.01}, {"learning_rate": 0.001}]
    assert "BPR: n_layers changes nothing in its trials and is left out of them" in caplog.text
    assert "2 of 8 combinations come to trainings of others" in caplog.text


def test_a_key_that_does_nothing_beside_another_value_is_left_out_there():
    found = planned({"adapter": choice("moda", "lora", "none"), "num_experts": choice(2, 4)})
    assert [trial.values for trial in found.trials if trial.values["adapter"] != "moda"] == [
        {"adapter": "lora"},
        {"adapter": "none"},
    ]
    assert (len(found.trials), found.adapters) == (4, 3)


def test_models_may_stand_in_the_space():
    found = planned({"model": choice("SASRec", "BPR"), "seed": choice(1, 2)}, model=None)
    assert {(t.model, t.values["seed"]) for t in found.trials} == {
        (m, s) for m in ("SASRec", "BPR") for s in (1, 2)
    }


def test_draws_are_as_many_as_asked_for_each_model():
    found = planned({"learning_rate": {"loguniform": [1e-4, 0.1]}}, model="SASRec,BPR", tune_samples=3)
    assert [trial.model for trial in found.trials].count("SASRec") == 3
    assert len({trial.values["learning_rate"] for trial in found.trials}) == 3  # the same for both


def test_the_name_tells_values_apart_and_not_their_machine():
    assert Trial("BPR", {"seed": 1}).name == Trial("BPR", {"seed": 1}).name != Trial("BPR", {"seed": 2}).name


@pytest.mark.parametrize(
    ("space", "argv", "values", "said"),
    [
        (
            {"align_temprature": choice(0.1)},
            [],
            {},
            "'align_temprature' is unknown; did you mean align_temperature",
        ),
        (
            {"num_experts": choice(2, 3)},
            [],
            {},
            "num_experts=3 does not divide lora_r=8; choose one of 1, 2, 4, 8",
        ),
        ({"fusion": choice("sum", "all")}, [], {}, "fusion='all' is unknown; choose"),
        ({"seed": choice(1, 2)}, ["--seed=3"], {}, "seed is in the space, and seed=3 was given too"),
        ({"seed": choice(1, 2)}, [], {"seed": 3}, "seed is in the space, and seed=3 was given too"),
        ({"model": choice("BPR")}, [], {}, "model is in the space, and model=SASRec was given too"),
        ({"compare": choice("ids")}, [], {}, "compare cannot be swept"),
        ({"topk": choice(5)}, [], {}, "topk cannot be swept: the scores of its trials could not be compared"),
        ({"demo_items": choice(50, 60)}, [], {}, "demo_items cannot be swept"),
        ({"cpus": choice(1, 2)}, [], {}, "cpus cannot be swept"),
        ({"kg_embedding_size": choice(8, 16)}, [], {}, "kg_embedding_size would change nothing in any trial"),
        ({"num_experts": choice(2, 4)}, ["--features=none"], {}, "no variant trains an adapter"),
        ({"seed": choice(1, 2)}, ["--compare=ids,sda"], {}, "compare=.* put features, adapter or alignment into"),
        ({"seed": choice(1, 2)}, ["--seeds=1,2"], {}, "put seed into the space"),
        ({"seed": choice(1, 2)}, ["--result_file=a.json"], {}, "results.json lies in the sweep's folder"),
        ({"seed": choice(1, 2)}, ["--nproc=2"], {}, "nproc=2: in a sweep trials run side by side"),
        ({"seed": choice(1, 2)}, ["--align_workers=2"], {}, "align_workers=2: in a sweep"),
        ({"seed": choice(1, 2)}, ["--valid_metric=NDCG@7"], {}, "valid_metric=NDCG@7 is not computed"),
        ({"seed": choice(1, 2)}, ["--tune_search=tpe"], {}, "tune_search='tpe' is unknown; choose auto, grid"),
        (
            {"learning_rate": {"uniform": [0.1, 1]}},
            ["--tune_search=grid"],
            {},
            "tune_search=grid tries every value",
        ),
        ({"seed": choice(1, 2)}, ["--cpus=0"], {}, "cpus=0 must be a whole number of at least 1"),
        ({"seed": choice(1, 2)}, ["--gpus=-1"], {}, "gpus=-1 must be a number of at least 0"),
        (
            {"seed": choice(1, 2)},
            ["--mlp_hidden_size=[64]"],
            {},
            "'mlp_hidden_size' is of other models, SASRec does not read it",
        ),
        (
            {"seed": choice(1, 2)},
            ["--ssl_task=FD"],
            {"model": "SASRec,BPR"},
            "'ssl_task' is read by none of the models SASRec, BPR",
        ),
        ({"model": choice("a.x:Rec", "b.y:Rec")}, [], {"model": None}, "names two classes Rec, and figures"),
        (
            {"seed": choice(1, 2)},
            ["--align_corrupt={text: 0.3}", "--features=none"],
            {},
            "align_corrupt.*do nothing",
        ),
    ],
)
def test_what_would_come_to_nothing_is_refused_by_name_and_with_a_remedy(space, argv, values, said):
    with pytest.raises(SDAError, match=said):
        planned(space, *argv, **values)


def test_a_typed_key_that_one_of_the_models_reads_is_accepted():
    assert len(planned({"seed": choice(1, 2)}, "--n_layers=1", model="SASRec,BPR").trials) == 4


def test_models_that_choose_by_different_metrics_have_no_sweep_in_common(monkeypatch):
    monkeypatch.setitem(_defaults, "VBPR", {**_defaults.get("VBPR", {}), "valid_metric": "Hit@10"})
    with pytest.raises(SDAError, match=r"valid_metric differs: \S+ of BPR, Hit@10 of VBPR.*--valid_metric="):
        commanded({"seed": choice(1, 2)}, model="BPR,VBPR", dataset="shop")
    _, settings = commanded({"seed": choice(1, 2)}, "--valid_metric=MRR@10", model="BPR,VBPR", dataset="shop")
    assert settings.metric == "mrr@10"


def test_models_whose_figures_cannot_be_compared_are_noted():
    _, settings = commanded({"seed": choice(1, 2)}, model="SASRec,BPR")
    (note,) = settings.notes
    assert note.startswith("history_mask=recbole: RecBole lets SASRec recommend what a user had before")
    for command in ({"model": "SASRec,BPR", "history_mask": "all"}, {"model": "SASRec"}):
        assert commanded({"seed": choice(1, 2)}, **command)[1].notes == ()


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"lora_r": choice(8, 4), "num_experts": choice(2, 4, 8)}, "num_experts=8 does not divide lora_r=4"),
        ({"align_batch_size": {"uniform": [16, 64]}}, "align_batch_size=16.0 must be a whole number"),
        ({"num_experts": choice(2, 3)}, "num_experts=3 does not divide lora_r=8"),
    ],
)
def test_what_optuna_could_draw_and_is_wrong_is_refused(space, said):
    pytest.importorskip("optuna")
    with pytest.raises(SDAError, match=said):
        check_corners(*commanded(space, tune_search="optuna"))


def test_of_many_corners_each_is_checked_alone(monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.setattr(planning, "MOST_CORNERS", 5)
    found = check_corners(
        *commanded({"lora_r": choice(8, 4), "num_experts": choice(2, 4, 8)}, tune_search="optuna")
    )
    assert {tuple(t.values.values()) for t in found.trials} == {(8, 2), (4, 2), (8, 4), (8, 8)}


def test_no_space_no_model_no_such_dataset():
    with pytest.raises(SDAError, match="space is not given; say for example --space="):
        tune("SASRec", "demo")
    with open("space.yaml", "w") as file:
        file.write("seed: {choice: [1, 2]}\n")
    with pytest.raises(SDAError, match="model is not given"):
        tune(None, "demo", {"space": "space.yaml"})
    with pytest.raises(SDAError, match="dataset='nowhere' is not there"):
        tune("SASRec", "nowhere", {"space": "space.yaml"})


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        *[(key, "nothing is swept in a run") for key in ("space=a.yaml", "tune_samples=3", "resume=True")],
        *[(key, "no sweep and no study.*say `tune` or `study") for key in ("cpus=2", "gpus=1")],
        ("ray_address=x", "would do nothing: everything runs in this process.*say one of --align_work"),
    ],
)
def test_what_is_of_sweeps_is_refused_in_a_run(key, reason):
    from recbole_sda.plans import model_configs

    with pytest.raises(SDAError, match=reason):
        model_configs("SASRec", "demo", None, None, [f"--{key}"])
