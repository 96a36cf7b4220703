"""Each cure of RecBole 1.2.1, beside the stock breakage that it cures."""

import json
import os
import pickle
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import recbole.model
import scipy.sparse
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.evaluator import Collector
from recbole.trainer import TraditionalTrainer, Trainer
from recbole.utils import get_model, init_seed

from recbole_sda import compat
from recbole_sda.config import SDAConfig
from recbole_sda.errors import SDAError
from recbole_sda.trainer import SDATrainerMixin, build_trainer, plain

CLONE = Path(compat.__file__).resolve().parent.parent
INSTALL = "pip install --no-deps recbole==1.2.1"
LEAVE_ONE_OUT = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
USERS, ITEMS = 30, 15


@pytest.fixture(scope="module")
def shops(tmp_path_factory):
    """dataset/shop: users who buy 6 of 15 items, and items of which every third has no price."""
    folder = tmp_path_factory.mktemp("dataset") / "shop"
    folder.mkdir()
    draw = random.Random(1)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(USERS):
        for time, item in enumerate(draw.sample(range(ITEMS), 6)):
            lines.append(f"u{user}\ti{item}\t{time}")
    (folder / "shop.inter").write_text("\n".join(lines) + "\n")
    items = [f"i{item}\t{'' if item % 3 == 0 else item}" for item in range(ITEMS)]
    (folder / "shop.item").write_text("\n".join(["item_id:token\tprice:float", *items]) + "\n")
    return folder.parent


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def configure(shops, model="BPR", **values):
    defaults = {
        "data_path": str(shops),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": LEAVE_ONE_OUT,
        "topk": [3, 5],
        "valid_metric": f"{values.get('metrics', ['NDCG'])[0]}@5",
        "embedding_size": 8,
        "epochs": 2,
        "train_batch_size": 64,
        "show_progress": False,
        "state": "ERROR",
    }
    return SDAConfig(model, "shop", config_dict={**defaults, **values})


def prepare(config):
    """The loaders and the untrained model."""
    init_seed(config["seed"], config["reproducibility"])
    loaders = data_preparation(config, create_dataset(config))
    return loaders, config.model_class(config, loaders[0]._dataset).to(config["device"])


def python(code):
    """Run in a process of its own, which knows the clone and nothing of this one."""
    environment = {**os.environ, "PYTHONPATH": str(CLONE)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def answer(code):
    """The last line that the code printed, as JSON."""
    done = python(code)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# --- numpy 2 ---


def test_recboles_config_needs_numpy_names_that_are_gone(monkeypatch, shops):
    for name in ("bool", "int"):  # the stock method changes these before it fails
        monkeypatch.setattr(np, name, getattr(np, name))
    with pytest.raises(AttributeError, match=r"np\.float_"):
        Config(model="BPR", dataset="shop", config_dict={"data_path": str(shops)})
    assert configure(shops)["model"] == "BPR"


@pytest.mark.parametrize("name", ["float", "int", "object", "complex", "str"])
def test_numpy_aliases_are_the_builtins(name, monkeypatch):
    monkeypatch.delattr(np, name, raising=False)
    compat.restore_numpy_aliases()
    assert vars(np)[name] is getattr(__import__("builtins"), name)


def test_numpys_own_names_are_left(monkeypatch):
    marker = object()
    monkeypatch.setattr(np, "float", marker, raising=False)
    compat.restore_numpy_aliases()
    assert np.float is marker


def test_ndcg_needs_an_alias(monkeypatch, shops):
    config = configure(shops, metrics=["NDCG"])
    (_, valid, _), model = prepare(config)
    trainer = Trainer(config, model)
    monkeypatch.delattr(np, "float")
    with pytest.raises(AttributeError, match="float"):
        trainer.evaluate(valid, load_best_model=False)
    compat.restore_numpy_aliases()
    trainer = Trainer(config, model)
    assert 0 < trainer.evaluate(valid, load_best_model=False)["ndcg@5"] < 1


# --- scipy ---


@pytest.mark.filterwarnings("ignore:torch.sparse.SparseTensor")
def test_lightgcn_needs_dok_update(monkeypatch, shops):
    config = configure(shops, "LightGCN")
    monkeypatch.delattr(scipy.sparse.dok_matrix, "_update")
    with pytest.raises(AttributeError, match="_update"):
        prepare(config)
    compat.restore_dok_update()
    (train, _, _), model = prepare(config)

    # D^-1/2 A D^-1/2, plainly
    users, items = model.n_users, model.n_items
    adjacency = np.zeros((users + items, users + items))
    inter = train._dataset.inter_feat
    for user, item in zip(inter["user_id"].tolist(), inter["item_id"].tolist(), strict=True):
        adjacency[user, users + item] = adjacency[users + item, user] = 1
    root = 1 / np.sqrt(adjacency.sum(axis=1) + 1e-7)
    np.testing.assert_allclose(
        model.norm_adj_matrix.to_dense().numpy(), root[:, None] * adjacency * root[None, :], rtol=1e-4, atol=1e-6
    )


def test_scipys_own_update_is_left(monkeypatch):
    marker = object()
    monkeypatch.setattr(scipy.sparse.dok_matrix, "_update", marker)
    compat.restore_dok_update()
    assert scipy.sparse.dok_matrix._update is marker


# --- pandas 3 ---


@pytest.mark.parametrize("version", ["3.0.0", "3.1.2", "4.0.0rc1", "10.0"])
def test_pandas_3_is_refused(version, monkeypatch):
    monkeypatch.setattr(pd, "__version__", version)
    with pytest.raises(ImportError, match=rf"pandas {version} silently leaves .* Run: pip install 'pandas<3'$"):
        compat.prepare_recbole()


@pytest.mark.parametrize("version", ["2.2.0", "2.3.3", "2.99.1"])
def test_pandas_2_is_not(version, monkeypatch):
    monkeypatch.setattr(pd, "__version__", version)
    compat.prepare_recbole()


@pytest.mark.filterwarnings("ignore:A value is trying to be set on a copy")
def test_the_reason_for_refusing_pandas_3(shops):
    """Copy on write, which pandas 3 cannot do without, leaves RecBole's missing prices missing."""
    config = configure(shops, load_col={"inter": ["user_id", "item_id", "timestamp"], "item": None})
    config["load_col"] = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "price"]}
    config["normalize_all"] = False

    def missing_prices():
        prices = create_dataset(config).item_feat["price"]
        return int(np.isnan(np.asarray(prices, dtype=float)).sum())

    assert missing_prices() == 0
    with pd.option_context("mode.copy_on_write", True):
        assert missing_prices() > 0


# --- torch.load ---


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_stock_checkpoints_do_not_load(shops):
    config = configure(shops, metrics=["NDCG"])
    (train, valid, test), model = prepare(config)
    trainer = Trainer(config, model)
    trainer.fit(train, valid, verbose=False)
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        trainer.evaluate(test)


def test_our_checkpoints_load_without_trust(shops, tmp_path):
    config = configure(shops)
    (train, valid, test), model = prepare(config)
    trainer = build_trainer(config, model, str(tmp_path / "best.pth"))
    score, best = trainer.fit(train, valid, verbose=False)
    checkpoint = torch.load(tmp_path / "best.pth", weights_only=True)
    assert checkpoint["best_valid_score"] == score == best["ndcg@5"]
    assert checkpoint["config"]["model"] == "BPR"
    assert checkpoint["config"]["eval_args"]["split"] == LEAVE_ONE_OUT["split"]
    json.dumps(checkpoint["config"], allow_nan=False)

    # evaluate() goes back to the best state, whatever the model has become
    result = trainer.evaluate(test)
    with torch.no_grad():
        model.item_embedding.weight.zero_()
    assert trainer.evaluate(test) == result
    for name, parameter in model.state_dict().items():
        assert torch.equal(parameter, checkpoint["state_dict"][name])


def test_training_resumes_from_our_checkpoint(shops, tmp_path):
    """Two epochs, saved, and two more are four at once."""
    config = configure(shops, epochs=4)
    (train, _, _), whole = prepare(config)
    build_trainer(config, whole, str(tmp_path / "whole.pth")).fit(train, None, verbose=False)

    config = configure(shops, epochs=2)
    (train, _, _), half = prepare(config)
    build_trainer(config, half, str(tmp_path / "half.pth")).fit(train, None, verbose=False)
    resumed = config.model_class(config, train._dataset)
    config["epochs"] = 4
    trainer = build_trainer(config, resumed, str(tmp_path / "other.pth"))
    trainer.resume_checkpoint(tmp_path / "half.pth")
    assert trainer.start_epoch == 2
    trainer.fit(train, None, verbose=False)
    for name, parameter in whole.state_dict().items():
        assert not torch.allclose(half.state_dict()[name], parameter)
        torch.testing.assert_close(resumed.state_dict()[name], parameter)


def test_our_checkpoint_holds_what_recboles_holds(shops, tmp_path):
    config = configure(shops)
    _, model = prepare(config)
    Trainer(config, model)._save_checkpoint(3, verbose=False, saved_model_file=tmp_path / "stock.pth")
    build_trainer(config, model)._save_checkpoint(3, verbose=False, saved_model_file=tmp_path / "ours.pth")
    stock = torch.load(tmp_path / "stock.pth", weights_only=False)
    ours = torch.load(tmp_path / "ours.pth")
    assert set(ours) - {"left_out", "tokens", "features"} == set(stock)
    assert ours["left_out"] == []
    assert ours["epoch"] == stock["epoch"] == 3
    assert set(ours["config"]) == set(stock["config"].final_config_dict)
    for name, parameter in stock["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], parameter)


def test_recboles_choice_of_trainer_is_kept(shops):
    for model, base in (("BPR", Trainer), ("Pop", TraditionalTrainer)):
        config = configure(shops, model)
        trainer = build_trainer(config, prepare(config)[1])
        assert isinstance(trainer, base)
        assert isinstance(trainer, SDATrainerMixin)
        assert type(trainer).__name__ == f"SDA{base.__name__}"
        assert trainer.saved_model_file.startswith(os.path.join("saved", model))


def test_plain_values_are_json():
    given = {
        "a": np.float64(0.5),
        "b": np.int32(3),
        "c": np.bool_(True),
        "d": float("nan"),
        "e": np.float32("inf"),
        "f": (1, [np.float64(2), None]),
        3: torch.device("cpu"),
        "g": {"h": {np.int64(1)}},
        "i": True,
    }
    expected = {
        "a": 0.5,
        "b": 3,
        "c": True,
        "d": None,
        "e": None,
        "f": [1, [2.0, None]],
        "3": "cpu",
        "g": {"h": [1]},
        "i": True,
    }
    assert plain(given) == expected
    assert json.loads(json.dumps(plain(given), allow_nan=False)) == expected
    assert [type(plain(given)[key]) for key in "abci"] == [float, int, bool, bool]


# --- the collector ---

COUNTING = ["ItemCoverage", "GiniIndex", "AveragePopularity", "TailPercentage"]


@pytest.mark.parametrize("metric", COUNTING)
def test_the_stock_collector_fails_on_what_is_no_tensor(metric, shops):
    config = configure(shops, metrics=[metric])
    (train, valid, _), model = prepare(config)
    trainer = Trainer(config, model)
    assert type(trainer.eval_collector) is Collector
    trainer.eval_collector.data_collect(train)
    with pytest.raises(AttributeError, match="'cpu'"):
        trainer.evaluate(valid, load_best_model=False)


def test_ours_computes_them(shops):
    config = configure(shops, metrics=[*COUNTING, "ShannonEntropy"], metric_decimal_place=8, tail_ratio=0.2)
    (train, valid, _), model = prepare(config)
    trainer = build_trainer(config, model)
    trainer.eval_collector.data_collect(train)
    first = trainer.evaluate(valid, load_best_model=False)
    assert trainer.evaluate(valid, load_best_model=False) == first  # nothing is left over from the first

    bought = Counter(train._dataset.inter_feat["item_id"].tolist())
    n_items = train._dataset.item_num
    # the least bought fifth of the items that were bought
    tail = sorted(bought, key=lambda item: (bought[item], item))[: int(0.2 * len(bought))]
    lists = _recommended(model, train, 5)
    for k in (3, 5):
        shown = [item for row in lists for item in row[:k]]
        counts = Counter(shown)
        shares = [counts[item] / len(shown) for item in counts]
        ranked = sorted(counts.get(item, 0) for item in range(n_items))
        gini = sum((2 * i - n_items - 1) * count for i, count in enumerate(ranked, start=1)) / n_items / len(shown)
        assert first[f"itemcoverage@{k}"] == pytest.approx(len(counts) / n_items)
        assert first[f"averagepopularity@{k}"] == pytest.approx(np.mean([bought[item] for item in shown]))
        assert first[f"tailpercentage@{k}"] == pytest.approx(np.mean([item in tail for item in shown]))
        assert first[f"giniindex@{k}"] == pytest.approx(gini)
        entropy = -sum(share * np.log(share) for share in shares) / len(counts)
        assert first[f"shannonentropy@{k}"] == pytest.approx(entropy)


def test_tensors_are_collected_as_stock_does(shops):
    config = configure(shops, metrics=["Hit", "NDCG", "MRR", "Recall", "Precision", "MAP"])
    (_, valid, _), model = prepare(config)
    stock = Trainer(config, model).evaluate(valid, load_best_model=False)
    assert build_trainer(config, model).evaluate(valid, load_best_model=False) == stock
    assert 0 < stock["hit@5"] < 1


def _recommended(model, train, k):
    """Each user's first k items, bought ones left out."""
    bought = {}
    inter = train._dataset.inter_feat
    for user, item in zip(inter["user_id"].tolist(), inter["item_id"].tolist(), strict=True):
        bought.setdefault(user, set()).add(item)
    scores = model.user_embedding.weight @ model.item_embedding.weight.T
    rows = []
    for user in sorted(bought):
        allowed = [item for item in range(1, model.n_items) if item not in bought[user]]
        rows.append(sorted(allowed, key=lambda item: -scores[user, item].item())[:k])
    return rows


# --- SINE ---


@pytest.fixture
def sine_not_imported(monkeypatch):
    """As in a process that has used no sequential model yet."""
    monkeypatch.setattr(recbole.model, "sequential_recommender", None, raising=False)
    for name in list(sys.modules):
        if name.startswith("recbole.model.sequential_recommender"):
            monkeypatch.delitem(sys.modules, name)
    with torch.autograd.set_detect_anomaly(False):
        yield


def test_stock_get_model_leaves_anomaly_detection_on(sine_not_imported):
    get_model("SASRec")
    assert torch.is_anomaly_enabled()


def test_ours_does_not(sine_not_imported):
    assert SDAConfig("SASRec", "demo")["model"] == "SASRec"
    assert "recbole.model.sequential_recommender.sine" in sys.modules
    assert not torch.is_anomaly_enabled()


@pytest.mark.parametrize("before", [True, False])
def test_anomaly_detection_is_as_it_was(before):
    with torch.autograd.set_detect_anomaly(before):
        with compat.keep_anomaly_mode():
            torch.autograd.set_detect_anomaly(not before)
        assert torch.is_anomaly_enabled() is before
        with pytest.raises(SDAError), compat.keep_anomaly_mode():
            _fail_in_anomaly_mode(not before)
        assert torch.is_anomaly_enabled() is before


def _fail_in_anomaly_mode(mode):
    torch.autograd.set_detect_anomaly(mode)
    raise SDAError


# --- RecBole is missing ---

_WITHOUT = "import sys; sys.modules['recbole'] = None"  # any import of it fails, and nothing finds it


def test_importing_the_package_imports_neither_torch_nor_recbole():
    code = """import json, sys, recbole_sda
early = [name for name in ("torch", "recbole") if name in sys.modules]
import recbole_sda.adapters, recbole_sda.alignment, recbole_sda.features
needed = [name for name in ("torch", "recbole") if name in sys.modules]
import recbole_sda.pipeline, torch
print(json.dumps([early, needed, "recbole" in sys.modules, torch.is_anomaly_enabled()]))
"""
    assert answer(code) == [[], ["torch"], True, False]


def test_without_recbole_what_needs_it_says_how_to_install_it_and_the_rest_works():
    code = f"""{_WITHOUT}
import json, importlib
import recbole_sda, recbole_sda.adapters, recbole_sda.alignment, recbole_sda.features

told = {{}}
uses = {{f"recbole_sda.{{name}}()": getattr(recbole_sda, name) for name in ("run", "adapt", "embed")}}
uses["recbole_sda.load(file)"] = lambda: recbole_sda.load("file")
for name in ("model", "evaluation", "config", "trainer", "recommend", "pipeline"):
    uses[f"import recbole_sda.{{name}}"] = lambda name=name: importlib.import_module(f"recbole_sda.{{name}}")
for use, function in uses.items():
    try:
        function()
    except ImportError as error:
        told[use] = str(error)
print(json.dumps([list(uses), told]))
"""
    uses, told = answer(code)
    assert list(told) == uses
    for use, message in told.items():
        assert f"Run: {INSTALL}\n" in message, use
    assert compat.INSTALL_RECBOLE == INSTALL


def test_without_recbole_the_command_line_says_so_too():
    done = python(
        f"{_WITHOUT}; from recbole_sda.cli import main; sys.exit(main(['--model=BPR', '--dataset=demo']))"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"Run: {INSTALL}\n" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_needs_neither_recbole_nor_torch():
    code = f"{_WITHOUT}; sys.modules['torch'] = None; from recbole_sda.cli import main; sys.exit(main(['--help']))"
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^  --lora_r=8$", done.stdout, re.M)
