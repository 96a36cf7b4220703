"""What every format gives an import: item tokens, and one modality's rows after the other, a chunk at a time."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_sda.errors import SDAError
from recbole_sda.features.arrays import BFLOAT16, DTYPES, open_array

MAPPING = "i_id_mapping.csv"  # MMRec's
MAPPING_TOKEN, MAPPING_ID = "asin", "itemID"


@dataclass(frozen=True)
class Source:
    """Embeddings in another format.

    Attributes:
        tokens: item token of every row.
        widths: modality → width.
        dtype: the store's, unless another is asked for.
        chunks: modality → (rows, (n, width) float32, (n,) bool) for all rows in order; the mask says which rows
            the source has.
    """

    tokens: list[str]
    widths: dict[str, int]
    dtype: str
    chunks: Callable[[str], Iterator[tuple[slice, np.ndarray, np.ndarray]]]

    def with_valid_names(self) -> "Source":
        """The same with names of modalities that a configuration can say, see :func:`modality_name`.

        Raises:
            SDAError: two become one.
        """
        name_of = {modality_name(name): name for name in self.widths}
        if len(name_of) < len(self.widths):
            raise SDAError(f"{', '.join(self.widths)} are too much alike as names of modalities; rename them")
        widths = {name: self.widths[given] for name, given in name_of.items()}
        return Source(self.tokens, widths, self.dtype, lambda name: self.chunks(name_of[name]))


def modality_name(text: str) -> str:
    """``text`` in small letters, digits and _, from a letter on: ``CLIP-L.v2`` is ``clip_l_v2``."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return name if name[:1].isalpha() else f"features_{name}".rstrip("_")


def read_ids(path: Path) -> list[str]:
    """Item tokens in row order: text with one a line, ``.npy`` of texts or whole numbers, or MMRec's ``.csv``."""
    if not path.is_file():
        raise SDAError(f"{path} does not exist; it has to name the item of every row, one a line")
    if path.suffix == ".npy":
        return _ids_of_array(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SDAError(f"{path} is not UTF-8 ({error}); save it as UTF-8, one item a line") from error
    if path.suffix == ".csv":
        return _mapped_ids(path, text)
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def stored_dtype(path: Path, dtype: np.dtype) -> str:
    """The store's dtype for values of this one; refuses what is no real number."""
    if dtype == BFLOAT16 or dtype.name in DTYPES:
        return dtype.name
    if dtype.kind not in "fiu":
        raise SDAError(f"{path} holds {dtype}, not real numbers")
    return "float32"


def common_dtype(dtypes: Iterable[str]) -> str:
    """The dtype that holds all of them."""
    dtypes = set(dtypes)
    return dtypes.pop() if len(dtypes) == 1 else "float32"


def _ids_of_array(path: Path) -> list[str]:
    ids = open_array(path)
    if ids.ndim != 1 or ids.dtype.kind not in "Uiu":
        raise SDAError(f"{path} is {ids.shape} {ids.dtype}; one item a row is needed, as texts or whole numbers")
    return list(map(str, ids.tolist()))


def _mapped_ids(path: Path, text: str) -> list[str]:
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    header, *rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)) or [[]]
    if MAPPING_ID not in header or len(header) < 2:
        raise SDAError(f"{path} has columns {', '.join(header)}; an item's token and {MAPPING_ID} are needed")
    number = header.index(MAPPING_ID)
    token = next(column for column in range(len(header)) if column != number)
    try:
        token_of = {int(row[number]): row[token] for row in rows}
    except (ValueError, IndexError) as error:
        raise SDAError(f"{path} has a row without a number as {MAPPING_ID} ({error})") from error
    if sorted(token_of) != list(range(len(rows))):
        raise SDAError(f"{path} does not number its {len(rows)} items from 0, each once")
    return [token_of[row] for row in range(len(rows))]
