"""The hidden attributes of the built-in catalogue's items: what a picture, a text or a recording can tell."""

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
