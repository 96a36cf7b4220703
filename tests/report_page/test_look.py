"""A legend of many rows pushes the plots down, not the title into the legend."""

import pytest
from plotly import graph_objects

from recbole_sda.report.page.look import LEGEND_ROW, style


def styled(names, **trace):
    figure = graph_objects.Figure([graph_objects.Scatter(x=[0], y=[0], name=name, **trace) for name in names])
    style(figure, "A title", height=360)
    return figure.layout


@pytest.mark.parametrize(("entries", "rows"), [(0, 1), (1, 1), (3, 1), (4, 2), (12, 4)])
def test_the_picture_grows_by_the_rows_of_the_legend(entries, rows):
    layout = styled([f"line {number}" for number in range(entries)])
    more = LEGEND_ROW * (rows - 1)
    assert (layout.height, layout.margin.t) == (360 + more, 90 + more)
    assert (1 - layout.title.y) * layout.height == pytest.approx(0.03 * 360)  # the title stays at the top


def test_what_is_in_no_legend_takes_no_row():
    assert styled(["line"] * 12, showlegend=False).height == 360
