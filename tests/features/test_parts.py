"""Killed at any byte, an embedding goes on from a consistent state."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from recbole_sda.features.arrays import array_dtype
from recbole_sda.features.parts import Parts, write_part

PLAN = {"settings": "0123", "shard_items": 4, "units": 12}


def values_of(shard, dtype="float16"):
    return np.random.default_rng(shard).normal(size=(4, 3)).astype(array_dtype(dtype))


def begin(folder, shards=3):
    parts = Parts(folder, PLAN)
    for shard in range(shards):
        parts.record(parts.write(shard, values_of(shard)))
    return parts


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_shards_come_back_as_they_were(tmp_path, dtype):
    parts = Parts(tmp_path / "new" / "parts", PLAN)
    assert parts.finished() == set()
    for shard in (7, 0):
        entry = write_part(parts.folder, shard, values_of(shard, dtype))
        assert entry["shard"] == shard
        assert (entry["rows"], entry["width"]) == (4, 3)
        parts.record(entry)
    again = Parts(parts.folder, PLAN)
    assert again.finished() == {0, 7}
    for shard in (0, 7):
        found = again.read(shard)
        assert found.dtype == dtype
        assert isinstance(found, np.memmap)
        assert found.tobytes() == values_of(shard, dtype).tobytes()


def test_the_same_shards_are_the_same_bytes(tmp_path):
    begin(tmp_path / "first")
    parts = begin(tmp_path / "second", shards=1)
    for shard in (1, 2):
        parts.record(parts.write(shard, np.asfortranarray(values_of(shard))))
    assert files(tmp_path / "first") == files(tmp_path / "second")


def test_a_shard_counts_when_the_journal_says_so(tmp_path):
    parts = begin(tmp_path, shards=1)
    entry = parts.write(1, values_of(1))
    assert Parts(tmp_path, PLAN).finished() == {0}
    parts.record(entry)
    assert Parts(tmp_path, PLAN).finished() == {0, 1}


def test_a_journal_cut_at_any_byte_loses_one_shard_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a killed process loses nothing that it wrote
    begin(tmp_path)
    whole = files(tmp_path)
    journal = whole["journal.jsonl"]
    for length in range(len(journal) + 1):
        (tmp_path / "journal.jsonl").write_bytes(journal[:length])
        parts = Parts(tmp_path, PLAN)
        recorded = journal[:length].count(b"\n")
        assert parts.finished() == set(range(recorded))
        for shard in range(recorded, 3):
            parts.record(parts.write(shard, values_of(shard)))
        assert files(tmp_path) == whole


def test_a_shard_cut_at_any_byte_is_not_finished(tmp_path):
    parts = begin(tmp_path)
    path = tmp_path / "shard-000001.npy"
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert parts.finished() == {0, 2}
    path.unlink()
    assert parts.finished() == {0, 2}


@pytest.mark.parametrize("line", [b"\0" * 30, b"{}", b"[1, 2]", b"null", b'{"shard": "x", "bytes": 1}', b"\xff"])
def test_lines_that_are_no_entry_are_ignored(tmp_path, line):
    parts = begin(tmp_path)
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(line + b"\n" + journal.read_bytes())
    assert parts.finished() == {0, 1, 2}


def test_another_plan_begins_anew(tmp_path, caplog):
    begin(tmp_path)
    (tmp_path / "other").mkdir()
    other = {**PLAN, "units": 13}
    assert Parts(tmp_path, other).finished() == set()
    assert "begun anew" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {"plan.json", "journal.jsonl"}
    assert json.loads((tmp_path / "plan.json").read_text()) == other


@pytest.mark.parametrize("plan", [b"", b'{"units', None])
def test_a_plan_that_is_not_whole_begins_anew(tmp_path, plan):
    begin(tmp_path)
    (tmp_path / "plan.json").unlink()
    if plan is not None:
        (tmp_path / "plan.json").write_bytes(plan)
    assert Parts(tmp_path, PLAN).finished() == set()


WRITER = """
import sys
sys.path.insert(0, {tests!r})
from test_parts import PLAN, values_of
from recbole_sda.features.parts import Parts
parts = Parts({folder!r}, PLAN)
print("begun", flush=True)
for shard in sorted(set(range({shards})) - parts.finished()):
    parts.record(parts.write(shard, values_of(shard)))
"""


def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path):
    shards, folder, rng = 150, tmp_path / "killed", random.Random(0)
    begin(tmp_path / "whole", shards)
    code = WRITER.format(tests=os.path.dirname(__file__), folder=str(folder), shards=shards)
    done, kills = 0, 0
    while done < shards:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        process.stdout.readline()
        if kills < 4:
            time.sleep(rng.uniform(0, 0.2))
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
        before, done = done, len(Parts(folder, PLAN).finished())
        assert done >= before
        written = len(list(folder.glob("shard-*.npy")))
        assert done <= written <= done + 1
    assert files(folder) == files(tmp_path / "whole")
