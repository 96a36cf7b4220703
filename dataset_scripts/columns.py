"""The columns of tables, checked and settled: names, ids, numbers, times, texts."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from texts import flat_list, joined, parse_list

from recbole_sda.catalog.atomic import MISSING_TOKENS
from recbole_sda.errors import SDAError

PADDING_TOKEN = "[PAD]"


def missing_column(path: Path, column: str, table: pd.DataFrame, hint: str = "") -> SDAError:
    return SDAError(f"{path} has no column {column!r}; it has {', '.join(table.columns)}{hint}")


def rename_columns(path: Path, table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """`table` with its columns under the new names of `names` (new → old); it may lack some."""
    olds = {old: new for new, old in names.items() if old in table.columns}
    for old, new in olds.items():
        if new in table.columns and new not in olds:
            raise SDAError(f"--column {new}={old}: {path} has a column {new!r} already; rename that one too")
    return table.rename(columns=olds)


def check_tokens(path: Path, values: pd.Series, column: str) -> None:
    """Refuse ids that RecBole would read as another id, or as none."""
    for bad, why in (
        (values.isin(MISSING_TOKENS), "RecBole reads it as missing"),
        (values == PADDING_TOKEN, "RecBole's padding token"),
        (values.str.contains(r"[\x00-\x1f\x7f\x85\u2028\u2029]"), "it holds a tab or line break"),
        (values != values.str.strip(), "it begins or ends with a blank"),
    ):
        if bad.any():
            row = int(bad.to_numpy().argmax())
            raise SDAError(
                f"{path}: row {row + 1}: {column} {values.iloc[row]!r} cannot be an id: {why} "
                f"({int(bad.sum())} such rows); rename or remove it"
            )


def check_numbers(path: Path, values: pd.Series, column: str, remedy: str) -> None:
    bad = ~np.isfinite(pd.to_numeric(values, errors="coerce").to_numpy(dtype=float))
    _refuse_first(path, values, column, bad, "a number", remedy)


def read_times(path: Path, values: pd.Series, column: str, time_format: str | None) -> tuple[pd.Series, bool]:
    """Times as numbers, and whether they were dates.

    The first row decides: where it holds a number, all must, and they stay as they are. Else all must be dates
    of `time_format` (strptime's; None is ISO 8601) and become seconds since 1970; a date without a zone is UTC.
    """
    if time_format is None and pd.notna(pd.to_numeric(values.iloc[:1], errors="coerce").iloc[0]):
        check_numbers(path, values, column, "write all times as numbers, such as seconds since 1970, or as dates")
        return values, False
    try:
        times = pd.to_datetime(values, format=time_format or "ISO8601", utc=True, errors="coerce")
    except (ValueError, re.error) as error:
        raise SDAError(f"--time-format {time_format}: {error}; name a form such as %d/%m/%Y") from error
    remedy = "write it as 2014-01-31 or 2014-01-31T23:59:59Z, or name its form as in --time-format=%d/%m/%Y"
    what = f"a date of the form {time_format}" if time_format else "a number or an ISO date"
    _refuse_first(path, values, column, times.isna().to_numpy(), what, remedy)
    nanoseconds = times.dt.as_unit("ns").astype("int64")
    seconds = nanoseconds // 10**9 + nanoseconds % 10**9 / 10**9  # as a float, nanoseconds would be rounded
    return seconds.map(lambda second: str(int(second)) if second.is_integer() else repr(second)), True


def _refuse_first(path: Path, values: pd.Series, column: str, bad: np.ndarray, what: str, remedy: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise SDAError(
            f"{path}: row {row + 1}: {column} {values.iloc[row]!r} is not {what} "
            f"({int(bad.sum())} such rows); {remedy}"
        )


def field_names(path: Path, columns: Iterable[str]) -> list[str]:
    """The columns as RecBole field names, which hold no colon, quote or blank."""
    names: dict[str, str] = {"item_id": "the item column"}
    for column in columns:
        name = re.sub(r"[\s:\"\x00-\x1f\x7f]+", "_", column.strip()).strip("_")
        if not name:
            raise SDAError(f"{path}: column {column!r} gives no field name; rename it")
        if name in names:
            raise SDAError(f"{path}: columns {names[name]!r} and {column!r} both become field {name!r}")
        names[name] = column
    return list(names)[1:]


def join_lists(values: pd.Series) -> pd.Series | None:
    """Values that all write lists, in JSON or as Python literals, as `a, b`; None where one does not."""
    filled = values != ""
    lists = []
    for value in values[filled]:  # the first value of an ordinary column ends it
        parts = parse_list(value)
        if parts is None:
            return None
        lists.append(joined(flat_list(parts)))
    if not lists:
        return None
    result = values.copy()
    result[filled] = lists
    return result


def split_list(value: str, separator: str) -> str:
    """`a|b` as `a, b`"""
    return joined(part.strip() for part in value.split(separator) if part.strip())
