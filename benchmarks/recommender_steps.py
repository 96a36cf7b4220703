"""VBPR and SLMRec beside the stock models that they extend, BPR and LightGCN.

    python benchmarks/recommender_steps.py [--users=22363] [--items=12101] [--interactions=198502] [--width=256]
        [--pairs=3] [--least-items=1000] [--most-items=1000000] [--step-pairs=5] [--threads=2]

The first table is an epoch at the size of amazon-beauty (leave-one-out leaves some 154,000 interactions to train
on) with two modalities: the trainer's `_train_epoch` with its data loader, so what RecBole needs to draw negatives
is in it. The second is one step of 2,048 pairs against the number of items, ten times as many from row to row, for
the same users and interactions: loss is the forward pass alone, step has backward and Adam too. Of VBPR's loss
nothing depends on the number of items; the gradients and moments of a table of item IDs do, in BPR as well.
LightGCN and SLMRec propagate everything at every step. Both have three layers here; LightGCN's default is two.
`--pairs=0` leaves out the first table, `--most-items=0` the second.
"""

import gc
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import scipy.sparse as sp
import torch
from harness import SEED, milliseconds, options, print_table, ratio, start, time_in_turns
from worlds import write_features, write_interactions

from recbole_sda.config import SDAConfig
from recbole_sda.features import FeatureProvider, FeatureStore
from recbole_sda.model import attach_item_features
from recbole_sda.recommend import build
from recbole_sda.trainer import build_trainer

from recbole.data.interaction import Interaction  # isort: skip  # after recbole_sda, which makes it importable

NAME = "drawn"
MODALITIES = ("image", "text")
LAYERS = 3
BATCH = 2048
IDS = {"features": "none"}
# What runs → model, its keys, what it is divided by.
EPOCHS = {
    "BPR": ("BPR", IDS, "BPR"),
    "VBPR, IDs alone": ("VBPR", IDS, "BPR"),
    "VBPR": ("VBPR", {}, "BPR"),
    "LightGCN": ("LightGCN", IDS, "LightGCN"),
    **{
        f"SLMRec, {task}": ("SLMRec", {"ssl_task": task}, "LightGCN")
        for task in ("none", "FAC", "FD", "FM", "FD+FM")
    },
}
STEPS = {name: EPOCHS[name] for name in ("BPR", "VBPR", "LightGCN", "SLMRec, FAC")}


def configure(folder: Path, features: Path, model: str, keys: dict) -> SDAConfig:
    values = {
        "data_path": str(folder),
        "checkpoint_dir": str(folder / "saved"),
        "features": str(features),
        "modalities": list(MODALITIES),
        "adapter": "none",
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"},
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "train_batch_size": BATCH,
        "n_layers": LAYERS,
        "show_progress": False,
        "state": "ERROR",
        **keys,
    }
    return SDAConfig(model, NAME, config_dict=values)


def time_epochs(folder: Path, args) -> list[dict[str, object]]:
    write_interactions(folder / NAME, users=args.users, items=args.items, interactions=args.interactions)
    write_features(folder / "features", items=args.items, width=args.width, modalities=MODALITIES)
    epochs, pairs = {}, {}
    for name, (model, keys, _) in EPOCHS.items():
        config = configure(folder, folder / "features", model, keys)
        _, _, built, (train_data, _, _) = build(config)
        epochs[name] = partial(build_trainer(config, built)._train_epoch, train_data, 0)
        pairs[name] = len(train_data._dataset)
    seconds = time_in_turns(epochs, pairs=args.pairs)
    return [
        {
            "model": name,
            "pairs": f"{pairs[name]:,}",
            "epoch ms": milliseconds(seconds[name]),
            "÷": beside,
            "ratio": ratio(seconds, name, beside),
        }
        for name, (_, _, beside) in EPOCHS.items()
    ]


def drawn_dataset(args, items: int) -> SimpleNamespace:
    """What models ask of RecBole's dataset, without one: padding is row 0."""
    generator = np.random.default_rng(SEED)
    pairs = [generator.integers(1, count + 1, args.interactions) for count in (args.users, items)]
    shape = args.users + 1, items + 1
    return SimpleNamespace(
        num=lambda field: shape[0] if field.startswith("user") else shape[1],
        inter_matrix=lambda form: sp.coo_matrix((np.ones(args.interactions), pairs), shape=shape),
    )


def drawn_batch(args, items: int) -> Interaction:
    generator = torch.Generator().manual_seed(SEED)
    most = {"user_id": args.users, "item_id": items, "neg_item_id": items}
    return Interaction({name: torch.randint(1, m + 1, (BATCH,), generator=generator) for name, m in most.items()})


def training_step(model: torch.nn.Module, batch: Interaction) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        model.calculate_loss(batch).backward()
        optimizer.step()

    return step


def time_steps(folder: Path, args, items: int) -> dict[str, object]:
    store = write_features(folder / "features", items=items, width=args.width, modalities=MODALITIES)
    provider = FeatureProvider(FeatureStore.open(store.path), [f"i{item}" for item in range(items)])
    dataset, batch, runs = drawn_dataset(args, items), drawn_batch(args, items), {}
    for name, (model, keys, _) in STEPS.items():
        config = configure(folder, folder / "features", model, keys)
        built = config.model_class(config, dataset).to(config["device"])
        if keys is not IDS:
            attach_item_features(built, provider, config)
        runs[name] = training_step(built.train(), batch.to(config["device"]))
        runs[f"{name} loss"] = partial(built.calculate_loss, batch.to(config["device"]))
    seconds = time_in_turns(runs, pairs=args.step_pairs)
    row = {"items": f"{items:,}"}
    for name in ("BPR", "VBPR"):
        row[f"{name} loss ms"] = milliseconds(seconds[f"{name} loss"])
    for name, (_, _, beside) in STEPS.items():
        row[f"{name} step ms"] = milliseconds(seconds[name])
        if name != beside:
            row[f"÷ {beside}"] = ratio(seconds, name, beside)
    return row


def main() -> None:
    args = options(
        __doc__,
        users=22_363,
        items=12_101,
        interactions=198_502,
        width=256,
        pairs=3,
        least_items=1000,
        most_items=1_000_000,
        step_pairs=5,
    ).parse_args()
    start(args.threads)
    if args.pairs:
        with tempfile.TemporaryDirectory() as folder:
            rows = time_epochs(Path(folder), args)
        print(f"\n{args.users:,} users, {args.items:,} items, features 2 × {args.width}\n")
        print_table(rows)
    rows, items = [], args.least_items
    while items <= args.most_items:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(time_steps(Path(folder), args, items))
        gc.collect()
        items *= 10
    if rows:
        print(f"\na step of {BATCH:,} pairs; {args.users:,} users, {args.interactions:,} interactions\n")
        print_table(rows)


if __name__ == "__main__":
    main()
