"""The numbers of a dataset before anything is trained on it, and what in it would be lost.

The .inter file is read in blocks, and no object is made of an interaction. Items are opened as a run opens them,
so that what counts here counts there.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from recbole_sda.catalog.check_report import problems, warnings
from recbole_sda.catalog.fields import item_tokens
from recbole_sda.catalog.interaction_counts import InteractionCounts, Tally, count_interactions
from recbole_sda.catalog.items import Catalog
from recbole_sda.catalog.settings import ANY_NUMBER, FILTERS, open_described
from recbole_sda.catalog.skipped import printable

TOP_SHARES = (1, 5, 20, 50)  # percent of the items
_GROUPS, _MEMBERS = 5, 5  # examples of duplicates: so many groups, of each so many items
_NUMBER = re.compile(r"\d[\d,]*")

CountTokens = Callable[[Catalog, np.ndarray], dict]  # of which items: their token lengths, for the report


class Checked(NamedTuple):
    """A checked dataset.

    Attributes:
        report: JSON values; `check_report.as_text` says what is in it.
        catalog: every item of the .inter and the .item file, most popular first.
    """

    report: dict
    catalog: Catalog


def check_dataset(
    folder: Path, settings: Mapping, *, count_tokens: CountTokens | None = None, show_progress: bool = True
) -> Checked:
    """Check the dataset in `folder`.

    Args:
        folder: ``dataset/<name>``, absolute.
        settings: from `dataset_settings`.
        count_tokens: how long the texts of these items are for a model.

    Raises:
        SDAError: a file is so broken that a run would stop at it, too.
    """
    loaded = (settings["load_col"] or {}).get("inter")
    interactions = count_interactions(
        inter_files(folder, settings["benchmark_filename"]),
        user_field=settings["USER_ID_FIELD"],
        item_field=settings["ITEM_ID_FIELD"],
        time_field=settings["TIME_FIELD"],
        loaded=None if loaded == "*" else loaded,
    )
    item_file = folder / f"{folder.name}.item"
    listed = item_tokens(item_file, settings["ITEM_ID_FIELD"]) if item_file.is_file() else ()
    tokens = dict.fromkeys((*interactions.item_tokens, *listed))
    catalog = open_described(folder, tokens, settings, show_progress=show_progress)
    touches = np.zeros(len(catalog), dtype=np.int64)
    touches[: len(interactions.per_item)] = interactions.per_item
    report = {
        "dataset": folder.name,
        "interactions": _interactions(interactions),
        "popularity": popularity(interactions.per_item),
        "items": _items(catalog, touches, len(listed)),
        **_presence(catalog, touches),
        "files": {
            modality: _files(catalog, modality) for modality, kind in catalog.kinds.items() if kind != "text"
        },
        "texts": _texts(catalog, settings, count_tokens) if "text" in catalog.kinds.values() else None,
        "filters": {key: settings[key] for key in FILTERS if settings[key] not in (None, ANY_NUMBER)},
    }
    report["problems"], report["warnings"] = problems(report), warnings(report)
    return Checked(report, catalog)


def inter_files(folder: Path, parts: Sequence[str] | None) -> list[Path]:
    """The .inter file; or several, where ``benchmark_filename`` says that the split was made already."""
    names = [f"{folder.name}.{part}" for part in parts or ()] or [folder.name]
    return [folder / f"{name}.inter" for name in names]


def _interactions(read: InteractionCounts) -> dict:
    count, users, items = int(read.per_item.sum()), len(read.per_user), len(read.per_item)
    return {
        "interactions": count,
        "users": users,
        "items": items,
        "sparsity": 1 - (count - read.repeats) / (users * items),
        "per_user": _spread(read.per_user),
        "per_item": _spread(read.per_item),
        "repeats": read.repeats,
        "time_span": read.time_span,
        "lost": read.lost,
        "faults": {cause: found._asdict() for cause, found in read.faults.items()},
    }


def _spread(counts: np.ndarray) -> dict:
    figures = {"min": counts.min(), "median": np.median(counts), "mean": counts.mean(), "max": counts.max()}
    return {name: float(figure) for name, figure in figures.items()}


def popularity(per_item: np.ndarray) -> dict:
    """How uneven the interactions are.

    Args:
        per_item: (items,) interactions of each item that has any, most first.

    Returns:
        ``top``: percent of the items, rounded up to whole items → their share of the interactions; ``gini``: the
        coefficient of the items' interactions, 0 when all have as many, near 1 when one has almost all.
    """
    items, total = len(per_item), per_item.sum()
    running = np.cumsum(per_item)
    ranks = np.arange(items, 0, -1)  # rising with the interactions
    return {
        "top": {str(percent): float(running[-(-items * percent // 100) - 1] / total) for percent in TOP_SHARES},
        "gini": float(((2 * ranks - items - 1) * per_item).sum() / (items * total)),
    }


def _items(catalog: Catalog, touches: np.ndarray, listed: int) -> dict:
    untouched = np.flatnonzero(touches == 0)
    absent = catalog.absent if catalog.item_file else catalog.tokens
    return {
        "items": len(catalog),
        "with_a_row": listed,
        "without_a_row": _named(absent),
        "without_interactions": _named([catalog.tokens[row] for row in untouched[:_MEMBERS]], len(untouched)),
    }


def _named(tokens: Sequence[str], count: int | None = None) -> dict:
    return {"count": len(tokens) if count is None else count, "examples": list(map(printable, tokens[:_MEMBERS]))}


def _presence(catalog: Catalog, touches: np.ndarray) -> dict:
    """How many items have each modality, all and none, and how many interactions are with such items."""

    def figures(here: np.ndarray) -> dict:
        return {
            "items": int(here.sum()),
            "share": float(here.mean()),
            "items_with_interactions": int((touches[here] > 0).sum()),
            "share_of_interactions": float(touches[here].sum() / touches.sum()),
        }

    present = {modality: catalog.present(modality) for modality in catalog.kinds}
    stacked = np.stack(list(present.values()))  # (modalities, items)
    return {
        "modalities": {modality: figures(here) for modality, here in present.items()},
        "together": {"all": figures(stacked.all(axis=0)), "none": figures(~stacked.any(axis=0))},
    }


def _files(catalog: Catalog, modality: str) -> dict:
    """Refused files by cause, and files with the same bytes."""
    content, refused = catalog.content[modality], Tally()
    for record in content.skipped:
        refused.add(_NUMBER.sub("#", record.reason), 1, [record.file])
    return {
        "refused": {cause: found._asdict() for cause, found in refused.causes.items()},
        "second_files": _named(content.ignored),
        "duplicates": duplicates(pd.DataFrame({"sha256": catalog.contents(modality)}), catalog),
    }


def duplicates(contents: pd.DataFrame, catalog: Catalog) -> dict:
    """Items that have the same in all columns, and something in one of them.

    Returns:
        ``items``, ``groups``, ``examples``: of the largest groups their first items.
    """
    same = contents[(contents != "").any(axis=1)]
    same = same[same.duplicated(keep=False)]
    group = same.groupby(list(same), sort=False).ngroup().to_numpy()
    largest = np.argsort(-np.bincount(group), kind="stable")[:_GROUPS] if len(group) else []
    members = [same.index[group == number] for number in largest]
    return {
        "items": len(same),
        "groups": int(group.max()) + 1 if len(group) else 0,
        "examples": [_named([catalog.tokens[row] for row in rows[:_MEMBERS]], len(rows)) for rows in members],
    }


def _texts(catalog: Catalog, settings: Mapping, count_tokens: CountTokens | None) -> dict:
    fields = catalog.fields
    words = np.zeros(len(catalog), dtype=np.int64)
    limits = settings["prompt_field_chars"] or {}
    cut = {}
    for field, values in fields.items():
        words += np.fromiter((value.count(" ") + 1 if value else 0 for value in values), np.int64, len(catalog))
        limit = limits.get(field, settings["prompt_value_chars"])
        cut[field] = {"characters": limit, "items": sum(len(value) > limit for value in values)}
    with_text = np.flatnonzero(words)
    return {
        "fields": list(fields),
        "columns_left_out": list(catalog.unused_columns),
        "duplicates": duplicates(pd.DataFrame(fields, index=range(len(catalog))), catalog),
        "words": lengths(words[with_text]),
        "cut": cut,
        "tokens": count_tokens(catalog, with_text) if count_tokens else None,
    }


def lengths(values: np.ndarray) -> dict | None:
    """Median, 95th percentile and maximum; None of nothing."""
    if not len(values):
        return None
    median, most, longest = np.percentile(values, [50, 95, 100])
    return {"median": float(median), "p95": float(most), "max": int(longest)}
