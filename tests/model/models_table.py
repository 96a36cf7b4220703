"""Prints what every model of RecBole and ours makes of features, each tried on the spot:

python tests/model/models_table.py
"""

import os
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import torch
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parents[1]))

from model.zoo import SETTINGS, World, with_features, write_dataset

from recbole_sda.model import OWN_MODELS, attach_item_features
from recbole_sda.model.slots import REFUSED, SLOTS
from recbole_sda.trainer import build_trainer

HEADER = [
    "model",
    "kind",
    "features replace",
    "Δ loss",
    "Δ scores",
    "trained, reloaded, ranked",
    "unseen items",
    "notes",
]


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):  # some models print
        os.chdir(folder)
        write_dataset(Path(folder))
        rows = [_tried(World(name, Path(folder)), Path(folder)) for name in SLOTS]
        os.chdir("/")
    rows.sort(key=lambda row: (row[1] == "general", row[0].lower()))
    print(tabulate(rows, HEADER, tablefmt="github", disable_numparse=True))
    print()
    refused = {reason: [name for name in REFUSED if REFUSED[name] == reason] for reason in REFUSED.values()}
    print(
        tabulate(
            [[", ".join(names), why] for why, names in refused.items()], ["refused", "why"], tablefmt="github"
        )
    )


def _tried(world: World, folder: Path) -> list[str]:
    slots, loss, scores, unseen = world.slots, "–", "–", not world.slots.cold
    if world.name not in OWN_MODELS:
        stock = world.build_large()
        unseen = not torch.equal(*world.score_cold_item(stock))
        swapped = with_features(stock, slots)
        scores = f"{float((world.score(swapped) - world.score(stock)).abs().max()):.1g}"
        loss = f"{float((world.learn(swapped)[0] - world.learn(stock)[0]).abs().max()):.1g}"
    return [
        world.name,
        world.config["MODEL_TYPE"].name.lower(),
        ", ".join(slots.tables),
        loss,
        scores,
        "yes" if _ranks_the_same_after_reloading(world, folder / world.name) else "NO",
        "yes" if unseen else "no",
        "; ".join(_notes(world)),
    ]


def _notes(world: World) -> list[str]:
    notes = [f"{key}={value} only: {why}" for key, (value, why) in world.slots.needed.items()]
    notes += [f"pip install {package}" for package in world.slots.package.values()]
    notes += [world.slots.cold] if world.slots.cold else []
    settings = ", ".join(SETTINGS.get(world.name, {}))
    return notes + ([f"set for this dataset: {settings}"] if settings else [])


def _ranks_the_same_after_reloading(world: World, folder: Path) -> bool:
    """Train one epoch on random features, save, load into a model built anew, rank."""
    folder.mkdir()
    provider = world.provider(folder / "store")
    results = []
    for train in (True, False):
        model = attach_item_features(world.build(), provider, world.config)
        trainer = build_trainer(world.config, model, str(folder / "best.pth"))
        trainer.prepare_evaluation(world.train, world.valid, world.test)
        if train:
            trainer.fit(world.train, world.valid, show_progress=False)
            trainer._save_checkpoint(0, verbose=False)
        results.append(trainer.evaluate(world.test))
    return results[0] == results[1]


if __name__ == "__main__":
    sys.exit(main())
