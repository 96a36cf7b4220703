"""What comes after training: a recommender loaded again, its best items for users, its items' embeddings."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import recbole_sda
from recbole_sda.catalog.demo import write_demo
from recbole_sda.cli import main
from recbole_sda.config import SDAConfig
from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureStore, write_store
from recbole_sda.histories import Histories
from recbole_sda.loading import Loaded
from recbole_sda.recommend import item_tokens, load_dataset, recommend
from recbole_sda.resume import data_fingerprint
from recbole_sda.serving import top_k
from recbole_sda.trainer import build_trainer, plain

LONGEST = 6
KEYS = {
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
    "epochs": 2,
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "metrics": ["Hit", "NDCG"],
    "valid_metric": "NDCG@10",
    "MAX_ITEM_LIST_LENGTH": LONGEST,
    "embedding_size": 16,
    "hidden_size": 16,
}
CASES = (
    "BPR",
    "SASRec",
    "BERT4Rec",
    "LightGCN",
    "NeuMF",
    "BPR+features",
    "BERT4Rec+features",
    "VBPR+features",
    "SLMRec+features",
)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with `data/shop`, one user of which has a single interaction, and two stores of its items."""
    folder = tmp_path_factory.mktemp("work")
    shop = folder / "data" / "shop"
    write_demo(folder / "data" / "demo", items=30, users=40)
    (folder / "data" / "demo").rename(shop)
    for suffix in ("inter", "item"):
        (shop / f"demo.{suffix}").rename(shop / f"shop.{suffix}")
    lines = (shop / "shop.inter").read_text().splitlines()
    header = [column.partition(":")[0] for column in lines[0].split("\t")]
    once = dict(zip(header, lines[1].split("\t"), strict=True)) | {"user_id": "once"}
    (shop / "shop.inter").write_text("\n".join([*lines, "\t".join(once.values())]) + "\n")
    return folder


@pytest.fixture(scope="module")
def trained(work):
    """Case → the result and the checkpoint, trained when first asked for."""
    done = {}

    def ask(case: str) -> tuple[dict, Path]:
        if case not in done:
            model, _, features = case.partition("+")
            keys = {**KEYS, "data_path": str(work / "data"), "checkpoint_dir": str(work / "saved" / case)}
            store = own_stores(work) if features else None
            if store:
                keys |= {"modalities": ["image", "text"], "features": store}
            config = SDAConfig(model, "shop", config_dict={"features": "none", **keys})
            outcome = recommend(config, store, label="test")
            (checkpoint,) = (work / "saved" / case).glob("*.pth")
            done[case] = outcome, checkpoint
        return done[case]

    return ask


def own_stores(work) -> str:
    """``features`` of two stores, a modality each."""
    keys = {**KEYS, "data_path": str(work / "data"), "features": "none", "checkpoint_dir": str(work / "saved")}
    tokens = item_tokens(load_dataset(SDAConfig("BPR", "shop", config_dict=keys)))
    generator = np.random.default_rng(0)
    for modality in ("image", "text"):
        folder = work / modality
        if not folder.exists():
            folder.mkdir()
            values = generator.standard_normal((len(tokens), 8)).astype(np.float32)
            np.save(folder / f"{modality}.npy", values)
            write_store(folder, tokens, {modality: np.ones(len(tokens), bool)}, settings={})
    return f"{work / 'image'},{work / 'text'}"


def interactions(work) -> pd.DataFrame:
    """The file, oldest first, ties as they stand there."""
    table = pd.read_csv(work / "data" / "shop" / "shop.inter", sep="\t", dtype=str)
    table.columns = [column.partition(":")[0] for column in table.columns]
    return table.assign(time=table["timestamp"].astype(np.float32)).sort_values("time", kind="stable")


# --- loading ---


def results_on_test(loaded: Loaded) -> dict:
    trainer = build_trainer(loaded.config, loaded.model)
    trainer.prepare_evaluation(loaded.train_data, loaded.valid_data, loaded.test_data)
    return plain(trainer.evaluate(loaded.test_data, load_best_model=False))


@pytest.mark.parametrize("case", CASES)
def test_what_is_loaded_tests_as_it_did(case, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result, checkpoint = trained(case)
    assert results_on_test(recbole_sda.load(checkpoint)) == result["test"]


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_is_tensors_and_plain_yaml(case, trained):
    saved = torch.load(trained(case)[1], weights_only=True)
    assert yaml.safe_load(yaml.safe_dump(saved["config"])) == saved["config"]
    assert set(saved) == {
        *(
            "config",
            "epoch",
            "cur_step",
            "best_valid_score",
            "state_dict",
            "other_parameter",
            "left_out",
            "tokens",
            "features",
        ),
        "optimizer",
    }

    def check(value):
        if isinstance(value, dict):
            assert all(type(key) in (str, int) for key in value)
            [check(entry) for entry in value.values()]
        elif type(value) in (list, tuple):
            [check(entry) for entry in value]
        else:
            assert value is None or type(value) in (torch.Tensor, bool, int, float, str), type(value)

    check(saved)
    assert not [name for name in saved["state_dict"] if "features_" in name]


def test_what_was_moved_is_asked_for_and_found(work, trained, tmp_path):
    result, checkpoint = trained("BPR+features")
    folder = tmp_path / "moved"
    shutil.copytree(work, folder)
    shutil.copy(checkpoint, folder / "model.pth")
    saved = torch.load(folder / "model.pth", weights_only=True)
    saved["config"]["features"] = "gone/image,gone/text"
    saved["config"]["data_path"] = "gone/shop"
    torch.save(saved, folder / "model.pth")
    with pytest.raises(SDAError, match=r"trained on gone/shop.*load\(checkpoint, data_path=FOLDER\)"):
        recbole_sda.load(folder / "model.pth")
    with pytest.raises(SDAError, match=r"gone/image does not exist.*load\(checkpoint, features=PATH\)"):
        recbole_sda.load(folder / "model.pth", data_path=folder / "data")
    features = f"{folder / 'image'},{folder / 'text'}"
    loaded = recbole_sda.load(folder / "model.pth", features=features, data_path=folder / "data")
    assert results_on_test(loaded) == result["test"]


def test_what_a_gpu_trained_loads_without_one(trained, tmp_path, monkeypatch):
    result, checkpoint = trained("LightGCN")  # which keeps tensors beside its parameters
    saved = torch.load(checkpoint, weights_only=True)
    saved["config"] |= {"device": "cuda", "use_gpu": True, "gpu_id": "0", "world_size": 2, "local_rank": 1}
    torch.save(saved, tmp_path / "gpu.pth")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    loaded = recbole_sda.load(tmp_path / "gpu.pth")
    assert loaded.config["device"] == torch.device("cpu")
    assert loaded.config["single_spec"]
    assert results_on_test(loaded) == result["test"]


def test_features_of_another_width_are_refused(work, trained, tmp_path):
    tokens = FeatureStore.open(work / "image").tokens
    for width, modality in ((5, "image"), (8, "text")):
        (tmp_path / modality).mkdir()
        np.save(tmp_path / modality / f"{modality}.npy", np.eye(len(tokens), width, dtype=np.float32))
        write_store(tmp_path / modality, tokens, {modality: np.ones(len(tokens), bool)}, settings={})
    with pytest.raises(SDAError, match="was trained on other features"):
        recbole_sda.load(trained("BPR+features")[1], features=f"{tmp_path / 'image'},{tmp_path / 'text'}")


def test_other_items_are_refused_however_many_and_new_interactions_are_not(work, trained, tmp_path):
    _, checkpoint = trained("BPR")
    data = tmp_path / "data"
    shutil.copytree(work / "data", data)
    inter = data / "shop" / "shop.inter"
    lines = inter.read_text().splitlines()
    token = lines[1].split("\t")[1]
    inter.write_text("\n".join([*lines, lines[1]]) + "\n")
    grown = recbole_sda.load(checkpoint, data_path=data)
    assert data_fingerprint(grown.train_data._dataset) != data_fingerprint(
        recbole_sda.load(checkpoint).train_data._dataset
    )
    inter.write_text("\n".join(lines).replace(f"\t{token}\t", "\tANOTHER\t") + "\n")
    with pytest.raises(SDAError, match="was trained on other users or items"):
        recbole_sda.load(checkpoint, data_path=data)


@pytest.mark.parametrize("content", [b"", b"no torch", "pickle"])
def test_other_files_are_refused(content, tmp_path):
    file = tmp_path / "x.pth"
    torch.save({"config": Path("x")}, file) if content == "pickle" else file.write_bytes(content)
    with pytest.raises(SDAError, match=r"x\.pth is no checkpoint of recbole_sda"):
        recbole_sda.load(file)


# --- the best items for users ---


@pytest.mark.parametrize("exclude_history", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_top_k_is_brute_force(case, exclude_history, work, trained):
    """Each user alone, from the file: the newest items one by one into a row of their own."""
    loaded = recbole_sda.load(trained(case)[1])
    dataset, config = loaded.dataset, loaded.config
    found = top_k(loaded, k=4, exclude_history=exclude_history, batch_users=7)
    histories = interactions(work).groupby("user_id")["item_id"].agg(list)
    assert sorted(found["user"].unique()) == sorted(histories.index)
    items = dataset.field2id_token["item_id"]
    for user, rows in found.groupby("user"):
        history = [dataset.token2id("item_id", token) for token in histories[user]]
        columns = {"user_id": torch.tensor([dataset.token2id("user_id", user)])}
        if dataset.__class__.__name__ == "SequentialDataset":
            newest = history[-LONGEST:]
            columns["item_id_list"] = torch.tensor([newest + [0] * (LONGEST - len(newest))])
            columns["item_length"] = torch.tensor([len(newest)])
        scores = brute_force(loaded.model, columns, dataset.item_num, config)
        scores[0] = -np.inf
        if exclude_history:
            scores[history] = -np.inf
            assert not set(rows["item"]) & set(histories[user])
        best = np.argsort(-scores)[:4]
        np.testing.assert_allclose(rows["score"], scores[best], rtol=1e-4, atol=1e-6)
        by_item = dict(zip(items, scores, strict=True))
        np.testing.assert_allclose([by_item[item] for item in rows["item"]], rows["score"], rtol=1e-4, atol=1e-6)
        assert rows["rank"].tolist() == [1, 2, 3, 4]


@torch.no_grad()
def brute_force(model, columns, n_items, config) -> np.ndarray:
    from recbole.data.interaction import Interaction

    model.eval()
    if type(model).__name__ == "NeuMF":
        pairs = {"user_id": columns["user_id"].repeat(n_items), "item_id": torch.arange(n_items)}
        return model.predict(Interaction(pairs)).numpy()
    return model.full_sort_predict(Interaction(columns)).view(-1).numpy().copy()


def test_sequences_are_those_of_recbole_one_step_further(trained):
    """RecBole's test rows end before the last interaction; ours end with it, in the same order."""
    loaded = recbole_sda.load(trained("SASRec")[1])
    histories = Histories(loaded.config)
    test = loaded.test_data._dataset.inter_feat
    ours = histories.inputs(test["user_id"])
    length, before = ours["item_length"], test["item_length"]
    assert torch.equal(length, (before + 1).clamp(max=LONGEST))
    assert int(length.max()) == LONGEST
    assert int(before.min()) < LONGEST
    for row in range(len(test)):
        n, seen = int(length[row]), test["item_id_list"][row][: before[row]]
        whole = [*seen.tolist(), int(test["item_id"][row])]
        assert ours["item_id_list"][row].tolist() == whole[-n:] + [0] * (LONGEST - n)
        assert ours["timestamp_list"][row][n - 1] == test["timestamp"][row]


def test_a_user_with_one_interaction_is_served(trained):
    for case in ("SASRec", "BPR"):
        assert top_k(trained(case)[1], ["once"], k=3)["rank"].tolist() == [1, 2, 3]


def test_users_come_in_the_order_asked_for_whatever_the_batch(trained):
    loaded = recbole_sda.load(trained("SASRec")[1])
    users = loaded.dataset.field2id_token["user_id"][1:9][::-1].tolist()
    one, many = (top_k(loaded, users, k=3, batch_users=size) for size in (1, 100))
    assert one["user"].tolist() == [user for user in users for _ in range(3)]
    assert one["item"].tolist() == many["item"].tolist()


@pytest.mark.parametrize(
    ("users", "k", "message"),
    [
        (["nobody", "once"], 3, "users 'nobody' have no interaction"),
        ([f"n{i}" for i in range(7)], 3, "'n3', 'n4' and 2 more have no interaction"),
        (["[PAD]"], 3, "users '\\[PAD\\]' have no interaction"),
        ([], 3, "no user is named"),
        (["once"], 0, "k=0 must be a whole number of at least 1"),
        (["once"], 10_000, "k=10000, but there are [0-9]+ items; lower k"),
    ],
)
def test_mistakes(users, k, message, trained):
    with pytest.raises(SDAError, match=message):
        top_k(trained("BPR")[1], users, k=k)


def test_the_candidates_are_counted_exactly(trained):
    loaded = recbole_sda.load(trained("BPR")[1])
    items = loaded.dataset.item_num - 1
    assert len(top_k(loaded, ["once"], k=items - 1)) == items - 1
    with pytest.raises(SDAError, match=f"user 'once' has {items - 1} candidates besides"):
        top_k(loaded, ["once"], k=items)
    assert len(top_k(loaded, ["once"], k=items, exclude_history=False)) == items


# --- the command line ---


def test_recommend_to_every_format(trained, tmp_path, capsys):
    _, checkpoint = trained("SASRec")
    expected = top_k(checkpoint, k=3)
    for suffix in ("json", "jsonl", "parquet"):
        output = tmp_path / f"best.{suffix}"
        output.write_text("of yesterday")
        assert main(["recommend", str(checkpoint), "--users=all", "--k=3", f"--output={output}"]) == 0
        assert str(output) in capsys.readouterr().out
        if suffix == "parquet":
            found = pd.read_parquet(output)
        else:
            text = output.read_text()
            lines = [json.loads(line) for line in text.splitlines()] if suffix == "jsonl" else []
            by_user = {line["user"]: line["items"] for line in lines} or json.loads(text)
            entries = [
                (user, *entry.values(), rank) for user, es in by_user.items() for rank, entry in enumerate(es, 1)
            ]
            found = pd.DataFrame(entries, columns=["user", "item", "score", "rank"])
        assert found["user"].tolist() == expected["user"].tolist()
        assert found["item"].tolist() == expected["item"].tolist()
        assert found["rank"].tolist() == expected["rank"].tolist()
        np.testing.assert_array_equal(found["score"].astype(np.float32), expected["score"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.json", "best.jsonl", "best.parquet"]


def test_recommend_prints_a_table(trained, capsys):
    _, checkpoint = trained("BPR")
    assert main(["recommend", str(checkpoint), "--users=once", "--k=2"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = rows[rows.index(["user", "item", "rank", "score"]) + 2 :]  # below what loading has to say
    assert [row[:2] for row in rows] == top_k(checkpoint, ["once"], k=2)[["user", "item"]].values.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.pth", "--users=all"], "checkpoint nothing.pth does not exist"),
        (["nothing.pth"], "recommend needs --users="),
        ([], "recommend needs a path, as in `recommend saved/NAME.pth --users=all`"),
        (["x.pth", "--users=a", "--k=0"], "k='0' must be a whole number"),
        (["x.pth", "--users=a", "--output=x.csv"], "its end chooses the format; use .json, .jsonl, .parquet"),
        (["x.pth", "--users=a", "--output=nowhere/x.json"], "output=nowhere/x.json: its folder does not exist"),
        (["x.pth", "y.pth"], "recommend takes one path and --key=value; it cannot use 'y.pth'"),
        (["x.pth", "--users=a", "--users=b"], "--users is given twice: 'a' and 'b'; keep one"),
        (["x.pth", "--users=a", "--exclude_history=no"], "exclude_history='no' must be True or False"),
    ],
)
def test_mistakes_on_the_command_line(arguments, message, capsys):
    assert main(["recommend", *arguments]) == 2
    assert message in capsys.readouterr().err


# --- item embeddings ---


def test_item_embeddings_are_the_rows_that_the_model_looks_up(trained):
    for case, names in {
        "SASRec": ["item_embedding"],
        "BERT4Rec+features": ["item_embedding", "output_bias"],
        "VBPR+features": ["item_content", "item_content_bias", "item_embedding", "item_bias"],
        "LightGCN": ["item_embedding", "restore_item_e"],
    }.items():
        loaded = recbole_sda.load(trained(case)[1])
        tokens, tables = recbole_sda.item_embeddings(loaded)
        assert tokens == item_tokens(loaded.dataset)
        assert list(tables) == names
        ids = torch.tensor([loaded.dataset.token2id("item_id", token) for token in tokens])
        with torch.no_grad():
            looked_up = getattr(loaded.model, names[0])(ids).numpy()
        np.testing.assert_allclose(tables[names[0]], looked_up, rtol=1e-5, atol=1e-6)
        assert all(len(table) == len(tokens) and table.ndim == 2 for table in tables.values())


def test_a_graph_models_propagated_rows_score(trained):
    loaded = recbole_sda.load(trained("LightGCN")[1])
    tokens, tables = recbole_sda.item_embeddings(loaded)
    best = top_k(loaded, ["once"], k=3)
    user = loaded.model.restore_user_e[loaded.dataset.token2id("user_id", "once")].numpy()
    rows = [tokens.index(item) for item in best["item"]]
    np.testing.assert_allclose(tables["restore_item_e"][rows] @ user, best["score"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("format", ["npy", "parquet", "safetensors"])
def test_export_of_a_checkpoint(format, trained, tmp_path, capsys):
    _, checkpoint = trained("BERT4Rec+features")
    there, back = tmp_path / "there", tmp_path / "back"
    assert main(["export", str(checkpoint), f"--output={there}", f"--format={format}"]) == 0
    assert "item_embedding, output_bias of " in capsys.readouterr().out
    assert main(["import", str(there), f"--output={back}", f"--format={format}"]) == 0
    store = FeatureStore.open(back, verify=True)
    tokens, tables = recbole_sda.item_embeddings(checkpoint)
    assert store.tokens == list(tokens) or store.tokens == tokens
    for name, values in tables.items():
        np.testing.assert_array_equal(store.values(name), values)


def test_a_model_without_an_item_table_has_none_to_export(work, tmp_path):
    keys = {**KEYS, "features": "none", "data_path": str(work / "data"), "checkpoint_dir": str(tmp_path)}
    config = SDAConfig("MultiDAE", "shop", config_dict={**keys, "train_neg_sample_args": None})
    recommend(config, None, label="ids")
    (checkpoint,) = tmp_path.glob("*.pth")
    with pytest.raises(SDAError, match="MultiDAE"):
        recbole_sda.item_embeddings(checkpoint)
