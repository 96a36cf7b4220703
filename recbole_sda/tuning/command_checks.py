"""What has no place in a sweep or its space, and why."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from recbole_sda.config import SDAConfig, check_known
from recbole_sda.errors import SDAError
from recbole_sda.tuning.space import Entry

# Read by the command, not by its trials.
OF_THE_SWEEP = ("space", "tune_*", "cpus", "gpus", "resume", "ray_address")
INCOMPARABLE = "the scores of its trials could not be compared; leave it out and run a sweep for each"
# What may not be in a space → why.
NOT_SWEPT = {
    "compare seeds": "say which by putting seed, features, adapter or alignment into the space",
    "metrics topk valid_metric* eval_args protocol* history_mask repeatable": INCOMPARABLE,
    "dataset data_path load_col *_signal demo_* cold_share *_num_interval val_interval": INCOMPARABLE,
    "checkpoint_dir result_file gpu_id use_gpu nproc *_workers study_* backbones": "it says how a command runs",
    " ".join(OF_THE_SWEEP): "it says how the sweep runs",
}
REFUSED = {
    "compare": "put features, adapter or alignment into the space, for example `adapter: {choice: [moda, lora]}`",
    "seeds": "put seed into the space, for example `seed: {choice: [1, 2, 3]}`",
    "result_file": "results.json lies in the sweep's folder, which the last lines name; leave it out",
}
PROCESSES = ("nproc", "align_workers", "embed_workers")


def of_the_sweep(key: str) -> bool:
    """Whether the command reads the key, and its trials do not."""
    return any(fnmatchcase(key, pattern) for pattern in OF_THE_SWEEP)


def check_space(space: Mapping[str, Entry], said: Mapping) -> None:
    """Raises: SDAError: a key that is unknown, cannot be swept, or is among what was said beside the space."""
    check_known(space, "space: ")
    for key in space:
        for patterns, why in NOT_SWEPT.items():
            if any(fnmatchcase(key, pattern) for pattern in patterns.split()):
                raise SDAError(f"space: {key} cannot be swept: {why}")
        if key in said:
            raise SDAError(f"{key} is in the space, and {key}={said[key]} was given too; leave one of them out")


def check_command(config: SDAConfig) -> None:
    """Raises: SDAError: a key of other commands, or of a training in several processes."""
    for key, remedy in REFUSED.items():
        if config[key]:
            raise SDAError(f"{key}={config[key]} has no place in a sweep; {remedy}")
    for key in PROCESSES:
        if config[key] > 1:
            raise SDAError(
                f"{key}={config[key]}: in a sweep trials run side by side, each in one process; leave {key} at 1, "
                "and say --tune_concurrent and --cpus"
            )


def check_metric(configs: Sequence[SDAConfig]) -> None:
    """Raises: SDAError: models that choose their best epochs by different metrics."""
    metrics = {config["model"]: config["valid_metric"] for config in configs}
    if len({metric.lower() for metric in metrics.values()}) > 1:
        listed = ", ".join(f"{metric} of {model}" for model, metric in metrics.items())
        raise SDAError(
            f"valid_metric differs: {listed}, and a sweep has one score; say --valid_metric=NDCG@10 with its "
            "metrics, or run a sweep for each model"
        )
