"""The map's panels: a point an item and modality, a thin line between an item's own."""

from itertools import cycle

from plotly import graph_objects

from recbole_sda.report.page.embedding_map import EmbeddingMap
from recbole_sda.report.page.look import Chart, label, style

MODALITY_COLORS = ("#1f6fb2", "#e07b39", "#5aa469", "#8a63d2")
LINE_COLOR = "rgba(128,128,128,0.35)"


def map_charts(embedding_map: EmbeddingMap, numbers: list[int]) -> list[Chart]:
    """A chart a space: a point an item and modality, a thin line between an item's own.

    Args:
        numbers: the page's number of each item of the map, which the points carry.
    """
    names = ("map-before", "map-after")[-len(embedding_map.points) :]
    found = zip(names, embedding_map.points, strict=True)
    return [_map_chart(name, space, embedding_map, numbers) for name, space in found]


def _map_chart(name: str, space: str, embedding_map: EmbeddingMap, numbers: list[int]) -> Chart:
    points, figure = embedding_map.points[space], graph_objects.Figure()
    modalities = list(points)
    lines, carried = [], []
    for row, item in enumerate(numbers):
        own = [points[m][row].tolist() for m in modalities if points[m][row][0] == points[m][row][0]]
        if len(own) > 1:
            lines += [*own, [None, None]]
            carried += [item] * (len(own) + 1)
    x, y = ([_rounded(point[axis]) for point in lines] for axis in (0, 1))
    line = {"color": LINE_COLOR, "width": 0.7}
    figure.add_scatter(
        x=x, y=y, customdata=carried, mode="lines", line=line, name="same item", hoverinfo="skip", showlegend=False
    )
    for modality, color in zip(modalities, cycle(MODALITY_COLORS), strict=False):
        rows = [row for row in range(len(numbers)) if points[modality][row][0] == points[modality][row][0]]
        figure.add_scatter(
            x=[_rounded(points[modality][row][0]) for row in rows],
            y=[_rounded(points[modality][row][1]) for row in rows],
            customdata=[numbers[row] for row in rows],
            mode="markers",
            marker={"color": color, "size": 6, "opacity": 0.8},
            name=label(modality),
            hoverinfo="none",
        )
    hidden = {"showgrid": False, "showticklabels": False, "zeroline": False, "ticks": ""}
    figure.update_xaxes(**hidden)
    figure.update_yaxes(**hidden, scaleanchor="x")
    margin = {"l": 8, "r": 8, "t": 80, "b": 8}
    look = {"height": 460, "hovermode": "closest", "dragmode": "pan", "margin": margin, "legend_y": 1.02}
    style(figure, f"Features under {label(space)}", **look)
    alt = f"A map of {len(numbers)} items by their features under {space}: a point an item and modality."
    return Chart(name, figure, alt, None)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 3)
