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
* Popularity follows Zipf's law (exponent 0.8) over a random order of the items and depends on no attribute.
* A user likes two colours, two shapes, one pattern and two brands, drawn uniformly, and picks items one after
  another, none twice, with probability proportional to popularity x exp(taste x number of attributes liked).
  The picks are then put in random order: no drift, and only the user's likes link one pick to the next.
* A user picks 5 to 14 items (5 + Binomial(9, 0.4)), at strictly increasing times.
* 2 % of the items have no picture and another 2 % no text, whatever their popularity.
* Every part draws from its own random stream, and every item's picture and text from a stream of its own: the
  interactions are the same whatever the signals are, and an item keeps its picture as long as its share does.
"""

import colorsys
import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image, ImageChops, ImageDraw

from recbole_sda.catalog.atomic import replacing_folder, write_atomic
from recbole_sda.errors import SDAError

VERSION = 1  # of the generator: another version makes the demo anew
MARKER = "demo.json"

ATTRIBUTES = {
    "colour": ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink"),
    "shape": ("circle", "square", "triangle", "star", "hexagon", "cross"),
    "pattern": ("plain", "stripes", "dots", "checks", "rings"),
    "brand": (
        "Norvik",
        "Halden",
        "Orsino",
        "Bellamy",
        "Tiwaka",
        "Crestline",
        "Umbra",
        "Zephyrine",
        "Kestrel",
        "Marlowe",
    ),
}
LIKED = {"colour": 2, "shape": 2, "pattern": 1, "brand": 2}
ZIPF_EXPONENT = 0.8

_HUES = {
    "red": 0,
    "orange": 27,
    "yellow": 55,
    "green": 118,
    "teal": 176,
    "blue": 222,
    "purple": 274,
    "pink": 324,
}
_COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "amber", "apricot"),
    "yellow": ("yellow", "lemon", "golden"),
    "green": ("green", "emerald", "leafy"),
    "teal": ("teal", "turquoise", "aqua"),
    "blue": ("blue", "navy", "azure"),
    "purple": ("purple", "violet", "plum"),
    "pink": ("pink", "rose", "magenta"),
}
_PRODUCTS = {
    "circle": ("plate", "A round plate"),
    "square": ("cushion", "A square cushion"),
    "triangle": ("tent", "A pointed tent"),
    "star": ("ornament", "A star shaped ornament"),
    "hexagon": ("tile", "A six sided tile"),
    "cross": ("trivet", "A cross shaped trivet"),
}
_PRAISE = (
    "light and easy to care for",
    "made to last for years",
    "a gift that always fits",
    "finished by hand",
    "packed without plastic",
    "a favourite at home and outdoors",
)
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
)
_SIZE = 84
_BAR = ((1, 0.33), (-1, 0.33), (-1, -0.33), (1, -0.33))
_MISSING_SHARE = 0.02


def write_demo(
    folder: str | Path,
    *,
    items: int = 300,
    users: int = 600,
    seed: int = 2020,
    image_signal: float = 1.0,
    text_signal: float = 1.0,
    taste: float = 2.5,
) -> Path:
    """Write the dataset `demo` into `folder`, which must be new or empty: demo.inter, demo.item, images/.

    demo.truth.csv tells each item's hidden attributes, for diagnostics; demo.json the settings, and marks the
    folder as made here.
    """
    settings = _settings(items, users, seed, image_signal, text_signal, taste)
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise SDAError(f"{folder} is not empty; the demo is written into a new folder only")
    (folder / "images").mkdir(parents=True, exist_ok=True)

    attributes = _draw_attributes(_stream(seed, "attributes"), items)
    popularity = (1.0 + _stream(seed, "popularity").permutation(items)) ** -ZIPF_EXPONENT
    pictured, picture_own = _shown(attributes, _stream(seed, "image_signal"), image_signal)
    written, text_own = _shown(attributes, _stream(seed, "text_signal"), text_signal)
    order = _stream(seed, "missing").permutation(items)
    missing = round(_MISSING_SHARE * items)
    no_picture, no_text = set(order[:missing].tolist()), set(order[missing : 2 * missing].tolist())
    tokens = [f"P{index:04d}" for index in range(items)]

    for index in range(items):
        if index not in no_picture:
            picture = _draw_picture(_named(pictured, index), _stream(seed, "picture", index))
            picture.save(folder / "images" / f"{tokens[index]}.png")
    write_atomic(
        folder / "demo.item",
        ["item_id:token", "title:token", "brand:token", "description:token"],
        (
            [
                tokens[index],
                *(
                    [""] * 3
                    if index in no_text
                    else _write_text(_named(written, index), _stream(seed, "text", index))
                ),
            ]
            for index in range(items)
        ),
    )
    write_atomic(
        folder / "demo.inter",
        ["user_id:token", "item_id:token", "timestamp:float"],
        _interactions(attributes, popularity, users, seed, taste, tokens),
    )
    _write_truth(
        folder / "demo.truth.csv", tokens, attributes, popularity, picture_own, text_own, no_picture, no_text
    )
    (folder / MARKER).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return folder


def ensure_demo(data_path: str | Path, **settings) -> Path:
    """The folder `data_path/demo`, made by `write_demo(**settings)` unless it is there with these settings.

    A folder of that name without the generator's marker is somebody's own and is never touched.
    """
    folder = Path(data_path) / "demo"
    wanted = _settings(**{**write_demo.__kwdefaults__, **settings})
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / ".demo.lock"):
        if folder.exists() and not (folder / MARKER).is_file():
            raise SDAError(
                f"{folder} exists and was not made by the demo generator (no {MARKER}); "
                "rename it, or choose another data_path"
            )
        if not _is_current(folder, wanted):
            with replacing_folder(folder) as new:
                write_demo(new, **settings)
    return folder


def _settings(items, users, seed, image_signal, text_signal, taste) -> dict:
    for key, value, least in (("demo_items", items, 20), ("demo_users", users, 1), ("demo_seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SDAError(f"{key}={value!r} is not a whole number of at least {least}")
    for key, value in (("image_signal", image_signal), ("text_signal", text_signal)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise SDAError(f"{key}={value!r} is not a share between 0 (no signal) and 1 (every item)")
    if isinstance(taste, bool) or not isinstance(taste, (int, float)) or not 0 <= taste <= 10:
        raise SDAError(f"taste={taste!r} is not a number between 0 (popularity alone) and 10")
    return {
        "generator": VERSION,
        "items": items,
        "users": users,
        "seed": seed,
        "image_signal": float(image_signal),
        "text_signal": float(text_signal),
        "taste": float(taste),
    }


def _is_current(folder: Path, wanted: dict) -> bool:
    if not all((folder / part).exists() for part in ("demo.inter", "demo.item", "images")):
        return False
    try:
        return json.loads((folder / MARKER).read_text(encoding="utf-8")) == wanted
    except ValueError:
        return False


def _stream(seed: int, name: str, index: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, _STREAMS.index(name), index])


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


def _interactions(
    attributes: dict[str, np.ndarray],
    popularity: np.ndarray,
    users: int,
    seed: int,
    taste: float,
    tokens: Sequence[str],
):
    tastes, choices, times = (_stream(seed, name) for name in ("tastes", "choices", "times"))
    for user in range(users):
        matches = np.zeros(len(tokens))
        for name, values in ATTRIBUTES.items():
            liked = tastes.choice(len(values), size=LIKED[name], replace=False)
            matches += np.isin(attributes[name], liked)
        length = 5 + choices.binomial(9, 0.4)
        # The largest values of log-weight + Gumbel noise are draws one after another without replacement.
        keys = np.log(popularity) + taste * matches + choices.gumbel(size=len(tokens))
        picked = choices.permutation(np.argsort(-keys, kind="stable")[:length])
        moments = 1_600_000_000 + times.integers(30_000_000) + np.cumsum(times.integers(60, 500_000, size=length))
        for item, moment in zip(picked, moments, strict=True):
            yield [f"U{user:04d}", tokens[item], str(moment)]


def _write_text(shown: dict[str, str], rng: np.random.Generator) -> list[str]:
    """Title, brand and description; they tell brand, colour and shape."""
    colour = rng.choice(_COLOUR_WORDS[shown["colour"]])
    noun, phrase = _PRODUCTS[shown["shape"]]
    praise = rng.choice(_PRAISE)
    title = rng.choice([f"{shown['brand']} {colour} {noun}", f"{colour} {noun} by {shown['brand']}"])
    return [str(title), shown["brand"], f"{phrase} in {colour}, {praise}."]


def _draw_picture(shown: dict[str, str], rng: np.random.Generator) -> Image.Image:
    """One shape in its colour and pattern; drawn at twice the size and reduced, for smooth edges."""
    size = 2 * _SIZE
    picture = Image.new("RGB", (size, size), _rgb(rng.uniform(0, 360), rng.uniform(0, 0.12), rng.uniform(0.85, 1)))
    hue = _HUES[shown["colour"]] + rng.uniform(-7, 7)
    saturation, brightness = rng.uniform(0.65, 0.95), rng.uniform(0.7, 0.95)
    radius = size * rng.uniform(0.28, 0.4)
    centre = (size / 2 + rng.uniform(-0.09, 0.09) * size, size / 2 + rng.uniform(-0.09, 0.09) * size)

    mask = Image.new("L", (size, size), 0)
    _draw_shape(ImageDraw.Draw(mask), shown["shape"], centre, radius, rng.uniform(-0.25, 0.25))
    picture.paste(_rgb(hue, saturation, brightness), mask=mask)
    pattern = _pattern_mask(shown["pattern"], size, centre, rng)
    picture.paste(_rgb(hue, saturation, 0.4 * brightness), mask=ImageChops.multiply(mask, pattern))
    return picture.resize((_SIZE, _SIZE), Image.Resampling.LANCZOS)


def _draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, centre: tuple[float, float], radius: float, angle: float
) -> None:
    if shape == "circle":
        draw.circle(centre, radius, fill=255)
        return
    if shape == "cross":
        for turn in (0, math.pi / 2):
            corners = [(math.atan2(y, x), math.hypot(x, y)) for x, y in _BAR]
            draw.polygon(_ring(centre, radius, angle + turn, corners), fill=255)
        return
    count, inner = {"square": (4, 1), "triangle": (3, 1), "hexagon": (6, 1), "star": (10, 0.42)}[shape]
    start = {"square": math.pi / 4, "hexagon": 0.0}.get(shape, -math.pi / 2)
    corners = [(start + 2 * math.pi * k / count, 1 if k % 2 == 0 else inner) for k in range(count)]
    draw.polygon(_ring(centre, radius, angle, corners), fill=255)


def _ring(centre: tuple[float, float], radius: float, turn: float, corners) -> list[tuple[float, float]]:
    """Corners as (angle, distance) in units of `radius`, turned and moved into the picture."""
    return [
        (centre[0] + radius * far * math.cos(angle + turn), centre[1] + radius * far * math.sin(angle + turn))
        for angle, far in corners
    ]


def _pattern_mask(pattern: str, size: int, centre: tuple[float, float], rng: np.random.Generator) -> Image.Image:
    """Where the darker tone goes, as a mask over the whole picture."""
    step = size * rng.uniform(0.11, 0.14)
    turn, shift = rng.uniform(-0.3, 0.3), rng.uniform(0, 1)
    y, x = np.mgrid[:size, :size].astype(float)
    x, y = x - centre[0], y - centre[1]
    across = (x * math.cos(turn) + y * math.sin(turn)) / step + shift  # in steps
    along = (y * math.cos(turn) - x * math.sin(turn)) / step + shift
    if pattern == "plain":
        dark = np.zeros((size, size), dtype=bool)
    elif pattern == "stripes":
        dark = along % 1 < 0.5
    elif pattern == "dots":
        dark = np.hypot(across % 1 - 0.5, along % 1 - 0.5) < 0.28
    elif pattern == "checks":
        dark = (np.floor(across) + np.floor(along)) % 2 == 0
    else:  # rings
        dark = (np.hypot(x, y) / step + shift) % 1 < 0.5
    return Image.fromarray(dark.astype(np.uint8) * 255)


def _rgb(hue: float, saturation: float, brightness: float) -> tuple[int, int, int]:
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue % 360 / 360, saturation, brightness))


def _write_truth(path, tokens, attributes, popularity, picture_own, text_own, no_picture, no_text) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["item_id", *ATTRIBUTES, "popularity", "picture_own", "text_own", "has_picture", "has_text"]
        )
        for index, token in enumerate(tokens):
            writer.writerow(
                [
                    token,
                    *_named(attributes, index).values(),
                    f"{popularity[index]:.6g}",
                    int(picture_own[index]),
                    int(text_own[index]),
                    int(index not in no_picture),
                    int(index not in no_text),
                ]
            )
