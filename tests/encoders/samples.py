"""Items, pictures and recordings that differ from each other, for every kind of modality."""

import numpy as np
from conftest import LOADING
from PIL import Image

from recbole_sda.catalog import Audio
from recbole_sda.encoders import Backbone, load_backbone

ITEMS = [
    {"title": "Red cup"},
    {"title": "Été – 東京 🎬 100% {braces}", "brand": "a longer one " * 3},
    {"brand": "x"},
    {"title": "A cushion, 40 x 40 cm", "description": "soft " * 15},
]
SIZES = [(56, 56), (150, 40), (30, 200), (9, 5)]  # width, height
RECORDINGS = [(16000, 16000), (5000, 8000), (44100, 44100), (3, 8000)]  # samples, rate


def pictures(*sizes) -> list[Image.Image]:
    """Noise; args: (width, height) each."""
    noise = np.random.default_rng(0)
    return [Image.fromarray(noise.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


def recordings(*lengths) -> list[Audio]:
    """Noise; args: (samples, rate) each."""
    noise = np.random.default_rng(0)
    return [Audio(noise.normal(size=samples).astype(np.float32), rate) for samples, rate in lengths]


FILES = {"text": (), "image": pictures(*SIZES), "audio": recordings(*RECORDINGS)}
FILE_SIZES = {"image": [(h, w) for w, h in SIZES], "audio": RECORDINGS}


def collate(backbone: Backbone, kind: str, rows=(0, 1, 2, 3)):
    """The model's inputs of some of the samples."""
    return backbone.collate(kind, [ITEMS[row] for row in rows], [FILES[kind][row] for row in rows if FILES[kind]])


def load(folder, **options) -> Backbone:
    return load_backbone(str(folder), **{**LOADING, **options})
