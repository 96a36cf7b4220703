"""Who is nearest to whom, by cosine of centred embeddings, a block of rows at a time.

Two cosines within `TIE` of each other are a tie: equal vectors must not win by the order in which their products
were summed. A tie never helps: it counts against an item's own pair, and tied neighbours share the last places.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

BLOCK_SCORES = 2**22  # scores in memory at once, in float32
TIE = 1e-6
FLAT = 1e-9  # rows nearer to their mean than so much of its length lie on it


class Values(NamedTuple):
    """The items' values of all factors, side by side: one product counts them all.

    Attributes:
        names: the factors.
        columns: (N, values) float32, 1 where the item has the value.
        starts: each factor's first column.
    """

    names: tuple[str, ...]
    columns: np.ndarray
    starts: np.ndarray


def centred_units(embeddings: np.ndarray) -> np.ndarray:
    """Rows minus their mean, at length 1; (N, H) → (N, H) float32. A row that lies on the mean becomes 0."""
    mean = embeddings.mean(axis=0, dtype=np.float64)
    floor = FLAT * np.linalg.norm(mean)
    units = np.empty(embeddings.shape, dtype=np.float32)
    for rows in blocks(len(embeddings), embeddings.shape[1]):
        centred = embeddings[rows] - mean
        length = np.linalg.norm(centred, axis=1, keepdims=True)
        units[rows] = np.divide(centred, length, out=np.zeros_like(centred), where=length > floor)
    return units


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of `rows`, each of so many rows that `BLOCK_SCORES` numbers of `width` columns fit."""
    step = max(1, BLOCK_SCORES // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def score_blocks(query: np.ndarray, key: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Cosines of each row of `query` with all rows of `key`, its own row set to −∞.

    Args:
        query, key: (N, H), of :func:`centred_units`; row i of both belongs to item i.

    Yields:
        the rows (b,), the scores of their own items (b,), and all others' (b, N).
    """
    for rows in blocks(len(query), len(key)):
        numbers = np.arange(len(query))[rows]
        scores = query[rows] @ key.T
        own = scores[np.arange(len(numbers)), numbers].copy()
        scores[np.arange(len(numbers)), numbers] = -np.inf
        yield numbers, own, scores


def shared_values(rows: np.ndarray, scores: np.ndarray, values: Values, *, neighbours: int) -> np.ndarray:
    """(b, factors): the share of each row's nearest neighbours that have its value.

    Neighbours that tie for the last places share them: all equal gives what chance gives.

    Args:
        rows, scores: of :func:`score_blocks`.
        values: of :func:`value_columns`.
    """
    last = np.partition(scores, -neighbours, axis=1)[:, [-neighbours]]  # (b, 1), the k-th largest
    above, near = scores > last + TIE, scores >= last - TIE
    sure, reached = (np.count_nonzero(found, axis=1, keepdims=True) for found in (above, near))
    weight = near * ((neighbours - sure) / (reached - sure)).astype(np.float32)  # (b, N)
    weight[above] = 1
    shared = weight @ values.columns * values.columns[rows]  # (b, values)
    return np.add.reduceat(shared, values.starts, axis=1) / neighbours


def value_columns(factors: Mapping[str, np.ndarray]) -> Values:
    """Of each factor's numbers, (N,) int."""
    columns = [np.eye(numbers.max() + 1, dtype=np.float32)[numbers] for numbers in factors.values()]
    widths = [part.shape[1] for part in columns]
    return Values(tuple(factors), np.concatenate(columns, axis=1), np.cumsum([0, *widths[:-1]]))


def link_ranks(own: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(b,) int: the place of each item's own pair among all items, from 1; every tie stands before it."""
    return 1 + np.count_nonzero(scores >= own[:, None] - TIE, axis=1)
