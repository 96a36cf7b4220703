"""The pictures of the built-in catalogue: one shape, its colour and its pattern, on a plain pale ground."""

import colorsys
import math

import numpy as np
from PIL import Image, ImageChops, ImageDraw

HUES = {
    "red": 0,
    "orange": 27,
    "yellow": 55,
    "green": 118,
    "teal": 176,
    "blue": 222,
    "purple": 274,
    "pink": 324,
}

# Ranges of hue, saturation and brightness.
GROUNDS = {
    "white": ((0, 360), (0, 0.03), (0.96, 1)),
    "grey": ((0, 360), (0, 0.05), (0.5, 0.6)),
    "black": ((0, 360), (0, 0.1), (0.04, 0.12)),
    "sand": ((36, 44), (0.28, 0.36), (0.84, 0.92)),
    "mint": ((145, 155), (0.28, 0.36), (0.84, 0.92)),
    "sky": ((208, 216), (0.28, 0.36), (0.9, 0.97)),
}
# Ranges of the shape's radius, as shares of the picture.
RADII = {"small": (0.18, 0.22), "medium": (0.28, 0.31), "large": (0.38, 0.42)}

_PALE = ((0, 360), (0, 0.12), (0.85, 1))
_RADII = (0.28, 0.4)
_SIZE = 84
_BAR = ((1, 0.33), (-1, 0.33), (-1, -0.33), (1, -0.33))


def draw_picture(shown: dict[str, str], rng: np.random.Generator) -> Image.Image:
    """One shape in its colour and pattern; drawn at twice the size and reduced, for smooth edges.

    Args:
        shown: colour, shape and pattern; size and ground where these are factors, and mere jitter where not.
        rng: draws the jitter.
    """
    size = 2 * _SIZE
    ground = GROUNDS[shown["ground"]] if "ground" in shown else _PALE
    picture = Image.new("RGB", (size, size), _rgb(*(rng.uniform(*bounds) for bounds in ground)))
    hue = HUES[shown["colour"]] + rng.uniform(-7, 7)
    saturation, brightness = rng.uniform(0.65, 0.95), rng.uniform(0.7, 0.95)
    radius = size * rng.uniform(*RADII[shown["size"]] if "size" in shown else _RADII)
    centre = (size / 2 + rng.uniform(-0.09, 0.09) * size, size / 2 + rng.uniform(-0.09, 0.09) * size)

    mask = Image.new("L", (size, size), 0)
    _draw_shape(ImageDraw.Draw(mask), shown["shape"], centre, radius, rng.uniform(-0.25, 0.25))
    picture.paste(_rgb(hue, saturation, brightness), mask=mask)
    pattern = _pattern_mask(shown["pattern"], size, centre, rng)
    picture.paste(_rgb(hue, saturation, 0.4 * brightness), mask=ImageChops.multiply(mask, pattern))
    return picture.resize((_SIZE, _SIZE), Image.Resampling.LANCZOS)


def add_noise(picture: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """The picture with this share of its pixels replaced by colours drawn uniformly."""
    pixels = np.array(picture)  # (height, width, 3)
    replaced = rng.random(pixels.shape[:2]) < share
    pixels[replaced] = rng.integers(256, size=pixels.shape, dtype=np.uint8)[replaced]
    return Image.fromarray(pixels)


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
