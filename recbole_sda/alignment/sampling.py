"""Which items train, which are held out, and which are compared at a step: all functions of the seed.

Nothing here has a state, so that a run that goes on after an interruption draws what it would have drawn.
"""

from functools import lru_cache

import numpy as np

from recbole_sda.alignment.settings import AlignmentSettings
from recbole_sda.catalog import Catalog
from recbole_sda.errors import SDAError

MIN_ITEMS = 3


def split_items(catalog: Catalog, settings: AlignmentSettings) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out, among those with all modalities."""
    named = " and ".join(f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in settings.modalities)
    whole = np.flatnonzero(np.logical_and.reduce([catalog.present(modality) for modality in settings.modalities]))
    if len(whole) == 0:
        raise SDAError(
            f"no item of {catalog.name!r} has both {named}, so they cannot be aligned; "
            "use --modalities=text (or image), which embeds without adaptation"
        )
    held = min(settings.holdout_max, round(settings.holdout_share * len(whole)))
    if held < MIN_ITEMS or len(whole) - held < MIN_ITEMS:
        raise SDAError(
            f"only {len(whole)} items of {catalog.name!r} have both {named}; with "
            f"align_holdout_share={settings.holdout_share} that leaves {len(whole) - held} to train on and "
            f"{held} held out, and {MIN_ITEMS} of each are needed. Use --adapter=none"
        )
    shuffled = np.random.default_rng(settings.seed).permutation(whole)
    return np.sort(shuffled[held:]), np.sort(shuffled[:held])


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
        self._order = lru_cache(maxsize=1)(self._draw_order)

    def batch(self, step: int) -> np.ndarray:
        """The rows of the ``step``-th batch; the first is 1."""
        epoch, position = divmod(step - 1, len(self.rows) // self.batch_size)
        return self._order(epoch)[position * self.batch_size :][: self.batch_size]

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 1, epoch]).permutation(self.rows)


def step_seed(seed: int, step: int, process: int) -> int:
    """What torch is seeded with for a step's dropout, other in every process."""
    return int(np.random.SeedSequence([seed, 2, step, process]).generate_state(1, np.uint64)[0] >> 1)
