"""A catalogue of which a chosen share is wrong, for trying what a training makes of bad data.

    text, image, …   an item's content of that modality is replaced by noise of the same size
    pairs            items pass the last modality by name, text of image and text, on to each other: each content
                     is natural, and no pair is right

Which items, and by what, is a function of the seed: the items of a smaller share are among those of a larger one,
with the same noise. Who has which modality, and the content of all other items, stay as they are.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from recbole_sda.catalog.audio import Audio
from recbole_sda.catalog.items import Catalog
from recbole_sda.catalog.skipped import Skipped
from recbole_sda.catalog.texts import TextItems
from recbole_sda.errors import SDAError

logger = logging.getLogger(__name__)

PAIRS = "pairs"
GRAIN = 64  # cells of a noise picture along a side: finer noise would turn grey where a model shrinks it
LOUDNESS = 0.1  # of noise recordings, as a deviation; full scale is 1
POOLED_ITEMS = 10_000  # so many items' words are drawn from, at most


def corrupt(catalog: Catalog, shares: Mapping[str, float], *, seed: int) -> Catalog:
    """The catalogue with these shares of it corrupted.

    Pictures and recordings become noise, vectors their own numbers in random order, texts as many words drawn
    from all texts, field by field. Of several modalities ``pairs`` moves the last by name, text of image and text;
    it moves what noise has made of it.

    Args:
        shares: modality or ``pairs`` → share, in [0, 1), of the items that have it (``pairs``: that have it and
            another modality).
        seed: decides everything.

    Raises:
        SDAError: a share that is too small to choose an item.
    """
    content = dict(catalog.content)
    for modality, kind in catalog.kinds.items():
        if modality in shares:
            rows = corrupted_rows(catalog, modality, shares[modality], seed=seed)
            content[modality] = NOISY[kind](content[modality], rows, seed)
    if PAIRS in shares:
        rows = corrupted_rows(catalog, PAIRS, shares[PAIRS], seed=seed)
        moved, source = moved_modality(catalog), np.arange(len(catalog))
        source[rows] = np.roll(rows, 1)  # one round through all of them: nobody keeps their own
        content[moved] = _passed_on(content[moved], source)
    for name, share in shares.items():
        rows = corrupted_rows(catalog, name, share, seed=seed)
        logger.info("corrupted: %s of %s items of %s", name, f"{len(rows):,}", f"{len(catalog):,}")
    texts = [content[modality].fields for modality, kind in catalog.kinds.items() if kind == "text"]
    return replace(catalog, content=content, fields=texts[0] if texts else catalog.fields)


def corrupted_rows(catalog: Catalog, name: str, share: float, *, seed: int) -> np.ndarray:
    """The items that are chosen for one corruption, in random order; those of a smaller share come first.

    Raises:
        SDAError: too few of them to corrupt.
    """
    candidates = np.flatnonzero(_candidates(catalog, name))
    count, least = round(share * len(candidates)), 2 if name == PAIRS else 1
    if count < least:
        raise SDAError(
            f"align_corrupt: {name}={share} is {count} of the {len(candidates)} items of {catalog.name!r} that "
            f"could be corrupted so, and {least} at least are needed; raise it, or leave {name} out"
        )
    return np.random.default_rng([seed, *name.encode()]).permutation(candidates)[:count]


def moved_modality(catalog: Catalog) -> str:
    """Whose content ``pairs`` moves; the others stay with their items."""
    return max(catalog.kinds)


def _candidates(catalog: Catalog, name: str) -> np.ndarray:
    """(items,) bool"""
    if name != PAIRS:
        return catalog.present(name)
    moved = moved_modality(catalog)
    others = [catalog.present(modality) for modality in catalog.kinds if modality != moved]
    return catalog.present(moved) & np.any(others, axis=0)


@dataclass(frozen=True, eq=False)
class NoisyItems:
    """Pictures, recordings or vectors of which some are noise.

    Args:
        clean: the modality's items.
        noisy: (items,) bool.
        noise: clean items, row, generator → what is loaded instead.
    """

    clean: Any
    noisy: np.ndarray
    noise: Callable[[Any, int, np.random.Generator], Any]
    seed: int

    @property
    def present(self) -> np.ndarray:
        return self.clean.present

    @property
    def contents(self) -> list[str]:
        said = zip(self.clean.contents, self.noisy, strict=True)
        return [
            hashlib.sha256(f"noise {self.seed} {row} {content}".encode()).hexdigest() if noisy else content
            for row, (content, noisy) in enumerate(said)
        ]

    @property
    def sizes(self) -> np.ndarray:
        return self.clean.sizes

    @property
    def skipped(self) -> Sequence[Skipped]:
        return self.clean.skipped

    @property
    def ignored(self) -> tuple[str, ...]:
        return self.clean.ignored

    def fingerprint_parts(self) -> Iterator[Sequence[str]]:
        yield self.contents

    def load(self, row: int) -> Any:
        if self.noisy[row]:
            return self.noise(self.clean, row, _generator(self.seed, row))
        return self.clean.load(row)


@dataclass(frozen=True, eq=False)
class PassedOnItems:
    """Pictures, recordings or vectors of which some are another item's.

    Args:
        own: the modality's items.
        source: (items,), whose content each item gets.
    """

    own: Any
    source: np.ndarray

    @property
    def present(self) -> np.ndarray:
        return self.own.present[self.source]

    @property
    def contents(self) -> list[str]:
        contents = self.own.contents
        return [contents[row] for row in self.source]

    @property
    def sizes(self) -> np.ndarray:
        return self.own.sizes[self.source]

    @property
    def skipped(self) -> Sequence[Skipped]:
        return self.own.skipped

    @property
    def ignored(self) -> tuple[str, ...]:
        return self.own.ignored

    def fingerprint_parts(self) -> Iterator[Sequence[str]]:
        yield self.contents

    def load(self, row: int) -> Any:
        return self.own.load(self.source[row])


def _passed_on(items: Any, source: np.ndarray) -> Any:
    if not isinstance(items, TextItems):
        return PassedOnItems(items, source)
    fields = {field: [values[row] for row in source] for field, values in items.fields.items()}
    return replace(items, fields=fields)


def _noisy_texts(texts: TextItems, rows: np.ndarray, seed: int) -> TextItems:
    words = _pooled_words(texts, seed)
    fields = {field: list(values) for field, values in texts.fields.items()}
    for row in rows:
        generator = _generator(seed, row)
        for values in fields.values():
            drawn = generator.integers(len(words), size=len(values[row].split()))
            values[row] = " ".join(words[i] for i in drawn)
    return replace(texts, fields=fields)


def _pooled_words(texts: TextItems, seed: int) -> list[str]:
    """As often as they stand there."""
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(texts.present))[:POOLED_ITEMS]
    return [word for row in rows for values in texts.fields.values() for word in values[row].split()]


def _noisy_with(noise: Callable[[Any, int, np.random.Generator], Any]) -> Callable[..., NoisyItems]:
    def noisy_items(items: Any, rows: np.ndarray, seed: int) -> NoisyItems:
        return NoisyItems(items, np.isin(np.arange(len(items.present)), rows), noise, seed)

    return noisy_items


def _noise_picture(pictures: Any, row: int, generator: np.random.Generator) -> Image.Image:
    height, width = map(int, pictures.sizes[row])
    cells = generator.integers(256, size=(min(height, GRAIN), min(width, GRAIN), 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.NEAREST)


def _noise_recording(recordings: Any, row: int, generator: np.random.Generator) -> Audio:
    samples, rate = map(int, recordings.sizes[row])
    return Audio(LOUDNESS * generator.standard_normal(samples, dtype=np.float32), rate)


def _shuffled_vector(vectors: Any, row: int, generator: np.random.Generator) -> np.ndarray:
    return generator.permutation(vectors.load(row))


def _generator(seed: int, row: int) -> np.random.Generator:
    return np.random.default_rng([seed, 1, row])


NOISY = {
    "text": _noisy_texts,
    "image": _noisy_with(_noise_picture),
    "audio": _noisy_with(_noise_recording),
    "vectors": _noisy_with(_shuffled_vector),
}
