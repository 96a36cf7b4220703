"""Every family of backbones through stages 1 and 2, from random weights. As a script it prints a table:

    python tests/test_families_run.py
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from encoders.families import FAMILIES
from tabulate import tabulate
from test_stages import PlainConfig

from recbole_sda.artefacts import read_manifest
from recbole_sda.catalog import Catalog, item_tokens, write_demo
from recbole_sda.encoders import read_family
from recbole_sda.features import FeatureStore
from recbole_sda.stages import EncoderStages

SOURCE = {"revision": None, "local_files_only": True, "trust_remote_code": False}
ITEMS = 40


def open_heard(folder: Path) -> Catalog:
    """A demo that is seen, read and heard."""
    write_demo(folder, items=ITEMS, users=20, audio=True)
    return lambda kinds: Catalog.open(
        folder, item_tokens(folder / "demo.item"), modalities=sorted(kinds), show_progress=False
    )


def run(name: str, folder: Path, open_catalog, **values) -> dict:
    """Adapt and embed; what there is to tell."""
    backbone = FAMILIES[name](folder / name)
    family = read_family(str(backbone), **SOURCE)
    catalog = open_catalog(family.kinds)
    config = PlainConfig(
        **{
            "backbone": str(backbone), "modalities": list(catalog.kinds), "checkpoint_dir": str(folder / "saved"),
            "align_steps": 2, "align_batch_size": 8, "align_learning_rate": 0.01, "read_workers": 0,
            "align_micro_batch": 8, "feature_dtype": "float32", "align_trackers": [], **values,
        }
    )  # fmt: skip
    began = time.monotonic()
    stages = EncoderStages(config, catalog)
    stages.check()
    adapter = read_manifest(stages.adapt())
    store = FeatureStore.open(stages.embed(), verify=True)
    plain = PlainConfig(**{**config.final_config_dict, "adapter": "none"})
    return {
        "family": name,
        "kinds": catalog.kinds,
        "adapter": adapter,
        "store": store,
        "zero_shot": FeatureStore.open(EncoderStages(plain, catalog).embed()),
        "seconds": time.monotonic() - began,
    }


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    pytest.importorskip("soundfile")
    return open_heard(tmp_path_factory.mktemp("heard") / "demo")


@pytest.mark.parametrize("name", FAMILIES)
def test_adapt_and_embed(name, heard, tmp_path):
    told = run(name, tmp_path, heard, align_steps=4, align_eval_every=2)
    store, zero_shot, looks = told["store"], told["zero_shot"], told["adapter"]["held_out"]
    untrained = max(looks, key=lambda look: look["mrr"])["step"] == 0  # the best adapter is the new one
    assert set(store.modalities) == set(told["kinds"])
    assert looks[-1]["step"] == 4
    assert told["adapter"]["trainable_parameters"] > 0
    for modality in store.modalities:
        present = store.present(modality)
        assert present.sum() == ITEMS - 1  # the demo's share of missing ones
        values = np.asarray(store.values(modality))[present]
        assert np.isfinite(values).all()
        assert len(np.unique(values.round(4), axis=0)) > 0.5 * len(values)
        same = np.allclose(values, np.asarray(zero_shot.values(modality))[present], rtol=1e-4, atol=1e-4)
        assert same == untrained


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        open_catalog = open_heard(Path(folder) / "demo")
        for name in FAMILIES:
            told = run(name, Path(folder), open_catalog, align_steps=20, align_eval_every=5)
            looks = told["adapter"]["held_out"]
            rows.append(
                [
                    name,
                    ", ".join(told["store"].modalities),
                    told["adapter"]["adapted_layers"],
                    f"{told['adapter']['trainable_parameters']:,}",
                    told["store"].width(told["store"].modalities[0]),
                    f"{looks[0]['mrr']:.3f}",
                    f"{max(look['mrr'] for look in looks):.3f}",
                    f"{told['seconds']:.0f}",
                ]
            )
    header = ["family", "modalities", "adapted\nlayers", "trained\nparameters", "width"]
    print(tabulate(rows, [*header, "held-out\nmrr before", "at the\nbest step", "s"], disable_numparse=True))


if __name__ == "__main__":
    sys.exit(main())
