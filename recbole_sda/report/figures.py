"""Plots as pages that need no network, and as pictures where there is a browser to draw them."""

import logging
from pathlib import Path

logger = logging.getLogger(__name__)

TEMPLATE = "plotly_white"
# The variants' colours in every plot.
COLORS = {
    "ids": "#7f7f7f",
    "features": "#8c6d31",
    "zero_shot": "#9aa5b1",
    "lora": "#c8502a",
    "info_nce": "#5aa469",
    "sda": "#1f6fb2",
}


def can_plot() -> bool:
    """Whether plotly is there; if not, the log says what to do."""
    try:
        import plotly  # noqa: F401
    except ImportError:
        logger.warning("no plot: `pip install plotly` and run it again; nothing is measured twice")
        return False
    return True


def write_figure(figure, path: Path) -> list[Path]:
    """``path`` as a page, and beside it a picture where kaleido finds a Chrome or Chromium.

    Args:
        figure: plotly's.
        path: it ends in ``.html``.

    Returns:
        What was written, the page first.
    """
    figure.write_html(path, include_plotlyjs=True)
    picture = path.with_suffix(".png")
    return [path, picture] if write_picture(figure, picture) else [path]


def write_picture(figure, path: Path) -> bool:
    """Whether the picture could be drawn; if not, the log says why."""
    try:
        from kaleido.errors import KaleidoError
    except ImportError:
        logger.info("no %s: `pip install kaleido` for pictures of plots", path)
        return False
    try:
        figure.write_image(path, scale=2)
    except (KaleidoError, RuntimeError) as error:  # RuntimeError: there is no Chrome
        logger.info("no %s: %s", path, " ".join(str(error).split())[:200])
        return False
    return True
