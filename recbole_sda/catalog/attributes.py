"""The hidden factors of the built-in catalogue's items, and what each modality can tell of them."""

# In this order: a world of four factors has the first four.
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
    "size": ("small", "medium", "large"),
    "ground": ("white", "grey", "black", "sand", "mint", "sky"),
}
# How many values of each factor a user likes.
LIKED = {"colour": 2, "shape": 2, "pattern": 1, "brand": 2, "size": 1, "ground": 2}

CAN_TELL = {
    "image": ("colour", "shape", "pattern", "size", "ground"),
    "text": tuple(ATTRIBUTES),
    "audio": ("colour", "brand"),
}
# Unless the settings choose others. The pattern is what only pictures know.
TELLS = {**CAN_TELL, "text": ("colour", "shape", "brand", "size", "ground")}
# What a modality cannot be without: a picture has some colour, whatever its item's is.
INEVITABLE = {
    "image": ("colour", "shape", "pattern"),
    "text": ("colour", "shape", "brand"),
    "audio": ("colour", "brand"),
}
# What one item's modality is called, in the columns of demo.truth.csv and in messages.
CALLED = {"image": "picture", "text": "text", "audio": "sound"}
