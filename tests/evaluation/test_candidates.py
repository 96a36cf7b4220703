"""history_mask and protocol against brute force: what each user may be recommended, one user at a time."""

import logging
import math

import numpy as np
import pytest
import torch
from recbole.trainer import Trainer
from scipy.sparse import csr_matrix
from small_shop import LEAVE_ONE_OUT, configure, prepare, purchases, scores_by_user, write_shop

from recbole_sda.errors import SDAError
from recbole_sda.evaluation import candidates
from recbole_sda.evaluation.candidates import draw_untouched
from recbole_sda.trainer import build_trainer

MODELS = ("BPR", "SASRec")


@pytest.fixture(scope="module")
def shops(tmp_path_factory):
    return write_shop(tmp_path_factory.mktemp("dataset") / "shop")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def built(shops, model, **values):
    config = configure(shops, model, **values)
    loaders, network = prepare(config)
    trainer = build_trainer(config, network)
    trainer.prepare_evaluation(*loaders)
    return trainer, loaders


def results(trainer, loaders):
    """Of validation and of test."""
    return [trainer.evaluate(loader, load_best_model=False) for loader in loaders[1:]]


def brute_force(shops, trainer, loaders, allowed, topk=(3, 10)):
    """Hit and NDCG of leave-one-out; ``allowed(user, item, history, target)`` says what may be recommended."""
    bought = purchases(shops, loaders[0]._dataset)
    both = []
    for loader, place in zip(loaders[1:], (-2, -1), strict=True):
        hits, gains = {k: [] for k in topk}, {k: [] for k in topk}
        for user, scores in scores_by_user(trainer.model, loader).items():
            history, target = set(bought[user][:place]), bought[user][place]
            ranked = [
                i for i in scores.argsort(descending=True).tolist() if i and allowed(user, i, history, target)
            ]
            for k in topk:
                hits[k].append(target in ranked[:k])
                gains[k].append(1 / math.log2(ranked.index(target) + 2) if target in ranked[:k] else 0)
        both.append({f"hit@{k}": np.mean(hits[k]) for k in topk} | {f"ndcg@{k}": np.mean(gains[k]) for k in topk})
    return both


def new_to_the_user(user, item, history, target):
    return item not in history or item == target


def anything(user, item, history, target):
    return True


# --- history_mask ---


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("mask", "allowed"), [("all", new_to_the_user), ("none", anything)])
def test_a_mask_of_all_or_none_equals_brute_force(shops, model, mask, allowed):
    trainer, loaders = built(shops, model, history_mask=mask)
    expected = brute_force(shops, trainer, loaders, allowed)
    for result, wanted in zip(results(trainer, loaders), expected, strict=True):
        assert dict(result) == pytest.approx(wanted, abs=1e-7)


@pytest.mark.parametrize("model", MODELS)
def test_the_masks_differ_on_this_shop(shops, model):
    one, other = (brute_force(shops, *built(shops, model), allowed) for allowed in (new_to_the_user, anything))
    assert one != other


@pytest.mark.parametrize(("model", "same"), [("BPR", "all"), ("SASRec", "none")])
def test_recboles_own_mask_is_left_as_it_is(shops, model, same):
    trainer, loaders = built(shops, model)
    stock = Trainer(trainer.config, trainer.model)
    stock.eval_collector.data_collect(loaders[0])
    unchanged = results(trainer, loaders)
    assert unchanged == [stock.evaluate(loader, load_best_model=False) for loader in loaders[1:]]
    assert unchanged == results(*built(shops, model, history_mask=same))


def test_the_whole_history_is_masked_where_the_model_sees_its_end_alone(shops):
    trainer, loaders = built(shops, "SASRec", history_mask="all", MAX_ITEM_LIST_LENGTH=2)
    expected = brute_force(shops, trainer, loaders, new_to_the_user)
    for result, wanted in zip(results(trainer, loaders), expected, strict=True):
        assert dict(result) == pytest.approx(wanted, abs=1e-7)


# --- protocol ---


@pytest.mark.parametrize("model", MODELS)
def test_uni100_equals_brute_force_over_the_drawn_candidates(shops, model):
    trainer, loaders = built(shops, model, protocol="uni100")
    drawn = trainer._restrictions[loaders[2]].negatives
    expected = brute_force(
        shops, trainer, loaders, lambda user, item, _, target: item in drawn[user] or item == target
    )
    for result, wanted in zip(results(trainer, loaders), expected, strict=True):
        assert dict(result) == pytest.approx(wanted, abs=1e-7)
        assert 0 < result["ndcg@10"] < 1
    assert results(trainer, loaders) == results(trainer, loaders)  # drawn once


def test_the_candidates_are_a_hundred_different_items_that_the_user_never_touched(shops):
    trainer, loaders = built(shops, "SASRec", protocol="uni100")
    drawn = trainer._restrictions[loaders[1]].negatives
    for user, bought in purchases(shops, loaders[0]._dataset).items():
        untouched = loaders[0]._dataset.item_num - 1 - len(set(bought))
        candidates = set(drawn[user].tolist()) - {0}
        assert len(candidates) == min(100, untouched)
        assert not candidates & set(bought)
        assert candidates <= set(range(1, loaders[0]._dataset.item_num))


def test_every_model_seed_and_batch_gets_the_same_candidates_and_another_protocol_seed_others(shops):
    def drawn(model="BPR", **values):
        trainer, loaders = built(shops, model, protocol="uni100", **values)
        assert trainer._restrictions[loaders[1]] is trainer._restrictions[loaders[2]]
        return trainer._restrictions[loaders[1]].negatives

    first = drawn()
    for other in (
        drawn("SASRec"),
        drawn(seed=7),
        drawn(eval_batch_size=1),
        drawn("SASRec", MAX_ITEM_LIST_LENGTH=2),
    ):
        np.testing.assert_array_equal(first, other)
    assert not np.array_equal(first, drawn(protocol_seed=1))
    assert len(np.unique(first[2:20], axis=0)) == 18  # users have draws of their own


def test_results_do_not_depend_on_the_batch(shops):
    kwargs = {"protocol": "uni100", "eval_batch_size": 2}
    assert results(*built(shops, "SASRec", **kwargs)) == results(*built(shops, "SASRec", protocol="uni100"))


def test_a_user_with_fewer_untouched_items_is_ranked_on_all_of_them_and_it_is_said_once(tmp_path, caplog):
    shops = write_shop(tmp_path / "dataset" / "shop", items=60)
    with caplog.at_level(logging.WARNING, logger="recbole_sda"):
        trainer, loaders = built(shops, "BPR", protocol="uni100")
    assert caplog.text.count("fewer than 100 untouched items; they are ranked on all") == 1
    bought = purchases(shops, loaders[0]._dataset)
    expected = brute_force(
        shops, trainer, loaders, lambda u, item, _, target: item not in bought[u] or item == target
    )
    for result, wanted in zip(results(trainer, loaders), expected, strict=True):
        assert dict(result) == pytest.approx(wanted, abs=1e-7)


def touched_by(rows, n_items):
    users = [user for user, items in enumerate(rows) for _ in items]
    items = [item for items in rows for item in items]
    return csr_matrix((np.ones(len(items)), (users, items)), shape=(len(rows), n_items))


def test_every_untouched_item_is_drawn_equally_often():
    touched, draws = [1, 2, 50, 199, 200], 2000
    drawn = draw_untouched(touched_by([touched] * draws, 201), seed=0)
    counts = np.bincount(drawn.ravel(), minlength=201)
    assert counts[[0, *touched]].sum() == 0
    share = np.delete(counts, [0, *touched]) / draws
    deviation = math.sqrt(100 / 195 * 95 / 195 / draws)
    assert np.abs(share - 100 / 195).max() < 5 * deviation


@pytest.mark.parametrize("left", [0, 1, 50, 99, 100, 101])
def test_a_short_rest_is_taken_whole(left):
    n_items = 151
    touched = np.random.default_rng(left).permutation(np.arange(1, n_items))[left:]
    (drawn,) = draw_untouched(touched_by([touched], n_items), seed=3)
    assert len(set(drawn.tolist()) - {0}) == min(left, 100)
    assert not np.isin(drawn, touched).any()
    assert (drawn == 0).sum() == max(0, 100 - left)


def test_a_users_draw_depends_on_no_other_user(monkeypatch):
    generator = np.random.default_rng(1)
    rows = [generator.choice(np.arange(1, 300), size=generator.integers(0, 250), replace=False) for _ in range(9)]
    alone = draw_untouched(touched_by(rows, 300), seed=3)
    others = draw_untouched(touched_by([*([[7, 8]] * 4), *rows[4:], [1], [2]], 300), seed=3)
    np.testing.assert_array_equal(alone[4:], others[4:9])
    monkeypatch.setattr(candidates, "BLOCK", 4)
    np.testing.assert_array_equal(alone, draw_untouched(touched_by(rows, 300), seed=3))


# --- items that were held out of the dataset count as touched ---


@pytest.mark.parametrize("asked", [{"history_mask": "all"}, {"protocol": "uni100"}])
def test_interactions_held_out_of_the_splits_still_count(shops, asked):
    trainer, loaders = built(shops, "BPR", **asked)
    dataset = loaders[0]._dataset
    user, item = 3, 77
    scores = torch.zeros(1, dataset.item_num)
    target = torch.tensor([5])
    for loader in loaders:
        held_out = csr_matrix(([1], ([user], [item])), shape=(dataset.user_num, dataset.item_num))
        loader._dataset.held_out_interactions = held_out
    trainer.prepare_evaluation(*loaders)
    trainer._restrictions[loaders[1]](scores, torch.tensor([user]), torch.tensor([0]), target)
    assert scores[0, item] == -torch.inf
    assert scores[0, 5] == 0


# --- without the splits ---


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"history_mask": "all"}, "history_mask=all needs the splits"),
        ({"protocol": "uni100"}, "protocol=uni100 needs the splits"),
        ({"metrics": ["NDCG", "TailHit"]}, "the metrics need data.tail of the training data"),
    ],
)
def test_a_trainer_that_was_not_prepared_says_so(shops, asked, words):
    config = configure(shops, "BPR", **asked)
    loaders, model = prepare(config)
    trainer = build_trainer(config, model)
    with pytest.raises(SDAError, match=words) as error:
        trainer.evaluate(loaders[1], load_best_model=False)
    assert "prepare_evaluation(train_data, valid_data, test_data)" in str(error.value)
    if "metrics" not in asked:
        with pytest.raises(SDAError, match=words):
            trainer.fit(loaders[0], loaders[1])
        assert not trainer.train_loss_dict  # before the first epoch


@pytest.mark.parametrize("mode", ["uni50", "labeled"])
@pytest.mark.parametrize(
    ("key", "value"), [("protocol", "uni100"), ("history_mask", "all"), ("history_mask", "none")]
)
def test_recboles_own_samples_leave_nothing_to_choose(shops, key, value, mode):
    metric = {"metrics": ["AUC"], "valid_metric": "AUC"} if mode == "labeled" else {}
    with pytest.raises(SDAError, match=rf"{key}={value} chooses among the scores of all items.*mode {mode}"):
        configure(shops, "BPR", eval_args={**LEAVE_ONE_OUT, "mode": mode}, **{key: value}, **metric)


def test_a_ranking_longer_than_the_candidates_is_refused(shops):
    with pytest.raises(SDAError, match=r"topk=102 is longer than protocol=uni100's 101 candidates"):
        configure(shops, "BPR", protocol="uni100", topk=[10, 102])
    assert configure(shops, "BPR", protocol="uni100", topk=[10, 101])["topk"] == [10, 101]
