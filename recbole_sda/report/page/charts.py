"""What the recommenders came to, and how they got there: each chart a figure, words and its numbers."""

from plotly import graph_objects
from plotly.subplots import make_subplots

from recbole_sda.report.page.gather import MissingError
from recbole_sda.report.page.look import Chart, colors_of, label, labels, number, style
from recbole_sda.report.summary import named_runs, summarise
from recbole_sda.report.table import Table, score

OUTLINE = "#5c6876"  # the lighter colours need one on white
GROUPS = {"": "all users", "head": "head targets", "tail": "tail targets"}


def head_tail_chart(result: dict) -> Chart:
    """NDCG over all users, those with a head target and those with a tail target, a panel a model."""
    summary, k = summarise(named_runs(result)), result["k"]
    shown = [prefix for prefix in GROUPS if any(f"{prefix}ndcg@{k}" in entry["test"] for entry in summary)]
    if not shown:
        raise MissingError(f"no NDCG@{k} was measured; --metrics says what is")
    models = list(dict.fromkeys(entry["model"] for entry in summary))
    figure = make_subplots(
        rows=1, cols=len(models), shared_yaxes=True, subplot_titles=labels(models) if models[1:] else None
    )
    colors, named = colors_of(entry["variant"] for entry in summary), set()
    for entry in summary:
        found = [entry["test"].get(f"{prefix}ndcg@{k}") or {} for prefix in shown]
        bars = graph_objects.Bar(
            name=label(entry["variant"]),
            x=[GROUPS[prefix] for prefix in shown],
            y=[one.get("mean") for one in found],
            error_y={
                "array": [one.get("sd") or 0 for one in found],
                "visible": any(one.get("sd") for one in found),
            },
            marker={"color": colors[entry["variant"]], "line": {"color": OUTLINE, "width": 1}},
            legendgroup=label(entry["variant"]),
            showlegend=entry["variant"] not in named,
        )
        named.add(entry["variant"])
        figure.add_trace(bars, row=1, col=models.index(entry["model"]) + 1)
    figure.update_yaxes(title=f"NDCG@{k} on test", col=1)
    style(figure, "Head and tail", height=360, barmode="group")
    header = ["model", "variant", *(GROUPS[prefix] for prefix in shown)]
    rows = [[e["model"], e["variant"], *(score(e, "test", f"{p}ndcg@{k}") for p in shown)] for e in summary]
    alt = f"Bars of NDCG@{k} on test, by variant, for {', '.join(GROUPS[prefix] for prefix in shown)}."
    return Chart("head-tail", figure, alt, Table("", header, rows, 2))


def recommender_chart(runs: list[dict]) -> Chart:
    """Training loss and validation score by epoch, a line a run.

    Raises:
        MissingError: no run has kept its curve.
    """
    curves = {_run_name(run, runs): run for run in runs if run.get("curve")}
    if not curves:
        raise MissingError("this result has no training curves: it was written before runs kept them")
    figure = make_subplots(rows=1, cols=2, subplot_titles=["training loss", "validation score"])
    colors, dashes = colors_of(run["variant"] for run in curves.values()), {}
    for name, run in curves.items():
        dash = dashes.setdefault((run["model"], run["seed"]), ("solid", "dash", "dot", "dashdot")[len(dashes) % 4])
        for column, key in enumerate(("train_loss", "valid_score"), 1):
            line = graph_objects.Scatter(
                x=[point["epoch"] for point in run["curve"]],
                y=[point[key] for point in run["curve"]],
                name=label(name),
                mode="lines+markers",
                line={"color": colors[run["variant"]], "dash": dash},
                marker_size=5,
                legendgroup=label(name),
                showlegend=column == 1,
            )
            figure.add_trace(line, row=1, col=column)
    figure.update_xaxes(title="epoch", rangemode="tozero")
    style(figure, "Training the recommender", height=360)
    rows = [
        [name, str(point["epoch"]), number(point["train_loss"]), number(point["valid_score"])]
        for name, run in curves.items()
        for point in run["curve"]
    ]
    table = Table("", ["run", "epoch", "training loss", "validation score"], rows, 1)
    return Chart("recommender-curves", figure, "Lines of training loss and validation score by epoch.", table)


def _run_name(run: dict, runs: list[dict]) -> str:
    """The variant, and model and seed where there are several."""
    several = [key for key in ("model", "seed") if len({other[key] for other in runs}) > 1]
    parts = {"model": run["model"], "seed": f"seed {run['seed']}"}
    return ", ".join([*(parts[key] for key in several if key == "model"), run["variant"],
                      *(parts[key] for key in several if key == "seed")])  # fmt: skip
