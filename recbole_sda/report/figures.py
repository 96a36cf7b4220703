"""Plots as pages that need no network, and as pictures where there is a browser to draw them."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

logger = logging.getLogger(__name__)

TEMPLATE = "plotly_white"
# The variants' colours in every plot.
COLORS = {
    "ids": "#7f7f7f",
    "features": "#8c6d31",
    "zero_shot": "#7b8ea6",
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
    return write_pictures({path: figure}) == [path]


def write_pictures(figures: Mapping[Path, object]) -> list[Path]:
    """Pictures of several figures by one browser. Returns: those that could be drawn; the log says why not all."""
    for path in figures:
        path.unlink(missing_ok=True)  # of an earlier run
    try:
        import kaleido
        from kaleido.errors import KaleidoError
    except ImportError:
        logger.info("no %s: `pip install kaleido` for pictures of plots", _listed(figures))
        return []
    orders = [{"fig": figure, "path": path, "opts": {"scale": 2}} for path, figure in figures.items()]
    try:
        # Without MathJax, which would come from a network.
        faults = kaleido.write_fig_from_object_sync(orders, kopts={"mathjax": False})
    except (KaleidoError, RuntimeError, OSError) as error:  # RuntimeError: there is no Chrome
        faults = [error]
    written = [path for path in figures if path.is_file()]
    for fault in faults:
        logger.warning("no %s: %s", _listed(set(figures) - set(written)), " ".join(repr(fault).split())[:200])
    return written


def _listed(paths: Iterable[Path]) -> str:
    return ", ".join(sorted(map(str, paths))) or "picture"
