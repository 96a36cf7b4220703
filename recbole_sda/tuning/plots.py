"""Plots of a sweep: the score over two keys as a heat map, all keys as parallel coordinates; a page a model."""

import html
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean

from recbole_sda.report.figures import TEMPLATE, can_plot, write_figure
from recbole_sda.report.table import UNDEFINED
from recbole_sda.tuning.records import FINISHED

FIRST = ("align_temperature", "num_experts")


def write_plots(folder: Path, result: dict) -> list[Path]:
    """Returns: the pages and pictures; none without plotly, or where there is nothing to compare."""
    if not can_plot():
        return []
    written = []
    for model in dict.fromkeys(entry["model"] for entry in result["trials"]):
        scored = [e for e in result["trials"] if e["model"] == model and e["score"] is not None]
        keys = [key for key in result["swept"] if len(levels(scored, key)) > 1]
        # Those that were stopped have the scores of their first epochs, which a mean would mix with the others'.
        finished = [entry for entry in scored if entry["state"] == FINISHED]
        if (pair := heat_map_keys(keys)) and finished:
            written += write_figure(heat_map(finished, *pair, result, model), folder / f"heat-map-{model}.html")
        if keys and len(scored) > 1:
            figure = parallel_coordinates(scored, keys, result, model)
            written += write_figure(figure, folder / f"parallel-{model}.html")
    return written


def heat_map_keys(keys: Sequence[str]) -> tuple[str, str] | None:
    """The temperature and the number of experts where both are swept, else the first two keys."""
    return FIRST if {*FIRST} <= {*keys} else next(combinations(keys, 2), None)


def levels(trials: Sequence[dict], key: str) -> list:
    """The values of a key that trials have, in order."""
    found = {_text(entry["values"][key]): entry["values"][key] for entry in trials if key in entry["values"]}
    numbers = all(type(value) in (int, float) for value in found.values())
    return sorted(found.values()) if numbers else list(found.values())


def places(trials: Sequence[dict], key: str) -> dict[str, str]:
    """The places along a key's axis → their labels: its levels, and – for trials in which the key does nothing."""
    found = {_text(value): _label(value) for value in levels(trials, key)}
    lacking = any(key not in entry["values"] for entry in trials)
    return {**found, UNDEFINED: UNDEFINED} if lacking else found


def mean_scores(trials: Sequence[dict], x: str, y: str) -> list[list[float | None]]:
    """(places of y) × (places of x): the mean over the trials that share both; None where there is none."""
    cells = {}
    for entry in trials:
        cells.setdefault((_place(entry, y), _place(entry, x)), []).append(entry["score"])
    means = {cell: fmean(scores) for cell, scores in cells.items()}
    return [[means.get((row, column)) for column in places(trials, x)] for row in places(trials, y)]


def heat_map(trials: Sequence[dict], x: str, y: str, result: dict, model: str):
    from plotly import graph_objects

    scores = mean_scores(trials, x, y)
    shades = graph_objects.Heatmap(
        z=scores,
        x=[*places(trials, x).values()],
        y=[*places(trials, y).values()],
        text=[["" if score is None else f"{score:.4f}" for score in row] for row in scores],
        texttemplate="%{text}",
        colorscale="Viridis",
        reversescale=not result["bigger"],
        colorbar={"title": f"valid {result['metric']}"},
    )
    figure = graph_objects.Figure(shades)
    figure.update_layout(
        template=TEMPLATE,
        title=f"{_title(result, model)}, mean of the finished trials ({_share(trials, result, model)})",
        xaxis={"title": x, "type": "category"},
        yaxis={"title": y, "type": "category"},
    )
    return figure


def parallel_coordinates(trials: Sequence[dict], keys: Sequence[str], result: dict, model: str):
    """A line a trial; a key's values are evenly spaced, in order."""
    from plotly import graph_objects

    scores = [entry["score"] for entry in trials]
    axes = [{"label": f"valid {result['metric']}", "values": scores}]
    for key in keys:
        labels = places(trials, key)
        numbers = {place: number for number, place in enumerate(labels)}
        values = [numbers[_place(entry, key)] for entry in trials]
        ticks = {"tickvals": [*numbers.values()], "ticktext": [*labels.values()]}
        axes.insert(-1, {"label": key, "values": values, **ticks})
    line = {"color": scores, "colorscale": "Viridis", "reversescale": not result["bigger"], "showscale": True}
    figure = graph_objects.Figure(graph_objects.Parcoords(line=line, dimensions=axes))
    title = f"{_title(result, model)}, trials with a score ({_share(trials, result, model)})"
    figure.update_layout(template=TEMPLATE, title=title)
    return figure


def _title(result: dict, model: str) -> str:
    return f"{model} on {html.escape(result['dataset'])}: validation {result['metric']}"


def _share(shown: Sequence[dict], result: dict, model: str) -> str:
    return f"{len(shown)} of {sum(entry['model'] == model for entry in result['trials'])}"


def _place(entry: dict, key: str) -> str:
    return _text(entry["values"][key]) if key in entry["values"] else UNDEFINED


def _text(value) -> str:
    return json.dumps(value, sort_keys=True)


def _label(value) -> str:
    return html.escape(f"{value:g}" if isinstance(value, float) else str(value))
