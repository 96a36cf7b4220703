"""What a `tune` command says: its space, how it is searched, with what, and the runs that the trials are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from recbole_sda.config import SDAConfig, find_model
from recbole_sda.errors import SDAError
from recbole_sda.model.registry import Registration, check_importable, make_known, registration
from recbole_sda.plans import check_names, check_read, incomparable, named_models
from recbole_sda.tuning.command_checks import check_command, check_metric, check_space, of_the_sweep
from recbole_sda.tuning.space import Choice, Entry, read_space

CATALOGUE_MODEL = "BPR"  # whose configuration reads the space where that names the models


@dataclass(frozen=True)
class Command:
    """The runs, but for what is swept. It goes to the workers.

    Attributes:
        files, values, argv: as of :class:`SDAConfig`, without the models.
        folder: to which relative paths belong.
        registered: the models that workers would not find by their names.
    """

    dataset: str | None
    files: tuple[str, ...]
    values: dict
    argv: tuple[str, ...]
    folder: str
    registered: tuple[Registration, ...]

    def configure(self, model: str, values: Mapping) -> SDAConfig:
        """Raises: SDAError: the values are wrong, or contradict the rest."""
        for registered in self.registered:
            make_known(registered)
        given = {**self.values, **values}
        return SDAConfig(model, self.dataset, self.files, given, argv=self.argv, one_of_several=True)


@dataclass(frozen=True)
class Settings:
    """Attributes: as the keys ``tune_*``, ``cpus``, … say; ``models`` as they were named; ``gpus`` is a number and
    ``search`` is settled; ``notes``: why figures of these models cannot be compared."""

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
    notes: tuple[str, ...]

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

    def configure(name: str, *, one_of_several: bool = True) -> SDAConfig:
        return SDAConfig(name, dataset, files, values, argv=argv, one_of_several=one_of_several)

    base = configure(names[0] or CATALOGUE_MODEL)
    space = _read_space(base)
    models = _models(names, space)
    check_space(space, said={**values, **base.cmd_config_dict})
    check_command(base)
    command = Command(
        dataset=dataset,
        files=tuple(files or ()),
        values={key: value for key, value in values.items() if not _of_the_process(key)},
        argv=tuple(a for a in argv if not _of_the_process(a.removeprefix("--").partition("=")[0])),
        folder=str(Path.cwd()),
        registered=tuple(filter(None, map(registration, models))),
    )
    configs = [configure(name, one_of_several=len(models) > 1) for name in models]
    check_read(configs)
    check_metric(configs)
    return command, _settings(models, space, configs), configs[0]


def class_name(model: str) -> str:
    """``Class`` of ``package.module:Class``, which a Trial's model and the settings' ones may be."""
    return model.rpartition(":")[2]


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
        check_names(names)
    for name in names:
        find_model(name)
        check_importable(name)
    return tuple(names)


def _settings(models: tuple[str, ...], space: dict[str, Entry], configs: Sequence[SDAConfig]) -> Settings:
    config = configs[0]
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
        notes=tuple(incomparable(configs)),
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
