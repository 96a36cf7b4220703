"""The texts of the built-in catalogue: title, brand and description from an item's attributes."""

from collections.abc import Sequence
from functools import cache

import numpy as np

from recbole_sda.catalog.attributes import ATTRIBUTES

COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "amber", "apricot"),
    "yellow": ("yellow", "lemon", "golden"),
    "green": ("green", "emerald", "leafy"),
    "teal": ("teal", "turquoise", "aqua"),
    "blue": ("blue", "navy", "azure"),
    "purple": ("purple", "violet", "plum"),
    "pink": ("pink", "rose", "magenta"),
}
PRODUCTS = {
    "circle": ("plate", "A round plate"),
    "square": ("cushion", "A square cushion"),
    "triangle": ("tent", "A pointed tent"),
    "star": ("ornament", "A star shaped ornament"),
    "hexagon": ("tile", "A six sided tile"),
    "cross": ("trivet", "A cross shaped trivet"),
}
SIZES = {
    "small": ("small", "little", "compact"),
    "medium": ("medium", "midsize", "moderate"),
    "large": ("large", "big", "oversized"),
}
PATTERNS = {
    "plain": "without a pattern",
    "stripes": "striped",
    "dots": "dotted",
    "checks": "checked",
    "rings": "ringed",
}
_PRAISE = (
    "light and easy to care for",
    "made to last for years",
    "a gift that always fits",
    "finished by hand",
    "packed without plastic",
    "a favourite at home and outdoors",
)


def write_text(shown: dict[str, str], rng: np.random.Generator) -> list[str]:
    """Title, brand and description.

    Args:
        shown: brand, colour and shape; size, ground and pattern where the text has to tell them.
        rng: chooses among words that mean the same.
    """
    colour = rng.choice(COLOUR_WORDS[shown["colour"]])
    noun, phrase = PRODUCTS[shown["shape"]]
    praise = rng.choice(_PRAISE)
    title = rng.choice([f"{shown['brand']} {colour} {noun}", f"{colour} {noun} by {shown['brand']}"])
    if "size" in shown:
        title = f"{rng.choice(SIZES[shown['size']])} {title}"
    pattern = f", {PATTERNS[shown['pattern']]}" if "pattern" in shown else ""
    ground = f", on {shown['ground']}" if "ground" in shown else ""
    return [str(title), shown["brand"], f"{phrase} in {colour}{pattern}{ground}, {praise}."]


def replace_words(fields: Sequence[str], share: float, rng: np.random.Generator) -> list[str]:
    """The fields with this share of their words replaced by words drawn uniformly from all that texts use."""
    words = vocabulary()
    noisy = []
    for field in fields:
        found = field.split(" ")
        replaced, strange = rng.random(len(found)) < share, rng.choice(words, size=len(found))
        noisy.append(" ".join(map(str, np.where(replaced, strange, found))))
    return noisy


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word that a text can have, without punctuation."""
    texts = [word for words in (*COLOUR_WORDS.values(), *SIZES.values()) for word in words]
    texts += [part for product in PRODUCTS.values() for part in product]
    texts += [*ATTRIBUTES["brand"], *ATTRIBUTES["ground"], *PATTERNS.values(), *_PRAISE, "by in on"]
    return tuple(sorted({word for text in texts for word in text.split()}))
