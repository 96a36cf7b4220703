"""A small shop, models on it, and its leave-one-out splits read from the file in plain Python."""

import random
from collections import defaultdict

from recbole.data import create_dataset, data_preparation
from recbole.utils import init_seed

from recbole_sda.config import SDAConfig

LEAVE_ONE_OUT = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
USERS, ITEMS = 30, 130


def write_shop(folder, *, users=USERS, items=ITEMS, purchases=(5, 9)):
    """dataset/shop: every user buys some items, low numbers more often; every fifth buys the first one again."""
    folder.mkdir(parents=True)
    draw = random.Random(1)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(users):
        bought = [int(items * draw.random() ** 2) for _ in range(draw.randint(*purchases))]
        bought = list(dict.fromkeys(bought))
        bought += bought[:1] if user % 5 == 0 else []
        lines += [f"u{user}\ti{item}\t{time}" for time, item in enumerate(bought)]
    lines += [f"window{item % 3}\ti{item}\t{item}" for item in range(items)]  # every item is in the dataset
    (folder / "shop.inter").write_text("\n".join(lines) + "\n")
    return folder.parent


def configure(shops, model="BPR", **values):
    defaults = {
        "data_path": str(shops),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": LEAVE_ONE_OUT,
        "metrics": ["Hit", "NDCG"],
        "topk": [3, 10],
        "valid_metric": "NDCG@10",
        "metric_decimal_place": 8,
        "embedding_size": 8,
        "hidden_size": 8,
        "inner_size": 8,
        "epochs": 1,
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
        "checkpoint_dir": str(shops / "saved"),
    }
    return SDAConfig(model, "shop", config_dict={**defaults, **values})


def prepare(config):
    """train, valid and test loader, and the untrained model."""
    init_seed(config["seed"], config["reproducibility"])
    loaders = data_preparation(config, create_dataset(config))
    return loaders, config.model_class(config, loaders[0]._dataset).to(config["device"])


def purchases(shops, dataset):
    """User id → item ids in the order of time, from the file, by RecBole's ids."""
    bought = defaultdict(list)
    for line in (shops / "shop" / "shop.inter").read_text().splitlines()[1:]:
        user, item, time = line.split("\t")
        user, item = dataset.token2id("user_id", user), dataset.token2id("item_id", item)
        bought[user].append((float(time), item))
    return {user: [item for _, item in sorted(rows)] for user, rows in bought.items()}


def scores_by_user(model, loader):
    """User id → the model's scores of all items, unmasked."""
    model.eval()
    scores = {}
    for interaction, *_ in loader:
        rows = model.full_sort_predict(interaction).detach().view(len(interaction), -1)
        scores |= dict(zip(interaction["user_id"].tolist(), rows, strict=True))
    return scores
