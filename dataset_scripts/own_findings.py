"""What was found in a user's own tables, and what would be lost of it: what from_csv.py prints."""

import argparse

import pandas as pd
from dataset_pictures import unreadable_note
from interactions import Funnel, Interactions, k_core, without_repeats
from own_tables import Source
from tabulate import tabulate
from texts import examples

from recbole_sda.catalog.atomic import one_line
from recbole_sda.catalog.items import EMPTY_TEXT
from recbole_sda.catalog.skipped import printable

USUAL_CORE = 5  # what --describe shows when no --k-core is asked for
SAMPLE_CHARS = 40


def report(source: Source) -> list[str]:
    """What was found, a line a finding."""
    interactions, items, pictures, unreadable, notes = source
    played, listed = set(interactions["item_id"]), set(items["item_id"])
    repeats = int(interactions.duplicated(["user_id", "item_id"]).sum())
    lines = [
        f"{len(interactions):,} interactions of {interactions['user_id'].nunique():,} users with "
        f"{len(played):,} items; {repeats:,} repeat a user and an item (kept)",
        f"{len(items):,} items in the items table; {len(listed - played):,} without interactions (kept)",
        f"{len(played - listed):,} items of the interactions are not in it (kept, without text)"
        + examples(played - listed),
        f"text fields: {', '.join(items.columns[1:]) or '(none)'}; {len(without_text(items)):,} items have none",
        *notes,
    ]
    if pictures is None:
        return lines
    bare = len((played | listed) - source.pictured)
    lines += [f"{len(pictures.names):,} pictures; {bare:,} items without one", unreadable_note(unreadable)]
    for count, what, names in (
        (pictures.strangers, "pictures of no item (not copied)", ()),
        (len(pictures.ignored), "second pictures of an item (not copied)", pictures.ignored),
        (len(pictures.problems), "pictures refused", pictures.problems.values()),
    ):
        lines.append(f"{count:,} {what}" + examples(names))
    return lines


def without_text(items: pd.DataFrame) -> pd.Series:
    """The ids of the items whose every text field is empty."""
    empty = items.iloc[:, 1:].apply(lambda column: column.str.strip().isin(EMPTY_TEXT))
    return items["item_id"][empty.all(axis=1)]


def describe(source: Source, options: argparse.Namespace) -> str:
    """What was found, every text field, and what RecBole would keep."""
    core = options.k_core or USUAL_CORE
    asked = "" if options.k_core else f" (with --k-core={core}, which is not asked for)"
    return "\n".join(
        [
            "\n  ".join(["found", *report(source)]),
            "",
            fields_table(source.items),
            "",
            f"RecBole would keep{asked}",
            funnel(source, core),
            lacking(source, core),
            "nothing was written (--describe)",
        ]
    )


def fields_table(items: pd.DataFrame) -> str:
    """How full and how long each text field is, with its first value."""
    rows = []
    for field in items.columns[1:]:
        values = items[field].str.strip()
        filled = values[~values.isin(EMPTY_TEXT)]
        length = f"{filled.str.len().median():.0f}" if len(filled) else "–"
        example = printable(one_line(filled.iloc[0])[:SAMPLE_CHARS]).replace("|", "\\|") if len(filled) else ""
        rows.append((field, f"{len(filled) / len(items):.1%}", f"{filled.nunique():,}", length, example))
    headers = ("text field", "filled", "distinct", "median characters", "for example")
    right = ("left", "right", "right", "right", "left")
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=right if rows else None)


def coded(source: Source) -> Interactions:
    frame = source.interactions
    return Interactions.from_tokens(frame["user_id"], frame["item_id"], pd.to_numeric(frame["timestamp"]))


def funnel(source: Source, core: int) -> str:
    """What RecBole's filter leaves when it loads the dataset; repeats count there."""
    everything, steps = coded(source), Funnel()
    steps.step("as found", everything)
    steps.step(f"{core}-core", k_core(everything, users=core, items=core))
    steps.step(
        f"{core}-core, had repeats been left out", k_core(without_repeats(everything), users=core, items=core)
    )
    return steps.table()


def lacking(source: Source, core: int) -> str:
    """Which items of the core have no text or no picture."""
    kept = set(k_core(coded(source), users=core, items=core).occurring_items().to_pylist())
    texts = set(source.items["item_id"]) - set(without_text(source.items))
    parts = [f"{len(kept - texts):,} have no text"]
    if source.pictures is not None:
        parts.append(f"{len(kept - source.pictured):,} have no picture")
    return f"of the {len(kept):,} items of the {core}-core " + ", ".join(parts)
