"""A small shop and the keys of short trainings on it."""

import yaml

from recbole_sda.tuning.planning import Planned, plan
from recbole_sda.tuning.settings import Settings, read_command
from recbole_sda.tuning.trial import Job

KEYS = {
    "space": "space.yaml",
    "demo_items": 40,
    "demo_users": 50,
    "align_steps": 2,
    "align_batch_size": 16,
    "epochs": 3,
    "stopping_step": 3,
    "metrics": ["Hit", "NDCG"],
    "use_gpu": False,
}


def write_space(space: dict) -> None:
    """A key → its choices."""
    with open("space.yaml", "w") as file:
        yaml.safe_dump({key: {"choice": values} for key, values in space.items()}, file, sort_keys=False)


def planned_sweep(space: dict, model="BPR", **values) -> tuple[Job, Settings, Planned, object]:
    write_space(space)
    command, settings, base = read_command(model, "demo", {**KEYS, **values}, None, ())
    job = Job(command, "sweep", settings.cpus, settings.gpus, settings.metric, settings.bigger)
    return job, settings, plan(command, settings), base
