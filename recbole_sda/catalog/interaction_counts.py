"""A .inter file in one pass: who touched what, how often and when, and which rows cannot be read.

The file is read in blocks by pyarrow, ids become numbers block by block, and what stays of a row is two of them:
about thirty bytes of memory an interaction at the most, and no Python object.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from recbole_sda.catalog.atomic import MISSING_TOKENS, read_atomic, read_header, unquote
from recbole_sda.catalog.skipped import printable
from recbole_sda.errors import SDAError

WRONG_WIDTH = "another number of fields than the header"

_BLOCK_BYTES = 2**25
_ANY_BYTES = "latin-1"  # what is not UTF-8 is found afterwards, and named
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_EXAMPLES, _EXAMPLE_CHARS = 3, 60


class Cause(NamedTuple):
    """How often something is wrong, and the first cases."""

    count: int
    examples: tuple[str, ...]


@dataclass
class Tally:
    """Counts of what is wrong, by cause."""

    causes: dict[str, Cause] = field(default_factory=dict)

    def add(self, cause: str, count: int, examples: Sequence[str] = ()) -> None:
        if count:
            before = self.causes.get(cause, Cause(0, ()))
            shown = tuple(printable(example[:_EXAMPLE_CHARS]) for example in examples[:_EXAMPLES])
            self.causes[cause] = Cause(before.count + count, (*before.examples, *shown)[:_EXAMPLES])


@dataclass(frozen=True, eq=False)
class InteractionCounts:
    """What the interactions tell of users and items.

    Attributes:
        item_tokens: (items,) the items that occur, most popular first.
        per_item: (items,) int64, interactions of each, falling.
        per_user: (users,) int64, interactions of each user that occurs, in no order.
        repeats: interactions of a user with an item beyond the first.
        time_span: the first and the last timestamp; None without any.
        lost: rows without a user or an item, or of another number of fields, which count nowhere else.
        faults: cause → the rows that RecBole would refuse or drop.
    """

    item_tokens: tuple[str, ...]
    per_item: np.ndarray
    per_user: np.ndarray
    repeats: int
    time_span: tuple[float, float] | None
    lost: int
    faults: dict[str, Cause]


def count_interactions(
    paths: Sequence[Path], *, user_field: str, item_field: str, time_field: str, loaded: Sequence[str] | None
) -> InteractionCounts:
    """Read the `.inter` files of one dataset.

    Args:
        loaded: the columns that a run loads, None for all: of these every ``float`` must hold numbers.

    Raises:
        SDAError: no such file, no such column, not a single interaction.
    """
    faults, users, items, times = Tally(), [], [], []
    for path in paths:
        header = _checked_header(path, user_field, item_field)
        numbers = [
            name
            for name, kind in header.items()
            if kind == "float" and (loaded is None or name in (time_field, *loaded))
        ]
        for batch in _batches(path, header, (user_field, item_field), numbers, faults):
            users.append(batch[user_field])
            items.append(batch[item_field])
            for name in numbers:
                values = _to_numbers(batch[name], name, faults)
                if name == time_field:
                    times += [time for time in pc.min_max(values).as_py().values() if time is not None]
    if not users:
        raise SDAError(f"{paths[0]} holds no interaction")
    return _sum_up(_codes(users, user_field, faults), _codes(items, item_field, faults), times, faults)


def _checked_header(path: Path, user_field: str, item_field: str) -> dict[str, str]:
    if not path.is_file():
        raise SDAError(f"{path} does not exist; a dataset needs its interactions there")
    header = read_header(path)
    for key, name in (("USER_ID_FIELD", user_field), ("ITEM_ID_FIELD", item_field)):
        if name not in header:
            raise SDAError(f"{key}: {path} has no field {name!r}; it has {', '.join(header)}")
    return header


def _batches(
    path: Path, header: dict[str, str], ids: Sequence[str], numbers: Sequence[str], faults: Tally
) -> Iterator[pa.RecordBatch]:
    """The columns needed: ids as numbers with a dictionary a batch, numbers as they are spelled."""

    def skip(row: csv.InvalidRow) -> str:
        faults.add(WRONG_WIDTH, 1, [f"{path.name}:{row.number}: {row.actual_columns} fields"])
        return "skip"

    try:
        reader = csv.open_csv(
            path,
            read_options=csv.ReadOptions(
                column_names=list(header),
                skip_rows=_line_of_header(path),
                block_size=_BLOCK_BYTES,
                use_threads=False,  # so that rows keep their numbers
                encoding=_ANY_BYTES,
            ),
            parse_options=csv.ParseOptions(delimiter="\t", quote_char=False, invalid_row_handler=skip),
            convert_options=csv.ConvertOptions(
                include_columns=[*ids, *numbers],
                column_types=dict.fromkeys(ids, pa.dictionary(pa.int32(), pa.string()))
                | dict.fromkeys(numbers, pa.string()),
                null_values=sorted(MISSING_TOKENS),
                strings_can_be_null=True,
            ),
        )
        yield from (batch for batch in reader if len(batch))
    except pa.ArrowInvalid as error:
        if "Empty CSV file" not in str(error):
            raise SDAError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def _line_of_header(path: Path) -> int:
    return next(number for number, _ in read_atomic(path))


def _to_numbers(column: pa.Array, name: str, faults: Tally) -> pa.Array:
    """(rows,) double, null where the column holds nothing or no number."""
    try:
        return pc.cast(column, pa.float64())
    except pa.ArrowInvalid:  # pandas reads more spellings, and says which it does not
        spelled = pd.Series(_decoded(column), dtype=object)
        numbers = pd.to_numeric(spelled, errors="coerce").astype(float)
        wrong = spelled[numbers.isna() & spelled.notna()]
        faults.add(f"{name} is no number", len(wrong), [repr(value) for value in wrong[:_EXAMPLES]])
        return pa.array(numbers, from_pandas=True)


def _codes(batches: list[pa.DictionaryArray], name: str, faults: Tally) -> tuple[np.ndarray, pa.Array]:
    """(rows,) int32, -1 where there is no id, and the distinct ids that the others count; empties `batches`."""
    column = pa.chunked_array(batches).unify_dictionaries().combine_chunks()
    batches.clear()  # they would be in memory twice
    codes, distinct = column.indices.fill_null(-1).to_numpy(), column.dictionary
    faults.add(f"no {name}", int((codes < 0).sum()))
    if pc.all(pc.and_(pc.string_is_ascii(distinct), pc.invert(pc.starts_with(distinct, '"')))).as_py():
        return codes, distinct
    tokens = np.array(_decoded(distinct), dtype=object)
    bad = np.array([_NOT_UTF8.search(token) is not None for token in tokens])
    faults.add(f"{name} is not UTF-8", int(bad[codes[codes >= 0]].sum()), list(tokens[bad][:_EXAMPLES]))
    tokens[bad] = None
    renumbered, tokens = pd.factorize(tokens)  # "a" and a are one
    return np.append(renumbered, -1)[codes].astype(np.int32), pa.array(tokens, pa.string())


def _decoded(column: pa.Array) -> list[str | None]:
    """As RecBole sees them: without csv's quotes; surrogates for what is not UTF-8."""
    return [
        None if value is None else unquote(value.encode(_ANY_BYTES).decode("utf-8", "surrogateescape"))
        for value in column.to_pylist()
    ]


def _sum_up(
    users: tuple[np.ndarray, pa.Array], items: tuple[np.ndarray, pa.Array], times: list[float], faults: Tally
) -> InteractionCounts:
    read = (users[0] >= 0) & (items[0] >= 0)
    user, item = users[0][read], items[0][read]
    if not len(user):
        raise SDAError("not one interaction can be read: " + "; ".join(faults.causes))
    per_user, per_item = np.bincount(user), np.bincount(item, minlength=len(items[1]))
    order = np.argsort(-per_item, kind="stable")[: np.count_nonzero(per_item)]
    pairs = user.astype(np.int64)  # a number for each pair, in place: the largest array of all
    pairs *= len(items[1])
    pairs += item
    pairs.sort()
    wrong_width = faults.causes.get(WRONG_WIDTH, Cause(0, ())).count
    return InteractionCounts(
        item_tokens=tuple(items[1].take(pa.array(order)).to_pylist()),
        per_item=per_item[order],
        per_user=per_user[per_user > 0],
        repeats=int((pairs[1:] == pairs[:-1]).sum()),
        time_span=(min(times), max(times)) if times else None,
        lost=int((~read).sum()) + wrong_width,
        faults=faults.causes,
    )
