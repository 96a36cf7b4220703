"""Features of the user's own on the whole road: SASRec on files of vectors, beside item IDs."""

import json
from pathlib import Path

import numpy as np
import pytest

import recbole_sda
from recbole_sda import pipeline, run_plan
from recbole_sda.catalog.demo import write_demo
from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureProvider
from recbole_sda.features.store import write_store
from recbole_sda.plans import make_plans, model_configs

QUICK = {
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
    "epochs": 2,
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "valid_metric": "NDCG@10",
    "MAX_ITEM_LIST_LENGTH": 10,
    "hidden_size": 16,
    "inner_size": 16,
}
ITEMS = [f"item{number}" for number in range(30)]
CLIP = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
BERT = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def shop(tmp_path, monkeypatch):
    """40 users who walk round the items in steps of their own, and two files of vectors."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "dataset" / "shop"
    folder.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"u{u}\t{ITEMS[(u + t * (1 + u % 3)) % 30]}\t{t}" for u in range(40) for t in range(8)]
    (folder / "shop.inter").write_text("\n".join(lines) + "\n")
    cells = [f"{item}\t{' '.join(map(repr, row.tolist()))}" for item, row in zip(ITEMS, CLIP, strict=True)]
    (folder / "shop.itememb").write_text("\n".join(["iid:token\temb:float_seq", *cells]) + "\n")
    np.save("bert.npy", BERT)
    Path("bert.items.txt").write_text("".join(f"{item}\n" for item in ITEMS))
    return folder


def run(model="SASRec", **values):
    return recbole_sda.run(model, "shop", {**QUICK, **values})


def test_an_atomic_file_and_an_npy_of_the_same_vectors_give_the_same_numbers():
    np.save("emb.npy", CLIP[::-1])
    Path("emb.items.txt").write_text("".join(f"{item}\n" for item in reversed(ITEMS)))
    results = [run(features=path) for path in ("dataset/shop/shop.itememb", "emb.npy")]
    assert results[0]["runs"][0]["variant"] == "features"
    assert results[0]["test"] == results[1]["test"]
    assert results[0]["missing"] == {"emb": 0}


def test_two_sources_beside_item_ids_and_back_from_the_checkpoint():
    result = run(
        features="cover=dataset/shop/shop.itememb,bert.npy", compare="ids,features", result_file="out.json"
    )
    ids, own = result["runs"]
    assert (ids["variant"], own["variant"]) == ("ids", "features")
    assert ids["test"] != own["test"]
    assert own["missing"] == {"cover": 0, "bert": 0}
    assert json.loads(Path("out.json").read_text())["runs"][1]["artefacts"] == own["artefacts"]
    assert "cover=saved/features/" in own["artefacts"]["features"]
    Path("bert.npy").unlink()  # the stores are what a checkpoint needs
    config, model, *_ = recbole_sda.load(own["artefacts"]["checkpoint"])
    assert config["modalities"] == ["cover", "bert"]
    assert model.item_embedding.modalities == ("cover", "bert")


def test_modalities_that_are_given_select():
    features = "cover=dataset/shop/shop.itememb,bert.npy"
    assert run(features=features, modalities="bert")["missing"] == {"bert": 0}
    # What says how a catalogue is embedded has no part in it.
    all_of_them = run(features=features, adapter="moda", modality_kinds={"image": "image"})
    assert all_of_them["missing"] == {"cover": 0, "bert": 0}


def test_items_without_features_may_be_learned():
    np.save("bert.npy", BERT[5:])
    Path("bert.items.txt").write_text("".join(f"{item}\n" for item in ITEMS[5:]))
    with pytest.raises(SDAError, match=r"features=bert\.npy lacks 5 of 30 items"):
        run(features="bert.npy")
    assert run(features="bert.npy", missing_features="learn")["missing"] == {"bert": 5}


def test_an_adapter_typed_for_features_that_are_there_is_refused(monkeypatch):
    monkeypatch.setattr(run_plan, "recommend_in_workers", None)
    with pytest.raises(SDAError, match="adapter=lora would do nothing: no variant embeds the catalogue"):
        pipeline.run("SASRec", "shop", QUICK, argv=["--features=bert.npy", "--adapter=lora"])


def store(path, present=None, **values):
    """A store as another tool of the user's may write it, unchecked."""
    folder = Path(path)
    folder.mkdir()
    for name, rows in values.items():
        np.save(folder / f"{name}.npy", rows.astype(np.float32))
    present = np.ones(len(ITEMS), dtype=bool) if present is None else present
    write_store(folder, ITEMS, dict.fromkeys(values, present), settings={})
    return str(folder)


def spoilt(row, value):
    rows = CLIP.copy()
    rows[row, 3] = value
    return rows


@pytest.mark.parametrize(
    ("build", "values", "message"),
    [
        (lambda: store("mine", cover=spoilt(4, np.nan)), {}, "cover features of item 'item4' hold NaN or an inf"),
        (lambda: store("mine", cover=spoilt(29, np.inf)), {}, "features of item 'item29' hold NaN or an inf"),
        (lambda: store("mine", np.zeros(30, dtype=bool), cover=CLIP), {}, "no item has cover; leave it out"),
        (
            lambda: "cover=dataset/shop/shop.itememb,bert.npy",
            {"fusion": "sum"},
            r"fusion=sum needs modalities of one width, found \{'cover': 8, 'bert': 4\}",
        ),
    ],
)
def test_features_that_cannot_be_trained_on_are_found_before_the_other_variants_train(
    monkeypatch, build, values, message
):
    monkeypatch.setattr(run_plan, "recommend_in_workers", None)  # `ids` would be first
    with pytest.raises(SDAError, match=message):
        run(features=build(), compare="ids,features", **values)


def test_a_store_of_ones_own_that_is_in_order_is_read_once(monkeypatch):
    read = []
    values = FeatureProvider.values

    def noting(provider, modality, start=0, stop=None):
        read.append(modality)
        return values(provider, modality, start, stop)

    monkeypatch.setattr(FeatureProvider, "values", noting)
    result = run(features=store("mine", cover=CLIP), compare="ids,features", seeds=[1, 2])
    assert [part["missing"] for part in result["runs"] if part["variant"] == "features"] == [{"cover": 0}] * 2
    assert read == ["cover"] * 2  # to fit the table's scale and to write it; training only maps it


def test_what_a_file_says_of_adapters_serves_other_runs():
    features = "bert.npy"
    alone = run(features=features, modalities="bert", adapter="moda", modality_kinds={"back": "image"})
    assert alone["missing"] == {"bert": 0}


def test_modalities_that_are_typed_for_the_variants_that_embed(shop):
    demo = write_demo(shop.parent / "demo", items=20, users=20)
    tokens = [line.split("\t")[0] for line in (demo / "demo.item").read_text().splitlines()[1:]]
    np.save("tfidf.npy", CLIP[: len(tokens)])
    Path("tfidf.items.txt").write_text("".join(f"{token}\n" for token in tokens))

    def plans(modalities, features="tfidf.npy"):
        values = {"compare": "ids,features,zero_shot", "features": features, "modalities": modalities}
        configs = model_configs("SASRec", "demo", None, {**QUICK, **values}, [])
        return {plan.variant: plan.config["modalities"] for plan in make_plans(configs)}

    assert plans("text") == {"ids": ["text"], "features": ["tfidf"], "zero_shot": ["text"]}
    assert plans("text", "text=tfidf.npy,tfidf.npy")["features"] == ["text"]
    with pytest.raises(SDAError, match="modalities=image,text, but the features have text and no image"):
        plans("image,text", "text=tfidf.npy")
    # Where nothing is embedded, they are about the features.
    alone = model_configs("SASRec", "demo", None, {**QUICK, "features": "tfidf.npy", "modalities": "text"}, [])
    with pytest.raises(SDAError, match="modalities=text, but the features have tfidf and no text"):
        make_plans(alone)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"features": "bret.npy"}, r"features=bret\.npy does not exist; did you mean bert\.npy\?"),
        ({"features": "bert.npy", "modalities": "image"}, "have bert and no image; say --modalities=bert"),
        (
            {"features": "bert.npy,bert.npy"},
            "both have a modality bert; call one by another name, as in --features=NAME=",
        ),
        ({"features": "dataset/shop/shop.inter"}, "one token column and float_seq columns are needed"),
        ({"features": "dataset"}, "no feature store"),
        ({"compare": "ids,features"}, "runs features of your own, and features=auto"),
    ],
)
def test_refused_before_any_training(monkeypatch, values, message):
    monkeypatch.setattr(run_plan, "recommend_in_workers", None)
    with pytest.raises(SDAError, match=message):
        run(**values)


def test_a_checkpoint_knows_other_features_of_the_same_shape():
    np.save("bert.npy", BERT)
    Path("bert.items.txt").write_text("".join(f"{item}\n" for item in ITEMS))
    checkpoint = run(features="bert.npy")["artefacts"]["checkpoint"]
    assert recbole_sda.load(checkpoint, features="bert.npy").config["features"]
    np.save("bert.npy", BERT + 1)
    with pytest.raises(SDAError, match="trained on other features than"):
        recbole_sda.load(checkpoint, features="bert.npy")
    assert run(features="bert.npy")["artefacts"]["checkpoint"] != checkpoint
