"""Groups of items whose users are also measured apart: tail and head by popularity, cold and warm by training."""

import numpy as np

from recbole_sda.evaluation.popularity import tail_items, training_popularity


def _tail(config, train_dataset) -> np.ndarray:
    return tail_items(
        training_popularity(train_dataset),
        head_share=config["tail_head_share"],
        max_popularity=config["tail_max_popularity"],
    )


def _cold(config, train_dataset) -> np.ndarray:
    cold = getattr(train_dataset, "cold_items", None)
    return np.zeros(train_dataset.item_num, dtype=bool) if cold is None else cold


DEFINED = {"tail": _tail, "cold": _cold}
COMPLEMENTS = {"head": "tail", "warm": "cold"}
GROUPS = (*DEFINED, *COMPLEMENTS)
# What decides whether a group has items.
KEYS = {
    "tail": "tail_head_share or tail_max_popularity",
    "head": "tail_head_share or tail_max_popularity",
    "cold": "cold_share",
    "warm": "cold_share",
}


def group_items(group: str, config, train_dataset) -> np.ndarray:
    """Mask of the group's items, (n_items,) bool; padding at 0 is in none.

    Args:
        group: one of ``GROUPS``.
        train_dataset: RecBole's, of the training split; ``cold_items`` on it are the items held out of training.
    """
    if group in DEFINED:
        return DEFINED[group](config, train_dataset)
    others = ~group_items(COMPLEMENTS[group], config, train_dataset)
    others[0] = False
    return others
