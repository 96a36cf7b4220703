"""The page's text: templates with everything escaped, one copy of plotly.js, one copy of every picture."""

import json
import math
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from recbole_sda.report.page.sections import Section

TITLE_HEIGHT = 34  # pixels, that pictures have above the charts of the page
FOLDER = Path(__file__).parent
# In a <script>, so that no text can end it; U+2028 and U+2029 end lines in older engines.
IN_SCRIPT = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&'\u2028\u2029"}


def render(head: dict, sections: list[Section], items: list[dict]) -> str:
    """The whole page.

    Args:
        head: title, tables and facts of the result, for the template.
        items: what :meth:`recbole_sda.report.page.items.ShownItems.read` returned.
    """
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["as_json"] = as_json
    by_name = {section.name: section for section in sections}
    return environment.get_template("page.html").render(
        **head,
        sections=sections,
        items=items,
        number={item["id"]: place for place, item in enumerate(items)},
        data=_data(by_name, items),
        # Ours or plotly's, not a user's.
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        script=Markup((FOLDER / "page.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()),
    )


def as_json(value: object) -> Markup:
    """JSON that stands in a ``<script>``; NaN and infinities become null."""
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(IN_SCRIPT))


def _data(sections: dict[str, Section], items: list[dict]) -> dict:
    figures = {}
    for section in sections.values():
        for chart in section.charts:
            figure = json.loads(chart.figure.to_json())
            # The page's script has a template for each theme, the page headings.
            for key in ("template", "title"):
                figure["layout"].pop(key, None)
            figure["layout"]["margin"]["t"] -= TITLE_HEIGHT
            figures[chart.name] = figure
    found = sections["map"].content
    shown = {key: found[key] for key in ("numbers", "conflicting")} if found else None
    return {"figures": figures, "items": items, "map": shown}


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
