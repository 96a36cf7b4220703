"""Features of the user's own on the whole road: SASRec on files of vectors, beside item IDs."""

import json
from pathlib import Path

import numpy as np
import pytest

import recbole_sda
from recbole_sda import pipeline
from recbole_sda.errors import SDAError

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
    monkeypatch.setattr(pipeline, "recommend_in_workers", None)
    with pytest.raises(SDAError, match="embedded already: adapter=lora would do nothing"):
        pipeline.run("SASRec", "shop", QUICK, argv=["--features=bert.npy", "--adapter=lora"])


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
    monkeypatch.setattr(pipeline, "recommend_in_workers", None)
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
