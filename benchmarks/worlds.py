"""Drawn interactions and features at the sizes of real datasets, as RecBole reads them."""

from pathlib import Path

import numpy as np
from harness import SEED

from recbole_sda.features import FeatureStore, write_store
from recbole_sda.features.arrays import create_array, row_chunks


def write_interactions(folder: Path, *, users: int, items: int, interactions: int) -> None:
    """``<folder>/<its name>.inter``: at least five a user, popularity falling as one over the rank."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(SEED)
    lengths = 5 + generator.multinomial(interactions - 5 * users, np.full(users, 1 / users))
    weights = 1 / np.arange(10, items + 10)
    drawn = generator.choice(items, size=interactions, p=weights / weights.sum())
    drawn[generator.permutation(interactions)[:items]] = np.arange(items)  # each item is there
    user = np.repeat(np.arange(users), lengths)
    times = np.arange(interactions) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    with (folder / f"{folder.name}.inter").open("w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        np.savetxt(file, np.stack([user, drawn, times], axis=1), fmt="u%d\ti%d\t%d")


def write_features(
    folder: Path, *, items: int, width: int, modalities: tuple[str, ...] = ("text",)
) -> FeatureStore:
    """A store of float16 noise around a common direction, like mean-pooled embeddings; items ``i0``, ``i1``, …"""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(SEED)
    common = generator.normal(size=width)
    for modality in modalities:
        values = create_array(folder / f"{modality}.npy", dtype=np.dtype(np.float16), shape=(items, width))
        for rows in row_chunks(items, width, 2):
            values[rows] = common + generator.normal(size=(rows.stop - rows.start, width))
        values.flush()
    present = {modality: np.ones(items, dtype=bool) for modality in modalities}
    write_store(folder, [f"i{item}" for item in range(items)], present, settings={})
    return FeatureStore.open(folder)
