"""The classic baseline's features: alike texts lie close, and `--features` reads what is written."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from recbole_sda.features.sources import import_features, open_features

SCRIPT = Path(__file__).parent.parent / "dataset_scripts" / "tfidf_features.py"
TITLES = {
    "a": "red cotton shirt",
    "b": "red cotton shirt long",
    "c": "garden hose long",
    "d": "garden hose",
    "e": "",
    "f": "red garden",
}


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("tfidf_features", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_items(folder, titles):
    folder.mkdir()
    rows = "".join(f"{token}\t{title}\n" for token, title in titles.items())
    (folder / "shop.item").write_text(f"item_id:token\ttitle:token_seq\n{rows}")
    return folder


def test_alike_texts_lie_close_and_an_item_without_text_has_no_row(script, tmp_path, capsys):
    dataset = write_items(tmp_path / "shop", TITLES)
    assert script.main([str(dataset), "--dimension", "3"]) == 0
    assert "5 items × 3; 1 items without text got no row" in capsys.readouterr().out
    stored = open_features(import_features(str(dataset / "tfidf.npy"), tmp_path / "saved"))["tfidf"]
    store = stored.store
    assert list(store.tokens) == ["a", "b", "c", "d", "f"]
    rows = store.get("tfidf", ["a", "b", "c", "d"])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ rows.T
    assert cosines[0, 1] > 0.7 > cosines[0, 3]
    assert cosines[2, 3] > 0.7 > cosines[1, 2]


@pytest.mark.parametrize(
    ("titles", "message"),
    [({"a": "red", "b": "blue"}, "share no words"), ({"a": "red", "b": "red"}, "too few for features")],
)
def test_texts_that_give_no_features(titles, message, script, tmp_path, capsys):
    assert script.main([str(write_items(tmp_path / "shop", titles))]) == 1
    assert message in capsys.readouterr().err


def test_a_folder_without_items(script, tmp_path, capsys):
    assert script.main([str(tmp_path)]) == 1
    assert "does not exist; give the folder of a dataset" in capsys.readouterr().err
