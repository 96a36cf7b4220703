"""Every arm of a study with its configuration, and every cell: an arm with a seed, with the signal or without."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

from recbole_sda.artefacts import digest
from recbole_sda.catalog.demo_world import KEYS
from recbole_sda.config import SDAConfig, check_known
from recbole_sda.defaults import read_properties, read_yaml
from recbole_sda.errors import SDAError
from recbole_sda.prepare import DEMO
from recbole_sda.studies.definition import AXIS_VALUE, Definition

DATASETS_SEED = "demo_seed"
# Whose configuration loads a dataset when no recommender is measured.
CATALOGUE_MODEL = "BPR"


@dataclass(frozen=True)
class Arm:
    """One setting of a study.

    Attributes:
        name: as the study calls it.
        keys: of the configuration.
        x: its place on the study's axis; None without one.
        backbone: one of several; None where all arms have the configuration's.
        on: what the backbone is called in tables.
    """

    name: str
    keys: dict
    x: float | str | None = None
    backbone: str | None = None
    on: str | None = None

    @property
    def line(self) -> str:
        """Without its place on the axis."""
        return self.name if self.on is None else f"{self.name} on {self.on}"

    @property
    def label(self) -> str:
        return self.line if self.x is None else f"{self.line}, {self.x}"


@contextmanager
def naming(arm: Arm) -> Iterator[None]:
    """An error within says whose it is."""
    try:
        yield
    except SDAError as error:
        raise SDAError(f"arm {arm.label}: {error}") from error


class Cell(NamedTuple):
    """What is measured at once."""

    arm: Arm
    seed: int
    control: bool
    config: SDAConfig

    @property
    def named(self) -> str:
        return f"{self.arm.label}, seed {self.seed}{', control' if self.control else ''}"


def arms_of(definition: Definition, config: SDAConfig) -> list[Arm]:
    """The arms, at every value of the axis, on every backbone of the configuration's ``backbones``.

    Raises:
        SDAError: the axis is a key's values, and the key has none; two arms would be called the same.
    """
    values = axis_values(definition, config) or (None,)
    found = {}
    backbones = _short_names(config["backbones"] or ()) or {None: None}
    for (name, keys), (backbone, on), x in product(definition.arms.items(), backbones.items(), values):
        here = {} if backbone is None else {"backbone": backbone}
        arm = Arm(name, {**_at(keys, x), **here}, x, backbone, on)
        if arm.label in found:
            raise SDAError(f"study {definition.name}: two arms would be called {arm.label!r}; rename one of them")
        found[arm.label] = arm
    return list(found.values())


def _short_names(backbones: Sequence[str]) -> dict[str, str]:
    """Backbone → the last part of its path, or all of it where others end the same."""
    ends = Counter(Path(backbone).name for backbone in dict.fromkeys(backbones))
    return {each: Path(each).name if ends[Path(each).name] == 1 else each for each in backbones}


def backbones_own(arms: Sequence[tuple[Arm, SDAConfig]]) -> list[str]:
    """A line for the keys that differ beside the backbones, because each has defaults of its own."""
    of_backbone = {arm.on: config for arm, config in arms}  # of each the last arm, which is the same one
    said = {key for arm, _ in arms for key in arm.keys}
    differing = []
    for key in read_properties("overall").keys() - said:
        values = {on: config[key] for on, config in of_backbone.items()}
        if len({*map(repr, values.values())}) > 1:
            differing.append(f"{key} {', '.join(f'{value} on {on}' for on, value in values.items())}")
    if not differing:
        return []
    return [
        f"the backbones have defaults of their own: {'; '.join(sorted(differing))}; a key that is said, such as "
        "--align_steps=N, is the same for all"
    ]


def axis_values(definition: Definition, config: SDAConfig) -> tuple:
    """Of the axis; none without one."""
    axis = definition.axis
    if axis is None or axis.key is None:
        return axis.values if axis else ()
    if not config[axis.key]:
        raise SDAError(f"study {definition.name} takes its {axis.label}s from {axis.key}, which is empty; fill it")
    if not isinstance(config[axis.key], list | tuple):
        raise SDAError(
            f"study {definition.name}: axis: {axis.key}={config[axis.key]} is no list; name a key that holds one, "
            "or say values: […]"
        )
    return tuple(config[axis.key])


def _at(keys, x):
    """Keys with the axis's value where they say so."""
    if isinstance(keys, dict):
        return {key: _at(value, x) for key, value in keys.items()}
    return x if keys == AXIS_VALUE and x is not None else keys


class Configs:
    """Configurations of a study from what its file says and what the user says; the user's own keys win.

    Args:
        definition: the study.
        dataset, values, files, argv: as in :func:`recbole_sda.studies.study`.

    Raises:
        SDAError: the user sets what the study's arms are about, or any mistake in the keys.
    """

    def __init__(self, definition: Definition, dataset, values, files, argv):
        self.definition, self.argv = definition, list(argv)
        said = {key: value for file in files or () for key, value in read_yaml(file).items()} | (values or {})
        typed = [argument.removeprefix("--").partition("=")[0] for argument in self.argv]
        self._check_said({*said, *typed})
        self.has_model = "model" in {*definition.settings, *said, *typed}
        self.values = {"model": CATALOGUE_MODEL, **definition.settings, **said}
        if dataset is not None:
            self.values["dataset"] = dataset
        for key in typed:  # the command line's go over these
            self.values.pop(key, None)
        self.base = self._config({})
        check_known(definition.control, f"study {definition.name}: control: ")
        check_known(definition.seed_keys, f"study {definition.name}: seed_keys: ")
        for key in definition.needs:
            if not self.base.given(key):
                raise SDAError(f"study {definition.name} needs {key}; say --{key}=A,B")

    def of(self, arm: Arm) -> SDAConfig:
        with naming(arm):
            return self._config(arm.keys)

    def cells(self, arms: Sequence[tuple[Arm, SDAConfig]], seeds: Iterable[int], *, controls: bool) -> list[Cell]:
        """Seed by seed, so that what a killed study leaves is whole for some seeds."""
        states = (False, True) if controls else (False,)
        return [
            Cell(arm, seed, control, self._drawn(config, seed, control))
            for seed, control, (arm, config) in product(seeds, states, arms)
        ]

    def _config(self, keys: dict) -> SDAConfig:
        values = {**self.values, **keys}
        model, dataset = values.pop("model", None), values.pop("dataset", None)
        return SDAConfig(model, dataset, None, values, argv=self.argv)

    def _drawn(self, config: SDAConfig, seed: int, control: bool) -> SDAConfig:
        """This arm with this seed, in a world of its own on the demo."""
        on_demo = config["dataset"] == DEMO
        keys = {key: seed for key in self.definition.seed_keys if on_demo or key != DATASETS_SEED}
        keys |= self.definition.control if control else {}
        drawn = config.replace(**keys, seeds=None, result_file=None, study_workers=1)
        return drawn.replace(data_path=str(_world_folder(drawn))) if on_demo else drawn

    def _check_said(self, said: set[str]) -> None:
        definition = self.definition
        for key in ("seed", "compare", *definition.seed_keys):
            if key in said:
                remedy = "leave it out" if key == "compare" else "say --seeds=1,2,3"
                raise SDAError(f"study {definition.name} sets {key} itself; {remedy}")
        if "append" in said:
            raise SDAError(f"study {definition.name} makes its own features; leave append out")
        if "backbones" in said:
            self._check_no_other_backbone(said)
        for name, keys in [*definition.arms.items(), ("control", definition.control)]:
            if twice := said.intersection(keys):
                key = min(twice)
                raise SDAError(
                    f"study {definition.name}: {name} sets {key}={keys[key]}, and {key} was given too; leave it "
                    "out, or write a study of your own"
                )


    def _check_no_other_backbone(self, said: set[str]) -> None:
        """Beside ``backbones``, which stand in the tables and would not be what is measured."""
        own = [name for name, keys in self.definition.arms.items() if "backbone" in keys]
        if "backbone" in said or own:
            where = "backbone is given" if "backbone" in said else f"{own[0]} sets backbone"
            raise SDAError(f"study {self.definition.name}: {where}, and backbones, too; leave one of them out")


def _world_folder(config: SDAConfig) -> Path:
    """Where a world of the demo lies: two worlds at once must not take each other's place."""
    world = {key: config[key] for key in KEYS.values()}
    if "audio" in config["modalities"]:
        world["audio_signal"] = config["audio_signal"]
    return Path(config["data_path"]).parent / "worlds" / f"{config['demo_seed']}-{digest(world)}" / DEMO
