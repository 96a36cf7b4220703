"""What a sweep may try: each key with its values, from YAML or from a params file of RecBole's."""

import math
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recbole_sda.defaults import read_yaml
from recbole_sda.errors import SDAError
from recbole_sda.tuning.params_file import is_params_file, read_params_file

DIGITS = 6  # that a drawn number keeps
EXAMPLE = "such as `align_temperature: {choice: [0.05, 0.1]}`"


class Choice(NamedTuple):
    values: tuple

    @property
    def corners(self) -> tuple:
        """Values that have to be valid for all to be."""
        return self.values

    def draw(self, generator: np.random.Generator):
        return self.values[generator.integers(len(self.values))]

    def domain(self):
        """Ray's, of what :meth:`value` reads. A list among the values is nothing that Optuna could hold."""
        from ray import tune

        return tune.choice(list(range(len(self.values))))

    def value(self, suggested: int):
        return self.values[suggested]


class Uniform(NamedTuple):
    low: float
    high: float

    @property
    def corners(self) -> tuple:
        return (float(self.low), float(self.high))  # as all between them, whatever the file says

    def draw(self, generator: np.random.Generator) -> float:
        return self.value(generator.uniform(self.low, self.high))

    def domain(self):
        from ray import tune

        return tune.uniform(self.low, self.high)

    def value(self, suggested: float) -> float:
        return float(f"{suggested:.{DIGITS}g}")


class LogUniform(Uniform):
    """Uniform in the logarithm."""

    def draw(self, generator: np.random.Generator) -> float:
        return self.value(math.exp(generator.uniform(math.log(self.low), math.log(self.high))))

    def domain(self):
        from ray import tune

        return tune.loguniform(self.low, self.high)


class QUniform(NamedTuple):
    """Multiples of ``step`` between the bounds; whole numbers where all three are."""

    low: float
    high: float
    step: float

    @property
    def corners(self) -> tuple:
        return (self.value(self.low), self.value(self.high))

    def draw(self, generator: np.random.Generator):
        return self.value(generator.uniform(self.low, self.high))

    def domain(self):
        from ray import tune

        return tune.uniform(self.low, self.high)

    def value(self, suggested: float):
        first, last = math.ceil(self.low / self.step - 1e-9), math.floor(self.high / self.step + 1e-9)
        number = min(max(round(suggested / self.step), first), last) * self.step
        if all(type(part) is int for part in self):
            return int(number)
        return float(f"{number:.{DIGITS}g}")


Entry = Choice | Uniform | LogUniform | QUniform
RANGES = {"uniform": Uniform, "loguniform": LogUniform, "quniform": QUniform}
KINDS = ("choice", *RANGES)


def read_space(path: str | Path) -> dict[str, Entry]:
    """Key → what it may be, in the file's order.

    Raises:
        SDAError: the file cannot be read, holds nothing, or an entry is not understood.
    """
    if is_params_file(path):
        described = read_params_file(path)
    else:
        described = read_yaml(path)
    if not described:
        raise SDAError(f"space={path} is empty; name keys and their values, {EXAMPLE}")
    return {str(key): _entry(f"space={path}: {key}", entry) for key, entry in described.items()}


def combinations(space: Mapping[str, Choice]) -> list[dict]:
    """Every combination, the last key fastest."""
    return _combined({key: entry.values for key, entry in space.items()})


def corner_combinations(space: Mapping[str, Entry], most: int) -> list[dict]:
    """Every combination of corners; if they are more than ``most``, each corner beside the first of the others."""
    corners = {key: entry.corners for key, entry in space.items()}
    if math.prod(map(len, corners.values())) <= most:
        return _combined(corners)
    first = {key: values[0] for key, values in corners.items()}
    return [{**first, key: value} for key, values in corners.items() for value in values]


def draws(space: Mapping[str, Entry], number: int, seed: int) -> list[dict]:
    """So many independent draws, the same for the same seed."""
    generator = np.random.default_rng(seed)
    return [{key: entry.draw(generator) for key, entry in space.items()} for _ in range(number)]


def _combined(values: Mapping[str, tuple]) -> list[dict]:
    return [dict(zip(values, row, strict=True)) for row in product(*values.values())]


def _entry(where: str, described) -> Entry:
    if not isinstance(described, dict) or len(described) != 1:
        raise SDAError(f"{where}: {described!r} is no entry of a space; use {', '.join(KINDS)}, {EXAMPLE}")
    ((kind, arguments),) = described.items()
    if kind not in KINDS:
        raise SDAError(f"{where}: kind {kind!r} is unknown; choose one of {', '.join(KINDS)}, {EXAMPLE}")
    if kind == "choice":
        return _choice(where, arguments)
    names = RANGES[kind]._fields
    numbers = isinstance(arguments, list) and all(
        type(number) in (int, float) and math.isfinite(number) for number in arguments
    )
    if not numbers or len(arguments) != len(names):
        raise SDAError(f"{where}: {kind} takes numbers [{', '.join(names)}], and this is {arguments!r}")
    entry = RANGES[kind](*arguments)
    if entry.low >= entry.high:
        raise SDAError(f"{where}: {kind} {arguments} begins at or above its end; write the smaller number first")
    if kind == "loguniform" and entry.low <= 0:
        raise SDAError(f"{where}: loguniform {arguments} must lie above 0; use uniform where it may be 0")
    if kind == "quniform" and not 0 < entry.step <= entry.high - entry.low:
        raise SDAError(f"{where}: quniform {arguments}: the step must lie above 0 and fit between the bounds")
    return entry


def _choice(where: str, values) -> Choice:
    if not isinstance(values, list) or not values:
        raise SDAError(f"{where}: choice takes a list of values, and this is {values!r}; {EXAMPLE}")
    distinct = [value for number, value in enumerate(values) if value not in values[:number]]
    if len(distinct) < len(values):
        raise SDAError(f"{where}: choice {values} names a value twice; leave one out")
    return Choice(tuple(values))
