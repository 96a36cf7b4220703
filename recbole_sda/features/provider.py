"""The one bridge between the LVLM side and a recommender: features by item token."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from recbole_sda.errors import SDAError
from recbole_sda.features.arrays import BFLOAT16
from recbole_sda.features.manifest import ITEMS
from recbole_sda.features.store import FeatureStore

NAMED = 5
NAMED_OF_EACH_SIDE = 3


class StoredModality(NamedTuple):
    """Where one modality's vectors are.

    Attributes:
        store: the open store.
        modality: what the store calls it.
    """

    store: FeatureStore
    modality: str


class FeatureProvider:
    """Rows of one or several stores in the order a recommender counts its items.

    Args:
        features: an open store, with all its modalities, or a name for each modality and where it is.
        tokens: the recommender's item tokens, in its order, padding left out.
        dataset: refuse a store that names another dataset: ids such as 1, 2, 3 fit many catalogues.
        missing: ``refuse`` items without a row, or ``learn``: they count as without the modality.

    Raises:
        SDAError: a store does not know an item, knows none of them, or is another dataset's. Rows are found by
            token, never by position.
    """

    def __init__(
        self,
        features: FeatureStore | Mapping[str, StoredModality],
        tokens: Sequence[str],
        *,
        dataset: str | None = None,
        missing: str = "refuse",
    ):
        if isinstance(features, FeatureStore):
            features = {modality: StoredModality(features, modality) for modality in features.modalities}
        self._stored = dict(features)
        self._stores = {stored.store.path: stored.store for stored in self._stored.values()}
        self._rows = {}
        for path, store in self._stores.items():
            _check_dataset(store, dataset)
            self._rows[path] = _find_rows(store, tokens, missing)
        self.tokens = tuple(tokens)
        self.modalities = tuple(self._stored)

    def __len__(self) -> int:
        return len(self.tokens)

    def width(self, modality: str) -> int:
        store, name = self._stored[modality]
        return store.width(name)

    def present(self, modality: str) -> np.ndarray:
        """(items,) bool: which items have this modality."""
        store, name = self._stored[modality]
        rows = self._rows[store.path]
        present = np.zeros(len(rows), dtype=bool)
        found = rows >= 0
        present[found] = store.present(name)[rows[found]]
        return present

    def values(self, modality: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """(stop − start, width): a slice of the rows, read from disk now; 0 where the item has none.

        In the store's dtype, but bfloat16, which neither numpy nor ``torch.from_numpy`` knows, as float32.
        """
        store, name = self._stored[modality]
        rows = self._rows[store.path][start:stop]
        found = rows >= 0
        values = store.take(name, rows[found])
        if not found.all():
            some, values = values, np.zeros((len(rows), values.shape[1]), dtype=values.dtype)
            values[found] = some
        return values.astype(np.float32) if values.dtype == BFLOAT16 else values

    def identities(self) -> dict[str, dict[str, str]]:
        """modality → :meth:`identity`."""
        return {modality: self.identity(modality) for modality in self.modalities}

    def identity(self, modality: str) -> dict[str, str]:
        """What the values are, wherever the store lies: the checksums of its files."""
        store, name = self._stored[modality]
        files = {"values": f"{name}.npy", "present": f"{name}.present.npy", "items": ITEMS}
        return {what: store.manifest["files"][file]["sha256"] for what, file in files.items()}

    def skipped_count(self) -> int:
        """How many files were refused when the stores were made."""
        return sum(len(store.skipped()) for store in self._stores.values())

    def describe(self) -> str:
        """Where the features are, for messages."""
        return ", ".join(map(str, self._stores))

    def coverage(self) -> list[str]:
        """A line for each modality: its width, how many items have it, and what is not used."""
        lines = []
        for modality, (store, _) in self._stored.items():
            present, rows = int(self.present(modality).sum()), self._rows[store.path]
            unused = len(store) - len(np.unique(rows[rows >= 0]))
            lines.append(
                f"{modality}: {self.width(modality)} wide, {len(self) - present:,} of {len(self):,} items without "
                f"it; {unused:,} rows are of items that the dataset lacks ({store.path})"
            )
        return lines


def _check_dataset(store: FeatureStore, dataset: str | None) -> None:
    named = store.manifest.get("dataset")
    if dataset is not None and named not in (None, dataset):
        raise SDAError(
            f"features={store.path} belongs to another catalogue: it was embedded for {named!r}, "
            f"the dataset is {dataset!r}. Embed this dataset's items."
        )


def _find_rows(store: FeatureStore, tokens: Sequence[str], missing: str) -> np.ndarray:
    """(items,) int64: each item's row, −1 without one."""
    rows = store.find(tokens)
    lacking = np.flatnonzero(rows < 0)
    if len(tokens) and len(lacking) == len(tokens):
        raise SDAError(
            f"features={store.origin} belongs to another catalogue: it has none of the {len(tokens):,} items; it "
            f"names {_first(store.tokens, NAMED_OF_EACH_SIDE)}, the dataset {_first(tokens, NAMED_OF_EACH_SIDE)}"
        )
    if len(lacking) and missing == "refuse":
        raise SDAError(
            f"features={store.origin} lacks {len(lacking):,} of {len(tokens):,} items, the first "
            f"{_first([tokens[i] for i in lacking[:NAMED]], NAMED)}; supply them, or learn a vector for them with "
            "--missing_features=learn"
        )
    return rows


def _first(tokens: Sequence[str], count: int) -> str:
    return ", ".join(map(repr, tokens[:count])) or "none at all"
