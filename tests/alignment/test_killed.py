"""The command line's `adapt`, killed by the operating system again and again, against one that was left alone."""

import signal
import subprocess
import sys
import time

import pytest

from recbole_sda.alignment.checkpoint import FILE

KILLS = 5
COMMAND = [
    sys.executable, "-m", "recbole_sda.cli", "adapt", "--dataset=demo", "--demo_items=60", "--demo_users=80",
    "--max_pixels=3136", "--align_batch_size=24", "--align_micro_batch=10", "--align_steps=40",
    "--align_eval_every=10", "--align_checkpoint_every=1", "--align_holdout_share=0.3",
]  # fmt: skip


def adapter_bytes(folder):
    (finished,) = folder.glob("saved/adapters/*/adapter_model.safetensors")
    return finished.read_bytes()


def killed_after_a_checkpoint(folder) -> bool:
    """Starts the command, kills it when a new checkpoint appears. False when it came to its end instead."""

    def checkpoints():
        return {p: p.stat().st_mtime_ns for p in folder.glob(f"saved/adapters/*.unfinished/{FILE}")}

    before = checkpoints()
    process = subprocess.Popen(COMMAND, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        while process.poll() is None:
            if checkpoints() != before:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
    finally:
        process.kill()
        process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_killed_five_times_ends_with_the_bytes_of_a_run_left_alone(tmp_path):
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
    kills = sum(killed_after_a_checkpoint(tmp_path / "killed") for _ in range(KILLS))
    assert kills == KILLS
    for name in ("killed", "alone"):
        done = subprocess.run(COMMAND, cwd=tmp_path / name, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert ("going on after step" in done.stdout) == (name == "killed")
    assert adapter_bytes(tmp_path / "killed") == adapter_bytes(tmp_path / "alone")
