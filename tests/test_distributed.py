"""Stage 3 in two processes: one model in both, and every figure as a single process computes it."""

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from two_processes import in_two_processes

from recbole_sda import ray_recommend, ray_workers
from recbole_sda import recommend as recommend_module
from recbole_sda.catalog.demo import write_demo
from recbole_sda.config import SDAConfig
from recbole_sda.distributed import distributed, from_main, in_this_process
from recbole_sda.errors import SDAError
from recbole_sda.features import write_store
from recbole_sda.loading import load
from recbole_sda.ray_recommend import check_processes, recommend_in_workers
from recbole_sda.recommend import build, item_tokens, load_dataset, recommend
from recbole_sda.trainer import build_trainer

USERS = 41  # an odd number, of which one process evaluates 21 and the other 20
TRAININGS = ("SASRec", "LightGCN", "still")
STILL = {"shuffle": False, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    write_demo(folder / "demo", items=30, users=USERS)
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def configure(model, data_path, **values):
    quick = {"data_path": str(data_path), "epochs": 2, "use_gpu": False, "show_progress": False, "state": "ERROR"}
    return SDAConfig(model, "demo", config_dict={**quick, "modalities": "text", "train_batch_size": 64, **values})


@pytest.fixture(scope="module")
def features(data_path, tmp_path_factory):
    """Random vectors of every item."""
    tokens = item_tokens(load_dataset(configure("BPR", data_path)))
    folder = tmp_path_factory.mktemp("features")
    np.save(folder / "text.npy", np.random.default_rng(0).normal(size=(len(tokens), 6)).astype(np.float32))
    write_store(folder, tokens, {"text": np.ones(len(tokens), dtype=bool)}, settings={})
    return folder


@pytest.fixture(scope="module")
def of_two(data_path, features, tmp_path_factory):
    """What each of two processes has to tell; one pair for all tests, because it takes long to start."""
    folder = tmp_path_factory.mktemp("two")
    saved = str(folder / "saved")
    configs = [configure(model, data_path, checkpoint_dir=saved) for model in ("SASRec", "LightGCN")]
    configs.append(configure("SASRec", data_path, checkpoint_dir=saved, **STILL))
    return in_two_processes(one_of_two, folder, folder, dict(zip(TRAININGS, configs, strict=True)), features)


def one_of_two(rank, folder, configs, features):
    os.chdir(folder)
    # RecBole's sequential models, unpickled with the configuration unwatched, would switch it on.
    assert not torch.is_anomaly_enabled()
    told = {"table": forward_and_backward(rank)}
    for name, config in configs.items():
        told[name] = watched_training(in_this_process(config, torch.device("cpu")), features)
    return told


def watched_training(config, features):
    """The outcome, the state after training and before the best one is loaded, the users' results."""
    kept = {}

    def watched(*args, **kwargs):
        trainer = kept["trainer"] = build_trainer(*args, **kwargs)
        fit = trainer.fit

        def fit_and_keep(*args, **kwargs):
            fitted = fit(*args, **kwargs)
            kept["state"] = {name: value.clone() for name, value in trainer.model.state_dict().items()}
            return fitted

        trainer.fit = fit_and_keep
        return trainer

    recommend_module.build_trainer = watched
    try:
        outcome = recommend(config, features, label="watched")
    finally:
        recommend_module.build_trainer = build_trainer
    return outcome, kept["state"], kept["trainer"].user_results().to_dict("list")


@pytest.mark.parametrize("model", ["SASRec", "LightGCN"])
def test_two_processes_hold_one_model_and_report_what_one_computes(model, of_two):
    """LightGCN masks histories, samples negatives and keeps its users' vectors beside the parameters."""
    (outcome, state, users), (other_outcome, other_state, other_users) = (told[model] for told in of_two)
    assert all(torch.equal(value, other_state[name]) for name, value in state.items())
    assert {**other_outcome, "artefacts": outcome["artefacts"]} == outcome
    assert other_outcome["artefacts"]["checkpoint"] == outcome["artefacts"]["checkpoint"]
    assert len(set(users["user"])) == len(users["user"]) == USERS

    loaded = load(outcome["artefacts"]["checkpoint"])
    trainer = build_trainer(loaded.config, loaded.model)
    trainer.prepare_evaluation(loaded.train_data, loaded.valid_data, loaded.test_data)
    for split in ("valid", "test"):
        expected = trainer.evaluate(getattr(loaded, f"{split}_data"), load_best_model=False)
        assert {"tailhit@10", "tailndcg@10", "itemcoverage@10", "averagepopularity@10"} <= set(expected)
        assert outcome[split] == pytest.approx(dict(expected), abs=1e-12)
    for found in (users, other_users):
        pd.testing.assert_frame_equal(pd.DataFrame(found), trainer.user_results())


def test_the_first_process_alone_leaves_files(of_two):
    checkpoints = {of_two[0][name][0]["artefacts"]["checkpoint"] for name in TRAININGS}
    assert len(checkpoints) == len(TRAININGS)
    left = Path(next(iter(checkpoints))).parent.glob("*.pth*")
    assert {str(file).removesuffix(".lock") for file in left} == checkpoints


def test_two_halves_of_each_batch_train_what_the_whole_batch_trains(of_two, data_path, features):
    config = configure("SASRec", data_path, features=str(features), **STILL)
    start = {name: value.clone() for name, value in build(config)[2].state_dict().items()}
    expected, state, users = watched_training(config, features)
    for outcome, found, found_users in (told["still"] for told in of_two):
        for name, value in state.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)
        assert found_users["user"] == users["user"]
        assert outcome["epochs"] == expected["epochs"]
    changes = [(value - start[name]).abs().max() for name, value in state.items() if value.numel()]
    assert max(changes) > 0.005  # the training is not within the tolerance


class Table(nn.Module):
    def __init__(self, rank):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(float(rank + 1)))
        self.register_buffer("features", torch.tensor(10.0 * (rank + 1)))
        self.register_buffer("mean", torch.tensor(100.0 * (rank + 1)))
        self._ddp_params_and_buffers_to_ignore = ["features"]

    def forward(self, x):
        return x * self.weight * self.features + self.mean


def forward_and_backward(rank):
    table = Table(rank)
    wrapped = distributed(table, torch.device("cpu"))  # whose end is the end of its hooks
    wrapped(torch.tensor(1.0)).backward()
    return [
        table.weight.item(),
        table.features.item(),
        table.mean.item(),
        table.weight.grad.item(),
        from_main(rank),
    ]


def test_features_are_not_sent_and_gradients_are_averaged(of_two):
    assert [told["table"] for told in of_two] == [[1, 10, 100, 15, 0], [1, 20, 100, 15, 0]]


def test_one_process_is_left_alone(data_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    called = []
    monkeypatch.setattr(
        ray_recommend, "recommend", lambda *args, **kwargs: called.append((args, kwargs)) or "outcome"
    )
    config = configure("Pop", data_path)
    check_processes(config)
    assert recommend_in_workers(config, None, label="ids") == "outcome"
    assert called == [((config, None), {"label": "ids", "test": True, "on_epoch": None})]
    assert from_main("x") == "x"
    trainer = build_trainer(config, config.model_class(config, load_dataset(config)))
    assert not hasattr(trainer, "distributed_model")
    assert config["single_spec"]


def test_a_configuration_in_another_process_is_the_same(data_path):
    config = configure("SASRec", data_path, nproc=2)
    found = pickle.loads(pickle.dumps(config))
    assert found.model_class is config.model_class
    assert {**found.final_config_dict} == {**config.final_config_dict}
    assert found.chosen("epochs")


def test_what_processes_cannot_share_or_have_is_refused_before_work(data_path, monkeypatch):
    with pytest.raises(SDAError, match=r"nproc=2: ItemKNN does not learn by gradients.*say --nproc=1"):
        check_processes(configure("ItemKNN", data_path, nproc=2))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SDAError, match=r"nproc=2 needs Ray .*pip install 'recbole_sda\[tune\]'"):
        check_processes(configure("BPR", data_path, nproc=2))
    for value in (0, "two", 1.5):
        with pytest.raises(SDAError, match=r"nproc=.* must be a whole number of at least 1"):
            configure("BPR", data_path, nproc=value)
    with pytest.raises(SDAError, match="key 'world_size' is not needed: Ray joins the processes; say --nproc=N"):
        configure("BPR", data_path, world_size=2)


@pytest.mark.slow
def test_ray_trains_in_two_workers_and_hands_back_results_and_mistakes(
    data_path, features, tmp_path, ray_cluster, monkeypatch
):
    monkeypatch.setattr(ray_workers, "MAX_FAILURES", 0)  # for time; what is a mistake is not done again anyway
    config = configure("SASRec", data_path, nproc=2, state="INFO")
    outcome = recommend_in_workers(config, features, label="ray")
    (log,) = Path("log/SASRec").iterdir()  # of the first worker, like its curves
    assert log.read_text().count("train loss") == config["epochs"]
    assert [folder.name for folder in Path("log_tensorboard").iterdir()] == [log.stem]
    loaded = load(outcome["artefacts"]["checkpoint"])
    trainer = build_trainer(loaded.config, loaded.model)
    trainer.prepare_evaluation(loaded.train_data, loaded.valid_data, loaded.test_data)
    assert outcome["test"] == pytest.approx(
        dict(trainer.evaluate(loaded.test_data, load_best_model=False)), abs=1e-12
    )
    assert loaded.config["nproc"] == 1  # the checkpoint does not ask for the processes that wrote it
    assert not list((tmp_path / "saved" / "ray").iterdir())
    with pytest.raises(SDAError, match="elsewhere"):
        recommend_in_workers(configure("SASRec", data_path, nproc=2), tmp_path / "elsewhere", label="ray")
    with pytest.raises(SDAError, match="nproc=99 takes a CPU each, and Ray has 4; lower nproc"):
        check_processes(configure("BPR", data_path, nproc=99))
