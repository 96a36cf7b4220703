import json

import numpy as np
import pandas as pd
import pytest

import recbole_sda
from recbole_sda.report.page.neighbours import choose_queries
from recbole_sda.report.page.recommenders import Popularity
from recbole_sda.report.page.users import Ranked, choose_users, rank_first_batch, tell_users

TINY_BPR = {"demo_items": 40, "demo_users": 60, "epochs": 1}


@pytest.fixture(scope="module")
def runs(finished):
    return {run["variant"]: run for run in json.loads((finished / "result.json").read_text())["runs"]}


@pytest.fixture(scope="module")
def loaded(runs):
    return recbole_sda.load(runs["sda"]["artefacts"]["checkpoint"])


def test_hits_are_those_that_the_test_measured(runs, loaded):
    ranked = rank_first_batch(loaded, 10)
    users = loaded.dataset.id2token(loaded.dataset.uid_field, ranked.users)
    measured = pd.read_parquet(runs["sda"]["artefacts"]["user_results"])
    expected = dict(zip(measured.iloc[:, 0].astype(str), measured["hit@10"] > 0, strict=True))
    assert dict(zip(map(str, users), ranked.hits, strict=True)) == expected
    assert ranked.hits.mean() == pytest.approx(runs["sda"]["test"]["hit@10"], abs=1e-4)


def test_histories_are_in_order_and_without_what_was_tested(finished, loaded):
    rows = pd.read_csv(finished / "data" / "demo" / "demo.inter", sep="\t")
    rows.columns = [name.partition(":")[0] for name in rows.columns]
    rows = rows.astype({"user_id": str, "item_id": str}).sort_values("timestamp", kind="stable")
    for user in tell_users({"sda": rank_first_batch(loaded, 5)}, loaded, count=6, seed=1):
        items = rows.item_id[rows.user_id == user.token].tolist()
        told = [*user.had, *user.targets]  # of the longest a model is shown the last items alone
        assert told == items[-len(told) :]
        assert user.before + len(user.had) == min(len(items) - 1, loaded.config["MAX_ITEM_LIST_LENGTH"])
        assert len(user.recommended["sda"]) == len(set(user.recommended["sda"])) == 5


def test_histories_of_a_general_model_are_its_training_and_validation(finished, tmp_path):
    places = {"checkpoint_dir": str(tmp_path), "data_path": str(finished / "data"), "features": "none"}
    split = {"eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "RO", "group_by": "user", "mode": "full"}}
    told = {**TINY_BPR, **places, **split, "result_file": str(tmp_path / "r.json")}
    run = recbole_sda.run("BPR", "demo", told)
    loaded = recbole_sda.load(run["artefacts"]["checkpoint"])
    rows = pd.read_csv(finished / "data" / "demo" / "demo.inter", sep="\t")
    rows.columns = [name.partition(":")[0] for name in rows.columns]
    rows = rows.astype({"user_id": str, "item_id": str}).sort_values("timestamp", kind="stable")
    for user in tell_users({"ids": rank_first_batch(loaded, 5)}, loaded, count=6, seed=1):
        items = rows.item_id[rows.user_id == user.token].tolist()
        left = [item for item in items if item not in user.targets]
        assert user.had == left[user.before :]


def test_a_sequential_model_is_told_with_what_it_was_shown(loaded):
    ranked = rank_first_batch(loaded, 5)
    shown = [np.array([1, 2, *target]) for target in ranked.targets]  # a target that was there before
    (user,) = tell_users({"sda": ranked._replace(had=shown)}, loaded, count=1, seed=0)
    tokens = loaded.dataset.id2token(loaded.dataset.iid_field, [1, 2]).tolist()
    assert user.had == [*tokens, *user.targets]
    assert user.before == 0


def test_half_of_the_users_have_a_hit_where_there_are_such():
    hits = np.array([True] * 2 + [False] * 8)
    ranked = Ranked(np.arange(10), np.where(hits, 1, 2)[:, None], [np.array([1])] * 10)
    assert np.array_equal(ranked.hits, hits)
    assert hits[choose_users(ranked, 4, 0)].sum() == 2
    assert hits[choose_users(ranked, 8, 0)].tolist().count(True) == 2
    assert len(set(choose_users(ranked, 100, 0))) == 10
    everybody = ranked._replace(items=np.ones((10, 1), int))
    assert len(choose_users(everybody, 4, 0)) == 4


def test_popularity_counts_the_training_and_knows_the_tail(loaded):
    known = Popularity(loaded)
    train = loaded.train_data._dataset
    tokens = list(loaded.dataset.field2id_token[loaded.dataset.iid_field][1:])
    assert sum(map(known.count, tokens)) == train.inter_matrix(form="csr").nnz
    tail = known.tail([*tokens, "unknown"])
    assert tail < set(tokens)
    assert min(map(known.count, set(tokens) - tail)) >= max(map(known.count, tail))
    assert known.count("unknown") is None


def test_items_asked_about_are_of_the_head_and_of_the_tail(tmp_path):
    from test_spaces import make_space

    space = make_space(tmp_path, {"text": np.random.default_rng(0).normal(size=(9, 3))})
    tail = {"i0", "i1", "i2", "i3"}
    queries = choose_queries([space], tail, seed=0)
    assert list(map(len, queries.values())) == [3, 3]
    assert set(queries["long tail"]) < tail
    assert not set(queries["head"]) & tail
    assert list(choose_queries([space], None, seed=0)) == ["items"]
