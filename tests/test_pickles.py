"""No file in ``checkpoint_dir`` can run code through RecBole's own way to save datasets and loaders."""

import pickle
from pathlib import Path

import pytest
from recbole.data import create_dataset, data_preparation

from recbole_sda.catalog.demo import write_demo
from recbole_sda.config import SDAConfig
from recbole_sda.errors import SDAError
from recbole_sda.recommend import load_dataset


@pytest.fixture
def configure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_demo(tmp_path / "dataset" / "demo", items=20, users=20)
    split = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}

    def build(model, **values):
        columns = {"inter": ["user_id", "item_id", "timestamp"]}
        fixed = {"data_path": "dataset", "use_gpu": False, "eval_args": split, "load_col": columns}
        return SDAConfig(model, "demo", config_dict={**fixed, **values})

    return build


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("BPR", "demo-Dataset.pth"),
        ("SASRec", "demo-SequentialDataset.pth"),
        ("BPR", "demo-for-BPR-dataloader.pth"),
    ],
)
def test_a_pickle_that_recbole_would_read_is_refused_and_not_read(configure, model, file):
    config = configure(model)
    folder = Path("saved")
    folder.mkdir()
    (folder / file).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(SDAError, match=f"{file}.*may run any code; remove it"):
        load_dataset(config)
    assert not Path("exploded").exists()
    with pytest.raises((AttributeError, TypeError)):  # RecBole itself does read the file, before it stumbles
        data_preparation(config, create_dataset(config))
    assert Path("exploded").exists()


@pytest.mark.parametrize("key", ["save_dataset", "save_dataloaders"])
def test_nothing_is_pickled(configure, key):
    with pytest.raises(SDAError, match=f"{key}=True.*leave it out"):
        load_dataset(configure("BPR", **{key: True}))
