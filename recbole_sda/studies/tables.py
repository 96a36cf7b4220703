"""A study's findings as tables, and what a reader must know to read them."""

from collections.abc import Iterator

from recbole_sda.evaluation.seeds_paired import HOLDS, LEAST_SEEDS, SIGNIFICANT
from recbole_sda.report.table import UNDEFINED, Table

FEWER = "*"


def study_text(result: dict) -> str:
    """Question, tables and notes for the screen.

    Args:
        result: what :func:`recbole_sda.studies.study` returns.
    """
    question = f"study {result['study']}: {result['question']}"
    tables = (table.text() for table in study_tables(result))
    return "\n".join(["", question, _measured_on(result), "", *tables, *result["notes"]])


def study_markdown(result: dict) -> str:
    """The same as a page."""
    heading = [f"# {result['question']}", "", f"`study {result['study']}`: {_measured_on(result)}", ""]
    notes = [f"- {note}" for note in result["notes"]]
    return "\n".join([*heading, *(table.markdown() for table in study_tables(result)), *notes, ""])


def study_tables(result: dict) -> list[Table]:
    """The figures, and those of comparisons and claims that the study has."""
    tables = [_figures(result)]
    if result["comparisons"]:
        tables.append(_comparisons(result))
    if result["claims"]:
        tables.append(_claims(result))
    return tables


def notes(result: dict) -> Iterator[str]:
    """What the figures are, how they were compared, what was left out."""
    seeds, controls = len(result["seeds"]), any(row["control"] for row in result["summary"])
    if seeds > 1:
        yield f"figures: mean±sample standard deviation of {seeds} seeds; each seed draws {_drawn(result)} anew"
    if any(0 < entry["seeds"] < seeds for entry in result["summary"]):
        yield f"{FEWER}: of fewer seeds, for in the others the figure is undefined or was not measured"
    yield from (f"{column}: {_mean_of(patterns)}" for column, patterns in result["figures"].items())
    if controls:
        keys = ", ".join(f"{key}={value}" for key, value in result["control"].items())
        yield f"control: the same with {keys}, so that there is nothing to find"
    if result["comparisons"] or result["claims"]:
        yield (
            "differences: mean over the seeds, paired; [95 % interval of Student's t]; p: exact Wilcoxon "
            "signed-rank test over the seeds, Holm-corrected within a table, of signal and control apart"
        )
        if seeds < LEAST_SEEDS:
            least = 2 / 2**seeds
            counted = "1 seed" if seeds == 1 else f"{seeds} seeds"
            yield f"with {counted} p cannot be below {least:.3g}, whatever the figures: nothing is decided"
        else:
            yield from _out_of_reach(result, seeds)
    if result["claims"] and seeds < result["least_seeds"]:
        yield f"claims need {result['least_seeds']} seeds; with {seeds} none is decided"
    for failure in result["failed"]:
        yield f"{failure['cell']} failed and is left out of the means ({failure['error']}); run the command again"
    if any(claim["beyond"] for claim in result["claims"]):
        yield "beyond: relative gain in the first figure less that in the second, in percentage points (pp)"
    if any(_holds(claim, "signal") and _holds(claim, "control") for claim in result["claims"]):
        yield "a claim that holds in the control, too, is not about what the modalities share"


def _out_of_reach(result: dict, seeds: int) -> Iterator[str]:
    """Where so many are tested together that even the clearest of them would not be decided."""
    tested = {
        "differences": sum(not row["control"] for row in result["comparisons"]),
        "claims": len(result["claims"]),
    }
    for name, number in tested.items():
        least = min(1.0, number * 2 / 2**seeds)
        if least >= SIGNIFICANT:
            yield (
                f"with {number} {name} at once and {seeds} seeds the corrected p cannot be below {least:.3g}, "
                "whatever the figures: nothing is decided by it; take more seeds"
            )


def _holds(claim: dict, state: str) -> bool:
    return claim[state] is not None and claim[state]["verdict"] == HOLDS


def _measured_on(result: dict) -> str:
    model = f"{result['model']} on " if result["model"] else ""
    return f"{model}{result['dataset']}, seeds {', '.join(map(str, result['seeds']))}"


def _drawn(result: dict) -> str:
    parts = {"the world": result["worlds"], "the adapter": True, "the recommender": result["model"]}
    *others, last = (part for part, drawn in parts.items() if drawn)
    return f"{', '.join(others)} and {last}" if others else last


def _mean_of(patterns: list[str]) -> str:
    return patterns[0] if len(patterns) == 1 and "*" not in patterns[0] else f"mean of {', '.join(patterns)}"


def _figures(result: dict) -> Table:
    figures, by_row = list(result["figures"]), {}
    for entry in result["summary"]:
        by_row.setdefault((entry["arm"], entry["control"]), {})[entry["figure"]] = entry
    rows = [
        [
            f"{arm}{' (control)' if control else ''}",
            *(_spread(found[figure], seeds=len(result["seeds"])) for figure in figures),
        ]
        for (arm, control), found in by_row.items()
    ]
    return Table("", ["arm", *figures], rows, 1)


def _comparisons(result: dict) -> Table:
    rows = [
        [
            f"{row['arm']}{' (control)' if row['control'] else ''}",
            *(row["over"], row["figure"], *_difference(row), str(row["seeds"])),
        ]
        for row in result["comparisons"]
    ]
    header = ["arm", "over", "figure", "difference [95 % interval]", "p", "seeds"]
    return Table("Differences:", header, rows, 3)


def _claims(result: dict) -> Table:
    controlled = any(claim["control"] for claim in result["claims"])
    rows = [
        [
            claim["says"],
            claim["figure"] + (f"\nbeyond {claim['beyond']}" if claim["beyond"] else ""),
            *_decided(claim, "signal", result),
            *(_decided(claim, "control", result) if controlled else ()),
        ]
        for claim in result["claims"]
    ]
    interval = "[95 % interval]" + ("\n(beyond: in pp)" if any(c["beyond"] for c in result["claims"]) else "")
    header = ["claim", "by", f"difference\n{interval}", "p", "verdict"]
    header += [f"control: difference\n{interval}", "p", "control:\nverdict"] if controlled else []
    return Table("Claims:", header, rows, 2)


def _decided(claim: dict, state: str, result: dict) -> tuple[str, str, str]:
    """Difference, p, verdict; with how many seeds, where some have no value."""
    row, seeds = claim[state], len(result["seeds"])
    of = "" if row["seeds"] == seeds else f"\n({row['seeds']} of {seeds} seeds)"
    return (*_difference(row), row["verdict"] + of)


def _spread(entry: dict, *, seeds: int) -> str:
    if entry["mean"] is None:
        return UNDEFINED
    spread = "" if entry["sd"] is None else f"±{entry['sd']:.4f}"
    return f"{entry['mean']:.4f}{spread}{FEWER if entry['seeds'] < seeds else ''}"


def _difference(row: dict) -> tuple[str, str]:
    """The difference with its interval; the corrected p."""
    if row["difference"] is None:
        return UNDEFINED, UNDEFINED
    interval = "" if row["interval"] is None else f" [{row['interval'][0]:+.4f}, {row['interval'][1]:+.4f}]"
    p = "<.001" if row["p_holm"] < 0.001 else f"{row['p_holm']:.3f}".removeprefix("0")
    return f"{row['difference']:+.4f}{interval}", p
