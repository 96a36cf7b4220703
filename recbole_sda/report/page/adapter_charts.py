"""What stage 1 did: its curves, the gates that it learned, and whether the modalities pulled the same way."""

import re
from statistics import fmean

from plotly import graph_objects
from plotly.subplots import make_subplots

from recbole_sda.alignment.held_out import BEST_BY
from recbole_sda.report.conflict import conflict_figure
from recbole_sda.report.page.gather import MissingError
from recbole_sda.report.page.look import Chart, colors_of, label, labels, number, style
from recbole_sda.report.table import Table

GATE_SCALE = [[0, "#f4f7fb"], [0.5, "#7fb0da"], [1, "#0d3f6e"]]


def adapter_chart(adapters: dict[str, dict]) -> Chart:
    """Loss and retrieval on the held-out items by step, a star at the state that was kept.

    Args:
        adapters: label → manifest.
    """
    figure = make_subplots(rows=1, cols=2, subplot_titles=["held-out loss", f"held-out {BEST_BY.upper()}"])
    colors, rows = colors_of(name.partition(",")[0] for name in adapters), []
    for name, manifest in adapters.items():
        records = manifest["held_out"]
        kept = records.index(kept_record(records))
        for column, key in enumerate(("held_out_loss", BEST_BY), 1):
            line = graph_objects.Scatter(
                x=[record["step"] for record in records],
                y=[record[key] for record in records],
                name=label(name),
                mode="lines+markers",
                line_color=colors[name.partition(",")[0]],
                marker={
                    "symbol": ["star" if place == kept else "circle" for place in range(len(records))],
                    "size": [14 if place == kept else 5 for place in range(len(records))],
                },
                legendgroup=label(name),
                showlegend=column == 1,
            )
            figure.add_trace(line, row=1, col=column)
        rows += [
            [name, str(r["step"]), number(r["loss"]), number(r["held_out_loss"]), number(r[BEST_BY])]
            for r in records
        ]
    figure.update_xaxes(title="step")
    style(figure, "Training the adapter", height=360)
    table = Table("", ["adapter", "step", "loss", "held-out loss", f"held-out {BEST_BY.upper()}"], rows, 1)
    alt = "Lines of the loss and of retrieval on held-out items by step of stage 1."
    return Chart("adapter-curves", figure, alt, table)


def gates_chart(manifest: dict) -> Chart:
    """Weight of each expert in each layer, the mean over the layer's projections, a panel a modality.

    Raises:
        MissingError: the adapter has no gates.
    """
    gates = kept_record(manifest["held_out"]).get("gates")
    if not gates:
        raise MissingError(f"adapter {manifest['settings'].get('adapter', '')} has no gates".replace("  ", " "))
    layers = by_layer(gates)
    modalities = list(dict.fromkeys(modality for means in layers.values() for modality in means))
    experts = len(next(iter(next(iter(layers.values())).values())))
    titles = labels(modalities)
    figure = make_subplots(rows=1, cols=len(modalities), shared_yaxes=True, subplot_titles=titles)
    highest = max(weight for means in layers.values() for weights in means.values() for weight in weights)
    for column, modality in enumerate(modalities, 1):
        heat = graph_objects.Heatmap(
            z=[means.get(modality, [None] * experts) for means in layers.values()],
            x=[str(expert) for expert in range(experts)],
            y=list(map(label, layers)),
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hovertemplate="%{y}, expert %{x}: %{z:.3f}<extra></extra>",
        )
        figure.add_trace(heat, row=1, col=column)
    figure.update_xaxes(title="expert", type="category")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    scale = {
        "colorscale": GATE_SCALE,
        "cmin": 0,
        "cmax": highest,
        "colorbar": {"thickness": 12, "title": "weight"},
    }
    style(figure, "Gates", height=180 + 18 * max(6, len(layers)), coloraxis=scale)
    header = ["layer", *(f"{modality}, expert {expert}" for modality in modalities for expert in range(experts))]
    rows = [
        [layer, *(number(weight) for modality in modalities for weight in means.get(modality, [None] * experts))]
        for layer, means in layers.items()
    ]
    alt = f"Heat maps of {experts} experts' gate weights in {len(layers)} layers, for {' and '.join(modalities)}."
    return Chart("gates", figure, alt, Table("", header, rows, 1))


def cosine_chart(conflict: dict) -> Chart:
    """What ``diagnose conflict`` found."""
    figure = conflict_figure(conflict)
    for annotation in figure.layout.annotations:
        annotation.text = label(annotation.text)
    for trace in figure.data:
        trace.update(name=label(trace.name), legendgroup=label(trace.name))
    style(figure, "Gradient cosine", height=figure.layout.height - 160)
    wanted = ("adapter", "trained", "pair", "expert", "projection", "mean", "low", "high")
    rows = [[_cell(record[key]) for key in wanted] for record in conflict["conflict"]]
    alt = "Bars of the cosine between the modalities' gradients, by adapter, at the start and trained."
    return Chart("gradient-cosine", figure, alt, Table("", [*wanted], rows, 5))


def kept_record(records: list[dict]) -> dict:
    """The look at the held-out items whose state was kept: the best, the first of equals."""
    return max(records, key=lambda record: record[BEST_BY])


def by_layer(gates: dict[str, dict]) -> dict[str, dict[str, list[float]]]:
    """Layer → modality → the mean of each expert's weight over the layer's projections."""
    groups: dict[str, dict[str, list]] = {}
    for module, weights in gates.items():
        found = re.search(r"\.(\d+)\.", module)
        layer = groups.setdefault(f"layer {found[1]}" if found else module, {})
        for modality, values in weights.items():
            layer.setdefault(modality, []).append(values)
    return {
        layer: {modality: list(map(fmean, zip(*values, strict=True))) for modality, values in means.items()}
        for layer, means in groups.items()
    }


def _cell(value) -> str:
    if isinstance(value, list):
        return " and ".join(value)
    return number(value) if isinstance(value, float) else "–" if value is None else str(value)
