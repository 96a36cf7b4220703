"""The one bridge between the LVLM side and a recommender: features by item token."""

from collections.abc import Sequence

import numpy as np

from recbole_sda.errors import SDAError
from recbole_sda.features.arrays import BFLOAT16
from recbole_sda.features.store import FeatureStore


class FeatureProvider:
    """A store's rows in the order a recommender counts its items.

    Args:
        store: an open store.
        tokens: the recommender's item tokens, in its order, padding left out.
        dataset: refuse a store that names another dataset: ids such as 1, 2, 3 fit many catalogues.

    Raises:
        SDAError: the store does not know an item, or is another dataset's. Rows are found by token, never
            by position.
    """

    def __init__(self, store: FeatureStore, tokens: Sequence[str], *, dataset: str | None = None):
        named = store.manifest.get("dataset")
        if dataset is not None and named not in (None, dataset):
            raise SDAError(
                f"features={store.path} belongs to another catalogue: it was embedded for {named!r}, "
                f"the dataset is {dataset!r}. Embed this dataset's items."
            )
        try:
            self._rows = store.rows(tokens)
        except SDAError as error:
            raise SDAError(
                f"features={store.path} belongs to another catalogue: {error}. Embed this dataset's items."
            ) from error
        self.store = store
        self.modalities = store.modalities

    def __len__(self) -> int:
        return len(self._rows)

    def width(self, modality: str) -> int:
        return self.store.width(modality)

    def present(self, modality: str) -> np.ndarray:
        """(items,) bool: which items have this modality."""
        return self.store.present(modality)[self._rows]

    def values(self, modality: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """(stop − start, width): a slice of the rows, read from disk now.

        In the store's dtype, but bfloat16, which neither numpy nor ``torch.from_numpy`` knows, as float32.
        """
        values = self.store.take(modality, self._rows[start:stop])
        return values.astype(np.float32) if values.dtype == BFLOAT16 else values
