"""Features as directions: each modality centred and of length 1, so that an inner product is a cosine.

Pooled embeddings share one dominant direction, and with it every item is near every other; what is left after the
mean is taken away tells items apart. Everything goes by slices of the rows: no array of all items is held.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import NamedTuple

import numpy as np

from recbole_sda.features.provider import FeatureProvider, StoredModality

SLICE_BYTES = 64 * 2**20
SMALLEST_LENGTH = 1e-12


class Neighbour(NamedTuple):
    token: str
    cosine: float


@dataclass(frozen=True)
class Space:
    """Some items' features under one variant.

    Args:
        label: the variant.
        features: modality → where it is.
        tokens: the items that are looked at, of which the means are.
    """

    label: str
    features: Mapping[str, StoredModality]
    tokens: tuple[str, ...]

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.features)

    @cached_property
    def provider(self) -> FeatureProvider:
        return FeatureProvider(self.features, self.tokens, missing="learn")

    @cached_property
    def means(self) -> dict[str, np.ndarray]:
        """modality → (width,) float32, of the items that have it."""
        return {modality: self._mean(modality) for modality in self.modalities}

    def vectors(self, modality: str, tokens: Sequence[str]) -> np.ndarray:
        """(n, width) float32 of unit length; 0 where an item lacks the modality."""
        some = FeatureProvider({modality: self.features[modality]}, tokens, missing="learn")
        return _unit(some.values(modality), some.present(modality), self.means[modality])

    def slices(self, modality: str) -> Iterator[tuple[slice, np.ndarray]]:
        """Which of ``tokens``, and their (n, width) float32 of unit length; 0 where an item lacks the modality."""
        present = self.provider.present(modality)
        for part, values in self._raw(modality):
            yield part, _unit(values, present[part], self.means[modality])

    def pair_cosines(self, first: str, second: str) -> np.ndarray:
        """(items,) float32: cosine of each item's own two vectors; NaN where it lacks one."""
        both = self.provider.present(first) & self.provider.present(second)
        cosines = np.full(len(self.tokens), np.nan, dtype=np.float32)
        for (part, a), (_, b) in zip(self.slices(first), self.slices(second), strict=True):
            cosines[part] = np.where(both[part], np.einsum("nd,nd->n", a, b), np.nan)
        return cosines

    def nearest(self, modality: str, queries: Sequence[str], *, k: int) -> list[list[Neighbour]]:
        """The k nearest other items of each query, the nearest first, by comparing every one; none without it."""
        has = FeatureProvider({modality: self.features[modality]}, queries, missing="learn").present(modality)
        wanted = self.vectors(modality, queries)
        present = self.provider.present(modality)
        found: list[list[Neighbour]] = [[] for _ in queries]
        for part, values in self.slices(modality):
            cosines = wanted @ values.T  # (queries, n)
            cosines[:, ~present[part]] = -np.inf
            for query, row, best in compress(zip(queries, cosines, found, strict=True), has):
                for place in np.argpartition(-row, min(k, len(row) - 1))[: k + 1]:
                    token = self.tokens[part.start + place]
                    if token != query and np.isfinite(row[place]):
                        best.append(Neighbour(token, float(row[place])))
                best[:] = sorted(best, key=lambda neighbour: -neighbour.cosine)[:k]
        return found

    def _mean(self, modality: str) -> np.ndarray:
        width, total = self.provider.width(modality), 0
        total = np.zeros(width, dtype=np.float64)
        for _, values in self._raw(modality):  # rows of items without the modality are 0
            total += values.sum(axis=0, dtype=np.float64)
        return (total / max(1, self.provider.present(modality).sum())).astype(np.float32)

    def _raw(self, modality: str) -> Iterator[tuple[slice, np.ndarray]]:
        rows = max(1, SLICE_BYTES // (4 * self.provider.width(modality)))
        for start in range(0, len(self.tokens), rows):
            part = slice(start, min(start + rows, len(self.tokens)))
            yield part, self.provider.values(modality, part.start, part.stop).astype(np.float32)


def _unit(values: np.ndarray, present: np.ndarray, mean: np.ndarray) -> np.ndarray:
    centred = (values.astype(np.float32) - mean) * present[:, None]
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return centred / np.maximum(lengths, SMALLEST_LENGTH)
