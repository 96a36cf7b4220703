"""What the cells of a study say together: means over the seeds, paired differences, claims."""

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from statistics import fmean, stdev

from recbole_sda.errors import SDAError
from recbole_sda.evaluation.paired import holm
from recbole_sda.evaluation.seeds_paired import paired_difference, verdict
from recbole_sda.studies.arms import Arm, Cell
from recbole_sda.studies.definition import AXIS_VALUE, Claim, Definition


class Values:
    """The figures of every arm, a value a seed.

    Args:
        cells: of the study.
        records: of each cell, as :func:`recbole_sda.studies.records.measure` returns them.
        figures: column → patterns.
    """

    def __init__(self, cells: Sequence[Cell], records: Sequence[Mapping], figures: Mapping[str, Sequence[str]]):
        self.seeds = list(dict.fromkeys(cell.seed for cell in cells))
        self.arms = list({cell.arm.label: cell.arm for cell in cells}.values())
        self.controls = sorted({cell.control for cell in cells})
        self.figures = list(figures)
        self._records = {
            (cell.arm.label, cell.control, cell.seed): _depends_on(record)
            for cell, record in zip(cells, records, strict=True)
        }
        self._found = {
            (cell.arm.label, cell.control, cell.seed, figure): _figure(patterns, record, cell.arm.x)
            for cell, record in zip(cells, records, strict=True)
            for figure, patterns in figures.items()
        }

    def of(self, arm: Arm, figure: str, *, control: bool = False) -> list[float | None]:
        """A value a seed; None where it is undefined, or the arm does not have it."""
        return [self._found[arm.label, control, seed, figure] for seed in self.seeds]

    def measured(self, arm: Arm, *, control: bool) -> tuple | None:
        """What all its figures depend on, equal for two arms that are one; None where it is not known."""
        found = *(self._records[arm.label, control, seed] for seed in self.seeds), arm.x
        return None if None in found[:-1] else found

    def of_cell(self, cell: Cell) -> dict[str, float | None]:
        """Figure → value."""
        return {figure: self._found[cell.arm.label, cell.control, cell.seed, figure] for figure in self.figures}


def check_names(figures: Mapping[str, Sequence[str]], record: Mapping) -> None:
    """Raises: SDAError: a figure names what its measure does not have, in the record of a cell that was measured.

    Names with the axis's value are left alone: a training that ends early does not have all of them.
    """
    for column, patterns in figures.items():
        for pattern in patterns:
            measure, _, name = pattern.partition(".")
            there = record.get(measure, {}).get("figures")
            if there is not None and AXIS_VALUE not in name and not any(fnmatchcase(one, name) for one in there):
                near = ", ".join(difflib.get_close_matches(name, there, n=3) or there)
                raise SDAError(f"figure {column!r}: nothing measured is called {pattern}; {measure} has {near}")


def check_found(figures: Mapping[str, Sequence[str]], values: Values) -> None:
    """Raises: SDAError: a figure with the axis's value was found in no cell."""
    for figure, patterns in figures.items():
        everywhere = [v for c in values.controls for arm in values.arms for v in values.of(arm, figure, control=c)]
        if AXIS_VALUE in "".join(patterns) and not any(value is not None for value in everywhere):
            raise SDAError(
                f"figure {figure!r}: nothing that was measured is called {', '.join(patterns)}, at any place of "
                "the axis; see figures in the records under studies/cells, which are kept"
            )


def _depends_on(record: Mapping) -> str | None:
    """In JSON, as it is found again."""
    if not all("depends_on" in found for found in record.values()):
        return None
    return json.dumps({name: found["depends_on"] for name, found in record.items()}, sort_keys=True)


def figures_at(figures: Mapping[str, Sequence[str]], x) -> dict[str, list[str]]:
    """Column → patterns, at x of the axis."""
    return {column: [pattern.replace(AXIS_VALUE, str(x)) for pattern in said] for column, said in figures.items()}


def _figure(patterns: Sequence[str], record: Mapping, x) -> float | None:
    """The mean of all that the patterns name, at x of the axis; None if any of it is undefined."""
    patterns = [pattern.replace(AXIS_VALUE, str(x)) for pattern in patterns]
    named = {f"{measure}.{name}": v for measure, found in record.items() for name, v in found["figures"].items()}
    values = [value for name, value in named.items() if any(fnmatchcase(name, pattern) for pattern in patterns)]
    return None if None in values or not values else fmean(values)


def summary(values: Values) -> list[dict]:
    """``mean``, ``sd`` (of the sample, None with one seed), ``seeds`` of each ``arm``, ``control``, ``figure``."""
    found = []
    for control in values.controls:
        for arm in values.arms:
            for figure in values.figures:
                measured = [value for value in values.of(arm, figure, control=control) if value is not None]
                spread = {
                    "mean": fmean(measured) if measured else None,
                    "sd": stdev(measured) if len(measured) > 1 else None,
                    "seeds": len(measured),
                }
                found.append({"arm": arm.label, "control": control, "figure": figure, **spread})
    return found


def comparisons(definition: Definition, values: Values) -> list[dict]:
    """Every pair by every figure: ``arm``, ``over``, ``control``, ``figure``, what :func:`paired_difference` says
    with these two names' means as ``arm_mean`` and ``over_mean``, and ``p_holm``, corrected over the pairs and
    figures with the signal, and over those of the control. A figure that one of the two lacks is no row, nor are
    two arms that come to the same at their place of the axis, nor two that another row has compared under other
    names."""
    found = []
    for control in values.controls:
        rows = [
            {"arm": arm.label, "over": over.label, "control": control, "figure": figure}
            | _named(paired_difference(*(values.of(each, figure, control=control) for each in (arm, over))))
            for arm, over in _distinct(definition, values, control=control)
            for figure in values.figures
        ]
        found += _corrected([row for row in rows if row["seeds"]])
    return found


def _distinct(definition: Definition, values: Values, *, control: bool) -> list[tuple[Arm, Arm]]:
    """The pairs to compare, each measured pair once: at a share of 0 all kinds of noise are one."""
    found = {}
    for pair in definition.pairs:
        for arm, over in _matched(pair, values.arms):
            measured = tuple(values.measured(each, control=control) for each in (arm, over))
            if None in measured or measured[0] != measured[1]:
                found.setdefault((arm.label, over.label) if None in measured else measured, (arm, over))
    return list(found.values())


def claims(definition: Definition, values: Values) -> list[dict]:
    """What came out of each claim, and of the same comparison in the control.

    Returns:
        ``says``, ``arm``, ``over``, ``figure``, ``beyond``; ``signal`` and ``control`` (None without one): what
        :func:`paired_difference` says, ``p_holm``, corrected over all claims, and ``verdict``. The unit of
        ``difference`` is the figure's own; with ``beyond``, percentage points of relative gain.
    """
    stated = [(c, pair) for c in definition.claims.values() for pair in _matched((c.arm, c.over), values.arms)]
    found = [
        {"says": claim.says, "arm": arm.label, "over": over.label, "figure": claim.figure, "beyond": claim.beyond}
        | {"signal": None, "control": None}
        for claim, (arm, over) in stated
    ]
    for control in values.controls:
        rows = _corrected([_named(_claimed(claim, pair, values, control)) for claim, pair in stated])
        for entry, row in zip(found, rows, strict=True):
            decided = verdict(
                *(row["difference"], row["p_holm"]),
                rank_sum=row["rank_sum"],
                seeds=row["seeds"],
                least_seeds=definition.least_seeds,
            )
            entry["control" if control else "signal"] = {**row, "verdict": decided}
    return found


def _claimed(claim: Claim, pair: tuple[Arm, Arm], values: Values, control: bool) -> dict:
    if claim.beyond is None:
        return paired_difference(*(values.of(each, claim.figure, control=control) for each in pair))
    gains = []
    for figure in (claim.figure, claim.beyond):
        ours, theirs = (values.of(each, figure, control=control) for each in pair)
        gains.append([_relative_gain(*both) for both in zip(ours, theirs, strict=True)])
    return paired_difference(*gains)


def _relative_gain(ours: float | None, theirs: float | None) -> float | None:
    """In %; None where there is nothing to be relative to."""
    return None if ours is None or not theirs else 100 * (ours - theirs) / abs(theirs)


def _matched(pair: tuple[str, str], arms: Sequence[Arm]) -> Iterator[tuple[Arm, Arm]]:
    """The two arms at the same place of the axis, on the same backbone."""
    ours, theirs = ([arm for arm in arms if arm.name == name] for name in pair)
    for arm in ours:
        yield from ((arm, over) for over in theirs if (over.x, over.backbone) == (arm.x, arm.backbone))


def _named(difference: dict) -> dict:
    return {{"arm": "arm_mean", "over": "over_mean"}.get(key, key): value for key, value in difference.items()}


def _corrected(rows: list[dict]) -> list[dict]:
    return [{**row, "p_holm": p} for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True)]


def seconds(records: Sequence[Mapping]) -> float:
    """What all measures took when they were measured, each counted once, however many cells share it."""
    found = {json.dumps(one["depends_on"], sort_keys=True): one["seconds"] for r in records for one in r.values()}
    return round(math.fsum(found.values()), 1)
