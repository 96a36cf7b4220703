"""One training from its plan: stages 1 and 2 where it has features made, then the recommender."""

import time
from collections.abc import Callable

from recbole_sda.plans import Plan
from recbole_sda.ray_recommend import recommend_in_workers
from recbole_sda.variants import is_own


def run_plan(plan: Plan, *, test: bool = True, on_epoch: Callable[[int, dict, float], None] | None = None) -> dict:
    """One entry of ``runs`` as :func:`recbole_sda.run` describes it.

    Args:
        test, on_epoch: see :func:`recbole_sda.recommend.recommend`.
    """
    config, stages = plan.config, plan.stages
    timings, artefacts = {}, {}
    store = config["features"] if is_own(config["features"]) else None
    if stages is not None:
        adapter, timings["adapt"] = _timed(stages.adapt)
        store, timings["embed"] = _timed(stages.embed)
        artefacts = {"adapter": str(adapter) if adapter else None, "features": str(store)}
    elif store is not None:
        artefacts = {"features": str(store)}
    outcome = recommend_in_workers(config, store, label=plan.variant, test=test, on_epoch=on_epoch)
    timings["train"] = outcome.pop("seconds")
    artefacts |= outcome.pop("artefacts")
    heading = {"model": config["model"], "variant": plan.variant, "seed": config["seed"]}
    return {**heading, **outcome, "timings": timings, "artefacts": artefacts}


def _timed(function, *args, **kwargs):
    started = time.monotonic()
    value = function(*args, **kwargs)
    return value, round(time.monotonic() - started, 1)
