"""What a figure depends on besides the data: what was configured, which versions ran, on which machine."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version

import psutil
import torch

from recbole_sda.trainer import plain

LIBRARIES = ("recbole_sda", "recbole", "torch", "transformers", "peft", "numpy", "scipy")
# Named elsewhere in a result, or of this disk alone.
LEFT_OUT = {"model", "dataset", "seed", "seeds", "result_file", "compare", "data_path", "checkpoint_dir"}


def run_record(configs: Sequence) -> dict:
    """``config``: model → what the user said; ``versions``; ``hardware``; all of it plain values."""
    return {
        "config": {config["model"]: plain(_said(config)) for config in configs},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "hardware": _hardware(configs[0]["device"]),
    }


def _said(config) -> dict:
    said = config.external_config_dict
    return {key: config[key] for key in sorted(said) if key not in LEFT_OUT and config[key] is not None}


def _hardware(device: torch.device) -> dict:
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    memory = round(psutil.virtual_memory().total / 2**30)
    return {"device": gpu or "cpu", "processors": os.cpu_count(), "memory_gib": memory}
