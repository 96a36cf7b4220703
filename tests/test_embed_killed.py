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


def killed_a_moment_after_a_shard(folder, moment: float) -> bool:
    """False when the command came to its end instead."""
    before = finished(folder)
    process = subprocess.Popen(COMMAND, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        while process.poll() is None and finished(folder) <= before:
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
    while kills < KILLS:
        assert killed_a_moment_after_a_shard(tmp_path / "killed", moments.uniform(0, 0.03))
        kills += 1
        done.append(finished(tmp_path / "killed"))
    assert done == sorted(done)  # what one life finished, the next ones keep
    assert done[-1] >= KILLS
    for name in ("killed", "alone"):
        completed = subprocess.run(COMMAND, cwd=tmp_path / name, capture_output=True, text=True)
        assert completed.returncode == 0, completed.stderr
    assert files(tmp_path / "killed") == files(tmp_path / "alone")
