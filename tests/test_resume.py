"""Training that is killed, at any moment, and started again ends as if nothing had happened."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from recbole_sda import trainer
from recbole_sda.catalog.demo import write_demo
from recbole_sda.config import SDAConfig
from recbole_sda.errors import SDAError
from recbole_sda.features import write_store
from recbole_sda.loading import load
from recbole_sda.recommend import build, item_tokens, load_dataset, recommend
from recbole_sda.resume import TrainingFiles, sole_training

EPOCHS = 5
KEYS = {
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
    "epochs": EPOCHS,
    "stopping_step": EPOCHS,
    "train_batch_size": 64,
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "metrics": ["Hit", "NDCG"],
    "valid_metric": "NDCG@10",
    "MAX_ITEM_LIST_LENGTH": 10,
    "embedding_size": 16,
    "hidden_size": 16,
    "features": "none",
}


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("data") / "demo", items=30, users=40).parent


@pytest.fixture(scope="module")
def features(data_path, tmp_path_factory) -> str:
    tokens = item_tokens(load_dataset(configure("BPR", data_path, tmp_path_factory.mktemp("saved"))))
    folder = tmp_path_factory.mktemp("features")
    np.save(folder / "text.npy", np.random.default_rng(0).normal(size=(len(tokens), 6)).astype(np.float32))
    write_store(folder, tokens, {"text": np.arange(len(tokens)) % 5 > 0}, settings={})
    return str(folder)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def configure(model, data_path, folder, **values) -> SDAConfig:
    keys = {**KEYS, "data_path": str(data_path), "checkpoint_dir": str(folder), **values}
    return SDAConfig(model, "demo", config_dict=keys)


def train(config, *, dies_at: int | None = None) -> tuple[dict, dict, int]:
    """valid and test results with their epochs and curve; the checkpoint's entries; batches of training.

    ``dies_at`` counts batches of training in this call.
    """
    model_class, steps = config.model_class, 0
    calculate_loss = model_class.calculate_loss

    def counting(self, *args, **kwargs):
        nonlocal steps
        steps += 1
        if steps == dies_at:
            raise KilledError
        return calculate_loss(self, *args, **kwargs)

    model_class.calculate_loss = counting
    try:
        outcome = recommend(config, None if config["features"] == "none" else config["features"], label="test")
    finally:
        model_class.calculate_loss = calculate_loss
    (checkpoint,) = Path(config["checkpoint_dir"]).glob("*.pth")
    kept = {key: outcome[key] for key in ("valid", "test", "epochs", "curve")}
    return kept, torch.load(checkpoint, weights_only=True), steps


def steps_an_epoch(config) -> int:
    passes = config["n_enc_epochs"] + config["n_dec_epochs"] if config["model"] == "RecVAE" else 1
    return passes * len(build(config)[3][0])


def assert_same(one, other):
    (result, saved, _), (other_result, other_saved, _) = one, other
    assert result == other_result
    assert saved["epoch"] == other_saved["epoch"]
    for name, tensor in saved["state_dict"].items():
        assert torch.equal(tensor, other_saved["state_dict"][name]), name


# MultiVAE counts its updates, LINE keeps a queue of users, RecVAE has three optimizers, SGL draws its graphs anew,
# DiffRec remembers its losses.
@pytest.mark.parametrize(
    ("model", "values"),
    [
        ("BPR", {}),
        ("SASRec", {}),
        ("BERT4Rec", {}),
        (
            "GRU4Rec",
            {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "popularity", "sample_num": 1}},
        ),
        ("LightGCN", {}),
        ("SGL", {}),
        ("LINE", {}),
        ("SimpleX", {}),
        ("NeuMF", {}),
        ("VBPR", {}),
        ("MultiVAE", {"train_neg_sample_args": None}),
        ("RecVAE", {"train_neg_sample_args": None, "latent_dimension": 16}),
        ("DiffRec", {"train_neg_sample_args": None, "steps": 3}),
        ("BPR", {"eval_step": 2}),
        ("BPR", {"eval_step": 0}),
        ("BPR", {"stopping_step": 1, "learning_rate": 0.5}),
        ("BPR", {"learner": "rmsprop"}),
    ],
)
def test_two_deaths_change_nothing(model, values, data_path, tmp_path):
    whole = train(configure(model, data_path, tmp_path / "whole", **values))

    def config():
        return configure(model, data_path, tmp_path / "killed", **values)

    epoch = steps_an_epoch(config())
    for dies_at in (epoch + epoch // 2 + 1, epoch + 1):  # in the second epoch, then in the third
        with pytest.raises(KilledError):
            train(config(), dies_at=dies_at)
    resumed = train(config())
    assert_same(resumed, whole)
    assert resumed[2] == whole[2] - 2 * epoch
    assert sorted(p.suffix for p in (tmp_path / "killed").iterdir() if p.is_file()) == [
        ".json",
        ".lock",
        ".parquet",
        ".pth",
    ]


@pytest.mark.parametrize("model", ["SASRec", "VBPR", "SLMRec"])
def test_features_change_nothing_about_it(model, data_path, features, tmp_path):
    values = {"features": features, "modalities": ["text"]}
    test_two_deaths_change_nothing(model, values, data_path, tmp_path)


SIGKILL_MODELS = ("BPR", "SASRec", "BERT4Rec")
# A process for each life, forked from one that has imported everything.
LIVES = """
import json, os, signal, sys, torch
from pathlib import Path
from tests.test_resume import configure, recommend, steps_an_epoch

data_path, *models = sys.argv[1:]
torch.optim.Adam([torch.nn.Parameter(torch.ones(1))]).zero_grad()  # imports half of torch

def train(model, dies_at):
    config, steps = configure(model, data_path, model), 0
    calculate_loss = config.model_class.calculate_loss
    def counting(self, interaction):
        nonlocal steps
        steps += 1
        if steps == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return calculate_loss(self, interaction)
    config.model_class.calculate_loss = counting
    Path(f"{model}.json").write_text(json.dumps(recommend(config, None, label="ids"), default=str))

for model in models:
    epoch = steps_an_epoch(configure(model, data_path, model))
    for dies_at in (epoch, 2 * epoch + 2, epoch + 1, None):
        if os.fork() == 0:
            train(model, dies_at)
            os._exit(0)
        status = os.wait()[1]
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert killed if dies_at else status == 0, status
"""


def test_sigkill_in_the_middle_of_epochs(data_path, tmp_path):
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", LIVES, str(data_path), *SIGKILL_MODELS]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for model in SIGKILL_MODELS:
        whole = train(configure(model, data_path, tmp_path / f"{model}-whole"))
        result = json.loads((tmp_path / f"{model}.json").read_text())
        (checkpoint,) = (tmp_path / model).glob("*.pth")
        assert_same(
            whole, ({key: result[key] for key in whole[0]}, torch.load(checkpoint, weights_only=True), None)
        )


# --- what lies on the disk ---


def killed(data_path, folder, model="BPR", **values) -> Path:
    """The name of the checkpoint of a training that died in its third epoch."""
    epoch = steps_an_epoch(configure(model, data_path, folder, **values))
    with pytest.raises(KilledError):
        train(configure(model, data_path, folder, **values), dies_at=2 * epoch + 1)
    (last,) = folder.glob("*.last")
    return last.with_suffix("")


def test_the_last_state_is_tensors_and_plain_values(data_path, tmp_path):
    checkpoint = killed(data_path, tmp_path / "a", "BERT4Rec")
    state = torch.load(checkpoint.with_name(checkpoint.name + ".last"), weights_only=True)
    assert state["epoch"] == 2
    assert not checkpoint.exists()
    best = TrainingFiles(checkpoint).best(state["best_epoch"])
    assert torch.load(best, weights_only=True)["epoch"] == state["best_epoch"]


def test_a_better_state_than_the_last_one_names_is_forgotten(data_path, tmp_path):
    """Death between the two writes leaves both best states; the older one is of the epochs that count."""
    whole = train(configure("BPR", data_path, tmp_path / "whole"))
    files = TrainingFiles(killed(data_path, tmp_path / "a"))
    foreign = files.best(EPOCHS + 7)
    foreign.write_bytes(b"of an epoch that will be trained again")
    assert_same(train(configure("BPR", data_path, tmp_path / "a")), whole)
    assert not foreign.exists()


def test_other_data_under_the_same_name_starts_anew(data_path, tmp_path, caplog):
    folder = tmp_path / "data"
    shutil.copytree(data_path, folder)
    killed(folder, tmp_path / "a")
    inter = folder / "demo" / "demo.inter"
    lines = inter.read_text().splitlines(keepends=True)
    inter.write_text("".join(lines[:-1]))
    resumed = train(configure("BPR", folder, tmp_path / "a"))
    assert "other data" in caplog.text
    assert_same(resumed, train(configure("BPR", folder, tmp_path / "whole")))


def test_a_lost_best_state_starts_anew(data_path, tmp_path, caplog):
    files = TrainingFiles(killed(data_path, tmp_path / "a"))
    for best in files.checkpoint.parent.glob("*.epoch*"):
        best.unlink()
    resumed = train(configure("BPR", data_path, tmp_path / "a"))
    assert "training starts anew" in caplog.text
    assert_same(resumed, train(configure("BPR", data_path, tmp_path / "whole")))


def test_a_state_of_another_model_is_refused(data_path, tmp_path):
    files = TrainingFiles(killed(data_path, tmp_path / "a"))
    state = torch.load(files.last, weights_only=True)
    state["model"]["item_embedding.weight"] = torch.zeros(3, 3)
    torch.save(state, files.last)
    with pytest.raises(SDAError, match=r"\.last is of another BPR .* remove it to train anew"):
        train(configure("BPR", data_path, tmp_path / "a"))


def test_a_trainer_with_a_loop_of_its_own_says_that_it_starts_anew(data_path, tmp_path, caplog, monkeypatch):
    """As NCL, RaCT and S3Rec have."""
    from recbole.trainer import Trainer

    class OwnLoop(Trainer):
        def fit(self, *args, **kwargs):
            return super().fit(*args, **kwargs)

    monkeypatch.setattr(trainer, "get_trainer", lambda *_: OwnLoop)
    epoch = steps_an_epoch(configure("BPR", data_path, tmp_path / "a"))
    with pytest.raises(KilledError):
        train(configure("BPR", data_path, tmp_path / "a"), dies_at=2 * epoch + 1)
    assert list((tmp_path / "a").glob("*.last")) == []
    caplog.set_level("INFO")
    again = train(configure("BPR", data_path, tmp_path / "a"))
    assert "BPR has a training loop of its own; killed, it starts anew" in caplog.text
    whole = train(configure("BPR", data_path, tmp_path / "whole"))
    assert_same(again, whole)
    assert again[2] == whole[2]


def test_the_same_command_waits_for_the_first(tmp_path, caplog):
    caplog.set_level("INFO")
    order, inside = [], threading.Event()

    def second():
        inside.wait()
        with sole_training(tmp_path / "x.pth"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with sole_training(tmp_path / "x.pth"):
        inside.set()
        while "another process trains" not in caplog.text:
            thread.join(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_pretraining_leaves_what_fine_tuning_reads(data_path, tmp_path):
    """S3Rec's stages are two commands; the first one's state is a checkpoint of ours, too."""
    values = {"load_col": {**KEYS["load_col"], "item": ["item_id", "brand"]}, "item_attribute": "brand"}
    folder = tmp_path / "saved"
    pretraining = {"train_stage": "pretrain", "pretrain_epochs": 2, "save_step": 1}
    recommend(configure("S3Rec", data_path, folder, **values, **pretraining), None, label="ids")
    (checkpoint,), stage = folder.glob("S3Rec-demo-ids-*.pth"), folder / "S3Rec-demo-2.pth"
    assert stage.is_file()  # the name that RecBole's documentation promises
    pretrained = torch.load(stage, weights_only=True)["state_dict"]
    loaded = load(checkpoint)
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, pretrained[name])
    keys = {"train_stage": "finetune", "pre_model_path": str(stage), "epochs": 1}
    fine = train(configure("S3Rec", data_path, tmp_path / "fine", **values, **keys))
    assert set(fine[0]["test"]) == {"hit@10", "ndcg@10"}


# --- RecBole's logs ---


def scalars() -> dict[str, list[int]]:
    """Tag → steps of every TensorBoard log of this folder, in the order of their steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps: dict[str, list[int]] = {}
    for folder in Path("log_tensorboard").iterdir():
        events = EventAccumulator(str(folder)).Reload()
        for tag in events.Tags()["scalars"]:
            steps[tag] = sorted(steps.get(tag, []) + [event.step for event in events.Scalars(tag)])
    return steps


def test_tensorboard_goes_on_with_the_training(data_path, tmp_path):
    """RecBole's folder, log_tensorboard; the epoch that death cut short is not in it twice."""
    killed(data_path, tmp_path / "a")
    before = scalars()
    assert before["Loss/Train"] == [0, 1]
    train(configure("BPR", data_path, tmp_path / "a"))
    after = scalars()
    assert after["Loss/Train"] == after["Vaild_score"] == list(range(EPOCHS))


def test_wandb_gets_what_recbole_sends(data_path, tmp_path, monkeypatch):
    sent = mock.MagicMock(run=None)
    sent.init.side_effect = lambda **_: setattr(sent, "run", mock.MagicMock(summary={}))
    monkeypatch.setitem(sys.modules, "wandb", sent)
    result, _, _ = train(configure("BPR", data_path, tmp_path / "a", log_wandb=True, wandb_project="shop"))
    assert sent.init.call_args.kwargs["project"] == "shop"
    logged = [call.args[0] for call in sent.log.call_args_list]
    assert [entry["train/epoch"] for entry in logged if "train/epoch" in entry] == list(range(EPOCHS))
    assert sum("valid/ndcg@10" in entry for entry in logged) == EPOCHS
    assert sent.run.summary["eval/ndcg@10"] == result["test"]["ndcg@10"]
