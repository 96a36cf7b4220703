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
from recbole_sda.evaluation.candidates import SampledCandidates, random_numbers
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


def drawn_for_all(trainer, loader):
    """(users, 100): the candidates of uni100, padding's user at 0."""
    return trainer._restrictions[loader].negatives(np.arange(loader._dataset.user_num))


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
    drawn = drawn_for_all(trainer, loaders[2])
    expected = brute_force(
        shops, trainer, loaders, lambda user, item, _, target: item in drawn[user] or item == target
    )
    for result, wanted in zip(results(trainer, loaders), expected, strict=True):
        assert dict(result) == pytest.approx(wanted, abs=1e-7)
        assert 0 < result["ndcg@10"] < 1
    assert results(trainer, loaders) == results(trainer, loaders)  # the same at every evaluation


def test_the_candidates_are_a_hundred_different_items_that_the_user_never_touched(shops):
    trainer, loaders = built(shops, "SASRec", protocol="uni100")
    drawn = drawn_for_all(trainer, loaders[1])
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
        return drawn_for_all(trainer, loaders[1])

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


def draw(rows, n_items, *, seed=3, users=None):
    drawn = SampledCandidates(touched_by(rows, n_items), seed=seed)
    return drawn.negatives(np.arange(len(rows)) if users is None else np.asarray(users))


def test_every_untouched_item_is_drawn_equally_often():
    touched, draws = [1, 2, 50, 199, 200], 2000
    counts = np.bincount(draw([touched] * draws, 201).ravel(), minlength=201)
    assert counts[[0, *touched]].sum() == 0
    share = np.delete(counts, [0, *touched]) / draws
    deviation = math.sqrt(100 / 195 * 95 / 195 / draws)
    assert np.abs(share - 100 / 195).max() < 5 * deviation


def test_draws_of_neighbouring_users_and_seeds_have_as_much_in_common_as_chance():
    """The items that two draws of 100 of 200 share have mean 50 and the hypergeometric variance."""
    rows = [[]] * 2000
    one, next_seed = draw(rows, 201, seed=1), draw(rows, 201, seed=2)
    deviation = math.sqrt(100 * 1 / 2 * 1 / 2 * 100 / 199)
    for other in (np.roll(one, 1, axis=0), next_seed, np.roll(next_seed, 1, axis=0)):
        common = [len(np.intersect1d(a, b)) for a, b in zip(one, other, strict=True)]
        assert abs(np.mean(common) - 50) < 4 * deviation / math.sqrt(2000)
        assert np.std(common) == pytest.approx(deviation, rel=0.1)


def test_the_numbers_are_splitmix64s():
    """One number at a time; the stream of 0 begins with those that the generator is known by."""

    def stream(state, count):
        for _ in range(count):
            state = (state + 0x9E3779B97F4A7C15) % 2**64
            mixed = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
            mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
            yield mixed ^ mixed >> 31

    assert [*stream(0, 3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    numbers = random_numbers(2020, np.array([0, 1, 10_000_000]))
    # Each user's start is a number of the seed's stream, whose own start is mixed, too.
    seed_start = next(stream(2020 - 0x9E3779B97F4A7C15, 1))
    for column, user in enumerate((0, 1, 10_000_000)):
        start = next(stream(seed_start + (user - 1) * 0x9E3779B97F4A7C15, 1))
        assert numbers[:, column].tolist() == [(number >> 11) / 2**53 for number in stream(start, 100)]


@pytest.mark.parametrize("left", [0, 1, 50, 99, 100, 101])
def test_a_short_rest_is_taken_whole(left):
    n_items = 151
    touched = np.random.default_rng(left).permutation(np.arange(1, n_items))[left:]
    (drawn,) = draw([touched], n_items)
    assert len(set(drawn.tolist()) - {0}) == min(left, 100)
    assert not np.isin(drawn, touched).any()
    assert (drawn == 0).sum() == max(0, 100 - left)


def test_a_users_draw_depends_on_no_other_user_nor_on_who_is_asked_with_them():
    generator = np.random.default_rng(1)
    rows = [generator.choice(np.arange(1, 300), size=generator.integers(0, 250), replace=False) for _ in range(9)]
    whole = draw(rows, 300)
    np.testing.assert_array_equal(whole[4:], draw([*([[7, 8]] * 4), *rows[4:], [1], [2]], 300)[4:9])
    for batch in ([3], [8, 0, 5], [2, 2, 1], []):
        np.testing.assert_array_equal(whole[batch], draw(rows, 300, users=batch))


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


def held_out_of(loaders, rows):
    """Take interactions out of the splits: user id → items that no split has."""
    dataset = loaders[0]._dataset
    users = [user for user, items in rows.items() for _ in items]
    pairs = (users, [item for items in rows.values() for item in items])
    matrix = csr_matrix((np.ones(len(users)), pairs), shape=(dataset.user_num, dataset.item_num))
    for loader in loaders:
        loader._dataset.held_out_interactions = matrix


@pytest.mark.parametrize(("model", "masks"), [("BPR", True), ("SASRec", False)])
@pytest.mark.parametrize("mask", ["recbole", "all", "none"])
def test_with_cold_items_a_mask_of_histories_knows_what_was_held_out(shops, model, masks, mask):
    trainer, loaders = built(shops, model, history_mask=mask, cold_share=0.1)
    generator = np.random.default_rng(0)
    n_users, n_items = loaders[0]._dataset.user_num, loaders[0]._dataset.item_num
    bought = purchases(shops, loaders[0]._dataset)
    held_out = {u: set(generator.integers(1, n_items, 60)) - set(bought.get(u, ())) for u in range(1, n_users)}
    held_out_of(loaders, held_out)
    trainer.prepare_evaluation(*loaders)

    def allowed(user, item, history, target):
        return item == target or item not in history | held_out[user]

    masked = masks if mask == "recbole" else mask == "all"
    expected = brute_force(shops, trainer, loaders, allowed if masked else anything)
    for result, wanted in zip(results(trainer, loaders), expected, strict=True):
        assert dict(result) == pytest.approx(wanted, abs=1e-7)
    if masked:
        assert expected != brute_force(shops, trainer, loaders, new_to_the_user)


# --- without the splits ---


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"history_mask": "all"}, "history_mask=all needs the splits"),
        ({"protocol": "uni100"}, "protocol=uni100 needs the splits"),
        ({"cold_share": 0.1}, r"cold_share=0\.1 needs the splits"),
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
