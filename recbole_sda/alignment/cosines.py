"""Cosines of gradients by pair of modalities, expert and projection, and what several batches say together."""

from collections.abc import Mapping, Sequence
from itertools import combinations, product

import numpy as np
import torch
from scipy import stats
from torch import Tensor

EACH = "each"
CONFIDENCE = 0.95

Gradients = Mapping[str, Tensor]  # projection → (out, r)


def batch_cosines(gradients: Mapping[str, Gradients], num_experts: int) -> dict[tuple, float]:
    """(modality, modality, expert or None, projection or None) → cosine; None is all of them together."""
    return {
        (*pair, *part): cosine
        for pair in combinations(gradients, 2)
        for part, cosine in gradient_cosines(*(gradients[modality] for modality in pair), num_experts).items()
    }


def gradient_cosines(first: Gradients, second: Gradients, num_experts: int) -> dict[tuple, float]:
    """(expert or None, projection or None) → cosine of the flattened gradients; nan where one is 0.

    Expert i owns columns i·r/N_e to (i+1)·r/N_e of every B. Its gate multiplies its gradient by a positive
    number, another one at each projection: the cosine of one expert at one projection does not depend on the
    gates; over several projections they are its weights. (EACH, EACH) is the mean over every expert at every
    projection.
    """
    dot, first_square, second_square = (
        _inner_products(a, b, num_experts) for a, b in ((first, second), (first, first), (second, second))
    )
    experts = {None: slice(None), **{i: i for i in range(num_experts)}}
    projections = {None: slice(None), **{name: i for i, name in enumerate(first)}}
    cosines = {}
    for (expert, column), (projection, row) in product(experts.items(), projections.items()):
        norms = first_square[row, column].sum().sqrt() * second_square[row, column].sum().sqrt()
        cosines[expert, projection] = float(dot[row, column].sum() / norms)
    cosines[EACH, EACH] = float(np.mean([cosines[part] for part in product(range(num_experts), first)]))
    return cosines


def summarize(found: Sequence[Mapping[tuple, float]]) -> list[dict]:
    """One record for each pair of modalities, expert and projection, over the batches.

    Returns:
        ``pair``, ``expert`` and ``projection`` (None: all together; EACH), ``mean``, ``low``, ``high`` of
        :func:`mean_interval`, and ``cosines``, a batch each; None where a gradient was 0.
    """
    records = []
    for first, second, expert, projection in found[0]:
        cosines = [batch[first, second, expert, projection] for batch in found]
        mean, low, high = mean_interval(cosines)
        records.append(
            {
                "pair": [first, second],
                "expert": expert,
                "projection": projection,
                "mean": _number(mean),
                "low": _number(low),
                "high": _number(high),
                "cosines": [_number(cosine) for cosine in cosines],
            }
        )
    return records


def mean_interval(cosines: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval, mean ± t·s/√n with n − 1 degrees of freedom, cut off at −1 and 1.

    Batches without a cosine do not count; with fewer than two left the interval is nan.
    """
    values = np.asarray(cosines, dtype=float)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return (np.nan,) * 3
    mean = float(values.mean())
    if len(values) == 1:
        return mean, np.nan, np.nan
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values))
    return mean, max(mean - half, -1.0), min(mean + half, 1.0)


def _inner_products(first: Gradients, second: Gradients, num_experts: int) -> Tensor:
    """(projections, experts) float64."""
    products = [first[name].double() * second[name].double() for name in first]  # (out, r) each
    return torch.stack([p.unflatten(1, (num_experts, -1)).sum(dim=(0, 2)) for p in products])


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
