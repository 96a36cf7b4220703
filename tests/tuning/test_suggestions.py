"""Trials as Optuna draws them: what contradicts itself, and what a sweep that was killed goes on with."""

from dataclasses import replace

import pytest
from small_sweep import KEYS, planned_sweep

from recbole_sda.tuning import sweep as sweep_module
from recbole_sda.tuning import workers
from recbole_sda.tuning.planning import Trial
from recbole_sda.tuning.records import Records
from recbole_sda.tuning.space import Choice, LogUniform
from recbole_sda.tuning.suggestions import optuna_search, suggested_trial
from recbole_sda.tuning.sweep import _finished, _run
from recbole_sda.tuning.trial import run_trial


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """job, settings, two trials, on item IDs."""
    monkeypatch.chdir(tmp_path)
    job, settings, planned, _ = planned_sweep({"learning_rate": [0.01, 0.001]}, features="none")
    return job, settings, planned.trials


def test_what_optuna_draws_and_contradicts_itself_fails_alone(sweep):
    job, settings, _ = sweep
    choices = {"lora_r": Choice((8, 4)), "num_experts": Choice((2, 8)), "n_layers": Choice((1, 2))}
    settings, job = replace(settings, space=choices), replace(job, command=replace(job.command, values=KEYS))
    fine = suggested_trial("BPR", settings, job, {"lora_r": 0, "num_experts": 1, "n_layers": 0})
    assert fine.values == {"lora_r": 8, "num_experts": 8}  # BPR has no layers
    wrong = suggested_trial("BPR", settings, job, {"lora_r": 1, "num_experts": 1, "n_layers": 0})
    assert wrong.values == {"lora_r": 4, "num_experts": 8, "n_layers": 1}
    record = run_trial(wrong, job, lambda _: None)
    assert (record["state"], record["error"]["type"]) == ("failed", "SDAError")
    assert "num_experts=8 does not divide lora_r=4" in record["error"]["message"]


def drawn(search, space, number=3) -> list[dict]:
    search.set_search_properties("best", "max", {key: entry.domain() for key, entry in space.items()})
    return [search.suggest(str(trial)) for trial in range(number)]


def test_optuna_goes_on_with_other_draws_than_it_began_with(sweep):
    pytest.importorskip("optuna")
    _, settings, _ = sweep
    space = {"learning_rate": LogUniform(1e-4, 0.1), "seed": Choice((1, 2, 3))}
    settings = replace(settings, space=space)
    first = drawn(optuna_search(settings, []), space)
    assert first == drawn(optuna_search(settings, []), space)
    values = [{key: entry.value(draw[key]) for key, entry in space.items()} for draw in first]
    before = [*((Trial("BPR", v), 0.1) for v in values[:2]), (Trial("BPR", values[2]), None)]
    search = optuna_search(settings, before)
    again = drawn(search, space)
    assert not {draw["learning_rate"] for draw in first} & {draw["learning_rate"] for draw in again}
    assert [trial.value for trial in search._ot_study.trials[:2]] == [0.1, 0.1]


def test_optuna_is_asked_for_what_is_left(sweep, monkeypatch):
    pytest.importorskip("optuna")
    job, settings, trials = sweep
    asked = {}
    monkeypatch.setattr(workers, "_fit", lambda *args, **kwargs: asked.update(kwargs))
    before = [(trials[0], 0.2), (trials[1], None)]
    workers.run_suggested("BPR", job, replace(settings, samples=5), print, before=before)
    assert asked["num_samples"] == 3


def test_what_optuna_had_begun_runs_first_and_every_trial_is_listed(sweep, monkeypatch):
    job, settings, _ = sweep
    finished, running, failed, new = (Trial("BPR", {"learning_rate": rate}) for rate in (0.1, 0.2, 0.3, 0.4))
    records, error = Records(job.sweep), {"type": "ValueError", "message": "no"}
    record = {"curve": [], "seconds": 1.0, "epochs": 3}
    records.write(finished, {**record, "state": "finished", "score": 0.5})
    records.write(running, {**record, "state": "running"})
    records.write(failed, {**record, "state": "failed", "error": error})
    told = {}

    def grid(again, job, settings, done):
        told["again"] = again
        for trial in again:
            state = {"state": "failed", "error": error} if trial == failed else {"state": "finished", "score": 0.4}
            records.write(trial, {**record, **state})
            done(trial, None)

    def suggested(model, job, settings, done, *, before):
        told["before"] = {trial.name: score for trial, score in before}
        records.write(new, {**record, "state": "finished", "score": 0.6})
        done(new, None)

    monkeypatch.setattr(sweep_module, "run_grid", grid)
    monkeypatch.setattr(sweep_module, "run_suggested", suggested)
    settings = replace(settings, search="optuna", samples=4, resume=True)
    tried = _run(None, job, settings, records, _finished(records, settings))
    assert {trial.name for trial in told["again"]} == {running.name, failed.name}
    assert told["before"] == {finished.name: 0.5, running.name: 0.4, failed.name: None}
    assert {trial.name: record["state"] for trial, record in tried} == {
        **{trial.name: "finished" for trial in (finished, running, new)},
        failed.name: "failed",
    }
