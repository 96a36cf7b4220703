"""What the demo generator planted: every item's hidden factors, its popularity, and which modality shows what."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_sda.catalog.attributes import CALLED, TELLS
from recbole_sda.errors import SDAError

TRUTH = "demo.truth.csv"
SETTINGS = "demo.json"


@dataclass(frozen=True)
class Truth:
    """The planted truth of N items.

    Attributes:
        tokens: the items.
        factors: factor → (N,) int, a number for each of its values.
        popularity: (N,) float, the weight with which users meet an item.
        shown: modality → factor → (N,) bool: whether this modality of this item shows the item's own value. Where
            it does not, it shows a value that was drawn independently, or nothing at all.
        present: modality → (N,) bool: whether the item has it.
    """

    tokens: tuple[str, ...]
    factors: dict[str, np.ndarray]
    popularity: np.ndarray
    shown: dict[str, dict[str, np.ndarray]]
    present: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.tokens)

    def of(self, tokens: Sequence[str]) -> "Truth":
        """The truth of these items, in this order.

        Raises:
            SDAError: some of them are not items of this world.
        """
        row_of = {token: row for row, token in enumerate(self.tokens)}
        unknown = [token for token in tokens if token not in row_of]
        if unknown:
            raise SDAError(
                f"{len(unknown)} of {len(tokens)} items are not in {TRUTH}, the first {unknown[0]!r}; "
                "measure features of this dataset"
            )
        rows = np.array([row_of[token] for token in tokens], dtype=np.int64)
        return Truth(
            tokens=tuple(tokens),
            factors={name: values[rows] for name, values in self.factors.items()},
            popularity=self.popularity[rows],
            shown={
                modality: {name: flags[rows] for name, flags in shown.items()}
                for modality, shown in self.shown.items()
            },
            present={modality: flags[rows] for modality, flags in self.present.items()},
        )


def read_truth(folder: str | Path) -> Truth:
    """The truth of the demo dataset in `folder`.

    Raises:
        SDAError: no demo dataset, or files that the generator did not write so.
    """
    folder = Path(folder)
    columns, settings = _read_columns(folder / TRUTH), _read_settings(folder / SETTINGS)
    try:
        factors = list(columns)[1 : list(columns).index("popularity")]
        own, present = {}, {}
        for modality, called in CALLED.items():
            if f"{called}_own" in columns:
                own[modality] = _flags(columns[f"{called}_own"])
                present[modality] = _flags(columns[f"has_{called}"])
        popularity = np.array(columns["popularity"], dtype=float)
        tokens = tuple(columns["item_id"])
    except (KeyError, ValueError) as error:
        raise _unlike(folder / TRUTH, error) from error
    return Truth(
        tokens=tokens,
        factors={name: np.unique(columns[name], return_inverse=True)[1] for name in factors},
        popularity=popularity,
        shown={modality: _shown(modality, flags, factors, settings) for modality, flags in own.items()},
        present=present,
    )


def _read_columns(path: Path) -> dict[str, list[str]]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
    except FileNotFoundError as error:
        raise SDAError(
            f"{path.parent} has no {path.name}: only what the demo generator wrote has a known truth; "
            "name the folder of such a dataset"
        ) from error
    except ValueError as error:  # an empty file, or not UTF-8
        raise _unlike(path, error) from error
    wrong = next((number for number, row in enumerate(rows, start=2) if len(row) != len(header)), None)
    if wrong is not None or not rows:
        found = f"line {wrong} has another number of columns" if wrong else "it has no items"
        raise _unlike(path, found)
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def _read_settings(path: Path) -> dict:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unlike(path, error) from error
    if not isinstance(settings, dict):
        raise _unlike(path, "it holds no settings")
    return settings


def _unlike(path: Path, found) -> SDAError:
    return SDAError(f"{path} is not what the demo generator writes ({found}); remove the folder, and make it anew")


def _shown(modality: str, own: np.ndarray, factors: Sequence[str], settings: dict) -> dict[str, np.ndarray]:
    """The settings say which factors a modality shows where they are not the generator's usual ones."""
    told = settings.get(f"{modality}_factors", TELLS[modality])
    return {name: own & (name in told) for name in factors}


def _flags(values: Sequence[str]) -> np.ndarray:
    return np.array(values, dtype=int).astype(bool)
