"""Features as a recommender takes them in: standardised, if asked reduced, in its item order, cached on disk.

Mean-pooled embeddings share one dominant direction; unless it is taken away, a projection sees nearly the
same vector for every item. So every dimension is brought to mean 0 and variance 1 over the items that have
the modality. ``pca`` then keeps the leading principal components at one common scale, ``whiten`` each of
them at variance 1. All of it is one affine map, fitted in one pass over the features and applied in another.
"""

import hashlib
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from recbole_sda.artefacts import build_once, digest
from recbole_sda.errors import SDAError
from recbole_sda.features.arrays import create_array, row_chunks
from recbole_sda.features.provider import FeatureProvider
from recbole_sda.features.store import FeatureStore, write_store
from recbole_sda.progress import progress_bar

logger = logging.getLogger(__name__)

# Raise when the same settings would give another table.
VERSION = 1
PADDING = "[PAD]"  # RecBole's name of item 0
FLAT_DEVIATION = 1e-6  # of the largest; a dimension below it does not vary
NOISE_VARIANCE = 1e-5  # of the largest; rounding to half precision leaves about 1e-7
SHOW_PROGRESS_VALUES = 2**28


def prepare_features(
    provider: FeatureProvider,
    modality: str,
    *,
    reduction: str,
    dimension: int,
    folder: Path,
    device: torch.device | str = "cpu",
) -> FeatureStore:
    """One modality's table for a recommender, made now or found.

    Args:
        provider: the features, in the recommender's item order.
        reduction: ``none``, ``pca`` or ``whiten``.
        dimension: how many components are kept at most; fewer where the features have fewer above the noise.
        folder: where tables are kept, each under the digest of the features, the items and the reduction.
        device: computes the fit.

    Returns:
        A store of (items + 1, width) float16, whose row is the recommender's item id: row 0 is padding; 0 where
        the modality is missing. Standardised values need half precision's digits, not a wider type's range.

    Raises:
        SDAError: no item has the modality, or one has a value that is not finite.
    """
    settings = {
        "version": VERSION,
        "modality": modality,
        "features": provider.identity(modality),
        "items": hashlib.sha256("\n".join(provider.tokens).encode()).hexdigest(),
        "feature_reduction": reduction,
        **({} if reduction == "none" else {"feature_dimension": dimension}),
    }
    target = Path(folder) / digest(settings)
    build = partial(_write_table, provider, modality, settings=settings, device=device)
    built = build_once(target, build)
    logger.log(logging.INFO if built else logging.DEBUG, "prepared %s of %s", target, modality)
    return FeatureStore.open(target)


def _write_table(
    provider: FeatureProvider, modality: str, folder: Path, *, settings: dict, device: torch.device | str
) -> None:
    show = len(provider) * provider.width(modality) >= SHOW_PROGRESS_VALUES
    with progress_bar(2 * len(provider), f"prepare {modality}", "item", show=show) as bar:
        chunks = partial(_chunks, provider, modality, device, bar)
        mean, basis = _fit(chunks, settings["feature_reduction"], settings.get("feature_dimension"), modality)
        width = len(mean) if basis.ndim == 1 else basis.shape[1]
        table = create_array(
            folder / f"{modality}.npy", dtype=np.dtype(np.float16), shape=(len(provider) + 1, width)
        )
        for ids, values in chunks():
            centred = values - mean
            table[ids] = (centred * basis if basis.ndim == 1 else centred @ basis).half().cpu().numpy()
    table.flush()
    present = np.concatenate([[False], provider.present(modality)])
    write_store(folder, [PADDING, *provider.tokens], {modality: present}, settings=settings)


def _chunks(provider, modality: str, device, bar) -> Iterator[tuple[np.ndarray, Tensor]]:
    """(n,) item ids that have the modality and their (n, width) values in float64, a chunk at a time."""
    present = provider.present(modality)
    for rows in row_chunks(len(provider), provider.width(modality), itemsize=8):
        here = np.flatnonzero(present[rows])
        values = torch.from_numpy(provider.values(modality, rows.start, rows.stop)[here])
        values = values.to(device, torch.float64)
        if not values.sum().isfinite():
            _refuse_infinite(provider, modality, rows.start + here, values)
        yield 1 + rows.start + here, values
        bar.update(rows.stop - rows.start)


def _refuse_infinite(provider, modality: str, items: np.ndarray, values: Tensor) -> None:
    broken = (~values.isfinite().all(dim=1)).cpu().numpy()
    first = provider.tokens[items[broken][0]]
    raise SDAError(
        f"the {modality} features of item {first!r} hold NaN or an infinite value ({provider.describe()}); mend "
        f"them, or leave {modality} out of modalities"
    )


def _fit(chunks, reduction: str, dimension: int | None, modality: str) -> tuple[Tensor, Tensor]:
    """What to subtract, (width,), and what to multiply by: (width,), or (width, components)."""
    mean, covariance = _moments(chunks, modality, diagonal=reduction == "none")
    deviation = (covariance if reduction == "none" else covariance.diagonal()).clamp(min=0).sqrt()
    varies = (deviation > 0) & (deviation > FLAT_DEVIATION * deviation.max())
    inverse = torch.where(varies, 1 / deviation, 0)
    if reduction == "none":
        return mean, inverse
    correlation = covariance * inverse * inverse.unsqueeze(1)
    return mean, inverse.unsqueeze(1) * _components(correlation, dimension, whiten=reduction == "whiten")


def _moments(chunks, modality: str, *, diagonal: bool) -> tuple[Tensor, Tensor]:
    """Mean, (width,), and covariance, (width, width), or the variances alone, (width,).

    Taken about the first chunk's mean: sums of squares about 0 would lose the digits of a large mean.
    """
    count = total = squares = 0
    centre = None
    for _, values in chunks():
        if not len(values):
            continue
        centre = values.mean(dim=0) if centre is None else centre
        values = values - centre
        count, total = count + len(values), total + values.sum(dim=0)
        squares = squares + (values.square().sum(dim=0) if diagonal else values.T @ values)
    if not count:
        raise SDAError(f"no item has {modality}; leave it out of modalities")
    shift = total / count
    return centre + shift, squares / count - (shift.square() if diagonal else shift.outer(shift))


def _components(correlation: Tensor, dimension: int, *, whiten: bool) -> Tensor:
    """(width, components): principal directions, scaled to a mean variance of 1 or, whitened, to 1 each."""
    width = len(correlation)
    leading = [max(width - dimension, 0), width - 1]
    variances, directions = scipy.linalg.eigh(correlation.cpu().numpy(), subset_by_index=leading)  # ascending
    variances, directions = variances[::-1], directions[:, ::-1]
    kept = max(int((variances > NOISE_VARIANCE * variances[0]).sum()), 1)
    variances, directions = np.maximum(variances[:kept], np.finfo(float).tiny), directions[:, :kept]
    # An eigenvector has no sign of its own: its largest coordinate is made positive, on every machine.
    signs = np.sign(np.take_along_axis(directions, np.abs(directions).argmax(axis=0)[None], axis=0))
    basis = directions * signs / np.sqrt(variances if whiten else variances.mean())
    return torch.from_numpy(basis).to(correlation.device)
