"""What a `tune` command says: its space, how it is searched, with what, and the runs that the trials are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

import torch

from recbole_sda.config import SDAConfig, check_known, find_model
from recbole_sda.errors import SDAError
from recbole_sda.plans import named_models
from recbole_sda.tuning.space import Choice, Entry, read_space

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
CATALOGUE_MODEL = "BPR"  # whose configuration reads the space where that names the models
PROCESSES = ("nproc", "align_workers", "embed_workers")


@dataclass(frozen=True)
class Command:
    """The runs, but for what is swept. It goes to the workers.

    Attributes:
        files, values, argv: as of :class:`SDAConfig`, without the models.
        folder: to which relative paths belong.
    """

    dataset: str | None
    files: tuple[str, ...]
    values: dict
    argv: tuple[str, ...]
    folder: str

    def configure(self, model: str, values: Mapping) -> SDAConfig:
        """Raises: SDAError: the values are wrong, or contradict the rest."""
        given = {**self.values, **values}
        return SDAConfig(model, self.dataset, self.files, given, argv=self.argv, one_of_several=True)


@dataclass(frozen=True)
class Settings:
    """Attributes: as the keys ``tune_*``, ``cpus``, … say; ``models`` as they were named; ``gpus`` is a number and
    ``search`` is settled."""

    models: tuple[str, ...]
    space: dict[str, Entry]
    search: str
    samples: int
    scheduler: str
    grace_period: int
    reduction_factor: int
    concurrent: int | None
    cpus: int
    gpus: float
    resume: bool
    ray_address: str | None
    metric: str
    bigger: bool
    seed: int

    @property
    def mode(self) -> str:
        return "max" if self.bigger else "min"


def read_command(
    model: str | None,
    dataset: str | None,
    values: dict | None,
    files: Sequence[str] | None,
    argv: Sequence[str],
) -> tuple[Command, Settings, SDAConfig]:
    """The command, how its sweep goes, and the configuration of its first model before anything is swept.

    Raises:
        SDAError: a mistake in any of it, but for the values of the space.
    """
    values = dict(values or {})
    names = named_models(model, files, values, argv)
    values.pop("model", None)
    argv = [argument for argument in argv if not argument.startswith("--model=")]

    def configure(name: str) -> SDAConfig:
        return SDAConfig(name, dataset, files, values, argv=argv, one_of_several=True)

    base = configure(names[0] or CATALOGUE_MODEL)
    space = _read_space(base)
    models = _models(names, space)
    _check_space(space, said={**values, **base.cmd_config_dict})
    _check_command(base)
    command = Command(
        dataset=dataset,
        files=tuple(files or ()),
        values={key: value for key, value in values.items() if not _of_the_process(key)},
        argv=tuple(a for a in argv if not _of_the_process(a.removeprefix("--").partition("=")[0])),
        folder=str(Path.cwd()),
    )
    base = configure(models[0])
    return command, _settings(models, space, base), base


def class_name(model: str) -> str:
    """``Class`` of ``package.module:Class``, which a Trial's model and the settings' ones may be."""
    return model.rpartition(":")[2]


def of_the_sweep(key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in OF_THE_SWEEP)


def _of_the_process(key: str) -> bool:
    """Of the command's own: a trial's GPUs are those that Ray gives it."""
    return key == "gpu_id" or of_the_sweep(key)


def _read_space(config: SDAConfig) -> dict[str, Entry]:
    if config["space"] is None:
        raise SDAError("space is not given; say for example --space=properties/tune/tau_experts.yaml")
    return read_space(config["space"])


def _models(names: list[str], space: dict[str, Entry]) -> tuple[str, ...]:
    """Those of ``--model``, or of the space, which no longer holds them then."""
    swept = space.pop("model", None)
    if swept is None:
        if not names[0]:
            raise SDAError("model is not given; say --model=NAME or --model=A,B, for example --model=SASRec")
    elif names[0]:
        raise SDAError(f"model is in the space, and model={','.join(names)} was given too; leave one of them out")
    elif not isinstance(swept, Choice):
        raise SDAError("space: model takes a choice of names, for example `model: {choice: [SASRec, VBPR]}`")
    else:
        names = [str(name) for name in swept.values]
    for name in names:
        find_model(name)
    return tuple(names)


def _check_space(space: Mapping[str, Entry], said: Mapping) -> None:
    check_known(space, "space: ")
    for key in space:
        for patterns, why in NOT_SWEPT.items():
            if any(fnmatchcase(key, pattern) for pattern in patterns.split()):
                raise SDAError(f"space: {key} cannot be swept: {why}")
        if key in said:
            raise SDAError(f"{key} is in the space, and {key}={said[key]} was given too; leave one of them out")


def _check_command(config: SDAConfig) -> None:
    for key, remedy in REFUSED.items():
        if config[key]:
            raise SDAError(f"{key}={config[key]} has no place in a sweep; {remedy}")
    for key in PROCESSES:
        if config[key] > 1:
            raise SDAError(
                f"{key}={config[key]}: in a sweep trials run side by side, each in one process; leave {key} at 1, "
                "and say --tune_concurrent and --cpus"
            )


def _settings(models: tuple[str, ...], space: dict[str, Entry], config: SDAConfig) -> Settings:
    gpus = config["gpus"]
    if gpus is None:
        gpus = 1.0 if torch.device(config["device"]).type == "cuda" else 0.0
    names = ("samples", "scheduler", "grace_period", "reduction_factor", "concurrent")
    return Settings(
        models=models,
        space=space,
        search=_search(config["tune_search"], space),
        gpus=gpus,
        **{name: config[f"tune_{name}"] for name in names},
        **{name: config[name] for name in ("cpus", "resume", "ray_address", "seed")},
        metric=config["valid_metric"].lower(),
        bigger=config["valid_metric_bigger"],
    )


def _search(asked: str, space: Mapping[str, Entry]) -> str:
    ranges = [key for key, entry in space.items() if not isinstance(entry, Choice)]
    if asked == "auto":
        return "random" if ranges else "grid"
    if asked == "grid" and ranges:
        raise SDAError(
            f"tune_search=grid tries every value, and {', '.join(ranges)} has no end of them; make it a choice, "
            "or say --tune_search=random"
        )
    if asked == "optuna" and find_spec("optuna") is None:
        raise SDAError("tune_search=optuna needs Optuna; pip install optuna, or say --tune_search=random")
    return asked
