"""Which links between modalities are found, from the most popular items to the longest tail."""

from collections.abc import Mapping
from itertools import permutations

import numpy as np

from recbole_sda.laboratory.measures import common_rows, mean_or_nan
from recbole_sda.laboratory.neighbours import centred_units, link_ranks, score_blocks
from recbole_sda.laboratory.truth import Truth

BUCKETS = 5


def measure_links(
    embeddings: Mapping[str, np.ndarray], truth: Truth, *, places: int = 10, buckets: int = BUCKETS
) -> dict[str, float]:
    """How many items find their own pair in the other modality, by popularity.

    Args:
        embeddings, truth: as in :func:`~recbole_sda.laboratory.measures.measure_structure`.
        places: an item is found when it is among so many nearest; ties count against it.
        buckets: of equal numbers of the world's items by popularity, give or take one.

    Returns:
        ``recall@10/<query>-<key>/bucket1`` (the most popular fifth) to ``bucket5`` (the least); NaN where a
        bucket has no item with all modalities.

    Raises:
        SDAError: as there.
    """
    rows = common_rows(embeddings, truth)
    bucket = popularity_buckets(truth.popularity, buckets)[rows]
    units = {modality: centred_units(values[rows]) for modality, values in embeddings.items()}
    measured = {}
    for query, key in permutations(units, 2):
        found = np.concatenate(
            [link_ranks(own, scores) <= places for _, own, scores in score_blocks(units[query], units[key])]
        )
        for number in range(buckets):
            name = f"recall@{places}/{query}-{key}/bucket{number + 1}"
            measured[name] = mean_or_nan(found[bucket == number])
    return measured


def popularity_buckets(popularity: np.ndarray, buckets: int = BUCKETS) -> np.ndarray:
    """(N,) int: 0 for the most popular items, buckets − 1 for the least; ties go by row."""
    order = np.argsort(-popularity, kind="stable")
    bucket = np.empty(len(popularity), dtype=np.int64)
    bucket[order] = np.arange(len(popularity)) * buckets // max(1, len(popularity))
    return bucket
