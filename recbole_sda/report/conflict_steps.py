"""Gradient cosines over the steps of a training, on training batches and on held-out items: a table and a plot."""

from itertools import product
from pathlib import Path

from tabulate import tabulate

from recbole_sda.alignment.cosines import EACH
from recbole_sda.report.conflict import COLORS, cosine_cell, difference, pairs_of
from recbole_sda.report.figures import TEMPLATE, can_plot, write_figure

PARTS = {"all together": None, "gates aside": EACH}  # label → expert and projection
BATCHES = {False: "training", True: "held out"}


def steps_table(result: dict) -> str:
    """A row a step, and for each adapter a column of training batches and one of held-out items.

    Args:
        result: with ``over_training``, records with ``adapter``, ``step`` and ``held_out`` of one or more
            adapters, and ``dataset``, ``seed``, ``alignment``, ``align_batch_size`` and ``batches``.
    """
    records = result["over_training"]
    columns = list(product(_adapters(records), BATCHES))
    header = ["step", *(f"{adapter}\n{BATCHES[held_out]}" for adapter, held_out in columns)]
    lines = [""]
    for pair, (label, part) in product(pairs_of(records), PARTS.items()):
        series = [{r["step"]: r for r in _series(records, pair, part, *column)} for column in columns]
        steps = sorted({step for one in series for step in one})
        rows = [[step, *(cosine_cell(one[step]) if step in one else "–" for one in series)] for step in steps]
        lines += [
            f"Cosine of the {pair[0]} and the {pair[1]} gradient over training, {label}: "
            f"{result['alignment']} on {result['dataset']}, seed {result['seed']}",
            tabulate(rows, headers=header, disable_numparse=True, colalign=["right"] * len(header)),
        ]
    return "\n".join([*lines, *_notes(result)])


def write_steps_plot(result: dict, path: Path) -> Path | None:
    """A line an adapter, dashed on held-out items. Returns: the page's path; None where plotly is missing.

    Args:
        result: as in :func:`steps_table`.
    """
    if not can_plot():
        return None
    from plotly.subplots import make_subplots

    records = result["over_training"]
    pairs = pairs_of(records)
    titles = [f"{' and '.join(pair)}, {label}" for pair in pairs for label in PARTS]
    figure = make_subplots(rows=len(pairs), cols=len(PARTS), subplot_titles=titles, shared_yaxes=True)
    for (row, pair), (column, part) in product(enumerate(pairs, 1), enumerate(PARTS.values(), 1)):
        for adapter, held_out in product(_adapters(records), BATCHES):
            line = _line(_series(records, pair, part, adapter, held_out), adapter, held_out)
            figure.add_trace(line.update(showlegend=row == column == 1), row=row, col=column)
    figure.update_xaxes(title="step")
    figure.update_yaxes(title="cosine", zeroline=True, zerolinewidth=2, col=1)
    title = f"Gradient cosine over training: {result['alignment']} on {result['dataset']}"
    caption = "<br>".join(_notes(result))
    figure.update_layout(title={"text": title, "subtitle": {"text": caption}}, height=360 * len(pairs) + 200)
    figure.update_layout(template=TEMPLATE, margin_t=160)
    return write_figure(figure, path)[0]


def _line(series: list[dict], adapter: str, held_out: bool):
    from plotly import graph_objects

    name = f"{adapter}, {BATCHES[held_out]}"
    return graph_objects.Scatter(
        name=name,
        legendgroup=name,
        x=[record["step"] for record in series],
        y=[record["mean"] for record in series],
        error_y={
            "array": [difference(record["high"], record["mean"]) for record in series],
            "arrayminus": [difference(record["mean"], record["low"]) for record in series],
        },
        mode="lines+markers",
        line={"color": COLORS.get((adapter, not held_out)), "dash": "dash" if held_out else "solid"},
    )


def _adapters(records: list[dict]) -> list[str]:
    return list(dict.fromkeys(record["adapter"] for record in records))


def _series(records: list[dict], pair: list[str], part: str | None, adapter: str, held_out: bool) -> list[dict]:
    """A record a step."""
    wanted = {"pair": pair, "expert": part, "projection": part, "adapter": adapter, "held_out": held_out}
    found = [record for record in records if all(record[key] == value for key, value in wanted.items())]
    return sorted(found, key=lambda record: record["step"])


def _notes(result: dict) -> list[str]:
    return [
        f"mean and 95 % interval over {result['batches']} batches of {result['align_batch_size']} items, without "
        "dropout",
        "held out: batches drawn from few items share many of them, and the interval is too narrow",
        "gates aside: mean over each expert at each projection, which gates cannot change",
    ]
