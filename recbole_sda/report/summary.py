"""Mean and deviation over the seeds of every model and variant."""

import math
from statistics import fmean, stdev

SPLITS = ("valid", "test")
# What the main table shows, and what variants are compared by.
METRICS = ("hit", "ndcg", "tailhit", "tailndcg")


def summarise(runs: list[dict]) -> list[dict]:
    """One entry for every model and variant, in the runs' order.

    Args:
        runs: what :func:`recbole_sda.run` returns as ``runs``.

    Returns:
        ``model``, ``variant``, ``seeds``; ``valid`` and ``test``: metric → ``mean``, ``sd`` (of the sample, None
        with one value) and ``n``; ``seconds``: stage → all seeds' sum; ``epochs``: their mean. A metric that is
        undefined (None, NaN) with some seeds has the mean of the others, and ``n`` says how many; with all, None.
    """
    groups = {}
    for run in runs:
        groups.setdefault((run["model"], run["variant"]), []).append(run)
    return [
        {
            "model": model,
            "variant": variant,
            "seeds": [run["seed"] for run in group],
            **{split: _metrics([run[split] or {} for run in group]) for split in SPLITS},
            "seconds": _sums([run["timings"] for run in group]),
            "epochs": fmean(run["epochs"] for run in group),
        }
        for (model, variant), group in groups.items()
    ]


def named_runs(result: dict) -> list[dict]:
    """The runs, each with its model and seed, which a result of one model and seed says once, at the top."""
    return [{"model": result["model"], "seed": result["seed"], **run} for run in result["runs"]]


def _metrics(results: list[dict]) -> dict[str, dict]:
    names = dict.fromkeys(name for result in results for name in result)
    return {name: _spread([result.get(name) for result in results]) for name in names}


def _spread(values: list[float | None]) -> dict:
    values = [value for value in values if value is not None and math.isfinite(value)]
    return {
        "mean": fmean(values) if values else None,
        "sd": stdev(values) if len(values) > 1 else None,
        "n": len(values),
    }


def _sums(timings: list[dict]) -> dict[str, float]:
    stages = dict.fromkeys(stage for timing in timings for stage in timing)
    return {stage: sum(timing.get(stage, 0) for timing in timings) for stage in stages}
