"""A trial in its process, without Ray: what it reports, records, and leaves to others."""

import errno
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from small_sweep import KEYS, planned_sweep

import recbole_sda
from recbole_sda import recommend
from recbole_sda.config import SDAConfig
from recbole_sda.model.registry import OWN_MODELS, SLOTS, _defaults
from recbole_sda.prepare import prepare_dataset
from recbole_sda.ray_cluster import show_gpus
from recbole_sda.tuning import trial as trial_module
from recbole_sda.tuning.planning import plan
from recbole_sda.tuning.records import Records, ended_record
from recbole_sda.tuning.results import _write_best
from recbole_sda.tuning.settings import read_command
from recbole_sda.tuning.sweep import _check_runs, _finished, _identity
from recbole_sda.tuning.trial import Job, evaluate_winner, run_trial
from recbole_sda.tuning.workers import _scheduler


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """job, settings, the two trials, on item IDs."""
    monkeypatch.chdir(tmp_path)
    job, settings, planned, base = planned_sweep({"learning_rate": [0.01, 0.001]}, features="none")
    prepare_dataset(base)
    return job, settings, planned.trials


@pytest.fixture
def trainings(monkeypatch) -> list:
    begun, train = [], recommend._train

    def counting(config, *args, **kwargs):
        begun.append(config["model"])
        return train(config, *args, **kwargs)

    monkeypatch.setattr(recommend, "_train", counting)
    return begun


def test_a_trial_reports_every_validation_and_computes_no_test(sweep, monkeypatch):
    job, _, (trial, _) = sweep
    monkeypatch.setattr(recommend, "evaluate_test", None)  # whoever calls it fails
    told = []
    record = run_trial(trial, job, told.append)
    assert record["state"] == "finished"
    assert record["test"] is None
    assert [entry["epoch"] for entry in told] == [1, 2, 3]
    assert [entry["score"] for entry in told] == [point["valid_score"] for point in record["curve"]]
    assert [entry["best"] for entry in told] == [max(e["score"] for e in told[: n + 1]) for n in range(3)]
    assert record["score"] == told[-1]["best"] == record["valid"]["ndcg@10"]
    stored = Records(job.sweep).read(trial)
    assert {key: stored[key] for key in record} == record
    (outcome,) = Path("saved").glob("BPR*.json")
    assert json.loads(outcome.read_text())["outcome"]["test"] is None
    assert "goes on" not in (Path("sweep/trials") / trial.name / "log.txt").read_text()


def test_a_trial_that_was_trained_before_tells_the_same_without_training(sweep, trainings):
    job, _, (trial, _) = sweep
    first, told, again = run_trial(trial, job, lambda _: None), [], []
    run_trial(trial, job, told.append)
    Records(job.sweep).clear()
    second = run_trial(trial, job, again.append)
    assert trainings == ["BPR"]
    assert told == again
    assert {**second, "seconds": 0} == {**first, "seconds": 0}


def test_a_trial_that_was_killed_tells_what_it_had_told_and_goes_on(sweep):
    job, _, (trial, _) = sweep

    class KilledError(BaseException):
        pass

    def dies(entry):
        if entry["epoch"] == 2:
            raise KilledError

    with pytest.raises(KilledError):
        run_trial(trial, job, dies)
    told = []
    record = run_trial(trial, job, told.append)
    assert [entry["epoch"] for entry in told] == [1, 2, 3]
    assert [point["epoch"] for point in record["curve"]] == [1, 2, 3]
    assert "BPR goes on with epoch 2 of 3" in (Path("sweep/trials") / trial.name / "log.txt").read_text()


def test_the_winner_is_tested_from_its_checkpoint_and_its_file_runs_the_same_training(sweep, trainings):
    job, _, (trial, _) = sweep
    run_trial(trial, job, lambda _: None)
    outcome = evaluate_winner(trial, job)
    assert outcome["test"]["ndcg@10"] >= 0
    file = _write_best(Path(job.sweep), trial, job)
    said = yaml.safe_load(file.read_text())
    assert said["learning_rate"] == 0.01
    assert not {"space", "gpu_id", "model"} & said.keys()
    result = recbole_sda.run("BPR", "demo", config_file_list=[str(file)])
    assert result["test"] == outcome["test"]
    assert result["artefacts"]["checkpoint"] == outcome["artefacts"]["checkpoint"]
    assert trainings == ["BPR"]


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (ValueError("two\nlines"), "ValueError", "two lines"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/saved/x.pth"),
            "OSError",
            "the disk is full: /data/saved/x.pth cannot be written; free some space, or name",
        ),
    ],
)
def test_what_goes_wrong_in_a_trial_is_recorded(sweep, monkeypatch, error, kind, said):
    job, _, (trial, _) = sweep

    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(trial_module, "run_plan", fails)
    record = run_trial(trial, job, lambda _: None)
    assert (record["state"], record["error"]["type"]) == ("failed", kind)
    assert record["error"]["message"].startswith(said)
    assert "Traceback" in (Path("sweep/trials") / trial.name / "log.txt").read_text()


def test_a_trial_that_was_killed_before_its_first_evaluation_can_be_resumed(sweep, monkeypatch):
    job, settings, (trial, _) = sweep

    class KilledError(BaseException):
        pass

    def dies(*args, **kwargs):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(trial_module, "run_plan", dies)
        with pytest.raises(KilledError):
            run_trial(trial, job, lambda _: None)
    records = Records(job.sweep)
    assert (records.read(trial)["state"], records.read(trial)["curve"]) == ("running", [])
    assert _finished(records, replace(settings, resume=True)) == {}
    assert run_trial(trial, job, lambda _: None)["state"] == "finished"


def test_devices_are_those_that_ray_gave(sweep, monkeypatch):
    job, _, (trial, _) = sweep
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert replace(job, gpus=1).configure(trial)["gpu_id"] == "3"
    assert job.configure(trial)["gpu_id"] == "-1"


def test_a_gpu_that_is_typed_is_the_commands_and_not_the_trials(sweep, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    command, settings, base = read_command("BPR", "demo", {**KEYS, "features": "none"}, None, ["--gpu_id=0,1"])
    (trial, *_) = plan(command, settings).trials
    job = Job(command, "sweep", 1, 1.0, "ndcg@10", True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert job.configure(trial)["gpu_id"] == "3"
    show_gpus(base)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == str(base["gpu_id"]) == "0,1"


def test_a_cluster_counts_the_gpus_that_the_user_had_where_none_is_named(sweep, monkeypatch):
    _, _, base = read_command("BPR", "demo", {**KEYS, "features": "none"}, None, ())
    for users in ("2,3", None):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        monkeypatch.setattr(SDAConfig, "users_gpus", users)
        show_gpus(base)
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == users


def test_a_model_of_the_users_own_goes_to_workers_by_its_path(sweep, tmp_path, monkeypatch):
    (tmp_path / "my_shop.py").write_text(
        "from recbole.model.general_recommender import BPR\nclass MyRec(BPR): pass\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    tables = [(table, dict(table)) for table in (OWN_MODELS, SLOTS, _defaults)]
    try:
        job, settings, planned, _ = planned_sweep(
            {"learning_rate": [0.01]}, model="my_shop:MyRec", features="none"
        )
        (trial,) = planned.trials
        assert (settings.models, trial.model) == (("my_shop:MyRec",), "my_shop:MyRec")
        assert trial.name.startswith("MyRec-")
        for table in (OWN_MODELS, SLOTS, _defaults):
            del table["MyRec"]  # as in a worker
        assert job.configure(trial)["model"] == "MyRec"
        Path("sweep").mkdir()
        file = _write_best(Path("sweep"), trial, job)
        assert file.name == "best-MyRec.yaml"
        assert "--model=my_shop:MyRec " in file.read_text()
    finally:
        sys.modules.pop("my_shop", None)
        for table, was in tables:
            table.clear()
            table.update(was)


def test_a_finished_record_is_not_written_over_by_less(sweep):
    job, _, (trial, _) = sweep
    records = Records(job.sweep)
    finished = {"state": "finished", "curve": [{"epoch": 1, "valid_score": 0.3}], "score": 0.3, "seconds": 1.0}
    records.write(trial, finished)
    told = []
    assert run_trial(trial, job, told.append)["score"] == 0.3
    assert [entry["epoch"] for entry in told] == [1]
    for state in ("running", "stopped", "failed"):
        assert records.write(trial, {"state": state, "curve": []})["state"] == "finished"
    assert records.read(trial)["score"] == 0.3
    assert ended_record(records.read(trial), "its worker died", bigger=True)["state"] == "finished"


@pytest.mark.parametrize(("search", "kept"), [("grid", 0), ("optuna", 2)])
def test_what_is_resumed_under_asha(sweep, search, kept):
    job, settings, trials = sweep
    records = Records(job.sweep)
    for trial, state in zip(trials, ("finished", "stopped"), strict=True):
        records.write(trial, {"state": state, "curve": []})
    settings = replace(settings, resume=True, scheduler="asha", search=search)
    assert len(_finished(records, settings)) == kept


def test_data_that_changed_is_another_sweep(sweep):
    _, settings, _ = sweep
    _, _, _, base = planned_sweep({"learning_rate": [0.01, 0.001]}, features="none")
    before = _identity(settings, base, [])
    assert before == _identity(settings, base, [])
    (file,) = Path(base["data_path"]).glob("*.inter")
    file.write_text(file.read_text() + "\n")
    assert before != _identity(settings, base, [])


def test_pictures_and_losses_that_changed_are_another_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    own = "from recbole_sda.alignment import InfoNCELoss\nclass Shops(InfoNCELoss): pass\n"
    loss = tmp_path / "shop_loss.py"
    loss.write_text(own)
    _, settings, planned, base = planned_sweep({"alignment": ["cmsa", "shop_loss:Shops"]})
    prepare_dataset(base)

    def identity() -> str:
        return _identity(settings, base, _check_runs(planned))

    try:
        found = [identity(), identity()]
        loss.write_text(own + "# another one\n")
        found.append(identity())
        one, other = sorted((Path(base["data_path"]) / "images").iterdir())[:2]
        one.write_bytes(other.read_bytes())
        found.append(identity())
    finally:
        sys.modules.pop("shop_loss", None)
    assert found[0] == found[1]
    assert len({*found}) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"state": "finished"}'])
def test_a_half_written_record_is_told_and_its_trial_runs_again(sweep, caplog, text):
    job, _, (trial, _) = sweep
    records = Records(job.sweep)
    records.write(trial, {"state": "finished", "curve": []})
    (Path("sweep/trials") / trial.name / "record.json").write_text(text)
    assert records.read(trial) is None
    assert "is damaged; its trial runs again" in caplog.text
    assert run_trial(trial, job, lambda _: None)["state"] == "finished"


def test_what_ray_ends_is_stopped_or_failed():
    curve = [{"epoch": 1, "valid_score": 0.3}, {"epoch": 2, "valid_score": 0.2}]
    stopped = ended_record({"state": "running", "curve": curve, "seconds": 1.0}, None, bigger=True)
    assert (stopped["state"], stopped["score"], stopped["epochs"]) == ("stopped", 0.3, 2)
    empty = ended_record({"state": "running", "curve": [], "seconds": 0.0}, None, bigger=True)
    assert (empty["state"], empty["score"], empty["epochs"]) == ("stopped", None, 0)
    died = ended_record(None, "the actor died\nout of memory", bigger=True)
    assert died["state"] == "failed"
    assert "the actor died out of memory" in died["error"]["message"]


def test_asha_stops_the_trial_that_falls_behind_and_none_before_its_time(sweep):
    """Halving by hand: with factor 2 the worse of two is stopped at the first rung."""
    pytest.importorskip("ray")
    _, settings, _ = sweep
    settings = replace(settings, scheduler="asha", grace_period=2, reduction_factor=2)
    scheduler = _scheduler(settings)

    class Runner:
        def __init__(self, number):
            self.trial_id, self.config, self.experiment_tag = f"t{number}", {}, ""
            self.stub = self.is_finished = lambda: False

    good, bad = Runner(1), Runner(2)
    for runner in (good, bad):
        scheduler.on_trial_add(None, runner)

    def told(runner, epoch, score):
        return scheduler.on_trial_result(None, runner, {"epoch": epoch, "score": score, "training_iteration": 99})

    assert [told(good, 1, 0.9), told(bad, 1, 0.1)] == ["CONTINUE", "CONTINUE"]  # before the grace period
    assert told(good, 2, 0.9) == "CONTINUE"
    assert told(bad, 2, 0.1) == "STOP"
    assert all(told(good, epoch, 0.9) == "CONTINUE" for epoch in range(3, 200))
