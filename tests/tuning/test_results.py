"""Ranks, winners and the tables of a sweep, from records that are made up."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from small_sweep import planned_sweep

from recbole_sda.errors import SDAError
from recbole_sda.report.figures import can_plot
from recbole_sda.tuning.planning import Trial
from recbole_sda.tuning.plots import (
    heat_map,
    heat_map_keys,
    levels,
    mean_scores,
    parallel_coordinates,
    places,
    write_plots,
)
from recbole_sda.tuning.results import _entry, conclude, ranked, winners, write_csv
from recbole_sda.tuning.table import sweep_tables


def entry(model, score, state="finished", error=None, **values) -> dict:
    return {
        "name": f"{model}{values}",
        "model": model,
        "values": values,
        "state": state,
        "score": score,
        "trained_epochs": 5,
        "seconds": 2.0,
        "error": error,
    }


TRIALS = [
    entry("BPR", 0.1, seed=1, lr=0.1),
    entry("SASRec", 0.4, seed=1, lr=0.1),
    entry("SASRec", None, "failed", {"type": "ValueError", "message": "no, " * 40}, seed=2, lr=0.1),
    entry("SASRec", 0.5, "stopped", seed=1, lr=0.2),
    entry("SASRec", 0.2, seed=2, lr=0.2),
]


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return planned_sweep({"seed": [1, 2]}, model="SASRec,BPR", features="none")


def test_models_stay_together_the_best_first_and_a_stopped_trial_wins_nothing(sweep):
    _, settings, *_ = sweep
    places = ranked(TRIALS, settings)
    assert [(e["model"], e["score"]) for e in places] == [
        ("SASRec", 0.5),
        ("SASRec", 0.4),
        ("SASRec", 0.2),
        ("SASRec", None),
        ("BPR", 0.1),
    ]
    assert [(e["model"], e["score"]) for e in winners(places)] == [("SASRec", 0.4), ("BPR", 0.1)]
    least = ranked(TRIALS, replace(settings, bigger=False))
    assert [e["score"] for e in winners(least)] == [0.2, 0.1]


def test_a_cell_of_the_heat_map_is_the_mean_of_the_trials_that_share_both():
    scored = [e for e in TRIALS if e["score"] is not None and e["model"] == "SASRec"]
    scored.append(entry("SASRec", 0.8, seed=1, lr=0.1))
    assert levels(scored, "seed") == [1, 2]
    assert mean_scores(scored, "lr", "seed") == [[fmean([0.4, 0.8]), 0.5], [None, 0.2]]


IDLE = [
    entry("SASRec", 0.4, adapter="moda", num_experts=2),
    entry("SASRec", 0.5, adapter="moda", num_experts=4),
    entry("SASRec", 0.3, adapter="lora"),
]


def test_a_trial_in_which_a_key_does_nothing_has_a_place_of_its_own():
    assert [*places(IDLE, "num_experts").values()] == ["2", "4", "–"]
    assert [*places(IDLE[:2], "num_experts").values()] == ["2", "4"]
    assert mean_scores(IDLE, "num_experts", "adapter") == [[0.4, 0.5, None], [None, None, 0.3]]


def test_the_plots_have_every_trial_with_a_score_and_say_how_many_these_are():
    if not can_plot():
        pytest.skip("plotly is missing")
    failed = entry("SASRec", None, "failed", {"type": "ValueError", "message": "no"}, adapter="lora")
    result = {**RESULT, "trials": [*IDLE, failed, entry("BPR", 0.1)]}
    figure = parallel_coordinates(IDLE, ["adapter", "num_experts"], result, "SASRec")
    _, experts, scores = figure.data[0].dimensions
    assert (experts.ticktext, experts["values"]) == (("2", "4", "–"), (0, 1, 2))
    assert scores["values"] == (0.4, 0.5, 0.3)
    assert figure.layout.title.text.endswith("trials with a score (3 of 4)")
    shades = heat_map(IDLE, "num_experts", "adapter", result, "SASRec")
    assert (shades.data[0].x, shades.data[0].y) == (("2", "4", "–"), ("moda", "lora"))
    assert shades.layout.title.text.endswith("mean of the finished trials (3 of 4)")


def test_which_keys_the_heat_map_takes():
    assert heat_map_keys(["seed", "num_experts", "align_temperature"]) == ("align_temperature", "num_experts")
    assert heat_map_keys(["seed", "lr", "x"]) == ("seed", "lr")
    assert heat_map_keys(["seed"]) is None


RESULT = {
    "dataset": "shop <b>",
    "metric": "ndcg@10",
    "bigger": True,
    "swept": ["seed", "lr"],
    "notes": [],
    "trials": TRIALS,
    "winners": {"SASRec": {**TRIALS[1], "test": {"ndcg@10": 0.33}}},
}


def test_the_tables_have_every_trial_and_the_test_of_the_winners_alone():
    trials, best = sweep_tables(RESULT)
    assert all(f"{score:.4f}" in trials for score in (0.1, 0.2, 0.4, 0.5))
    assert "failed: ValueError: no, no," in trials
    assert "0.3300" in best
    assert "0.3300" not in trials


def test_what_cannot_be_compared_stands_under_the_tables():
    assert sweep_tables({**RESULT, "notes": ["eval_args differ"]})[2:] == ["Note: eval_args differ"]


def test_a_winner_whose_test_failed_says_why():
    failed = {**TRIALS[1], "error": {"type": "WorkerCrashedError", "message": "it died"}}
    _, best = sweep_tables({**RESULT, "winners": {"SASRec": failed}})
    assert "failed: WorkerCrashedError: it died" in best


def test_the_csv_holds_what_the_table_does_and_whole_errors(tmp_path):
    write_csv(tmp_path / "results.csv", RESULT)
    rows = list(csv.DictReader((tmp_path / "results.csv").open(encoding="utf-8")))
    assert [row["valid_ndcg@10"] for row in rows] == ["0.1", "0.4", "", "0.5", "0.2"]
    assert [row["lr"] for row in rows] == ["0.1", "0.1", "0.1", "0.2", "0.2"]
    assert rows[2]["error"] == "ValueError: " + "no, " * 40


def test_swept_epochs_and_trained_ones_are_told_apart(tmp_path):
    record = {"state": "finished", "score": 0.1, "epochs": 7, "seconds": 1.0, "curve": []}
    result = {**RESULT, "swept": ["epochs"], "trials": [_entry(Trial("BPR", {"epochs": 30}), record)]}
    write_csv(tmp_path / "results.csv", result)
    (row,) = csv.DictReader((tmp_path / "results.csv").open(encoding="utf-8"))
    assert (row["epochs"], row["trained_epochs"]) == ("30", "7")


def test_the_plots_escape_what_users_name(tmp_path, monkeypatch):
    if not can_plot():
        pytest.skip("plotly is missing")
    from recbole_sda.report import figures

    monkeypatch.setattr(figures, "write_picture", lambda *args: False)  # a browser for each takes seconds
    names = {path.name for path in write_plots(tmp_path, RESULT)}
    assert names == {"heat-map-SASRec.html", "parallel-SASRec.html"}
    page = (tmp_path / "heat-map-SASRec.html").read_text(encoding="utf-8")
    assert "shop <b>" not in page.rpartition("Plotly.newPlot")[2]


def test_without_a_finished_trial_the_first_error_is_told(sweep):
    job, settings, planned, base = sweep
    failure = {"type": "ValueError", "message": "heads do not divide", "traceback": ""}
    tried = [(t, {"state": "failed", "curve": [], "error": failure, "seconds": 1.0}) for t in planned.trials]
    Path(job.sweep).mkdir()
    with pytest.raises(SDAError, match="4 trials failed and none finished; the first: ValueError: heads do not"):
        conclude(tried, job, settings, base, lambda *args: [])
    (note,) = json.loads((Path(job.sweep) / "results.json").read_text())["notes"]
    assert note.startswith("history_mask=recbole")
