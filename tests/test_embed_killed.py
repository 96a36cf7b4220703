"""The command line's `embed`, killed by the operating system again and again, against one that was left alone."""

import random
import signal
import subprocess
import sys
import time

import pytest

KILLS = 20
COMMAND = [
    sys.executable, "-m", "recbole_sda.cli", "embed", "--dataset=demo", "--demo_items=400", "--demo_users=80",
    "--adapter=none", "--embed_shard_items=8", "--embed_batch_tokens=512", "--read_workers=1",
]  # fmt: skip


def files(folder) -> dict[str, bytes]:
    (store,) = [path for path in folder.glob("saved/features/*") if path.is_dir()]
    return {path.name: path.read_bytes() for path in store.iterdir()}


def finished(folder) -> int:
    journals = folder.glob("saved/features/*/parts/*/journal.jsonl")
    return sum(journal.read_bytes().count(b"\n") for journal in journals)


def killed(folder, moment: float, *, after_a_shard: bool) -> bool:
    """``moment`` seconds after the start, or after the next shard; False when it came to its end instead."""
    before = finished(folder)
    process = subprocess.Popen(COMMAND, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        while after_a_shard and process.poll() is None and finished(folder) <= before:
            time.sleep(0.002)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_killed_twenty_times_ends_with_the_bytes_of_a_run_left_alone(tmp_path):
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
    moments = random.Random(4)
    kills, done = 0, []
    for kill in range(KILLS):
        after_a_shard = kill % 2 == 0  # else mostly while it starts
        moment = moments.uniform(0, 0.05 if after_a_shard else 2.5)
        kills += killed(tmp_path / "killed", moment, after_a_shard=after_a_shard)
        done.append(finished(tmp_path / "killed"))
    assert done == sorted(done)  # what one life finished, the next ones keep
    assert done[-1] >= KILLS / 2
    assert kills == KILLS
    for name in ("killed", "alone"):
        completed = subprocess.run(COMMAND, cwd=tmp_path / name, capture_output=True, text=True)
        assert completed.returncode == 0, completed.stderr
    assert files(tmp_path / "killed") == files(tmp_path / "alone")
