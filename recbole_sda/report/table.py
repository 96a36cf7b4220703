"""The results of a run as tables: scores, further test metrics, gains."""

from typing import NamedTuple

from tabulate import tabulate

from recbole_sda.report.notes import notes
from recbole_sda.report.summary import METRICS, SPLITS, named_runs, summarise

# Metric → what its column is called.
FURTHER = {
    **{name: name for name in ("headhit", "headndcg", "warmhit", "warmndcg", "coldhit", "coldndcg")},
    **{"itemcoverage": "coverage", "giniindex": "gini", "averagepopularity": "popularity"},
}
STAGES = ("adapt", "embed", "train")
UNDEFINED = "–"


class Table(NamedTuple):
    caption: str
    header: list[str]  # a line break within a title where the screen shall have one
    rows: list[list[str]]
    labels: int  # so many columns on the left say what the row is

    def text(self) -> str:
        return f"{self.caption}\n{self._tabulate(self.header, 'simple')}\n".lstrip()

    def markdown(self) -> str:
        in_one_line = [" ".join(name.split()) for name in self.header]
        return f"{self.caption}\n\n{self._tabulate(in_one_line, 'github')}\n".lstrip()

    def _tabulate(self, header: list[str], tablefmt: str) -> str:
        align = ["left"] * self.labels + ["right"] * (len(header) - self.labels)
        return tabulate(self.rows, headers=header, tablefmt=tablefmt, colalign=align, disable_numparse=True)


def results_table(result: dict, *, k: int = 10, split: str = "") -> str:
    """Scores at k of every model and variant, their gains over the baselines, and what to know about them.

    Args:
        result: what :func:`recbole_sda.run` returns. With several models, they are a column; with several seeds,
            scores are mean ± deviation; with ``gains``, there is a table of them.
        split: how the data were split, in words, for the lines under the tables.
    """
    blocks = [table.text() for table in result_tables(result, k=k)]
    return "\n".join(["", title(result), *blocks, *notes(result, split=split)])


def result_tables(result: dict, *, k: int = 10) -> list[Table]:
    """The scores, and the other tables that the result has numbers for."""
    summary = summarise(named_runs(result))
    labels = ["model", "variant"] if len({entry["model"] for entry in summary}) > 1 else ["variant"]
    tables = [_scores(summary, labels, k)]
    if further := _present(summary, FURTHER, k):
        tables.append(_further(summary, labels, further, k))
    if gains := [gain for gain in result.get("gains") or [] if gain["metric"].endswith(f"@{k}")]:
        tables.append(_gains(gains, labels))
    return tables


def title(result: dict) -> str:
    runs = named_runs(result)
    models, seeds = (", ".join(dict.fromkeys(str(run[key]) for run in runs)) for key in ("model", "seed"))
    return f"{models} on {result['dataset']}, seed{'s' if ',' in seeds else ''} {seeds}"


def _scores(summary: list[dict], labels: list[str], k: int) -> Table:
    columns = [(split, f"{name}@{k}") for split in SPLITS for name in _present(summary, METRICS, k)]
    header = [*labels, *(f"{split}\n{key}" for split, key in columns), *(f"{stage}\ns" for stage in STAGES)]
    rows = [
        [
            *(entry[label] for label in labels),
            *(score(entry, split, key) for split, key in columns),
            *(f"{entry['seconds'].get(stage, 0):.0f}" for stage in STAGES),
            f"{entry['epochs']:.0f}",
        ]
        for entry in summary
    ]
    return Table("", [*header, "epochs"], rows, len(labels))


def _further(summary: list[dict], labels: list[str], names: list[str], k: int) -> Table:
    rows = [
        [*(entry[label] for label in labels), *(score(entry, "test", f"{name}@{k}") for name in names)]
        for entry in summary
    ]
    header = [*labels, *(f"test\n{FURTHER[name]}@{k}" for name in names)]
    return Table("Further measures on test:", header, rows, len(labels))


def _gains(gains: list[dict], labels: list[str]) -> Table:
    labels = [*labels, "over"]
    metrics = list(dict.fromkeys(gain["metric"] for gain in gains))
    by_row = {}
    for gain in gains:
        by_row.setdefault(tuple(gain[label] for label in labels), {})[gain["metric"]] = gain
    rows = [[*row, *(cell for m in metrics for cell in gain_cells(found.get(m)))] for row, found in by_row.items()]
    header = [*labels, *(text for metric in metrics for text in (f"{metric}: gain\n[95 % interval]", "p"))]
    return Table("Gains on test over the baselines:", header, rows, len(labels))


def score(entry: dict, split: str, key: str) -> str:
    """A cell of the scores, from an entry of the summary; a star where some seeds had no value."""
    found = entry[split].get(key)
    if found is None or found["mean"] is None:
        return UNDEFINED
    deviation = "" if found["sd"] is None else f"±{found['sd']:.4f}"
    return f"{found['mean']:.4f}{deviation}{'*' if found['n'] < len(entry['seeds']) else ''}"


def gain_cells(gain: dict | None) -> tuple[str, str]:
    """The gain with its interval, in % of the baseline where that is defined; the corrected p-value."""
    if gain is None or gain["p_holm"] is None:
        return UNDEFINED, UNDEFINED
    if gain["relative_interval"] is None:
        size, (low, high) = f"{gain['gain']:+.4f}", gain["gain_interval"]
        interval = f"[{low:+.4f}, {high:+.4f}]"
    else:
        size, (low, high) = f"{gain['relative_gain']:+.1f} %", gain["relative_interval"]
        interval = f"[{low:+.1f}, {high:+.1f}]"
    p = "<.001" if gain["p_holm"] < 0.001 else f"{gain['p_holm']:.3f}".lstrip("0")
    return f"{size} {interval}", p


def _present(summary: list[dict], names, k: int) -> list[str]:
    return [name for name in names if any(f"{name}@{k}" in entry["test"] for entry in summary)]
