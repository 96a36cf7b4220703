"""Nearest neighbours before and after adaptation, of some popular items and of some of the long tail."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recbole_sda.report.page.spaces import Neighbour, Space

EACH = 3  # items of the head, and of the tail


class Query(NamedTuple):
    """An item, and by modality and space's label its nearest."""

    token: str
    group: str
    nearest: dict[str, dict[str, list[Neighbour]]]


def choose_queries(spaces: Sequence[Space], tail: set[str] | None, *, seed: int) -> dict[str, list[str]]:
    """Group → items drawn at random among those that have all modalities, or any if none has all.

    Args:
        tail: the long tail's items; None where nobody knows, and there is one group.
    """
    present = [spaces[-1].provider.present(modality) for modality in spaces[-1].modalities]
    has = np.all(present, axis=0) if np.all(present, axis=0).any() else np.any(present, axis=0)
    tokens = np.array(spaces[-1].tokens, dtype=object)[has].tolist()
    if tail is None:
        groups = {"items": tokens}
    else:
        groups = {"head": [t for t in tokens if t not in tail], "long tail": [t for t in tokens if t in tail]}
    generator = np.random.default_rng(seed)
    count = EACH * 2 if tail is None else EACH
    return {
        group: [found[place] for place in generator.permutation(len(found))[:count]]
        for group, found in groups.items()
    }


def find_neighbours(spaces: Sequence[Space], queries: dict[str, list[str]], *, k: int) -> list[Query]:
    """The k nearest of every query, in every space and modality, within the modality."""
    tokens = [token for found in queries.values() for token in found]
    nearest = {
        (modality, space.label): dict(zip(tokens, space.nearest(modality, tokens, k=k), strict=True))
        for space in spaces
        for modality in space.modalities
    }
    told = []
    for group, found in queries.items():
        for token in found:
            by_modality: dict[str, dict[str, list[Neighbour]]] = {}
            for (modality, label), neighbours in nearest.items():
                by_modality.setdefault(modality, {})[label] = neighbours[token]
            told.append(Query(token, group, by_modality))
    return told
