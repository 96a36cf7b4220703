"""A sweep that shares stage 1, divided by the same trainings one by one.

    python benchmarks/sweep.py [--models=SASRec,BERT4Rec,VBPR,SLMRec] [--taus=0.01,0.05,0.1,0.2] [--experts=2,4,8]
        [--singles=0] [--cpus=1] [--threads=2] [--keys=align_steps=20,epochs=5]

`tune` of every temperature, number of experts and model on the demo at its preset settings; then the same
runs, each in a `checkpoint_dir` of its own, in this process on all `--threads`. `--singles` takes so many of
them, spread over the models, and counts each for its share (0: all). A, the seconds of an adapter with its
features, and R, those of a recommender, are means of the single runs. Goal: 1.15 × (nA + mR) ÷ (mA + mR) for n
adapters and m trials.
"""

import contextlib
import io
import logging
import os
import tempfile
import time
from itertools import product
from pathlib import Path
from statistics import fmean

from harness import options, print_table, start

import recbole_sda

MODELS, TAUS, EXPERTS = "SASRec,BERT4Rec,VBPR,SLMRec", "0.01,0.05,0.1,0.2", "2,4,8"
SLACK = 1.15


def main() -> None:
    args = options(
        __doc__, models=MODELS, taus=TAUS, experts=EXPERTS, singles=0, cpus=1, keys="", items=300, users=600
    ).parse_args()
    start(args.threads)
    keys = {"demo_items": args.items, "demo_users": args.users, "show_progress": False}
    keys |= dict(pair.split("=", 1) for pair in args.keys.split(",") if pair)
    models, taus, experts = (text.split(",") for text in (args.models, args.taus, args.experts))
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        combinations = product(models, taus, experts)
        grid = [{"model": model, "tau": tau, "experts": number} for model, tau, number in combinations]
        recbole_sda.run(models[0], "demo", {**keys, "features": "none", "epochs": 1})  # imports, the demo itself
        sweep = sweep_seconds(models, taus, experts, {**keys, "cpus": args.cpus})
        singles = [single_seconds(run, number, keys) for number, run in enumerate(spread(grid, args.singles))]
    adapt, train = (fmean(times[part] for times in singles) for part in ("adapt", "train"))
    one_by_one = fmean(times["whole"] for times in singles) * len(grid)
    adapters = len(taus) * len(experts)
    goal = SLACK * (adapters * adapt + len(grid) * train) / (len(grid) * (adapt + train))
    print_table(
        [
            {
                "trials": len(grid),
                "adapters": adapters,
                "A s": f"{adapt:.1f}",
                "R s": f"{train:.1f}",
                "sweep s": f"{sweep:.0f}",
                "one by one s": f"{one_by_one:.0f} ({len(singles)} of {len(grid)} run)",
                "sweep ÷ one by one": f"{sweep / one_by_one:.3f}",
                "goal": f"≤ {goal:.3f}",
            }
        ]
    )


def sweep_seconds(models: list[str], taus: list[str], experts: list[str], keys: dict) -> float:
    """From the command to the last winner's test, the start of Ray and of its workers included, the plots too."""
    space = Path("space.yaml")
    lines = (
        f"align_temperature: {{choice: [{', '.join(taus)}]}}",
        f"num_experts: {{choice: [{', '.join(experts)}]}}",
    )
    space.write_text("\n".join(lines))
    began = time.perf_counter()
    result = recbole_sda.tune(",".join(models), "demo", {**keys, "space": str(space), "checkpoint_dir": "sweep"})
    seconds = time.perf_counter() - began
    if result["failures"]:
        raise SystemExit(f"a trial failed: {result['failures'][0]['error']}")
    return seconds


def single_seconds(run: dict, number: int, keys: dict) -> dict[str, float]:
    """``whole``; ``adapt``: stages 1 and 2; ``train``: the rest, which is what loads and evaluates, too."""
    values = {**keys, "align_temperature": float(run["tau"]), "num_experts": int(run["experts"])}
    began = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        result = recbole_sda.run(run["model"], "demo", {**values, "checkpoint_dir": f"single-{number}"})
    whole = time.perf_counter() - began
    adapt = sum(result["runs"][0]["timings"][stage] for stage in ("adapt", "embed"))
    return {"whole": whole, "adapt": adapt, "train": whole - adapt}


def spread(grid: list[dict], number: int) -> list[dict]:
    """So many of them, one from each stretch of the grid and each time the next place in it; all for 0.

    The same place of every stretch would be the same number of experts again and again.
    """
    if not number or number >= len(grid):
        return grid
    stretch = len(grid) // number
    return [grid[place * stretch + place % stretch] for place in range(number)]


if __name__ == "__main__":
    logging.getLogger("recbole_sda").setLevel(logging.WARNING)
    main()
