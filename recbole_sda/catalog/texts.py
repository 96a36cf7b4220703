"""The text modality: the fields of a .item file, seen as one thing that an item has or lacks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from recbole_sda.catalog.skipped import Skipped


@dataclass(frozen=True, eq=False)
class TextItems:
    """The texts of a list of items, in the list's order."""

    fields: dict[str, list[str]]  # text field -> a value for every item, "" when missing
    items: int

    skipped: tuple[Skipped, ...] = ()  # a text is never refused, only empty
    ignored: tuple[str, ...] = ()

    @property
    def present(self) -> np.ndarray:
        present = np.zeros(self.items, dtype=bool)
        for values in self.fields.values():
            present |= np.array([value != "" for value in values], dtype=bool)
        return present

    @property
    def contents(self) -> list[str]:
        raise ValueError("a text has no content of its own: what its prompt makes of the fields decides")

    @property
    def sizes(self) -> np.ndarray:
        raise ValueError("a text has no size before its prompt is made and cut into tokens")

    def fingerprint_parts(self) -> Iterator[Sequence[str]]:
        for field, values in self.fields.items():
            yield [field]
            yield values

    def load(self, row: int) -> dict[str, str]:
        """The fields that this item has."""
        return {field: values[row] for field, values in self.fields.items() if values[row]}
