"""Raw features become inputs of a projection: every dimension at mean 0 and variance 1, if asked fewer of them.

Mean-pooled embeddings share one dominant direction; unless it is taken away, a projection sees nearly the
same vector for every item.
"""

import numpy as np
import torch
from torch import Tensor

from recbole_sda.features import FeatureProvider

CHUNK_ROWS = 65_536
SMALLEST_DEVIATION = 1e-6
NOISE_VARIANCE = 1e-5  # of the largest; rounding to half precision leaves about 1e-7


def standardised(
    provider: FeatureProvider, modality: str, *, reduction: str = "none", dimension: int = 768
) -> tuple[Tensor, Tensor]:
    """One modality's features in the recommender's item ids: row 0 is padding.

    Args:
        reduction: ``none``, or ``pca``: the leading principal components of the standardised
            features, at most ``dimension`` and at most their rank, brought to a mean variance of 1.

    Returns:
        (items + 1, width) in the store's dtype, padding and missing items at 0; (items + 1,) bool, present.
    """
    present = provider.present(modality)
    mean, deviation = _moments(provider, modality, present)
    mask = torch.from_numpy(np.concatenate([[False], present]))
    dtype = torch.from_numpy(provider.values(modality, 0, 0)).dtype
    table = torch.zeros(len(mask), provider.width(modality), dtype=dtype)
    for start, values, here in _chunks(provider, modality, present):
        rows = 1 + start + np.flatnonzero(here)
        table[rows] = torch.from_numpy((values - mean) / deviation).to(dtype)
    if reduction == "pca":
        table = _principal_components(table, int(present.sum()), dimension)
    return table, mask


def _chunks(provider: FeatureProvider, modality: str, present: np.ndarray):
    """(first row, present rows in float64, which rows of the chunk are present)."""
    for start in range(0, len(provider), CHUNK_ROWS):
        here = present[start : start + CHUNK_ROWS]
        yield start, provider.values(modality, start, start + CHUNK_ROWS)[here].astype(np.float64), here


def _moments(provider: FeatureProvider, modality: str, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count = max(int(present.sum()), 1)
    mean = sum(values.sum(axis=0) for _, values, _ in _chunks(provider, modality, present)) / count
    squares = sum(((v - mean) ** 2).sum(axis=0) for _, v, _ in _chunks(provider, modality, present))
    return mean, np.maximum(np.sqrt(squares / count), SMALLEST_DEVIATION)


def _principal_components(table: Tensor, count: int, dimension: int) -> Tensor:
    """Leading components at one common scale: whitening would raise the noise of half precision to a feature."""
    covariance = torch.zeros(table.shape[1], table.shape[1], dtype=torch.float64)
    for rows in table.split(CHUNK_ROWS):  # missing rows are 0 and add nothing
        covariance += rows.double().T @ rows.double() / max(count, 1)
    variances, directions = torch.linalg.eigh(covariance)  # ascending
    rank = int((variances > NOISE_VARIANCE * variances[-1]).sum())
    kept = max(min(dimension, rank), 1)
    mean_variance = variances[-kept:].mean().clamp_min(SMALLEST_DEVIATION**2)
    leading = directions[:, -kept:].flip(1) / mean_variance.sqrt()
    return torch.cat([(rows.double() @ leading).to(table.dtype) for rows in table.split(CHUNK_ROWS)])
