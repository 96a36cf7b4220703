"""Cold items: never seen in training, the same for every model, recommended by their features alone."""

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data import data_preparation

from recbole_sda.catalog.demo import write_demo
from recbole_sda.cold_items import _kept, check_cold, hold_out_rows
from recbole_sda.config import SDAConfig
from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureProvider, FeatureStore, write_store
from recbole_sda.model import attach_item_features
from recbole_sda.recommend import item_tokens, load_dataset
from recbole_sda.trainer import build_trainer


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    write_demo(folder / "demo", items=30, users=60)
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def configure(model, data_path, **values):
    defaults = {"data_path": str(data_path), "epochs": 2, "use_gpu": False, "cold_share": 0.2}
    return SDAConfig(model, "demo", config_dict={**defaults, **values})


def test_a_users_last_item_stays_and_every_other_cold_one_goes():
    rows = [
        # user, item, time
        ("a", 1, 1), ("a", 9, 2), ("a", 2, 3), ("a", 9, 4),  # 9 last with two warm ones before: stays
        ("b", 1, 5), ("b", 9, 6), ("b", 2, 7),  # in the middle: goes
        ("c", 1, 1), ("c", 9, 2),  # last, but one warm item is no history: goes
        ("d", 9, 1), ("d", 9, 2),
        ("e", 9, 3), ("e", 2, 3), ("e", 1, 2), ("e", 9, 3),  # a tie: the later line is the last
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["user", "item", "time"])
    frame["user"] = frame["user"].map({u: n for n, u in enumerate("abcde", 1)})
    cold = np.zeros(10, dtype=bool)
    cold[9] = True
    kept = _kept(frame, cold, "user", "item", "time")
    assert kept.tolist() == [1, 0, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1]


def test_times_that_recbole_cannot_tell_apart_are_ties():
    times = [1.5e9, 1.5e9 + 2, 1.5e9 + 1, 1.5e9 + 1]  # equal in 32 bits: the last line is the last interaction
    frame = pd.DataFrame({"user": [1] * 4, "item": [1, 9, 2, 9], "time": times})
    kept = _kept(frame, np.arange(10) == 9, "user", "item", "time")
    assert kept.tolist() == [True, False, True, True]


@pytest.mark.parametrize("model", ["SASRec", "BPR"])
def test_training_holds_no_cold_item_and_testing_does(model, data_path):
    config = configure(model, data_path)
    dataset = load_dataset(config)
    cold = dataset.cold_items
    assert cold.sum() == 6
    assert not cold[0]
    taken = zip(*dataset.held_out_interactions.nonzero(), strict=True)
    left = dataset.inter_feat[["user_id", "item_id"]].itertuples(index=False)
    everything = load_dataset(configure(model, data_path, cold_share=0.0)).inter_feat[["user_id", "item_id"]]
    assert sorted([*taken, *map(tuple, left)]) == sorted(map(tuple, everything.itertuples(index=False)))
    train, valid, test = data_preparation(config, dataset)
    assert not cold[train._dataset.inter_feat["item_id"]].any()
    assert not cold[valid._dataset.inter_feat["item_id"]].any()
    assert not np.asarray(train._dataset.inter_matrix().sum(axis=0)).ravel()[cold].any()
    for data in (train, valid, test):
        if "item_id_list" in data._dataset.inter_feat:
            assert not cold[data._dataset.inter_feat["item_id_list"]].any()
    assert cold[test._dataset.inter_feat["item_id"]].any()


def test_every_model_holds_out_the_same_items_and_tests_the_same_pairs(data_path):
    seen = []
    for model, seed in (("SASRec", 1), ("BPR", 2), ("BERT4Rec", 3)):
        config = configure(model, data_path, seed=seed)
        dataset = load_dataset(config)
        test = data_preparation(config, dataset)[2]._dataset.inter_feat
        pairs = sorted(zip(test["user_id"].tolist(), test["item_id"].tolist(), strict=True))
        seen.append((dataset.cold_items.tolist(), pairs))
    assert seen[0] == seen[1] == seen[2]
    other = load_dataset(configure("BPR", data_path, protocol_seed=1))
    assert other.cold_items.tolist() != seen[0][0]


@pytest.mark.parametrize(("model", "same"), [("BPR", "all"), ("SASRec", "none")])
def test_recboles_mask_covers_what_was_held_out(model, same, data_path):
    """Which RecBole, reading the splits, cannot know."""
    found = []
    for mask in ("recbole", same):
        config = configure(model, data_path, history_mask=mask, metric_decimal_place=8, cold_share=0.5)
        loaders = data_preparation(config, load_dataset(config))
        torch.manual_seed(0)
        trainer = build_trainer(config, config.model_class(config, loaders[0]._dataset))
        trainer.prepare_evaluation(*loaders)
        found.append([dict(trainer.evaluate(data, load_best_model=False)) for data in loaders[1:]])
    assert found[0] == found[1]
    if model == "BPR":  # and it matters here: unmasked, held-out items of the users rank among the first
        had = loaders[0]._dataset.held_out_interactions
        trainer._restrictions = dict.fromkeys(loaders, lambda *_: None)
        trainer.evaluate(loaders[2], load_best_model=False)
        shown, users = (trainer.eval_collector.last.get(f"rec.{what}").numpy() for what in ("items", "users"))
        assert np.asarray(had[np.repeat(users, shown.shape[1]), shown.ravel()]).any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eval_args": {"split": {"RS": [8, 1, 1]}, "order": "RO", "mode": "full"}}, r"leave-one-out.*eval_args"),
        ({"cold_share": 0.99}, r"cold_share=0.99.*lower it"),
        ({"cold_share": 0.001}, r"cold_share=0.001.*enlarge it"),
    ],
)
def test_shares_and_splits_that_cannot_work(values, message, data_path):
    with pytest.raises(SDAError, match=message):
        load_dataset(configure("BPR", data_path, **values))


def test_a_model_that_cannot_score_cold_items_is_refused(data_path):
    with pytest.raises(SDAError, match=r"cold_share=0.2: RepeatNet cannot.*leave cold_share out"):
        check_cold(configure("RepeatNet", data_path))
    check_cold(configure("RepeatNet", data_path, cold_share=0.0))
    check_cold(configure("SASRec", data_path))


def provider_of(tokens, folder, width=5):
    folder.mkdir()
    np.save(folder / "text.npy", np.random.default_rng(0).normal(size=(len(tokens), width)).astype(np.float32))
    write_store(folder, tokens, {"text": np.ones(len(tokens), bool)}, settings={})
    return FeatureProvider(FeatureStore.open(folder), tokens)


@pytest.mark.parametrize("model", ["SASRec", "BERT4Rec", "VBPR", "LightGCN"])
def test_what_a_model_learns_of_an_item_besides_features_stays_nothing_for_cold_ones(model, data_path, tmp_path):
    """Two trainings that differ in the cold items' features alone end with the same parameters."""
    states = []
    for shift in (0.0, 3.0):
        config = configure(model, data_path, modalities=["text"], adapter="none", use_item_id="add")
        dataset = load_dataset(config)
        train, valid, test = data_preparation(config, dataset)
        torch.manual_seed(0)
        built = config.model_class(config, train._dataset)
        attach_item_features(built, provider_of(item_tokens(dataset), tmp_path / f"{model}{shift}"), config)
        cold = torch.from_numpy(dataset.cold_items)
        for module in built.modules():
            if hasattr(module, "features_text"):
                module.features_text[cold] += shift
        hold_out_rows(built, cold)
        trainer = build_trainer(config, built, str(tmp_path / "best.pth"))
        torch.manual_seed(1)
        np.random.seed(1)
        trainer.prepare_evaluation(train, valid, test)
        for _ in range(2):
            trainer._train_epoch(train, 0)
        states.append({name: value.clone() for name, value in built.named_parameters()})
        users = torch.tensor([1, 2])
        if model in ("VBPR", "LightGCN"):
            from recbole.data.interaction import Interaction

            scores = built.eval().full_sort_predict(Interaction({"user_id": users})).view(2, -1)
            states[-1]["scores"] = scores[:, cold].detach()
    for name, value in states[0].items():
        if name == "scores":
            assert not torch.allclose(value, states[1][name])  # they do count when the model recommends
        else:
            torch.testing.assert_close(value, states[1][name], msg=name)
