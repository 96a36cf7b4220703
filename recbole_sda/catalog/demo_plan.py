"""What every item of the built-in catalogue is, how popular it is, and what each of its modalities tells."""

from typing import NamedTuple

import numpy as np

from recbole_sda.catalog.attributes import ATTRIBUTES, INEVITABLE, TELLS
from recbole_sda.catalog.demo_world import World

_MISSING_SHARE = 0.02
# A new part goes to the end: its place is part of its seed.
_STREAMS = (
    "attributes",
    "popularity",
    "tastes",
    "choices",
    "times",
    "missing",
    "image_signal",
    "text_signal",
    "picture",
    "text",
    "audio_signal",
    "missing_audio",
    "sound",
    "picture_noise",
    "text_noise",
)


class View(NamedTuple):
    """What one modality tells of the items.

    Attributes:
        values: factor → (items,) int, the values that it shows: the item's own, or others.
        own: (items,) bool, whether the factors that the modality tells are the item's own.
        missing: the items that lack it.
    """

    values: dict[str, np.ndarray]
    own: np.ndarray
    missing: frozenset[int]


class Plan(NamedTuple):
    """Attributes are indices into the values of `ATTRIBUTES`; views are by modality."""

    tokens: list[str]
    attributes: dict[str, np.ndarray]
    popularity: np.ndarray
    views: dict[str, View]


def stream(seed: int, name: str, index: int = 0) -> np.random.Generator:
    """The random numbers of one part of the world, or of one item in it."""
    return np.random.default_rng([seed, _STREAMS.index(name), index])


def make_plan(world: World) -> Plan:
    items, seed = world.items, world.seed
    attributes = _draw_attributes(stream(seed, "attributes"), items)
    order = stream(seed, "missing").permutation(items).tolist()
    few = round(_MISSING_SHARE * items)
    missing = {
        "image": order[:few],
        "text": order[few : 2 * few],
        "audio": stream(seed, "missing_audio").permutation(items)[:few].tolist(),
    }
    return Plan(
        tokens=[f"P{index:04d}" for index in range(items)],
        attributes={name: attributes[name] for name in world.names},
        popularity=(1.0 + stream(seed, "popularity").permutation(items)) ** -world.tail_exponent,
        views={modality: _view(world, modality, attributes, lacking) for modality, lacking in missing.items()},
    )


def named(values: dict[str, np.ndarray], index: int) -> dict[str, str]:
    """One item's values by name."""
    return {name: ATTRIBUTES[name][numbers[index]] for name, numbers in values.items()}


def _draw_attributes(rng: np.random.Generator, items: int) -> dict[str, np.ndarray]:
    return {name: rng.integers(len(values), size=items) for name, values in ATTRIBUTES.items()}


def _view(world: World, modality: str, attributes: dict[str, np.ndarray], missing: list[int]) -> View:
    """Where the values are not the item's own they are drawn by themselves."""
    rng = stream(world.seed, f"{modality}_signal")
    own = rng.random(world.items) < getattr(world, f"{modality}_signal")
    strange = _draw_attributes(rng, world.items)
    values = {
        name: np.where(own & (name in world.told(modality)), attributes[name], strange[name])
        for name in _needed(world, modality)
    }
    return View(values, own, frozenset(missing))


def _needed(world: World, modality: str) -> list[str]:
    """What can be seen, read or heard, told or not: what it usually tells does not vanish when it is left out."""
    usual = [name for name in TELLS[modality] if name in world.names]
    return [name for name in ATTRIBUTES if name in {*INEVITABLE[modality], *usual, *world.told(modality)}]
