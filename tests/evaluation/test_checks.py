"""What the data must have to be split and ranked."""

import logging

import pytest
from recbole.data import create_dataset
from small_shop import LEAVE_ONE_OUT, configure, prepare, write_shop

from recbole_sda.errors import SDAError
from recbole_sda.evaluation import checks
from recbole_sda.evaluation.checks import check_dataset, check_group_metric, check_group_split, metric_group
from recbole_sda.recommend import build, load_dataset


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def shop(tmp_path, lengths, *, time=True):
    """Users with so many interactions each."""
    folder = tmp_path / "dataset" / "shop"
    folder.mkdir(parents=True)
    rows = [
        f"u{u}\ti{(u + n) % 11}" + (f"\t{n}" if time else "")
        for u, many in enumerate(lengths)
        for n in range(many)
    ]
    header = "user_id:token\titem_id:token" + ("\ttimestamp:float" if time else "")
    (folder / "shop.inter").write_text("\n".join([header, *rows]) + "\n")
    return folder.parent


def check(shops, model="BPR", **values):
    config = configure(shops, model, **{"topk": [3], "valid_metric": "NDCG@3", **values})
    check_dataset(config, create_dataset(config))
    return config


@pytest.mark.parametrize(("model", "needed"), [("BPR", 3), ("SASRec", 4)])
def test_leave_one_out_needs_a_user_with_interactions_enough(tmp_path, model, needed):
    for length in range(1, needed):
        shops = shop(tmp_path / str(length), [length] * 9)
        with pytest.raises(SDAError) as error:
            check(shops, model)
        assert f"LS: valid_and_test needs users with {needed} interactions or more for {model}" in str(error.value)
        assert f"no user has more than {length};" in str(error.value)
    config = check(shop(tmp_path / "enough", [needed] * 9), model)
    (train, valid, test), _ = prepare(config)  # and RecBole agrees
    assert all(len(loader._dataset.inter_feat) == 9 for loader in (train, valid, test))


@pytest.mark.parametrize(("model", "untested"), [("BPR", 4), ("SASRec", 7)])
def test_users_who_are_not_tested_are_counted(tmp_path, model, untested, caplog):
    with caplog.at_level(logging.INFO, logger="recbole_sda"):
        config = check(shop(tmp_path, [1] * 4 + [2] * 3 + [5] * 6), model)
    assert f"{untested} of 13 users have too few interactions to be tested" in caplog.text
    (_, _, test), _ = prepare(config)
    assert len(set(test._dataset.inter_feat["user_id"].tolist())) == 13 - untested


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_times_that_are_not_there(tmp_path, model):
    with pytest.raises(
        SDAError, match=r"order TO: interactions have no field 'timestamp' but user_id, item_id; "
    ) as e:
        check(shop(tmp_path / "a", [6] * 9, time=False), model)
    assert "add it to load_col" in str(e.value)
    assert ("{order: RO}" in str(e.value)) == (model == "BPR")
    with pytest.raises(
        SDAError, match=r"'timestamp' but user_id, item_id; if the \.inter file has it, add it to load_col"
    ):
        check(shop(tmp_path / "b", [6] * 9), model, load_col={"inter": ["user_id", "item_id"]})
    with pytest.raises(SDAError, match=r"no field 'when' but user_id, item_id, timestamp.*TIME_FIELD=NAME"):
        check(shop(tmp_path / "c", [6] * 9), model, TIME_FIELD="when")


def test_without_times_a_random_order_goes(tmp_path):
    config = check(shop(tmp_path, [6] * 9, time=False), eval_args={**LEAVE_ONE_OUT, "order": "RO"})
    prepare(config)
    with pytest.raises(SDAError, match="order RO: SASRec reads interactions in the order of time; use order TO"):
        check(shop(tmp_path / "b", [6] * 9), "SASRec", eval_args={**LEAVE_ONE_OUT, "order": "RO"})


def test_a_ranking_longer_than_the_catalogue(tmp_path):
    shops = shop(tmp_path, [6] * 9)
    with pytest.raises(SDAError, match="topk=12 is longer than the catalogue of 11 items; lower topk"):
        check(shops, topk=[3, 12])
    check(shops, topk=[3, 11])


def test_an_ordinary_shop_passes(tmp_path):
    for model in ("BPR", "SASRec"):
        check(write_shop(tmp_path / model / "shop"), model)


@pytest.mark.parametrize(
    ("metric", "group"),
    [("TailHit@10", "tail"), ("headndcg@5", "head"), ("WarmHit@10", "warm"), ("Hit@10", None)],
)
def test_which_group_a_metric_is_of(metric, group):
    assert metric_group(metric) == group


@pytest.mark.parametrize("split", [{"LS": "valid_and_test"}, {"RS": [0.8, 0.1, 0.1]}])
@pytest.mark.parametrize(("model", "order"), [("BPR", "TO"), ("BPR", "RO"), ("SASRec", "TO")])
def test_the_early_look_is_at_the_split_that_training_will_have(tmp_path, monkeypatch, model, order, split):
    seen = []

    def noting(config, train, valid):
        seen.append([data.inter_feat[data.iid_field].tolist() for data in (train, valid)])

    monkeypatch.setattr(checks, "_check_group", noting)
    eval_args = {**LEAVE_ONE_OUT, "order": order, "split": split}
    config = configure(write_shop(tmp_path / "shop"), model, eval_args=eval_args, features="none")
    check_group_split(config, load_dataset(config))
    _, _, _, loaders = build(config)
    check_group_metric(config, *loaders[:2])
    early, late = ([sorted(part) for part in look] for look in seen)  # loaders shuffle what they train on
    assert early == late
