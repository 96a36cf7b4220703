"""Whole sweeps under Ray: one of several models with a trial that fails; slow ones that are killed."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from small_sweep import KEYS, write_space

import recbole_sda
from recbole_sda import recommend
from recbole_sda.errors import SDAError
from recbole_sda.report import figures
from recbole_sda.tuning import planning

pytest.importorskip("ray")

SPACE = {"align_temperature": [0.1, 0.2], "n_heads": [2, 3]}  # 3 does not divide SASRec's width of 64


@pytest.fixture(scope="module")
def swept(ray_cluster, tmp_path_factory):
    """The folder in which a sweep ran, and what it returned."""
    folder = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "write_picture", lambda *args: False)  # a browser for each takes seconds
        patch.chdir(folder)
        write_space(SPACE)
        return folder, recbole_sda.tune("SASRec,BPR", "demo", KEYS)


@pytest.fixture
def inside(swept, monkeypatch):
    monkeypatch.setattr(figures, "write_picture", lambda *args: False)
    monkeypatch.chdir(swept[0])
    return swept[1]


def test_every_adapter_was_trained_once_and_models_share_them(inside):
    assert len([p for p in Path("saved/adapters").iterdir() if p.is_dir()]) == 2
    assert len([p for p in Path("saved/features").iterdir() if p.is_dir()]) == 2
    assert [(e["model"], e["state"]) for e in inside["trials"]] == [
        *[("SASRec", "finished")] * 2,
        *[("SASRec", "failed")] * 2,
        *[("BPR", "finished")] * 2,
    ]


def test_a_failed_trial_is_listed_with_its_error_and_the_others_went_on(inside):
    assert {entry["values"]["n_heads"] for entry in inside["failures"]} == {3}
    assert all("not a multiple" in entry["error"]["message"] for entry in inside["failures"])
    rows = list(csv.DictReader(Path(inside["folder"], "results.csv").read_text().splitlines()))
    assert [bool(row["error"]) for row in rows] == [False, False, True, True, False, False]
    assert json.loads(Path(inside["folder"], "results.json").read_text())["winners"].keys() == {"SASRec", "BPR"}


def test_the_winners_alone_were_tested(inside):
    tested = {}
    for file in Path("saved").glob("*.json"):
        outcome = json.loads(file.read_text())["outcome"]
        tested[outcome["artefacts"]["checkpoint"]] = outcome["test"] is not None
    assert len(tested) == 4
    winners = {winner["artefacts"]["checkpoint"] for winner in inside["winners"].values()}
    assert {checkpoint for checkpoint, was in tested.items() if was} == winners
    for model, winner in inside["winners"].items():
        scores = [e["score"] for e in inside["trials"] if e["model"] == model and e["score"] is not None]
        assert winner["score"] == max(scores)
        assert winner["test"]["ndcg@10"] >= 0


def test_what_ray_had_written_is_gone(inside):
    assert not Path(inside["folder"], "ray").exists()


def test_the_best_file_runs_what_is_there(inside, monkeypatch):
    monkeypatch.setattr(recommend, "_train", None)  # whoever calls it fails
    winner = inside["winners"]["SASRec"]
    result = recbole_sda.run("SASRec", "demo", config_file_list=[winner["file"]])
    assert result["test"] == winner["test"]
    assert result["artefacts"]["checkpoint"] == winner["artefacts"]["checkpoint"]


def test_resuming_runs_the_failed_trials_alone(inside):
    again = recbole_sda.tune("SASRec,BPR", "demo", {**KEYS, "resume": True})
    seconds = {e["name"]: e["seconds"] for e in inside["trials"] if e["state"] == "finished"}
    assert {e["name"]: e["seconds"] for e in again["trials"] if e["state"] == "finished"} == seconds
    assert [w["test"] for w in again["winners"].values()] == [w["test"] for w in inside["winners"].values()]


def test_nothing_to_resume(inside):
    with pytest.raises(SDAError, match="holds no trial of a sweep with these settings; leave --resume out"):
        recbole_sda.tune("SASRec,BPR", "demo", {**KEYS, "resume": True, "epochs": 2})


def test_more_than_ray_has(inside):
    with pytest.raises(SDAError, match="cpus=64 for each trial, and Ray has 4; lower cpus"):
        recbole_sda.tune("SASRec,BPR", "demo", {**KEYS, "cpus": 64})


@pytest.mark.slow
def test_optuna_and_asha(ray_cluster, tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text("learning_rate: {loguniform: [1e-4, 0.1]}\n")
    keys = {**KEYS, "features": "none", "tune_search": "optuna", "tune_samples": 3, "tune_scheduler": "asha"}
    result = recbole_sda.tune("BPR", "demo", {**keys, "tune_grace_period": 1, "tune_reduction_factor": 2})
    assert len(result["trials"]) == 3
    assert {entry["state"] for entry in result["trials"]} <= {"finished", "stopped"}
    assert result["winners"]["BPR"]["test"]


@pytest.mark.slow
def test_a_draw_of_optunas_that_contradicts_itself_fails_alone_and_a_resumed_sweep_draws_others(
    ray_cluster, tmp_path, monkeypatch
):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(planning, "MOST_CORNERS", 1)
    Path("space.yaml").write_text(
        "lora_r: {choice: [8, 4]}\nnum_experts: {choice: [2, 8]}\nlearning_rate: {loguniform: [1e-4, 0.1]}\n"
    )
    keys = {**KEYS, "tune_search": "optuna", "tune_samples": 5, "tune_concurrent": 1}
    result = recbole_sda.tune("BPR", "demo", keys)
    assert len(result["trials"]) == 5
    assert result["failures"]
    assert all("num_experts=8 does not divide lora_r=4" in e["error"]["message"] for e in result["failures"])
    begun, lost, *_ = [entry for entry in result["trials"] if entry["state"] == "finished"]
    file = Path(result["folder"], "trials", begun["name"], "record.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "state": "running", "curve": []}))
    shutil.rmtree(Path(result["folder"], "trials", lost["name"]))
    again = recbole_sda.tune("BPR", "demo", {**keys, "resume": True})
    before, after = ({entry["name"]: entry["state"] for entry in r["trials"]} for r in (result, again))
    assert len(after) == 5
    assert after.items() >= {name: state for name, state in before.items() if name != lost["name"]}.items()
    assert lost["name"] not in after


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_its_training_goes_on(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_space({"learning_rate": [0.001]})
    killed = []

    def kill_one():
        while not list(Path("saved").glob("*.pth.last")):
            time.sleep(0.05)
        for process in psutil.Process().children(recursive=True):
            if "ImplicitFunc" in " ".join(process.cmdline()):
                process.kill()
                killed.append(process.pid)

    watcher = threading.Thread(target=kill_one, daemon=True)
    watcher.start()
    keys = {**KEYS, "features": "none", "epochs": 200, "stopping_step": 200, "tune_concurrent": 1}
    result = recbole_sda.tune("BPR", "demo", keys)
    assert killed
    (entry,) = result["trials"]
    assert (entry["state"], entry["trained_epochs"]) == ("finished", 200)
    assert [point["epoch"] for point in entry["curve"]] == list(range(1, 201))
    assert "goes on with epoch" in next(Path(result["folder"]).glob("trials/*/log.txt")).read_text()


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on(
    ray_cluster, tmp_path, monkeypatch
):  # the killed one has a cluster of its own
    monkeypatch.chdir(tmp_path)
    write_space({"learning_rate": [0.1, 0.01, 0.001]})
    keys = {**KEYS, "features": "none", "epochs": 30, "stopping_step": 30, "tune_concurrent": 1}
    code = f"import recbole_sda; recbole_sda.tune('BPR', 'demo', {keys!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    while not any('"finished"' in f.read_text() for f in Path("saved").glob("tune/*/trials/*/record.json")):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {}
    for file in Path("saved").glob("tune/*/trials/*/record.json"):
        record = json.loads(file.read_text())
        if record["state"] == "finished":
            kept[record["values"]["learning_rate"]] = record["seconds"]
    result = recbole_sda.tune("BPR", "demo", {**keys, "resume": True})
    seconds = {entry["values"]["learning_rate"]: entry["seconds"] for entry in result["trials"]}
    assert len(seconds) == 3
    assert {rate: seconds[rate] for rate in kept} == kept
