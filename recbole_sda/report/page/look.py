"""What the charts share: their form, their colours, and what they make of a user's text."""

import html
import math
from collections.abc import Iterable
from typing import NamedTuple

from plotly import graph_objects

from recbole_sda.report.figures import COLORS, TEMPLATE
from recbole_sda.report.table import Table

OTHER_COLORS = ("#8a63d2", "#d99a2b", "#2a9d8f", "#c2477f", "#5b7083")
LABEL_CHARS = 60
LEGEND_COLUMNS, LEGEND_ROW = 3, 30  # entries, pixels


class Chart(NamedTuple):
    """One figure of the page.

    Attributes:
        name: the stem of its picture's file.
        alt: what there is to see, for who does not see it.
        table: its numbers; None where the page shows them elsewhere.
    """

    name: str
    figure: graph_objects.Figure
    alt: str
    table: Table | None


def label(text: str) -> str:
    """A user's text for a figure: plotly reads some HTML."""
    text = " ".join(str(text).split())
    text = text if len(text) <= LABEL_CHARS else text[: LABEL_CHARS - 1] + "…"
    return html.escape(text, quote=False)


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def style(figure: graph_objects.Figure, title: str, *, height: int, **layout) -> None:
    """Args: title: of the picture; the page has headings of its own. height: with a legend of one row."""
    more = LEGEND_ROW * (legend_rows(figure) - 1)
    room = 360 / (height + more)  # of what is placed by the share of the height
    figure.update_layout(
        title={"text": title, "x": 0.01, "y": 1 - 0.03 * room, "yanchor": "top", "font_size": 16},
        template=TEMPLATE,
        height=height + more,
        margin={"l": 64, "r": 16, "t": 90 + more, "b": 48},
        legend={"orientation": "h", "x": 0, "y": 1.1, "yanchor": "bottom", "title": None},
    )
    figure.update_layout(**layout)


def legend_rows(figure: graph_objects.Figure) -> int:
    """At the width of a page or a picture."""
    named = sum(bool(trace.name) and trace.showlegend is not False for trace in figure.data)
    return max(1, math.ceil(named / LEGEND_COLUMNS))


def labels(names: Iterable[str]) -> list[str]:
    return [label(name) for name in names]


def colors_of(variants: Iterable[str]) -> dict[str, str]:
    variants = list(dict.fromkeys(variants))
    others = [variant for variant in variants if variant not in COLORS]
    return {v: COLORS.get(v) or OTHER_COLORS[others.index(v) % len(OTHER_COLORS)] for v in variants}
