"""How much of their space embeddings use; the definitions of stage 1's log, for any number of items."""

import numpy as np

from recbole_sda.laboratory.neighbours import FLAT, blocks


def effective_rank(embeddings: np.ndarray) -> float:
    """exp of the entropy of the centred rows' normalised singular values (Roy and Vetterli, 2007).

    Args:
        embeddings: (N, H).

    Returns:
        between 1 and min(N − 1, H); 0 where all rows are equal.
    """
    values = _singular_values(embeddings)
    if not values.sum():
        return 0.0
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def mean_pairwise_cosine(embeddings: np.ndarray) -> float:
    """Mean cosine over all pairs of different rows, uncentred; (N, H) → [−1, 1], and 1 is total collapse.

    A row of zeros has cosine 0 with all others.
    """
    total, ones = np.zeros(embeddings.shape[1]), 0
    for rows in blocks(*embeddings.shape):
        part = embeddings[rows].astype(np.float64)
        length = np.linalg.norm(part, axis=1, keepdims=True)
        total += np.divide(part, length, out=np.zeros_like(part), where=length > 0).sum(axis=0)
        ones += int((length > 0).sum())
    items = len(embeddings)
    return float((total @ total - ones) / (items * (items - 1)))


def _singular_values(embeddings: np.ndarray) -> np.ndarray:
    """Of the centred rows; where there are more rows than columns from H × H products, in blocks."""
    mean = embeddings.mean(axis=0, dtype=np.float64)
    items, width = embeddings.shape
    if items <= width:
        centred = embeddings - mean
        values = np.linalg.svd(centred, compute_uv=False)
    else:
        products = np.zeros((width, width))
        for rows in blocks(items, width):
            centred = embeddings[rows] - mean
            products += centred.T @ centred
        squares = np.linalg.eigvalsh(products)
        rounding = width * np.finfo(np.float64).eps * squares[-1]
        values = np.sqrt(np.where(squares > rounding, squares, 0))
    flat = FLAT * np.linalg.norm(mean) * np.sqrt(items)
    return values if np.sqrt((values**2).sum()) > flat else np.zeros_like(values)
