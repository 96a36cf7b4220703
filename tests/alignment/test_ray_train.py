"""Stage 1 under Ray Train, two workers on this machine's CPU."""

import json
import os
import signal
import sys
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recbole_sda import ray_workers
from recbole_sda.alignment import trainer
from recbole_sda.alignment.checkpoint import FILE
from recbole_sda.defaults import properties_folder, read_yaml
from recbole_sda.errors import SDAError
from recbole_sda.ray_workers import run_in_workers
from recbole_sda.stages import EncoderStages

SETTINGS = {
    "seed": 2020, "device": "cpu", "backbone": "tiny", "max_pixels": 3136, "lora_dropout": 0.0, "align_steps": 6,
    "align_batch_size": 9, "align_eval_every": 2, "align_checkpoint_every": 2, "align_learning_rate": 0.01,
    "align_holdout_share": 0.3,
}  # fmt: skip


def stages(catalog, folder, **values):
    config = {**read_yaml(properties_folder() / "overall.yaml"), **SETTINGS, **values}
    return EncoderStages({**config, "checkpoint_dir": str(folder)}, catalog)


class DiesOnce(EncoderStages):
    """A worker is killed, as by a machine that goes away, after the fourth step; what starts again lives."""

    def train_adapter_here(self, folder, device=None, **keys):
        step = trainer._Training._step

        def dying(training):
            shown = step(training)
            if training.progress.step == 4 and training.processes.index == 1 and not (folder / "died").exists():
                (folder / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return shown

        trainer._Training._step = dying
        super().train_adapter_here(folder, device, **keys)


@pytest.mark.slow
def test_two_workers_train_what_one_process_trains(catalog, tmp_path, ray_cluster):
    """One of the workers is killed on the way; both start again from the checkpoint."""
    alone = stages(catalog, tmp_path / "alone").adapt()
    plain = stages(catalog, tmp_path / "ray", align_workers=2)
    together = DiesOnce(plain.config, catalog).adapt()
    assert (together / "died").is_file()
    assert together.name == alone.name  # how many workers there are makes no other adapter
    expected, found = (load_file(folder / "adapter_model.safetensors") for folder in (alone, together))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-3, atol=2e-4)
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (alone, together)]
    assert manifests[1]["machine"]["workers"] == 2
    losses = [[record["loss"] for record in manifest["held_out"][1:]] for manifest in manifests]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    assert not (together / FILE).exists()


def spoiled(tries, device):
    with tries.open("a") as file:
        file.write("one")
    raise SDAError(f"key=1 on {device.type}; say key=2")


@pytest.mark.slow
def test_an_error_in_a_worker_is_the_callers_and_work_is_not_done_again(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_workers, "MAX_FAILURES", 1)
    work = partial(spoiled, tmp_path / "tries.txt")
    with pytest.raises(SDAError, match=r"^key=1 on cpu; say key=2$"):
        run_in_workers(work, key="align_workers", workers=1, use_gpu=False, name="spoiled", storage=tmp_path)
    assert (tmp_path / "tries.txt").read_text() == "one"
    with pytest.raises(SDAError, match=r"align_workers=99 takes a CPU each, and Ray has 4; lower align_workers"):
        run_in_workers(work, key="align_workers", workers=99, use_gpu=False, name="crowd", storage=tmp_path)


def test_without_ray_the_error_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SDAError, match=r"align_workers=3 needs Ray .*pip install 'recbole_sda\[tune\]'"):
        run_in_workers(print, key="align_workers", workers=3, use_gpu=False, name="x", storage=tmp_path)
