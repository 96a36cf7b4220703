"""Gradient cosines between modalities as a text table and as a page with a plot."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from tabulate import tabulate

from recbole_sda.alignment.conflict import PROJECTIONS
from recbole_sda.alignment.cosines import EACH
from recbole_sda.report.figures import TEMPLATE, can_plot, write_figure

COLORS = {
    ("lora", False): "#f2b8a0",
    ("lora", True): "#c8502a",
    ("moda", False): "#a8c8e8",
    ("moda", True): "#1f6fb2",
}


def conflict_table(result: dict) -> str:
    """For each pair of modalities the adapters side by side, start and trained.

    Args:
        result: what :func:`recbole_sda.diagnose` returns for ``conflict``.
    """
    columns = _columns(result)
    header = ["", *(f"{adapter}\n{_state(trained)}" for adapter, trained in columns)]
    lines = [""]
    for pair in pairs_of(result["conflict"]):
        rows = []
        for label, expert, projection in _parts(result):
            found = [_find(result, pair, expert, projection, *column) for column in columns]
            rows.append([label, *map(cosine_cell, found)])
        lines += [
            f"Cosine of the {pair[0]} and the {pair[1]} gradient of B in the last decoder layer: "
            f"{result['alignment']} on {result['dataset']}, seed {result['seed']}",
            tabulate(rows, headers=header, disable_numparse=True, colalign=["left"] + ["right"] * len(columns)),
        ]
    return "\n".join([*lines, *conflict_notes(result)])


def write_conflict_plot(result: dict, path: Path) -> Path | None:
    """A page that needs no network. Returns: its path; None, with a line in the log, where plotly is missing."""
    if not can_plot():
        return None
    figure = conflict_figure(result)
    title = f"Gradient cosine between modalities: {result['alignment']} on {result['dataset']}"
    caption = "<br>".join(conflict_notes(result))
    figure.update_layout(title={"text": title, "subtitle": {"text": caption}}, margin_t=160)
    return write_figure(figure, path)[0]


def conflict_figure(result: dict):
    """Plotly's figure of what :func:`conflict_table` shows, without a title."""
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    pairs, parts = pairs_of(result["conflict"]), _parts(result)
    figure = make_subplots(rows=len(pairs), cols=1, subplot_titles=[" and ".join(pair) for pair in pairs])
    for (row, pair), column in product(enumerate(pairs, 1), _columns(result)):
        found = [_find(result, pair, expert, projection, *column) for _, expert, projection in parts]
        name = f"{column[0]}, {_state(column[1])}"
        bars = graph_objects.Bar(
            name=name,
            x=[label for label, _, _ in parts],
            y=[record["mean"] for record in found],
            error_y={
                "array": [difference(record["high"], record["mean"]) for record in found],
                "arrayminus": [difference(record["mean"], record["low"]) for record in found],
            },
            marker={"color": COLORS.get(column), "line": {"color": COLORS.get((column[0], True)), "width": 1}},
            legendgroup=name,
            showlegend=row == 1,
        )
        figure.add_trace(bars, row=row, col=1)
    figure.update_yaxes(title="cosine", zeroline=True, zerolinewidth=2)
    figure.update_layout(barmode="group", template=TEMPLATE, height=360 * len(pairs) + 200)
    return figure


def _columns(result: dict) -> list[tuple[str, bool]]:
    return [(adapter, trained) for adapter in result["adapters"] for trained in (False, True)]


def pairs_of(records: list[dict]) -> list[list[str]]:
    """Each pair of modalities once."""
    pairs = []
    for record in records:
        if record["pair"] not in pairs:
            pairs.append(record["pair"])
    return pairs


def _parts(result: dict) -> list[tuple[str, int | str | None, str | None]]:
    """label, expert, projection of each row."""
    measured = {record["projection"] for record in result["conflict"]}
    return [
        ("all together", None, None),
        *((f"expert {expert}", expert, None) for expert in range(result["num_experts"])),
        *((projection, None, projection) for projection in PROJECTIONS if projection in measured),
        ("gates aside", EACH, EACH),
    ]


def _find(result: dict, pair: list[str], expert, projection, adapter: str, trained: bool) -> dict:
    wanted = {"pair": pair, "expert": expert, "projection": projection, "adapter": adapter, "trained": trained}
    (record,) = (r for r in result["conflict"] if all(r[key] == value for key, value in wanted.items()))
    return record


def cosine_cell(record: dict) -> str:
    """Mean and interval; a dash where a gradient was 0."""
    if record["mean"] is None:
        return "–"
    if record["low"] is None:
        return f"{record['mean']:+.3f}"
    return f"{record['mean']:+.3f} [{record['low']:+.3f}, {record['high']:+.3f}]"


def conflict_notes(result: dict) -> Iterator[str]:
    yield (
        f"seed {result['seed']}, under {result['alignment']}: mean and 95 % interval over {result['batches']} "
        f"batches of {result['align_batch_size']} training items, without dropout"
    )
    yield "lora has no experts: its rows are the same columns of its B"
    yield "gates aside: mean over each expert at each projection, which gates cannot change"
    for adapter in result["adapters"]:
        before, after = ([r["mean"] for r in _of(result, adapter, trained)] for trained in (False, True))
        if before == after:
            yield f"{adapter}: no step of the training beat the start on the held-out items, so the start was kept"


def _of(result: dict, adapter: str, trained: bool) -> list[dict]:
    return [r for r in result["conflict"] if (r["adapter"], r["trained"]) == (adapter, trained)]


def _state(trained: bool) -> str:
    return "trained" if trained else "start"


def difference(upper: float | None, lower: float | None) -> float | None:
    """None where one of them is missing."""
    return None if upper is None or lower is None else upper - lower
