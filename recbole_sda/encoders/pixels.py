"""How `min_pixels` and `max_pixels` rule what a picture costs, one function a mechanism of image processors.

Each takes the family's processor and sets its defaults. A tiling processor never makes more tiles than its
checkpoint does, and always one at least: below a tile's area `max_pixels` changes nothing more.
"""

from math import isqrt


def fixed_size(processor, min_pixels: int, max_pixels: int) -> None:
    """Every picture becomes the one size that the vision tower takes; the limits change nothing (CLIP, LLaVA)."""


def area(processor, min_pixels: int, max_pixels: int) -> None:
    """The picture keeps its shape, and its area lies between the limits (Qwen-VL)."""
    processor.image_processor.size = {"shortest_edge": min_pixels, "longest_edge": max_pixels}


def tiles(processor, min_pixels: int, max_pixels: int) -> None:
    """As many tiles of the vision tower's size as fit into `max_pixels`, and a thumbnail if many (InternVL)."""
    images = processor.image_processor
    fitting = max_pixels // (images.size["height"] * images.size["width"])
    images.max_patches = max(1, min(images.max_patches, fitting))


def square_tiles(processor, min_pixels: int, max_pixels: int) -> None:
    """As many tiles along the longer edge as a square of `max_pixels` has, and the whole (Idefics3, SmolVLM)."""
    images = processor.image_processor
    edge = images.max_image_size["longest_edge"]
    along = max(1, min(images.size["longest_edge"], isqrt(max_pixels)) // edge)
    images.size = {"longest_edge": edge * along}
