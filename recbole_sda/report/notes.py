"""What a reader must know to read the table: the lines under it."""

from recbole_sda.report.summary import SPLITS, named_runs, summarise

NO_CONTENT = {
    "VBPR": "without features VBPR has no content terms",
    "SLMRec": "without features SLMRec keeps its ID channel alone; FAC and FM compare channels and are out",
}
CANDIDATES = {
    "full": "all items",
    "uni100": "the targets and 100 fixed items that the user never touched",
}
HISTORY = {
    "recbole": "general models never recommend what the user had before, sequential ones may",
    "all": "what the user had before is never recommended",
    "none": "what the user had before may be recommended again",
}
# First metric of a group → what its columns mean.
TERMS = {
    "tailhit": "tail: over the users whose target is long tail by training popularity; head: over the others",
    "coldhit": "cold: over the users whose target was held out of training; warm: over the others",
    "itemcoverage": "coverage: share of the items that anybody is recommended",
    "giniindex": "gini: 0 if all items are recommended equally often, 1 if one takes all",
    "averagepopularity": "popularity: mean training interactions of the recommended items",
}


def notes(result: dict, *, split: str = "") -> list[str]:
    """Items, models without content, how it was evaluated, how gains were tested; each where it applies.

    Args:
        result: what :func:`recbole_sda.run` returns.
        split: how the data were split, in words.
    """
    runs, gains = named_runs(result), result.get("gains") or []
    return [
        _items(runs),
        *_without_content(runs),
        *([split] if split else []),
        *_protocol(result),
        *_terms(runs),
        *_seeds(runs),
        *_gains(gains),
    ]


def _items(runs: list[dict]) -> str:
    run = max(runs, key=lambda run: len(run["missing"]))
    parts = [f"{run['items']} items", *(f"{count} without {name}" for name, count in run["missing"].items())]
    if run["skipped"]:
        # Of several stores each has its own.
        parts.append(f"{run['skipped']} files refused, listed in skipped.csv of {run['artefacts']['features']}")
    return ", ".join(parts)


def _without_content(runs: list[dict]) -> list[str]:
    models = dict.fromkeys(run["model"] for run in runs if run["variant"] == "ids")
    return [f"ids: {NO_CONTENT[model]}" for model in models if model in NO_CONTENT]


def _protocol(result: dict) -> list[str]:
    if "protocol" not in result:
        return []
    return [f"candidates: {CANDIDATES[result['protocol']]}; history: {HISTORY[result['history_mask']]}"]


def _terms(runs: list[dict]) -> list[str]:
    measured = {key.partition("@")[0] for run in runs for key in run["test"]}
    return [words for metric, words in TERMS.items() if metric in measured]


def _seeds(runs: list[dict]) -> list[str]:
    seeds = {run["seed"] for run in runs}
    if len(seeds) == 1:
        return []
    lines = [f"scores: mean±sample standard deviation of {len(seeds)} seeds; s: all of them added; epochs: mean"]
    if any(_undefined_in_part(entry) for entry in summarise(runs)):
        lines.append("*: undefined with some of the seeds, which are left out of the mean")
    return lines


def _undefined_in_part(entry: dict) -> bool:
    return any(0 < found["n"] < len(entry["seeds"]) for split in SPLITS for found in entry[split].values())


def _gains(gains: list[dict]) -> list[str]:
    tested = sum(gain["p_holm"] is not None for gain in gains)
    if not tested:
        return []
    lines = [
        "gain: of the mean over the test users; interval: by bootstrap of the users, other seeds would widen it",
        f"p: Wilcoxon signed-rank test of the users' differences, Holm-corrected, comparisons: {tested}",
    ]
    if any(gain["p_holm"] is not None and gain["relative_interval"] is None for gain in gains):
        lines.append("gain without %: the difference itself, where the baseline is too near to 0 for a ratio")
    return lines
