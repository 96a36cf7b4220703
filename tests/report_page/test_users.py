import json

import numpy as np
import pandas as pd
import pytest

import recbole_sda
from recbole_sda.report.page.neighbours import choose_queries
from recbole_sda.report.page.users import Ranked, choose_users, popularity, rank_first_batch, tell_users


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
    for user in tell_users({"sda": loaded}, k=5, count=6, seed=1):
        items = rows.item_id[rows.user_id == user.token].tolist()
        assert [*user.had, *user.targets] == items[user.before :]
        assert len(user.recommended["sda"]) == len(set(user.recommended["sda"])) == 5


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
    known = popularity(loaded)
    train = loaded.train_data._dataset
    assert sum(known.counts.values()) == train.inter_matrix(form="csr").nnz
    assert known.tail < set(known.counts)
    head = set(known.counts) - known.tail
    assert min(known.counts[token] for token in head) >= max(known.counts[token] for token in known.tail)


def test_items_asked_about_are_of_the_head_and_of_the_tail(tmp_path):
    from test_spaces import make_space

    space = make_space(tmp_path, {"text": np.random.default_rng(0).normal(size=(9, 3))})
    tail = {"i0", "i1", "i2", "i3"}
    queries = choose_queries([space], tail, seed=0)
    assert list(map(len, queries.values())) == [3, 3]
    assert set(queries["long tail"]) < tail
    assert not set(queries["head"]) & tail
    assert list(choose_queries([space], None, seed=0)) == ["items"]
