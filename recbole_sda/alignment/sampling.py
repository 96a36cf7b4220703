"""Which items train, which are held out, and which are compared at a step: all functions of the seed.

Nothing here has a state, so that a run that goes on after an interruption draws what it would have drawn.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np

from recbole_sda.alignment.settings import AlignmentSettings
from recbole_sda.alignment.similarity import AlignmentLoss
from recbole_sda.catalog import Catalog
from recbole_sda.errors import SDAError

MIN_ITEMS = 3


def split_items(catalog: Catalog, settings: AlignmentSettings) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out, among those with at least two of the modalities.

    Raises:
        SDAError: too few of them, or too few that a pair of modalities has in common.
    """
    modalities = settings.modalities
    present = presence(catalog, modalities)
    usable = np.flatnonzero(present.sum(axis=0) >= 2)
    wanted = f"both {_named(modalities)}" if len(modalities) == 2 else f"two of {_named(modalities)}"
    if len(usable) == 0:
        *others, last = modalities
        raise SDAError(
            f"no item of {catalog.name!r} has {wanted}, so they cannot be aligned; "
            f"use --modalities={last} (or {', '.join(others)}), which embeds without adaptation"
        )
    held = min(settings.holdout_max, round(settings.holdout_share * len(usable)))
    if held < MIN_ITEMS or len(usable) - held < MIN_ITEMS:
        raise SDAError(
            f"only {len(usable)} items of {catalog.name!r} have {wanted}; with "
            f"align_holdout_share={settings.holdout_share} that leaves {len(usable) - held} to train on and "
            f"{held} held out, and {MIN_ITEMS} of each are needed. Use --adapter=none"
        )
    shuffled = np.random.default_rng(settings.seed).permutation(usable)
    train_rows, held_rows = np.sort(shuffled[held:]), np.sort(shuffled[:held])
    for part, rows in (("to train on", train_rows), ("held out", held_rows)):
        _check_pairs(present[:, rows], part, catalog.name, settings)
    return train_rows, held_rows


def presence(catalog: Catalog, modalities: Sequence[str]) -> np.ndarray:
    """(modalities, items) bool."""
    return np.stack([catalog.present(modality) for modality in modalities])


def check_comparable(catalog: Catalog, loss: AlignmentLoss, settings: AlignmentSettings) -> None:
    """Whether every batch, and what is held out, has a pair of modalities that the loss can compare.

    Which items a step draws is known beforehand, so this looks at all of them.

    Raises:
        SDAError: the items of a step have too little in common.
    """
    present = presence(catalog, settings.modalities)
    train_rows, held_rows = split_items(catalog, settings)
    if present[:, train_rows].all() and present[:, held_rows].all():
        return
    sampler = BatchSampler(train_rows, settings.batch_size, settings.seed)
    drawn = [("what is held out", held_rows)]
    drawn += [(f"step {step}", sampler.batch(step)) for step in range(1, settings.steps + 1)]
    for what, rows in drawn:
        common = max(_common(present[:, rows]).values())
        if common < loss.min_pair_rows:
            raise SDAError(
                f"align_batch_size={settings.batch_size}: of the {len(rows)} items of {what} no two modalities "
                f"share more than {common}, and {loss.min_pair_rows} are needed to compare them; raise "
                "align_batch_size or align_holdout_share, or leave out the modality that most items lack"
            )


class BatchSampler:
    """Epoch after epoch in a new order; the rest that does not fill a batch is left for the next epoch.

    Args:
        rows: what is drawn from.
        batch_size: rows a batch, all of them where there are fewer.
        seed: of the orders.
    """

    def __init__(self, rows: np.ndarray, batch_size: int, seed: int):
        self.rows, self.seed = rows, seed
        self.batch_size = min(batch_size, len(rows))
        self._order = lru_cache(maxsize=2)(self._draw_order)  # the step's, and that of what is read ahead

    def batch(self, step: int) -> np.ndarray:
        """The rows of the ``step``-th batch; the first is 1."""
        epoch, position = divmod(step - 1, len(self.rows) // self.batch_size)
        return self._order(epoch)[position * self.batch_size :][: self.batch_size]

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 1, epoch]).permutation(self.rows)


def step_seed(seed: int, step: int, process: int) -> int:
    """What torch is seeded with for a step's dropout, other in every process."""
    return int(np.random.SeedSequence([seed, 2, step, process]).generate_state(1, np.uint64)[0] >> 1)


def _check_pairs(present: np.ndarray, part: str, name: str, settings: AlignmentSettings) -> None:
    for (first, second), count in _common(present).items():
        if count < MIN_ITEMS:
            pair = settings.modalities[first], settings.modalities[second]
            raise SDAError(
                f"only {count} of the {present.shape[1]} items of {name!r} {part} have both {_named(pair)}, and "
                f"{MIN_ITEMS} are needed to compare them; leave {' or '.join(pair)} out of modalities, or change "
                f"align_holdout_share={settings.holdout_share}"
            )


def _common(present: np.ndarray) -> dict[tuple[int, int], int]:
    """Pair of modalities → how many items have both."""
    pairs = combinations(range(len(present)), 2)
    return {(first, second): int((present[first] & present[second]).sum()) for first, second in pairs}


def _named(modalities: Sequence[str]) -> str:
    *others, last = (f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in modalities)
    return " and ".join(filter(None, [", ".join(others), last]))
