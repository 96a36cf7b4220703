"""A training that finished is not repeated, and none is taken for another."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

import recbole_sda
from recbole_sda import outcome, recommend
from recbole_sda.catalog.demo import write_demo
from recbole_sda.config import SDAConfig
from recbole_sda.evaluation import RankingMixin

QUICK = {
    "backbone": "tiny",
    "features": "none",
    "epochs": 1,
    "train_batch_size": 64,
    "show_progress": False,
    "state": "ERROR",
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "result_file": "out.json",
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("drawn") / "demo", items=30, users=40)


@pytest.fixture
def shop(drawn, tmp_path, monkeypatch) -> Path:
    """The interactions of ``dataset/shop`` in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "dataset" / "shop"
    folder.mkdir(parents=True)
    for suffix in ("inter", "item"):
        shutil.copy(drawn / f"demo.{suffix}", folder / f"shop.{suffix}")
    return folder / "shop.inter"


@pytest.fixture
def trainings(monkeypatch) -> list[tuple[str, int]]:
    """(model, seed) of those that began. With a None in it, that of seed 2 is interrupted."""
    begun, train = [], recommend._train

    def counting(config, *args, **kwargs):
        begun.append((config["model"], config["seed"]))
        if None in begun and config["seed"] == 2:
            raise KeyboardInterrupt
        return train(config, *args, **kwargs)

    monkeypatch.setattr(recommend, "_train", counting)
    return begun


def run(model="BPR", **values) -> dict:
    return recbole_sda.run(model, "shop", {**QUICK, **values})


def without_times(result: dict) -> list[dict]:
    return [{k: v for k, v in entry.items() if k != "timings"} for entry in result["runs"]]


def test_a_killed_command_goes_on_with_the_training_that_was_not_finished(shop, trainings):
    trainings.append(None)  # interrupt the second
    with pytest.raises(KeyboardInterrupt):
        run(seeds="1,2,3")
    (kept,) = json.loads(Path("out.json").read_text())["runs"]
    trainings.clear()
    result = run(seeds="1,2,3")
    assert trainings == [("BPR", 2), ("BPR", 3)]
    assert result["runs"][0] == kept
    assert json.loads(Path("out.json").read_text()) == result
    whole = run(seeds="1,2,3", checkpoint_dir="elsewhere")
    assert [(r["valid"], r["test"]) for r in result["runs"]] == [(r["valid"], r["test"]) for r in whole["runs"]]


def test_what_the_command_says_beside_the_training_is_no_reason_to_train_again(shop, trainings):
    one = run(seed=5)
    many = run(seeds="5,6", bootstrap_samples=100, result_file="other.json")
    assert trainings == [("BPR", 5), ("BPR", 6)]
    assert many["runs"][0] == one["runs"][0]


def another_item_instead(shop: Path) -> None:
    """In the first interaction, so that the items stay the same."""
    header, (user, item, time), *rows = (line.split("\t") for line in shop.read_text().splitlines())
    had = {row[1] for row in rows if row[0] == user} | {item}
    other = min({row[1] for row in rows} - had)
    assert item in {row[1] for row in rows}
    lines = ["\t".join(row) for row in (header, [user, other, time], *rows)]
    shop.write_text("\n".join(lines) + "\n")


def first_timestamp_moved(shop: Path) -> None:
    header, first, *rest = shop.read_text().splitlines()
    user, item, _ = first.split("\t")
    shop.write_text("\n".join([header, f"{user}\t{item}\t1", *rest]) + "\n")


@pytest.mark.parametrize(
    "change",
    [
        another_item_instead,
        first_timestamp_moved,
        lambda shop: next(Path("saved").glob("*.pth")).unlink(),
        lambda shop: next(Path("saved").glob("*.users.parquet")).unlink(),
        lambda shop: next(Path("saved").glob("BPR*.json")).write_text("{"),
        lambda shop: next(Path("saved").glob("BPR*.json")).write_text("[]"),
        lambda shop: next(Path("saved").glob("BPR*.json")).unlink(),
    ],
    ids=["other data", "other times", "no checkpoint", "no user results", "damaged", "strange", "no outcome"],
)
def test_trained_anew_where_anything_is_not_as_it_was(shop, trainings, change):
    run()
    change(shop)
    run()
    assert len(trainings) == 2
    run()
    assert len(trainings) == 2


@pytest.mark.parametrize("where", [(outcome, "VERSION"), (recbole_sda, "__version__")])
def test_another_version_trains_anew(shop, trainings, monkeypatch, where):
    run()
    monkeypatch.setattr(*where, "another")
    run()
    assert len(trainings) == 2


@pytest.mark.parametrize(
    "values", [{"learning_rate": 0.01}, {"seed": 3}, {"protocol": "uni100"}, {"topk": [5, 10]}]
)
def test_another_configuration_is_another_training(shop, trainings, values):
    run()
    run(**values)
    assert len(trainings) == 2


def test_times_are_those_of_the_training(shop):
    first, again = run(), run()
    assert first["timings"] == again["timings"]
    assert without_times(first) == without_times(again)


# --- validated first, tested later ---


def train_alone(model="BPR", *, test=True, **values) -> dict:
    config = SDAConfig(model, "shop", config_dict={**QUICK, "epochs": 3, **values})
    outcome = recommend.recommend(config, None, label="ids", test=test)
    return {key: value for key, value in outcome.items() if key != "seconds"}


# SASRec ends with its last state, not its best one; MultiVAE is another loop's; uni50 draws in the test.
@pytest.mark.parametrize(
    ("model", "values"),
    [
        ("BPR", {}),
        ("SASRec", {"train_neg_sample_args": None, "learning_rate": 0.05}),
        ("NCL", {"num_clusters": 3}),
        ("BPR", {"eval_args": {**QUICK["eval_args"], "mode": "uni5"}}),
        ("ItemKNN", {}),
    ],
    ids=["BPR", "SASRec", "NCL", "sampled", "pickles"],
)
def test_a_test_that_comes_later_comes_to_the_same(shop, trainings, model, values):
    at_once = train_alone(model, **values, checkpoint_dir="at_once")
    untested = train_alone(model, **values, test=False)
    assert untested["test"] is None
    assert untested["artefacts"]["user_results"] is None
    assert not list(Path("saved").glob("*.users.parquet"))
    later = train_alone(model, **values)
    assert later["test"] == at_once["test"]
    assert all(untested[key] == later[key] for key in ("valid", "epochs", "curve"))
    assert len(trainings) == (3 if model == "ItemKNN" else 2)  # a pickle alone could hold that one's state
    one, other = (pd.read_parquet(each["artefacts"]["user_results"]) for each in (at_once, later))
    pd.testing.assert_frame_equal(one, other)
    assert train_alone(model, **values) == later


def test_nothing_is_evaluated_but_validation_until_the_test_is_asked_for(shop, monkeypatch):
    evaluated, evaluate = [], RankingMixin.evaluate

    def noting(self, eval_data, *args, **kwargs):
        evaluated.append(eval_data.phase_name)
        return evaluate(self, eval_data, *args, **kwargs)

    build = recommend.build

    def building(config):
        *others, data = build(config)
        for name, loader in zip(("train", "valid", "test"), data, strict=True):
            loader.phase_name = name
        return *others, data

    monkeypatch.setattr(recommend, "build", building)
    monkeypatch.setattr(RankingMixin, "evaluate", noting)
    train_alone(test=False)
    assert set(evaluated) == {"valid"}
    evaluated.clear()
    train_alone()
    assert evaluated == ["test"]


def test_a_test_that_is_there_is_not_shown_to_who_wants_none(shop, trainings):
    tested = train_alone()
    hidden = train_alone(test=False)
    assert hidden["test"] is hidden["artefacts"]["user_results"] is None
    assert train_alone() == tested
    assert len(trainings) == 1


# --- the curve ---


def test_the_curve_has_every_evaluated_epoch_and_is_told_as_it_grows(shop):
    told = []
    config = SDAConfig("BPR", "shop", config_dict={**QUICK, "epochs": 5, "eval_step": 2})
    outcome = recommend.recommend(config, None, label="ids", test=False, on_epoch=lambda *said: told.append(said))
    assert [point["epoch"] for point in outcome["curve"]] == [2, 4]
    metric = config["valid_metric"].lower()
    for point, (epoch, valid, score) in zip(outcome["curve"], told, strict=True):
        assert (point["epoch"], point["valid_score"]) == (epoch, score)
        assert valid[metric] == pytest.approx(score)
        assert point["train_loss"] > 0
    assert max(point["valid_score"] for point in outcome["curve"]) == outcome["valid"][metric]


def test_a_result_without_a_name_is_kept_beside_the_checkpoints(shop, caplog):
    caplog.set_level("INFO", "recbole_sda")
    result = run(result_file=None)
    (file,) = Path("saved/results").glob("BPR-shop-*.json")
    assert json.loads(file.read_text())["runs"] == result["runs"]
    assert caplog.messages[-1] == f"results: {file}"
    run(result_file=None)
    run(result_file=None, learning_rate=0.01)
    assert len([*Path("saved/results").iterdir()]) == 2
