"""A study's figures as a plot: bars with a point a seed, or a line for each arm along the study's axis."""

from collections.abc import Iterator
from pathlib import Path

from recbole_sda.report.figures import COLORS, TEMPLATE, can_plot, write_figure

COLUMNS = 2
# For arms that are none of the variants, which have colours of their own.
PALETTE = ("#1f6fb2", "#c8502a", "#5aa469", "#8c6d31", "#7b5ea7", "#d98cb3", "#3aa6a6", "#7f7f7f", "#b3a42f")
PANEL_HEIGHT, GAP_HEIGHT, LETTER_HEIGHT, CAPTION_HEIGHT = 260, 90, 6, 110  # pixels


def write_study_plot(result: dict, path: Path) -> list[Path]:
    """A page, and a picture where there is a browser; nothing, with a line in the log, without plotly.

    Args:
        result: what :func:`recbole_sda.studies.study` returns.
        path: it ends in ``.html``.
    """
    if not can_plot():
        return []
    from plotly.subplots import make_subplots

    figures = list(result["figures"])
    rows = -(-len(figures) // COLUMNS)
    longest = 0 if result["axis"] else max(map(len, result["arms"]))
    gap = GAP_HEIGHT + LETTER_HEIGHT * longest  # the names of arms stand upright
    height = (PANEL_HEIGHT + gap) * rows + CAPTION_HEIGHT
    plot = make_subplots(
        rows=rows,
        cols=min(COLUMNS, len(figures)),
        subplot_titles=figures,
        vertical_spacing=gap / (height - gap - CAPTION_HEIGHT) if rows > 1 else None,
    )
    for number, figure in enumerate(figures):
        place = {"row": number // COLUMNS + 1, "col": number % COLUMNS + 1}
        for trace in (_lines if result["axis"] else _bars)(result, figure, show_legend=number == 0):
            plot.add_trace(trace, **place)
        if result["axis"]:
            plot.update_xaxes(title=result["axis"]["label"], **place)
    title = f"study {result['study']}: {result['question']}"
    plot.update_layout(title=title, template=TEMPLATE, height=height)
    plot.update_layout(margin={"t": CAPTION_HEIGHT, "b": gap})
    if not result["axis"]:
        plot.update_layout(barmode="group", scattermode="group")
        plot.update_xaxes(tickangle=90)
    return write_figure(plot, path)


def _bars(result: dict, figure: str, *, show_legend: bool) -> Iterator:
    from plotly import graph_objects

    for control in _controls(result):
        cells = [cell for cell in result["cells"] if cell["control"] == control]
        arms = list(dict.fromkeys(cell["arm"] for cell in cells))
        means = {row["arm"]: row["mean"] for row in _rows(result, figure, control)}
        name = "control" if control else "signal"
        yield graph_objects.Bar(
            name=name,
            x=arms,
            y=[means[arm] for arm in arms],
            marker={"color": [_color(arm, i) for i, arm in enumerate(arms)], "opacity": 0.35 if control else 0.9},
            offsetgroup=name,
            showlegend=False,
        )
        yield graph_objects.Scatter(
            name=f"{name}, a seed each",
            x=[cell["arm"] for cell in cells],
            y=[cell["figures"][figure] for cell in cells],
            text=[f"seed {cell['seed']}" for cell in cells],
            mode="markers",
            marker={"color": "#333333", "size": 5, "symbol": "circle-open" if control else "circle"},
            offsetgroup=name,
            legendgroup=name,
            showlegend=show_legend,
        )


def _lines(result: dict, figure: str, *, show_legend: bool) -> Iterator:
    from plotly import graph_objects

    places = {(cell["arm"], cell["control"]): (cell["line"], cell["x"]) for cell in result["cells"]}
    for control in _controls(result):
        lines = {}
        for row in _rows(result, figure, control):
            line, x = places[row["arm"], control]
            lines.setdefault(line, []).append((x, row["mean"], row["sd"]))
        for number, (line, points) in enumerate(lines.items()):
            xs, means, deviations = zip(*points, strict=True)
            yield graph_objects.Scatter(
                name=f"{line}, control" if control else line,
                x=xs,
                y=means,
                error_y={"array": [deviation or 0 for deviation in deviations], "thickness": 1},
                line={"color": _color(line, number), "dash": "dot" if control else "solid"},
                legendgroup=f"{line} {control}",
                showlegend=show_legend,
            )


def _controls(result: dict) -> list[bool]:
    return sorted({cell["control"] for cell in result["cells"]})


def _rows(result: dict, figure: str, control: bool) -> list[dict]:
    return [row for row in result["summary"] if (row["figure"], row["control"]) == (figure, control)]


def _color(arm: str, number: int) -> str:
    return COLORS.get(arm, PALETTE[number % len(PALETTE)])
