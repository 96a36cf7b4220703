"""Did alignment find the planted structure? Neighbours with shared factors, links between modalities, spread.

Everything is measured among the items that have all modalities asked for, in blocks: memory grows with the items,
time with their square.
"""

import math
from collections.abc import Mapping
from itertools import product

import numpy as np

from recbole_sda.errors import SDAError
from recbole_sda.laboratory.neighbours import (
    Values,
    centred_units,
    link_ranks,
    score_blocks,
    shared_values,
    value_columns,
)
from recbole_sda.laboratory.spread import effective_rank, mean_pairwise_cosine
from recbole_sda.laboratory.truth import Truth
from recbole_sda.progress import progress_bar

HEAD_SHARE = 0.2  # of the items, as in the evaluation of recommenders
SHOW_PROGRESS_ITEMS = 10_000


def measure_structure(
    embeddings: Mapping[str, np.ndarray], truth: Truth, *, neighbours: int = 10
) -> dict[str, float]:
    """Measure embeddings against the planted truth.

    Args:
        embeddings: modality → (N, H); row i is item i of `truth`. Rows of missing items are not read.
        truth: see :func:`~recbole_sda.laboratory.truth.read_truth`, and its `of` for another order.
        neighbours: k of the purity.

    Returns:
        flat names, query and key being modalities:

        * ``purity/<query>-<key>/<factor>``: of an item's query embedding, the share of the k nearest items, by
          cosine of their key embeddings, centred, that have its value of the factor; the mean over the items. The
          item itself is never among them. Tied neighbours share the last places.
        * ``chance/<factor>``: the same for neighbours at random.
        * ``recall@1/<query>-<key>``, ``recall@10/…``: the share of items that are their own nearest, or among
          their own ten nearest, in the other modality; ``mrr/…``: the mean of 1 ÷ that place. Ties count against
          an item.
        * ``recall@10/<query>-<key>/head``, ``…/tail``: of the items among the most popular fifth of `truth`, and
          of all others; NaN where there is none.
        * ``effective_rank/<modality>``, ``mean_cosine/<modality>``: see :mod:`~recbole_sda.laboratory.spread`.

    Raises:
        SDAError: shapes that do not fit `truth`, values that are not finite, too few items.
    """
    rows = common_rows(embeddings, truth, least=neighbours + 1)
    factors = {name: numbers[rows] for name, numbers in truth.factors.items()}
    head = head_items(truth.popularity)[rows]
    units = {modality: centred_units(vectors[rows]) for modality, vectors in embeddings.items()}
    found = {f"chance/{name}": _chance(numbers) for name, numbers in factors.items()}
    values = value_columns(factors)
    for query, key in product(units, units):
        purity, ranks = _compare(units[query], units[key], values, neighbours, f"{query}-{key}")
        found |= {f"purity/{query}-{key}/{name}": share for name, share in purity.items()}
        if query != key:
            found |= _links(ranks, head, f"{query}-{key}")
    for modality, vectors in embeddings.items():
        found[f"effective_rank/{modality}"] = effective_rank(vectors[rows])
        found[f"mean_cosine/{modality}"] = mean_pairwise_cosine(vectors[rows])
    return found


def common_rows(embeddings: Mapping[str, np.ndarray], truth: Truth, *, least: int = 2) -> np.ndarray:
    """(n,) int: the items that have all these modalities, once the embeddings are found to be sound.

    Raises:
        SDAError: as in :func:`measure_structure`.
    """
    both = np.ones(len(truth), dtype=bool)
    for modality, values in embeddings.items():
        if modality not in truth.present:
            raise SDAError(f"embeddings of {modality!r}: this world has {', '.join(truth.present)}")
        if values.ndim != 2 or len(values) != len(truth):
            raise SDAError(f"embeddings of {modality}: found shape {values.shape}, needed ({len(truth)}, width)")
        both &= truth.present[modality]
    rows = np.flatnonzero(both)
    if len(rows) < least:
        raise SDAError(
            f"only {len(rows)} items have {', '.join(embeddings)}, and {least} are needed; take a larger world, "
            "or fewer neighbours"
        )
    for modality, values in embeddings.items():
        faulty = np.flatnonzero(~np.isfinite(values[rows]).all(axis=1))
        if len(faulty):
            raise SDAError(
                f"embeddings of {modality}: {len(faulty)} rows are not finite, the first of item "
                f"{truth.tokens[rows[faulty[0]]]!r}; train with a lower align_learning_rate, or embed anew"
            )
    return rows


def head_items(popularity: np.ndarray) -> np.ndarray:
    """(N,) bool: the most popular fifth, rounded up; ties go by row."""
    head = np.zeros(len(popularity), dtype=bool)
    head[np.argsort(-popularity, kind="stable")[: math.ceil(HEAD_SHARE * len(popularity))]] = True
    return head


def _compare(
    query: np.ndarray, key: np.ndarray, values: Values, neighbours: int, label: str
) -> tuple[dict[str, float], np.ndarray]:
    """Mean purity by factor, and each item's place among its own neighbours, (N,)."""
    shares, ranks = np.zeros(len(values.names)), np.empty(len(query), dtype=np.int64)
    with progress_bar(len(query), label, "item", show=len(query) >= SHOW_PROGRESS_ITEMS) as bar:
        for rows, own, scores in score_blocks(query, key):
            ranks[rows] = link_ranks(own, scores)
            shares += shared_values(rows, scores, values, neighbours=neighbours).sum(axis=0, dtype=np.float64)
            bar.update(len(rows))
    return dict(zip(values.names, (shares / len(query)).tolist(), strict=True)), ranks


def _links(ranks: np.ndarray, head: np.ndarray, pair: str) -> dict[str, float]:
    found = ranks <= 10
    return {
        f"recall@1/{pair}": float((ranks == 1).mean()),
        f"recall@10/{pair}": float(found.mean()),
        f"mrr/{pair}": float((1 / ranks).mean()),
        f"recall@10/{pair}/head": mean_or_nan(found[head]),
        f"recall@10/{pair}/tail": mean_or_nan(found[~head]),
    }


def mean_or_nan(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _chance(numbers: np.ndarray) -> float:
    """The chance that two different items share their value."""
    counts, items = np.bincount(numbers), len(numbers)
    return float((counts * (counts - 1)).sum() / (items * (items - 1)))
