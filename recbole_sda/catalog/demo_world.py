"""The settings of the built-in catalogue's world: each with its default, its bounds and the key that sets it."""

from collections.abc import Sequence
from dataclasses import dataclass

from recbole_sda.catalog.attributes import ATTRIBUTES, CALLED, CAN_TELL, TELLS
from recbole_sda.errors import SDAError

VERSION = 1  # of the generator: another version makes the demo anew
AUDIO = "audio_signal"  # among the recorded settings only where there are recordings

# setting → the key of a run's configuration
KEYS = {
    **{name: f"demo_{name}" for name in ("items", "users", "seed", "factors", "image_factors", "text_factors")},
    **{name: f"demo_{name}" for name in ("noise", "taste", "tail_exponent")},
    **{name: name for name in ("image_signal", "text_signal")},
}
_LEAST = {"items": 20, "users": 1, "seed": 0}
# (least, what it means), (most, what it means)
_BOUNDS = {
    **dict.fromkeys(("image_signal", "text_signal", AUDIO), ((0, "no signal"), (1, "every item"))),
    "noise": ((0, "none"), (1, "nothing else")),
    "taste": ((0, "popularity alone"), (10, "hardly anything else")),
    "tail_exponent": ((0, "all items equally popular"), (5, "a few items alone")),
}


@dataclass(frozen=True, kw_only=True)
class World:
    """What the generator makes; `recbole_sda/catalog/demo.py` says how.

    Attributes:
        items, users: how many.
        seed: of everything that is drawn.
        factors: how many hidden factors there are, in the order of `ATTRIBUTES`.
        image_factors, text_factors: which of them pictures show and texts tell; None is all that they usually do.
        image_signal, text_signal, audio_signal: the share of items whose modality is their own.
        noise: the share of pixels and of words that are replaced.
        taste: how much more a liked value attracts than another, as a logarithm.
        tail_exponent: of Zipf's law of popularity.
        audio: whether there are recordings.

    Raises:
        SDAError: a value of another kind or out of bounds.
    """

    items: int = 300
    users: int = 600
    seed: int = 2020
    image_signal: float = 1.0
    text_signal: float = 1.0
    taste: float = 2.5
    tail_exponent: float = 0.8
    factors: int = 4
    image_factors: Sequence[str] | None = None
    text_factors: Sequence[str] | None = None
    noise: float = 0.0
    audio: bool = False
    audio_signal: float = 1.0

    def __post_init__(self):
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise SDAError(f"{KEYS[name]}={value!r} is not a whole number of at least {least}")
        if type(self.factors) is not int or not 1 <= self.factors <= len(ATTRIBUTES):
            raise SDAError(
                f"demo_factors={self.factors!r} is not a whole number from 1 to {len(ATTRIBUTES)}: "
                f"the first so many of {', '.join(ATTRIBUTES)}"
            )
        for name, bounds in _BOUNDS.items():
            _check_number(KEYS.get(name, name), getattr(self, name), *bounds)
        for modality in ("image", "text"):
            _check_names(modality, getattr(self, f"{modality}_factors"), self.names)
        if not isinstance(self.audio, bool):
            raise SDAError(f"audio={self.audio!r} is not True or False")

    @property
    def names(self) -> tuple[str, ...]:
        """The hidden factors."""
        return tuple(ATTRIBUTES)[: self.factors]

    def told(self, modality: str) -> tuple[str, ...]:
        """The hidden factors that the modality tells."""
        chosen = getattr(self, f"{modality}_factors", None)
        return tuple(name for name in self.names if name in (TELLS[modality] if chosen is None else chosen))

    def settings(self) -> dict:
        """What `demo.json` records: of the settings that came later only those that are not as usual."""
        usual = {**World(factors=self.factors)._later(), "factors": World.factors}
        return {
            "generator": VERSION,
            "items": self.items,
            "users": self.users,
            "seed": self.seed,
            "image_signal": float(self.image_signal),
            "text_signal": float(self.text_signal),
            "taste": float(self.taste),
            **{name: value for name, value in self._later().items() if value != usual[name]},
            **({AUDIO: float(self.audio_signal)} if self.audio else {}),
        }

    def _later(self) -> dict:
        return {
            "tail_exponent": float(self.tail_exponent),
            "factors": self.factors,
            "image_factors": list(self.told("image")),
            "text_factors": list(self.told("text")),
            "noise": float(self.noise),
        }


def _check_number(key: str, value, lowest: tuple[int, str], highest: tuple[int, str]) -> None:
    if type(value) not in (int, float) or not lowest[0] <= value <= highest[0]:
        raise SDAError(
            f"{key}={value!r} is not a number between {lowest[0]} ({lowest[1]}) and {highest[0]} ({highest[1]})"
        )


def _check_names(modality: str, value, factors: Sequence[str]) -> None:
    possible = [name for name in factors if name in CAN_TELL[modality]]
    if value is None:
        return
    key = KEYS[f"{modality}_factors"]
    if isinstance(value, str) or not isinstance(value, Sequence) or len(set(map(str, value))) < len(value):
        raise SDAError(f"{key}={value!r} must be names, each once; choose from {', '.join(possible)}")
    for name in value:
        if name not in possible:
            raise SDAError(
                f"{key} names {name!r}, which no {CALLED[modality]} shows where demo_factors={len(factors)}; "
                f"choose from {', '.join(possible) or 'nothing: []'}"
            )
