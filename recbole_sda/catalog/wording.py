"""The texts of the built-in catalogue: title, brand and description from an item's attributes."""

import numpy as np

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
_PRAISE = (
    "light and easy to care for",
    "made to last for years",
    "a gift that always fits",
    "finished by hand",
    "packed without plastic",
    "a favourite at home and outdoors",
)


def write_text(shown: dict[str, str], rng: np.random.Generator) -> list[str]:
    """Title, brand and description; they tell brand, colour and shape."""
    colour = rng.choice(COLOUR_WORDS[shown["colour"]])
    noun, phrase = PRODUCTS[shown["shape"]]
    praise = rng.choice(_PRAISE)
    title = rng.choice([f"{shown['brand']} {colour} {noun}", f"{colour} {noun} by {shown['brand']}"])
    return [str(title), shown["brand"], f"{phrase} in {colour}, {praise}."]
