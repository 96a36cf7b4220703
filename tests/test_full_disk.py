"""On a disk that is really full every way of writing ends in one line; none in a traceback or a bus error."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recbole_sda.errors import SDAError
from recbole_sda.features.arrays import create_array, open_array
from recbole_sda.full_disk import full_disk_refused, is_full_disk

MIB = 2**20
WRITING = f"""
import json, sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from recbole_sda.artefacts import written_whole
from recbole_sda.features.arrays import create_array, write_atomically
from recbole_sda.full_disk import full_disk_line, is_full_disk
from recbole_sda.resume import write_state
from recbole_sda.result_files import write_result

disk = Path(sys.argv[1])
values = np.random.default_rng(0).random({4 * MIB // 8})


def map_array(file):
    create_array(file, dtype=np.float64, shape=values.shape)[:] = values


def write_text(file):
    with written_whole(file) as unfinished:
        unfinished.write_text("x" * {4 * MIB})


ways = {{
    "torch": lambda file: write_state(file, {{"values": torch.from_numpy(values)}}),
    "safetensors": lambda file: save_file({{"values": torch.from_numpy(values)}}, file),
    "mapped": map_array,
    "npy": lambda file: write_atomically(file, values.data),
    "parquet": lambda file: pd.DataFrame({{"values": values}}).to_parquet(file),
    "text": write_text,
}}
found = {{}}
for name, write in ways.items():
    for left in disk.iterdir():
        left.unlink()
    try:
        write(disk / name)
        found[name] = "written"
    except Exception as error:
        found[name] = full_disk_line(error, "go on") if is_full_disk(error) else repr(error)
print(json.dumps(found))
"""


def on_a_small_disk(folder, size, command):
    """Run it where ``folder`` is a disk of its own, in a namespace that goes with it."""
    script = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'
    return subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(size), str(folder), *command],
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    if not shutil.which("unshare") or on_a_small_disk(folder, MIB, ["true"]).returncode:
        pytest.skip("this system lets no test mount a small disk")
    return folder


def test_every_way_of_writing_says_that_the_disk_is_full(small_disk):
    done = on_a_small_disk(small_disk, 2 * MIB, [sys.executable, "-c", WRITING, str(small_disk)])
    assert done.returncode == 0, (done.returncode, done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {"torch", "safetensors", "mapped", "npy", "parquet", "text"}
    for way, said in found.items():
        assert said.startswith("the disk is full: "), (way, said)
        assert said.endswith("--output), and go on"), (way, said)


@pytest.mark.slow
@pytest.mark.parametrize("kibibytes", [300, 1000, 1900])
def test_a_run_on_a_full_disk_ends_in_one_line(small_disk, tmp_path, kibibytes):
    """At these sizes the features, the adapter's steps or the recommender's checkpoint have no room."""
    command = Path(__file__).parents[1] / "run_recbole_sda.py"
    keys = {"demo_items": 40, "demo_users": 30, "align_steps": 3, "epochs": 2, "data_path": tmp_path / "dataset"}
    keys |= {"checkpoint_dir": small_disk, "model": "SASRec", "dataset": "demo", "state": "ERROR"}
    arguments = [f"--{key}={value}" for key, value in keys.items()]
    done = on_a_small_disk(small_disk, 1024 * kibibytes, [sys.executable, str(command), *arguments])
    assert done.returncode == 2, done.stderr[-2000:]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("recbole_sda: the disk is full: "), last
    assert "Traceback" not in done.stderr


def test_a_file_system_that_reserves_no_room_still_holds_arrays(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    create_array(tmp_path / "a.npy", dtype=np.float32, shape=(3, 2))[:] = 1
    assert open_array(tmp_path / "a.npy").sum() == 6


def test_other_errors_pass():
    with pytest.raises(ValueError, match="other"), full_disk_refused("go on"):
        raise ValueError("other")
    assert not is_full_disk(OSError(13, "Permission denied"))


def test_a_mistake_in_the_input_stays_what_it_is():
    told = SDAError("the key")
    told.__cause__ = OSError(28, "No space left on device")
    with pytest.raises(SDAError, match="the key"), full_disk_refused("go on"):
        raise told
