"""The collector against stock RecBole's, and each user's own values against the means."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from recbole.evaluator import Collector, Evaluator
from recbole.trainer import Trainer
from small_shop import LEAVE_ONE_OUT, configure, prepare, purchases, write_shop

from recbole_sda.errors import SDAError
from recbole_sda.evaluation import SDACollector, known_metrics
from recbole_sda.trainer import build_trainer

VALUE_METRICS = ("AUC", "MAE", "RMSE", "LogLoss")
OF_TARGETS = ["Hit", "NDCG", "MRR", "Recall", "Precision", "MAP", "GAUC", "ShannonEntropy"]
OF_THE_WHOLE = ("gauc", "shannonentropy", "itemcoverage", "giniindex")


@pytest.fixture(scope="module")
def shops(tmp_path_factory):
    return write_shop(tmp_path_factory.mktemp("dataset") / "shop")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def prepared(shops, model="BPR", **values):
    config = configure(shops, model, **values)
    loaders, network = prepare(config)
    trainer = build_trainer(config, network)
    trainer.prepare_evaluation(*loaders)
    return trainer, loaders


# --- equal numbers ---


@pytest.mark.parametrize("levels", [3, 1000], ids=["many ties", "few ties"])
def test_rankings_hits_and_results_are_stock_recboles(shops, levels):
    config = configure(shops, metrics=OF_TARGETS, topk=[1, 5, 10])
    generator = torch.Generator().manual_seed(levels)
    stock, ours = Collector(config), SDACollector(config)
    for users in (50, 7):
        scores = torch.randint(levels, (users, 40), generator=generator).float()
        row = torch.arange(users).repeat_interleave(3)
        item = torch.cat([torch.randperm(40, generator=generator)[:3] for _ in range(users)])
        interaction = {"user_id": torch.arange(users)}
        for collector in (stock, ours):
            collector.eval_batch_collect(scores.clone(), interaction, row, item)
    stock, ours = stock.get_data_struct(), ours.get_data_struct()
    for name in ("rec.items", "rec.topk", "rec.meanrank"):
        torch.testing.assert_close(ours.get(name), stock.get(name), rtol=0, atol=0, check_dtype=False)
    assert Evaluator(config).evaluate(ours) == Evaluator(config).evaluate(stock)


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
@pytest.mark.parametrize("mode", ["full", "uni50"])
def test_a_trainers_results_are_stock_recboles(shops, model, mode):
    values = {"metrics": OF_TARGETS, "eval_args": {**LEAVE_ONE_OUT, "mode": mode}}
    trainer, loaders = prepared(shops, model, **values)
    state = np.random.get_state()  # RecBole draws its samples anew at every evaluation
    ours = trainer.evaluate(loaders[1], load_best_model=False)
    np.random.set_state(state)
    assert ours == Trainer(trainer.config, trainer.model).evaluate(loaders[1], load_best_model=False)
    assert 0 < ours["ndcg@10"] < 1


def test_value_metrics_are_stock_recboles(shops):
    values = {"metrics": VALUE_METRICS, "valid_metric": "AUC", "eval_args": {**LEAVE_ONE_OUT, "mode": "uni20"}}
    trainer, loaders = prepared(shops, **values)
    state = np.random.get_state()
    ours = trainer.evaluate(loaders[1], load_best_model=False)
    np.random.set_state(state)
    assert ours == Trainer(trainer.config, trainer.model).evaluate(loaders[1], load_best_model=False)
    with pytest.raises(SDAError, match="with a metric of a ranking"):
        trainer.user_results()


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_popularity_counts_what_training_saw_a_users_first_item_too(shops, model):
    trainer, loaders = prepared(shops, model, metrics=["NDCG", "AveragePopularity", "ItemCoverage"], topk=[5, 10])
    result = trainer.evaluate(loaders[2], load_best_model=False)
    counts = np.zeros(loaders[0]._dataset.item_num)
    for bought in purchases(shops, loaders[0]._dataset).values():
        np.add.at(counts, bought[:-2], 1)
    shown = trainer.eval_collector.last.get("rec.items").numpy()[:, :5]
    assert result["averagepopularity@5"] == pytest.approx(counts[shown].mean())
    assert result["itemcoverage@5"] == pytest.approx(len(np.unique(shown)) / len(counts))


# --- each user's values ---


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
@pytest.mark.parametrize("split", [{"LS": "valid_and_test"}, {"RS": [0.5, 0.2, 0.3]}], ids=["one", "several"])
def test_the_mean_over_users_is_the_metric(shops, model, split):
    metrics = [name for name in known_metrics() if name not in VALUE_METRICS]
    trainer, loaders = prepared(
        shops, model, metrics=metrics, topk=[1, 10], eval_args={**LEAVE_ONE_OUT, "split": split}
    )
    cold = np.zeros(loaders[0]._dataset.item_num, dtype=bool)
    cold[1:15] = True
    loaders[0]._dataset.cold_items = cold
    trainer.prepare_evaluation(*loaders)
    reported = trainer.evaluate(loaders[2], load_best_model=False)
    users = trainer.user_results()
    means = users.drop(columns=["user", "target"]).mean()  # pandas leaves NaN out
    averaged = {key: value for key, value in reported.items() if key.split("@")[0] not in OF_THE_WHOLE}
    assert set(means.index) == set(averaged)
    assert means.to_dict() == pytest.approx(averaged, abs=1e-7)
    for group in ("tail", "head", "cold", "warm"):
        assert users[f"{group}hit@10"].isna().any()
        assert users[f"{group}hit@10"].notna().any()


def test_users_and_targets_are_the_files(shops):
    trainer, loaders = prepared(shops, eval_batch_size=1)
    trainer.evaluate(loaders[1], load_best_model=False)
    trainer.evaluate(loaders[2], load_best_model=False)
    dataset = loaders[0]._dataset
    last = {
        dataset.id2token("user_id", user): [dataset.id2token("item_id", items[-1])]
        for user, items in purchases(shops, dataset).items()
    }
    users = trainer.user_results()
    assert dict(zip(users["user"], users["target"], strict=True)) == last
    assert list(users.columns[:2]) == ["user", "target"]
    assert users["hit@3"].dtype == float


def test_several_targets_of_a_user_are_one_row(shops):
    trainer, loaders = prepared(shops, eval_args={**LEAVE_ONE_OUT, "split": {"RS": [0.5, 0.2, 0.3]}})
    trainer.evaluate(loaders[2], load_best_model=False)
    users = trainer.user_results()
    dataset = loaders[2]._dataset
    rows = zip(dataset.inter_feat["user_id"].tolist(), dataset.inter_feat["item_id"].tolist(), strict=True)
    expected = {}
    for user, item in rows:
        expected.setdefault(dataset.id2token("user_id", user), set()).add(dataset.id2token("item_id", item))
    assert {user: set(items) for user, items in zip(users["user"], users["target"], strict=True)} == expected
    assert users["target"].map(len).max() > 1


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_results_are_made_and_written_a_part_at_a_time(shops, rows, tmp_path, monkeypatch):
    metrics = ["NDCG", "TailHit", "AveragePopularity", "TailPercentage"]
    split = {"eval_args": {**LEAVE_ONE_OUT, "split": {"RS": [0.5, 0.2, 0.3]}}}
    trainer, loaders = prepared(shops, metrics=metrics, **split)
    trainer.evaluate(loaders[2], load_best_model=False)
    whole = trainer.user_results()
    monkeypatch.setattr("recbole_sda.evaluation.users.ROWS", rows)
    pd.testing.assert_frame_equal(trainer.user_results(), whole)
    trainer.write_user_results(tmp_path / "users.parquet")
    assert pq.ParquetFile(tmp_path / "users.parquet").num_row_groups == -(-len(whole) // rows)
    read = pd.read_parquet(tmp_path / "users.parquet")
    pd.testing.assert_frame_equal(read.assign(target=read["target"].map(list)), whole)


def test_user_results_need_an_evaluation(shops):
    trainer, _ = prepared(shops)
    for ask in (trainer.user_results, lambda: trainer.write_user_results("users.parquet")):
        with pytest.raises(SDAError, match=r"user_results\(\) needs an evaluate\(\) before it"):
            ask()


def test_a_loaded_model_is_evaluated_without_fit(shops):
    trainer, loaders = prepared(shops, metrics=["TailHit", "GiniIndex"], valid_metric="TailHit@10")
    assert set(trainer.evaluate(loaders[2], load_best_model=False)) == {
        f"{name}@{k}" for name in ("tailhit", "giniindex") for k in (3, 10)
    }
