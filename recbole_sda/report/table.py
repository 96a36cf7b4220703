"""The results of a run as a text table: one row a variant."""

from tabulate import tabulate

METRICS = ("hit", "ndcg", "tailhit", "tailndcg")
STAGES = ("adapt", "embed", "train")
GAIN_METRIC = "ndcg"
BASELINES = ("ids", "zero_shot")
NO_CONTENT = {"VBPR": "without features VBPR has no content terms"}


def results_table(result: dict, *, k: int = 10, split: str = "") -> str:
    """Validation and test metrics at k, the test gain over the baselines, and the seconds of each stage.

    Args:
        result: what :func:`recbole_sda.run` returns.
        split: how the data were split, in words, for the line under the table.
    """
    runs = {run["variant"]: run for run in result["runs"]}
    metrics = [metric for metric in METRICS if f"{metric}@{k}" in result["runs"][0]["test"]]
    baselines = [name for name in BASELINES if name in runs and len(runs) > 1]
    header = ["variant", *(f"{split}\n{m}@{k}" for split in ("valid", "test") for m in metrics)]
    header += [f"test {GAIN_METRIC}\nover {name}" for name in baselines]
    header += [f"{stage}\ns" for stage in STAGES] + ["epochs"]
    rows = []
    for name, run in runs.items():
        scores = [_number(run[split], f"{m}@{k}") for split in ("valid", "test") for m in metrics]
        gains = [_gain(run, runs[base], f"{GAIN_METRIC}@{k}") for base in baselines]
        seconds = [f"{run['timings'].get(stage, 0):.0f}" for stage in STAGES]
        rows.append([name, *scores, *gains, *seconds, run["epochs"]])
    text = tabulate(rows, headers=header, disable_numparse=True, colalign=["left"] + ["right"] * (len(header) - 1))
    title = f"{result['model']} on {result['dataset']}, seed {result['seed']}"
    return "\n".join(["", title, text, *_notes(result, runs), *([split] if split else [])])


def _number(metrics: dict | None, key: str) -> str:
    value = (metrics or {}).get(key)
    return "–" if value is None else f"{value:.4f}"


def _gain(run: dict, base: dict, key: str) -> str:
    if run is base or not base["test"].get(key):
        return "–"
    return f"{100 * (run['test'][key] / base['test'][key] - 1):+.1f} %"


def _notes(result: dict, runs: dict) -> list[str]:
    notes = []
    run = max(runs.values(), key=lambda run: len(run["missing"]))
    missing = [f"{count} without {modality}" for modality, count in run["missing"].items()]
    if run["skipped"]:
        missing.append(f"{run['skipped']} files refused, see {run['artefacts']['features']}/skipped.csv")
    notes.append(", ".join([f"{run['items']} items", *missing]))
    if "ids" in runs and result["model"] in NO_CONTENT:
        notes.append(f"ids: {NO_CONTENT[result['model']]}")
    return notes
