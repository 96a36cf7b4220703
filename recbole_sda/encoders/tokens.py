"""How many tokens a file takes, known from its size alone: one function a way of counting.

Each takes the family's configuration, its processor and (n, 2) sizes, and gives n numbers. They count what goes
in the place of the prompt's one placeholder, or in a dual encoder what its vision tower sees.
"""

from collections.abc import Sequence
from math import ceil

from recbole_sda.encoders.audio import resampled_length

Sizes = Sequence[tuple[int, int]]


def of_images(config, processor, sizes: Sizes) -> list[int]:
    """(height, width) each, counted by the processor."""
    return processor._get_num_multimodal_tokens(image_sizes=sizes).num_image_tokens


def of_square_tiles(config, processor, sizes: Sizes) -> list[int]:
    """(height, width) each: three tokens frame the whole picture, two a tile, and a line ends a row of them."""
    newline = len(processor.tokenizer("\n\n", add_special_tokens=False)["input_ids"])
    length = processor.image_seq_len
    counts = []
    for height, width in sizes:
        _, rows, columns = processor.image_processor.get_number_of_image_patches(height, width, {})
        tiled = rows * ((length + 2) * columns + 1) - 1 + newline if rows else 0
        counts.append(length + 3 + tiled)
    return counts


def of_class_and_patches(config, processor, sizes: Sizes) -> list[int]:
    """One picture like the other: its patches and the class token."""
    return [1 + count for count in of_patches(config, processor, sizes)]


def of_patches(config, processor, sizes: Sizes) -> list[int]:
    """One picture like the other: its patches."""
    vision = config.vision_config
    return [(vision.image_size // vision.patch_size) ** 2] * len(sizes)


def of_recordings(config, processor, sizes: Sizes) -> list[int]:
    """(samples, rate) each: frames of the spectrogram, halved by a convolution and again by a pooling."""
    extractor = processor.feature_extractor
    counts = []
    for samples, rate in sizes:
        frames = ceil(resampled_length(samples, rate, extractor) / extractor.hop_length)
        counts.append(((frames - 1) // 2 - 1) // 2 + 1)
    return counts
