"""What a command asks for, refused before any work where its parts do not go together."""

import pytest

from recbole_sda.catalog.demo import write_demo
from recbole_sda.errors import SDAError
from recbole_sda.plans import model_configs

LEAVE_ONE_OUT = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}


@pytest.fixture
def configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_demo(tmp_path / "dataset" / "shop", items=20, users=20)

    def build(models, **values):
        return model_configs(models, "shop", None, {"data_path": "dataset", **values}, [])

    return build


def test_each_model_has_a_configuration_of_its_own(configs):
    built = configs("SASRec, VBPR", eval_args=LEAVE_ONE_OUT, history_mask="all")
    assert [config["model"] for config in built] == ["SASRec", "VBPR"]
    assert built[1]["reg_weight"] == 0.1


@pytest.mark.parametrize(
    ("models", "values", "message"),
    [
        ("SASRec,VBPR", {"history_mask": "all"}, r"eval_args differ.*SASRec: .*VBPR: .*Say --eval_args="),
        ("SASRec,VBPR", {"eval_args": LEAVE_ONE_OUT}, r"history_mask=recbole.*--history_mask=all"),
        ("SASRec,SASRec", {}, "names a model twice"),
    ],
)
def test_models_that_cannot_be_compared(configs, models, values, message):
    with pytest.raises(SDAError, match=message):
        configs(models, **values)


def test_a_typed_key_that_no_model_reads_is_refused_and_one_of_either_is_not(tmp_path, configs):
    common = {"data_path": "dataset", "eval_args": LEAVE_ONE_OUT, "history_mask": "none"}
    built = model_configs(None, "shop", None, common, ["--model=SASRec,VBPR", "--hidden_size=32"])
    assert built[0]["hidden_size"] == 32
    with pytest.raises(SDAError, match="'ssl_task' is read by none of the models SASRec, VBPR"):
        model_configs(None, "shop", None, common, ["--model=SASRec,VBPR", "--ssl_task=FD"])


def test_cold_items_cannot_choose_the_epoch(configs):
    with pytest.raises(SDAError, match="validation holds no cold item"):
        configs("SASRec", metrics=["ColdHit"], valid_metric="ColdHit@10")
