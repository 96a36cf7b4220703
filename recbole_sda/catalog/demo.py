"""The built-in catalogue: drawn products, written titles and users whose tastes are known.

Assumptions of the generator, all of them:

* An item has four hidden attributes, drawn independently and uniformly: colour (8), shape (6), pattern (5),
  brand (10).
* Its picture shows colour, shape and pattern: one shape on a plain pale ground, with jitter in place, size,
  angle, hue and brightness. Its text tells brand, colour and shape (the shape as a kind of product, the
  colour by one of three words). So only pictures know the pattern, only texts know the brand, and colour and
  shape are shared: that is what an alignment of the two can find.
* `image_signal` is the share of items whose picture shows their own attributes; the others get a picture of
  attributes drawn independently of everything else. At 0 a picture tells nothing of its item: the control
  run. `text_signal` is the same for texts, chosen independently of the pictures.
* With `audio` there are recordings, too: the brand is the pitch of a note, the colour the number of its strokes.
  So text and sound share the brand, and all three the colour. `audio_signal` is the share of items whose
  recording plays their own attributes.
* Popularity follows Zipf's law (exponent 0.8) over a random order of the items and depends on no attribute.
* A user likes two colours, two shapes, one pattern and two brands, drawn uniformly, and picks items one after
  another, none twice, with probability proportional to popularity x exp(taste x number of attributes liked).
  The picks are then put in random order: no drift, and only the user's likes link one pick to the next.
* A user picks 5 to 14 items (5 + Binomial(9, 0.4)), at strictly increasing times.
* 2 % of the items have no picture, another 2 % no text, and 2 % of all no recording, whatever their popularity.
* Every part draws from its own random stream, and every item's picture, text and recording from a stream of its
  own: the interactions are the same whatever the signals are, an item keeps its picture as long as its share
  does, and recordings change nothing else.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock

from recbole_sda.catalog.atomic import replacing_folder, write_atomic
from recbole_sda.catalog.attributes import ATTRIBUTES
from recbole_sda.catalog.drawing import draw_picture
from recbole_sda.catalog.sounds import play_sound, write_wave
from recbole_sda.catalog.wording import write_text
from recbole_sda.errors import SDAError

VERSION = 1  # of the generator: another version makes the demo anew
MARKER = "demo.json"

LIKED = {"colour": 2, "shape": 2, "pattern": 1, "brand": 2}
ZIPF_EXPONENT = 0.8

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
)
_MISSING_SHARE = 0.02
_AUDIO = "audio_signal"  # among the settings only where there are recordings


class Plan(NamedTuple):
    """What every item is, shows and lacks; attributes are indices into the values of `ATTRIBUTES`."""

    tokens: list[str]
    attributes: dict[str, np.ndarray]
    popularity: np.ndarray
    pictured: dict[str, np.ndarray]  # the attributes that the pictures show
    picture_own: np.ndarray  # whether these are the item's own
    written: dict[str, np.ndarray]  # the attributes that the texts tell
    text_own: np.ndarray
    no_picture: set[int]
    no_text: set[int]
    played: dict[str, np.ndarray]  # the attributes that the recordings play
    sound_own: np.ndarray
    no_sound: set[int]


def write_demo(
    folder: str | Path,
    *,
    items: int = 300,
    users: int = 600,
    seed: int = 2020,
    image_signal: float = 1.0,
    text_signal: float = 1.0,
    taste: float = 2.5,
    audio: bool = False,
    audio_signal: float = 1.0,
) -> Path:
    """Write the dataset `demo` into `folder`, which must be new or empty: demo.inter, demo.item, images/, audio/.

    audio/ only with `audio`. demo.truth.csv tells each item's hidden attributes, for diagnostics; demo.json the
    settings, and marks the folder as made here.
    """
    settings = _settings(items, users, seed, image_signal, text_signal, taste, audio, audio_signal)
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise SDAError(f"{folder} is not empty; the demo is written into a new folder only")
    (folder / "images").mkdir(parents=True, exist_ok=True)

    plan = _plan(items, seed, image_signal, text_signal, audio_signal)
    for index, token in enumerate(plan.tokens):
        if index not in plan.no_picture:
            picture = draw_picture(_named(plan.pictured, index), _stream(seed, "picture", index))
            picture.save(folder / "images" / f"{token}.png")
    if audio:
        _write_sounds(folder / "audio", plan, seed)
    write_atomic(
        folder / "demo.item",
        ["item_id:token", "title:token", "brand:token", "description:token"],
        _item_rows(plan, seed),
    )
    write_atomic(
        folder / "demo.inter",
        ["user_id:token", "item_id:token", "timestamp:float"],
        _interactions(plan, users, seed, taste),
    )
    _write_truth(folder / "demo.truth.csv", plan, audio=audio)
    (folder / MARKER).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return folder


def ensure_demo(data_path: str | Path, **settings) -> Path:
    """The folder `data_path/demo`, made by `write_demo(**settings)` unless it is there with these settings.

    One with recordings serves where none are wanted. A folder of that name without the generator's marker is
    somebody's own and is never touched.
    """
    folder = Path(data_path) / "demo"
    wanted = _settings(**{**write_demo.__kwdefaults__, **settings})
    if _is_current(folder, wanted):  # before the lock, which would need a folder that can be written to
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / ".demo.lock"):
        if folder.exists() and not (folder / MARKER).is_file():
            raise SDAError(
                f"{folder} exists and was not made by the demo generator (no {MARKER}); "
                "rename it, or choose another data_path"
            )
        if not _is_current(folder, wanted):  # another process may have made it meanwhile
            with replacing_folder(folder) as new:
                write_demo(new, **settings)
    return folder


def _settings(items, users, seed, image_signal, text_signal, taste, audio, audio_signal) -> dict:
    for key, value, least in (("demo_items", items, 20), ("demo_users", users, 1), ("demo_seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SDAError(f"{key}={value!r} is not a whole number of at least {least}")
    signals = {"image_signal": image_signal, "text_signal": text_signal, "audio_signal": audio_signal}
    for key, value in signals.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise SDAError(f"{key}={value!r} is not a share between 0 (no signal) and 1 (every item)")
    if isinstance(taste, bool) or not isinstance(taste, (int, float)) or not 0 <= taste <= 10:
        raise SDAError(f"taste={taste!r} is not a number between 0 (popularity alone) and 10")
    if not isinstance(audio, bool):
        raise SDAError(f"audio={audio!r} is not True or False")
    return {
        "generator": VERSION,
        "items": items,
        "users": users,
        "seed": seed,
        "image_signal": float(image_signal),
        "text_signal": float(text_signal),
        "taste": float(taste),
        **({_AUDIO: float(audio_signal)} if audio else {}),
    }


def _is_current(folder: Path, wanted: dict) -> bool:
    parts = ["demo.inter", "demo.item", "images", *(["audio"] if _AUDIO in wanted else [])]
    if not all((folder / part).exists() for part in parts):
        return False
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return wanted in (found, {key: value for key, value in found.items() if key != _AUDIO})
    except (FileNotFoundError, ValueError, AttributeError):  # AttributeError: JSON, but no object
        return False


def _stream(seed: int, name: str, index: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, _STREAMS.index(name), index])


def _plan(items: int, seed: int, image_signal: float, text_signal: float, audio_signal: float) -> Plan:
    attributes = _draw_attributes(_stream(seed, "attributes"), items)
    popularity = (1.0 + _stream(seed, "popularity").permutation(items)) ** -ZIPF_EXPONENT
    pictured, picture_own = _shown(attributes, _stream(seed, "image_signal"), image_signal)
    written, text_own = _shown(attributes, _stream(seed, "text_signal"), text_signal)
    played, sound_own = _shown(attributes, _stream(seed, "audio_signal"), audio_signal)
    order = _stream(seed, "missing").permutation(items).tolist()
    missing = round(_MISSING_SHARE * items)
    return Plan(
        tokens=[f"P{index:04d}" for index in range(items)],
        attributes=attributes,
        popularity=popularity,
        pictured=pictured,
        picture_own=picture_own,
        written=written,
        text_own=text_own,
        no_picture=set(order[:missing]),
        no_text=set(order[missing : 2 * missing]),
        played=played,
        sound_own=sound_own,
        no_sound=set(_stream(seed, "missing_audio").permutation(items)[:missing].tolist()),
    )


def _draw_attributes(rng: np.random.Generator, items: int) -> dict[str, np.ndarray]:
    return {name: rng.integers(len(values), size=items) for name, values in ATTRIBUTES.items()}


def _shown(
    attributes: dict[str, np.ndarray], rng: np.random.Generator, signal: float
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The attributes that a modality shows, and for which items these are their own."""
    items = len(attributes["colour"])
    own = rng.random(items) < signal
    strange = _draw_attributes(rng, items)
    return {name: np.where(own, attributes[name], strange[name]) for name in attributes}, own


def _named(attributes: dict[str, np.ndarray], index: int) -> dict[str, str]:
    return {name: ATTRIBUTES[name][values[index]] for name, values in attributes.items()}


def _item_rows(plan: Plan, seed: int) -> Iterator[list[str]]:
    for index, token in enumerate(plan.tokens):
        if index in plan.no_text:
            yield [token, "", "", ""]
        else:
            yield [token, *write_text(_named(plan.written, index), _stream(seed, "text", index))]


def _interactions(plan: Plan, users: int, seed: int, taste: float) -> Iterator[list[str]]:
    tastes, choices, times = (_stream(seed, name) for name in ("tastes", "choices", "times"))
    for user in range(users):
        matches = np.zeros(len(plan.tokens))
        for name, values in ATTRIBUTES.items():
            liked = tastes.choice(len(values), size=LIKED[name], replace=False)
            matches += np.isin(plan.attributes[name], liked)
        length = 5 + choices.binomial(9, 0.4)
        # The largest values of log-weight + Gumbel noise are draws one after another without replacement.
        keys = np.log(plan.popularity) + taste * matches + choices.gumbel(size=len(plan.tokens))
        picked = choices.permutation(np.argsort(-keys, kind="stable")[:length])
        moments = 1_600_000_000 + times.integers(30_000_000) + np.cumsum(times.integers(60, 500_000, size=length))
        for item, moment in zip(picked, moments, strict=True):
            yield [f"U{user:04d}", plan.tokens[item], str(moment)]


def _write_sounds(folder: Path, plan: Plan, seed: int) -> None:
    folder.mkdir()
    for index, token in enumerate(plan.tokens):
        if index not in plan.no_sound:
            samples = play_sound(_named(plan.played, index), _stream(seed, "sound", index))
            write_wave(folder / f"{token}.wav", samples)


def _write_truth(path: Path, plan: Plan, *, audio: bool) -> None:
    columns = {
        "picture_own": plan.picture_own,
        "text_own": plan.text_own,
        "has_picture": [index not in plan.no_picture for index in range(len(plan.tokens))],
        "has_text": [index not in plan.no_text for index in range(len(plan.tokens))],
    }
    if audio:
        columns["sound_own"] = plan.sound_own
        columns["has_sound"] = [index not in plan.no_sound for index in range(len(plan.tokens))]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["item_id", *ATTRIBUTES, "popularity", *columns])
        for index, token in enumerate(plan.tokens):
            hidden = _named(plan.attributes, index).values()
            flags = (int(values[index]) for values in columns.values())
            writer.writerow([token, *hidden, f"{plan.popularity[index]:.6g}", *flags])
