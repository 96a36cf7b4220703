"""The whole road on a small catalogue: what a run returns, reuses and refuses."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import recbole_sda
from recbole_sda import recommend, run_plan, stage_backbone
from recbole_sda.catalog.atomic import write_atomic
from recbole_sda.catalog.demo import write_demo
from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureStore, write_store

QUICK = {
    "backbone": "tiny",
    "max_pixels": 12544,
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
    "epochs": 2,
    "align_steps": 4,
    "align_eval_every": 2,
    "align_batch_size": 16,
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "valid_metric": "NDCG@10",
    "MAX_ITEM_LIST_LENGTH": 10,
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A small demo that the tests copy: under another name it is anybody's dataset."""
    return write_demo(tmp_path_factory.mktemp("drawn") / "demo", items=40, users=50)


@pytest.fixture
def shop(drawn, tmp_path, monkeypatch):
    """`dataset/shop` in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "dataset" / "shop"
    shutil.copytree(drawn, folder)
    for suffix in ("inter", "item"):
        (folder / f"demo.{suffix}").rename(folder / f"shop.{suffix}")
    (folder / "demo.json").unlink()  # the mark that the generator may replace the folder
    return folder


def run(model="SASRec", dataset="shop", **values):
    return recbole_sda.run(model, dataset, {**QUICK, **values})


def items_of(shop):
    lines = (shop / "shop.inter").read_text().splitlines()[1:]
    return sorted({line.split("\t")[1] for line in lines})


# --- what it returns ---


def test_a_comparison_returns_and_writes_every_variant_and_a_second_run_reuses_all(shop, capsys, monkeypatch):
    keys = {"compare": "ids,zero_shot,lora,info_nce,sda", "result_file": "out.json"}
    result = run(**keys)
    assert json.loads(Path("out.json").read_text()) == result
    assert [r["variant"] for r in result["runs"]] == ["ids", "zero_shot", "lora", "info_nce", "sda"]
    by_name = {r["variant"]: r for r in result["runs"]}
    by_user = "hit ndcg tailhit tailndcg headhit headndcg recall mrr precision averagepopularity"
    wanted = {f"{name}@10" for name in f"{by_user} itemcoverage giniindex".split()}
    for entry in result["runs"]:
        assert set(entry["valid"]) == set(entry["test"]) == wanted
        assert Path(entry["artefacts"]["checkpoint"]).is_file()
    for name in ("zero_shot", "lora", "info_nce", "sda"):
        assert by_name[name]["items"] == len(items_of(shop))
        store = FeatureStore.open(by_name[name]["artefacts"]["features"], verify=True)
        missing = {m: int((~store.present(m)).sum()) for m in store.modalities}
        assert by_name[name]["missing"] == missing
        assert sum(missing.values()) > 0  # the demo leaves some out
    adapters = [by_name[name]["artefacts"]["adapter"] for name in ("lora", "info_nce", "sda")]
    assert len(set(adapters)) == 3
    assert all((Path(a) / "adapter_config.json").is_file() for a in adapters)

    monkeypatch.setattr(stage_backbone, "load_backbone", _must_not_run)
    monkeypatch.setattr(recommend, "_train", _must_not_run)
    again = run(**keys)
    for first, second in zip(result["runs"], again["runs"], strict=True):
        assert first["artefacts"] == second["artefacts"]
        assert (first["valid"], first["test"]) == (second["valid"], second["test"])


def _must_not_run(*args, **kwargs):
    raise AssertionError("an artefact was made again")


def test_a_single_run_has_its_entries_at_the_top(shop):
    result = run(compare=["zero_shot"])
    assert result["test"] == result["runs"][0]["test"]
    assert set(result) >= {"model", "dataset", "seed", "valid", "timings", "artefacts"}


def test_text_alone_runs_without_adaptation(shop):
    shutil.rmtree(shop / "images")
    result = run(modalities="text")
    assert result["variant"] == "zero_shot"
    assert FeatureStore.open(result["artefacts"]["features"]).modalities == ("text",)


def test_ones_own_store_takes_the_place_of_the_stages(shop, monkeypatch):
    store = run(compare="zero_shot")["artefacts"]["features"]
    monkeypatch.setattr(stage_backbone, "load_backbone", _must_not_run)
    mine = run(features=store)
    assert mine["runs"][0]["variant"] == "features"
    assert mine["artefacts"]["features"] == store


@pytest.mark.parametrize("model", ["BERT4Rec", "VBPR"])
def test_other_models_take_the_same_features(shop, model):
    result = run(model, compare="ids,zero_shot")
    ids, zero_shot = (r["test"] for r in result["runs"])
    assert ids != zero_shot


def test_general_models_are_scored_many_users_at_a_time_with_equal_numbers(shop):
    many = run("VBPR", features="none")
    one = run("VBPR", features="none", eval_batch_size=1)
    assert many["test"] == one["test"]


def test_eval_batch_size_is_raised_for_full_ranking_alone_and_only_if_nobody_chose_it(shop):
    from recbole_sda.config import SDAConfig
    from recbole_sda.recommend import eval_batch_size

    def size(model="VBPR", **values):
        return eval_batch_size(SDAConfig(model, "shop", config_dict={**QUICK, **values}), 1000)

    assert size() == 4096 * 1000
    assert eval_batch_size(SDAConfig("VBPR", "shop", config_dict=QUICK), 1_000_000) == 64 * 1_000_000
    assert size("SASRec") == 4096  # rows there, not users × items
    assert eval_batch_size(SDAConfig("SASRec", "shop", config_dict=QUICK), 1_000_000) == 64
    assert size(eval_batch_size=100) == 100
    assert size(eval_args={**QUICK["eval_args"], "mode": "uni100"}) == 4096
    (shop / "shop.yaml").write_text("eval_batch_size: 77\n")
    assert size() == 77


def test_models_whose_state_only_a_pickle_could_hold_run_and_are_not_loaded_half(shop):
    result = run("ItemKNN", features="none")
    assert result["test"]["hit@10"] > 0
    with pytest.raises(SDAError, match="train it again"):
        recbole_sda.load(result["artefacts"]["checkpoint"])


def test_a_run_that_dies_leaves_the_variants_it_finished(shop, monkeypatch):
    finished = iter([run_plan.recommend_in_workers])

    def dies_second(*args, **kwargs):
        return next(finished)(*args, **kwargs)

    monkeypatch.setattr(run_plan, "recommend_in_workers", dies_second)
    with pytest.raises(StopIteration):
        run(compare="ids,zero_shot", result_file="out.json")
    (only,) = json.loads(Path("out.json").read_text())["runs"]
    assert only["variant"] == "ids"
    assert only["items"] == len(items_of(shop))
    assert only["missing"] == {}


def test_adapt_and_embed_alone_make_the_artefacts_that_run_uses(shop):
    keys = {**QUICK, "adapter": "moda"}
    adapter = recbole_sda.adapt("shop", keys)
    features = recbole_sda.embed("shop", keys)
    used = run(adapter="moda")["artefacts"]
    assert used["adapter"] == str(adapter)
    assert used["features"] == str(features)


@pytest.mark.parametrize(("model", "variant"), [("SASRec", "zero_shot"), ("SASRec", "ids"), ("VBPR", "zero_shot")])
def test_a_checkpoint_loads_with_its_features_and_scores_as_it_did(shop, model, variant):
    from recbole_sda.trainer import build_trainer, plain

    first = run(model, compare=variant)
    config, loaded, _, train_data, _, test_data = recbole_sda.load(first["artefacts"]["checkpoint"])
    trainer = build_trainer(config, loaded)
    trainer.eval_collector.data_collect(train_data)
    assert plain(trainer.evaluate(test_data, load_best_model=False)) == first["test"]


def test_a_checkpoint_that_is_not_there_is_refused(shop):
    with pytest.raises(SDAError, match=r"nothing\.pth does not exist"):
        recbole_sda.load("nothing.pth")


def test_all_items_embeds_those_that_have_no_interaction(shop):
    with (shop / "shop.item").open("a") as file:
        header = (shop / "shop.item").read_text().splitlines()[0].split("\t")
        file.write("\t".join(["NEW1", *["a new thing"] * (len(header) - 1)]) + "\n")
    few, all_of_them = (run(compare="zero_shot", all_items=every) for every in (False, True))
    assert "NEW1" not in FeatureStore.open(few["artefacts"]["features"]).tokens
    assert FeatureStore.open(all_of_them["artefacts"]["features"]).present("text")[-1]
    assert few["test"].keys() == all_of_them["test"].keys()


def test_the_control_changes_pictures_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {**QUICK, "demo_items": 40, "demo_users": 50, "compare": "ids,zero_shot"}
    signal = recbole_sda.run("SASRec", "demo", {**small, "data_path": "a"})
    control = recbole_sda.run("SASRec", "demo", {**small, "data_path": "b", "image_signal": 0})
    assert signal["runs"][0]["test"] == control["runs"][0]["test"]  # ids see no picture
    stores = [FeatureStore.open(r["runs"][1]["artefacts"]["features"]) for r in (signal, control)]
    np.testing.assert_array_equal(stores[0].values("text"), stores[1].values("text"))
    assert not np.array_equal(stores[0].values("image"), stores[1].values("image"))


# --- what it keeps, names and counts ---


def test_an_item_that_the_item_file_lacks_is_kept_and_named(shop, caplog):
    lines = (shop / "shop.item").read_text().splitlines(keepends=True)
    lost = items_of(shop)[5]
    (shop / "shop.item").write_text("".join(line for line in lines if not line.startswith(f"{lost}\t")))
    with caplog.at_level("INFO", "recbole_sda"):
        result = run(compare="zero_shot")
    assert result["items"] == len(items_of(shop))
    assert "1" in caplog.text
    assert lost in caplog.text
    store = FeatureStore.open(result["artefacts"]["features"])
    assert not store.present("text")[store.tokens.index(lost)]


@pytest.mark.parametrize("content", [b"", b"not a picture", b"truncated"], ids=["empty", "text", "truncated"])
def test_a_broken_picture_is_named_counted_and_the_item_kept(shop, caplog, content):
    broken = next(p for p in sorted((shop / "images").iterdir()) if p.stem in items_of(shop))
    whole = broken.read_bytes()
    before = run(compare="zero_shot")["missing"]["image"]
    broken.write_bytes(whole[: len(whole) // 2] if content == b"truncated" else content)
    with caplog.at_level("INFO", "recbole_sda"):
        result = run(compare="zero_shot")
    assert result["missing"]["image"] == before + 1
    assert result["items"] == len(items_of(shop))
    assert broken.stem in caplog.text
    with pytest.raises(SDAError, match=broken.stem):
        run(compare="zero_shot", strict=True)


def test_empty_and_nan_texts_are_missing_texts(shop):
    tokens = items_of(shop)
    fields = [["nan", ""], ["", ""], ["NaN", " "], *([f"mug {i}", "blue"] for i in range(len(tokens) - 3))]
    rows = ([token, *values] for token, values in zip(tokens, fields, strict=True))
    write_atomic(shop / "shop.item", ["item_id:token", "title:token_seq", "colour:token"], rows)
    assert run(compare="zero_shot")["missing"]["text"] == 3


# --- what it refuses, before any work ---


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(run_plan, "recommend_in_workers", _must_not_run)
    monkeypatch.setattr(stage_backbone, "load_backbone", _must_not_run)


@pytest.mark.usefixtures("no_training")
class TestRefusals:
    def test_no_item_with_both_modalities(self, shop):
        shutil.rmtree(shop / "images")
        with pytest.raises(SDAError, match="--modalities=text"):
            run(compare="ids,sda")

    def test_unknown_dataset(self, shop):
        with pytest.raises(SDAError, match=r"dataset='shpo'.*from_csv.*demo, shop"):
            run(dataset="shpo")

    def test_unknown_model(self, shop):
        with pytest.raises(SDAError, match="did you mean SASRec"):
            run("SASRek")

    def test_misspelt_key(self, shop):
        with pytest.raises(SDAError, match="'temprature' is unknown; did you mean temperature"):
            run(temprature=0.1)

    def test_experts_that_do_not_divide_the_rank(self, shop):
        with pytest.raises(SDAError, match=r"num_experts=3 does not divide lora_r=8; choose one of 1, 2, 4, 8"):
            run(num_experts=3)

    def test_a_model_whose_item_table_is_unknown(self, shop):
        with pytest.raises(SDAError, match=r"MultiVAE.*cannot use features.*layers with weights for each item"):
            run("MultiVAE")

    def test_a_store_of_another_catalogue(self, shop):
        folder = Path("other")
        folder.mkdir()
        np.save(folder / "text.npy", np.zeros((2, 4), np.float16))
        write_store(folder, ["x", "y"], {"text": np.ones(2, bool)}, settings={})
        with pytest.raises(SDAError, match="another catalogue"):
            run(features="other", modalities="text")

    def test_a_store_of_another_dataset_with_the_same_ids(self, shop):
        tokens = items_of(shop)
        Path("other").mkdir()
        np.save(Path("other") / "text.npy", np.zeros((len(tokens), 4), np.float16))
        present = {"text": np.ones(len(tokens), bool)}
        write_store(Path("other"), tokens, present, settings={}, dataset="market")
        with pytest.raises(SDAError, match="another catalogue: it was embedded for 'market'"):
            run(features="other", modalities="text")

    def test_a_modality_that_no_item_has(self, shop):
        shutil.rmtree(shop / "images")
        with pytest.raises(SDAError, match="no item of 'shop' has a readable picture; use --modalities=text"):
            run(compare="zero_shot")

    def test_a_folder_that_is_no_store(self, shop):
        with pytest.raises(SDAError, match="no feature store"):
            run(features="dataset")

    def test_a_backbone_that_cannot_be_had(self, shop):
        with pytest.raises(SDAError, match=r"no/such.*--backbone=FOLDER.*--backbone=tiny"):
            run(backbone="no/such")

    def test_a_result_file_that_cannot_be_written(self, shop):
        with pytest.raises(SDAError, match="result_file"):
            run(result_file="nowhere/out.json")

    def test_a_demo_folder_of_somebody_elses(self, shop):
        shop.rename(shop.parent / "demo")
        with pytest.raises(SDAError, match="demo"):
            run(dataset="demo")


def test_validation_by_the_tail_without_a_tail_target_is_refused_before_training(shop):
    with pytest.raises(SDAError, match=r"valid_metric=TailNDCG@10 is undefined.*tail_max_popularity"):
        run(features="none", valid_metric="TailNDCG@10", tail_max_popularity=0)


# --- planted answers and stock numbers ---


@pytest.mark.slow
def test_features_of_the_hidden_attributes_beat_features_of_nothing(tmp_path, monkeypatch):
    """With the truth as features the recommender finds tail items; with noise of the same shape it does not."""
    monkeypatch.chdir(tmp_path)
    keys = {**QUICK, "epochs": 30, "train_batch_size": 256, "learning_rate": 0.003, "modalities": "text"}
    tokens = recbole_sda.run("SASRec", "demo", {**keys, "compare": "zero_shot", "epochs": 1})
    tokens = FeatureStore.open(tokens["artefacts"]["features"]).tokens
    lines = Path("dataset/demo/demo.truth.csv").read_text().splitlines()
    truth = {row["item_id"]: row for row in csv.DictReader(lines)}
    names = ("colour", "shape", "pattern", "brand")
    values = [sorted({row[name] for row in truth.values()}) for name in names]
    one_hot = np.array(
        [[truth[t][n] == v for n, vs in zip(names, values, strict=True) for v in vs] for t in tokens], np.float16
    )
    shuffled = np.random.default_rng(0).permutation(one_hot)
    scores = {}
    for name, array in {"truth": one_hot, "shuffled": shuffled}.items():
        Path(name).mkdir()
        np.save(Path(name) / "text.npy", array)
        write_store(Path(name), tokens, {"text": np.ones(len(tokens), bool)}, settings={})
        scores[name] = recbole_sda.run("SASRec", "demo", {**keys, "features": name})["test"]
    assert scores["truth"]["hit@10"] > 2 * 10 / len(tokens)  # chance
    assert scores["truth"]["tailhit@10"] > 2 * scores["shuffled"]["tailhit@10"]


STOCK = """
import json, sys
import numpy as np
np.float_, np.complex_, np.unicode_ = np.float64, np.complex128, np.str_  # numpy 2 has them no more
import torch
load = torch.load
torch.load = lambda *args, **kwargs: load(*args, **{**kwargs, "weights_only": False})
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

config = Config("SASRec", "ml-100k", config_dict=json.loads(sys.argv.pop()))
init_seed(config["seed"], config["reproducibility"])
dataset = create_dataset(config)
train_data, valid_data, test_data = data_preparation(config, dataset)
init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
model = get_model(config["model"])(config, train_data._dataset).to(config["device"])
trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
_, valid = trainer.fit(train_data, valid_data, show_progress=False)
test = trainer.evaluate(test_data)
print(json.dumps([{k: float(v) for k, v in result.items()} for result in (valid, test)]))
"""


@pytest.mark.slow
def test_without_features_the_numbers_are_stock_recboles(tmp_path, monkeypatch):
    """RecBole alone, in a process that never imports this package, against `features=none`."""
    monkeypatch.chdir(tmp_path)
    values = {"epochs": 2, "MAX_ITEM_LIST_LENGTH": 10, "show_progress": False, "train_neg_sample_args": None}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STOCK, json.dumps(values)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    valid, test = json.loads(done.stdout.splitlines()[-1])
    ours = recbole_sda.run("SASRec", "ml-100k", {**values, "features": "none"})
    assert {key: ours["valid"][key] for key in valid} == valid
    assert {key: ours["test"][key] for key in test} == test
    own = "tailhit tailndcg headhit headndcg itemcoverage giniindex averagepopularity"
    assert set(ours["test"]) - set(test) == {f"{name}@10" for name in own.split()}
