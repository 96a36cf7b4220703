"""The map: items of each space in the plane, near ones near, and the items whose modalities disagree most.

A plane shows at most so many points, so items are sampled; the page says how many of how many. All modalities of a
space go through one projection, so that an item's picture and its text can be seen apart or together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from recbole_sda.errors import SDAError
from recbole_sda.features.extras import extra
from recbole_sda.report.page.spaces import Space

PROJECTIONS = ("tsne", "umap")
MOST_CONFLICTING, CONFLICTING_SHARE = 100, 0.1
FEWEST_POINTS = 6
COMPONENTS = 50  # that are kept before the projection, as t-SNE's authors do
PERPLEXITY = 30


@dataclass(frozen=True)
class EmbeddingMap:
    """Where the items are.

    Attributes:
        tokens: the items, those of the sample first.
        sampled: so many of ``tokens`` are the sample.
        embedded: so many of the examined items have a feature.
        conflicting: the most conflicting, worst first; a part of ``tokens``.
        cosines: a space's label → (tokens,) cosine of each item's own two vectors, NaN where it lacks one.
        pair: the two modalities that conflict is about; None where no two share a width.
        points: a space's label → modality → (tokens, 2), NaN where the item lacks it.
    """

    tokens: tuple[str, ...]
    sampled: int
    embedded: int
    conflicting: tuple[str, ...]
    cosines: dict[str, np.ndarray]
    pair: tuple[str, str] | None
    points: dict[str, dict[str, np.ndarray]]


def map_items(spaces: Sequence[Space], *, items: int, seed: int, projection: str = "tsne") -> EmbeddingMap:
    """Sample items and place them, each space by itself.

    Conflict is the distance between an item's own two vectors in the last space, the adapted one: the lowest
    cosines after centring are the most conflicting, a tenth of the items that have both, at most 100.

    Args:
        spaces: of the same items, the last the one that conflict is judged in.
        items: at most so many are sampled; the most conflicting come on top.

    Raises:
        SDAError: too few items, or modalities of different widths, which have no plane in common.
    """
    last = spaces[-1]
    pair = _pair(last)
    cosines = last.pair_cosines(*pair) if pair else np.full(len(last.tokens), np.nan, dtype=np.float32)
    worst = _lowest(cosines)
    embedded = _embedded(last)
    sample = sample_rows(embedded, items, seed)
    rows = np.concatenate([sample, worst[~np.isin(worst, sample)]])
    tokens = tuple(last.tokens[row] for row in rows)
    points = {space.label: _place(space, tokens, projection, seed) for space in spaces}
    own = {s.label: _own_cosines(s, tokens, pair) for s in spaces} if pair else {}
    conflicting = tuple(last.tokens[row] for row in worst)
    return EmbeddingMap(tokens, len(sample), len(embedded), conflicting, own, pair, points)


def sample_rows(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """``count`` of ``rows`` at random, or all where there are no more, rising."""
    if len(rows) <= count:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))


def project(vectors: np.ndarray, *, projection: str, seed: int) -> np.ndarray:
    """(n, 2) float64 of (n, width) unit vectors.

    Raises:
        SDAError: fewer than ``FEWEST_POINTS``, or UMAP is not installed.
    """
    if len(vectors) < FEWEST_POINTS:
        raise SDAError(f"{len(vectors)} points are too few for a map; it needs {FEWEST_POINTS}")
    from sklearn.decomposition import PCA

    components = min(COMPONENTS, *vectors.shape)
    reduced = PCA(components, random_state=seed).fit_transform(vectors.astype(np.float64))
    if projection == "umap":
        neighbours = min(15, len(vectors) - 1)
        return extra("umap", "umap").UMAP(n_neighbors=neighbours, random_state=seed).fit_transform(reduced)
    from sklearn.manifold import TSNE

    # Where all points are one, or lie on a line, there are no two principal components to begin with.
    flat = components < 2 or reduced[:, 1].std() < 1e-9
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    start = "random" if flat else "pca"
    return TSNE(2, init=start, perplexity=perplexity, random_state=seed).fit_transform(reduced).astype(np.float64)


def check_projection(projection: str) -> None:
    """Raises: SDAError: unknown, or its library is missing."""
    if projection not in PROJECTIONS:
        raise SDAError(f"projection={projection!r} is unknown; choose {' or '.join(PROJECTIONS)}")
    if projection == "umap":
        try:
            import umap  # noqa: F401
        except ImportError as error:
            raise SDAError("projection=umap needs `pip install umap-learn`; or choose tsne") from error


def _place(space: Space, tokens: Sequence[str], projection: str, seed: int) -> dict[str, np.ndarray]:
    widths = {space.provider.width(modality) for modality in space.modalities}
    if len(widths) > 1:
        raise SDAError(f"the modalities of {space.label} have different widths and no space in common")
    here = Space(space.label, space.features, tuple(tokens)).provider
    present = {modality: here.present(modality) for modality in space.modalities}
    vectors = [space.vectors(modality, tokens)[present[modality]] for modality in space.modalities]
    placed = project(np.concatenate(vectors), projection=projection, seed=seed)
    points, start = {}, 0
    for modality, has in present.items():
        points[modality] = np.full((len(tokens), 2), np.nan)
        points[modality][has] = placed[start : start + has.sum()]
        start += has.sum()
    return points


def _pair(space: Space) -> tuple[str, str] | None:
    """The first two modalities whose vectors can be compared."""
    pairs = combinations(space.modalities, 2)
    return next((pair for pair in pairs if len({space.provider.width(m) for m in pair}) == 1), None)


def _lowest(cosines: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(~np.isnan(cosines))
    count = min(MOST_CONFLICTING, math.ceil(CONFLICTING_SHARE * len(rows)))
    return rows[np.argsort(cosines[rows], kind="stable")[:count]]


def _embedded(space: Space) -> np.ndarray:
    """Rows of the items that have any modality."""
    return np.flatnonzero(np.any([space.provider.present(modality) for modality in space.modalities], axis=0))


def _own_cosines(space: Space, tokens: Sequence[str], pair: tuple[str, str]) -> np.ndarray:
    if not set(pair) <= set(space.modalities):
        return np.full(len(tokens), np.nan)
    here = Space(space.label, space.features, tuple(tokens)).provider
    both = here.present(pair[0]) & here.present(pair[1])
    first, second = (space.vectors(modality, tokens) for modality in pair)
    return np.where(both, np.einsum("nd,nd->n", first, second), np.nan)
