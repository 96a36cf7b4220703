"""An epoch and an evaluation on wide features, divided by the same on item IDs.

    python benchmarks/feature_epochs.py [--items=12000] [--width=3584] [--users=2400] [--interactions=13000]
        [--pairs=3] [--threads=2] [--models=SASRec,BERT4Rec]

SASRec and BERT4Rec with RecBole's defaults, `train_batch_size=2048`, one modality, drawn interactions. A side is
the trainer that `run_recbole_sda.py` builds; an epoch is its `_train_epoch`, an evaluation its `_valid_epoch` of
all users over all items. Before it is timed every side has trained one epoch.
"""

import tempfile
from functools import partial
from pathlib import Path

from harness import milliseconds, options, print_table, ratio, start, time_in_turns
from worlds import write_features, write_interactions

from recbole_sda.config import SDAConfig
from recbole_sda.recommend import build
from recbole_sda.trainer import build_trainer

MODELS = ("SASRec", "BERT4Rec")
SIDES = {
    "item IDs": {"features": "none"},
    "full width": {},
    "pca 256": {"feature_reduction": "pca", "feature_dimension": 256},
}
NAME = "drawn"


def main() -> None:
    args = options(
        __doc__, items=12_000, width=3584, users=2400, interactions=13_000, pairs=3, models=",".join(MODELS)
    ).parse_args()
    start(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_interactions(
            folder / NAME, users=args.users, items=args.items, interactions=args.interactions
        )
        write_features(folder / "features", items=args.items, width=args.width)
        rows = [row for model in args.models.split(",") for row in measure(model, folder, args.pairs)]
    print_table(rows)


def measure(model: str, folder: Path, pairs: int) -> list[dict]:
    epochs, evaluations = {}, {}
    for name, keys in SIDES.items():
        trainer, train_data, valid_data = trainer_of(model, folder, keys)
        epochs[name] = partial(trainer._train_epoch, train_data, 0)
        evaluations[name] = partial(trainer._valid_epoch, valid_data)
    train, evaluate = time_in_turns(epochs, pairs=pairs), time_in_turns(evaluations, pairs=pairs)
    return [
        {
            "model": model,
            "features": name,
            "epoch ms": milliseconds(train[name]),
            "÷ IDs": ratio(train, name, "item IDs"),
            "evaluation ms": milliseconds(evaluate[name]),
            "÷ IDs ": ratio(evaluate, name, "item IDs"),
        }
        for name in SIDES
    ]


def trainer_of(model: str, folder: Path, keys: dict) -> tuple:
    values = {
        "data_path": str(folder),
        "checkpoint_dir": str(folder / "saved"),
        "features": str(folder / "features"),
        "modalities": ["text"],
        "adapter": "none",
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"},
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "train_batch_size": 2048,
        "show_progress": False,
        "state": "ERROR",
        **keys,
    }
    config = SDAConfig(model, NAME, config_dict=values)
    _, _, model, (train_data, valid_data, test_data) = build(config)
    trainer = build_trainer(config, model)
    trainer.prepare_evaluation(train_data, valid_data, test_data)
    return trainer, train_data, valid_data


if __name__ == "__main__":
    main()
