"""Which items are the long tail, by what the model could see in training."""

import math

import numpy as np


def training_popularity(train_dataset) -> np.ndarray:
    """Training interactions of each item, padding at 0; (n_items,) int64.

    RecBole's ``item_counter`` leaves out each user's first item in sequential data, where it is never
    a target; the interaction matrix has it.
    """
    matrix = train_dataset.inter_matrix(form="csr")
    return np.asarray(matrix.sum(axis=0)).ravel().astype(np.int64)


def tail_items(popularity: np.ndarray, *, head_share: float, max_popularity: int | None = None) -> np.ndarray:
    """Mask of the tail items, (n_items,) bool; padding at 0 is never one.

    Args:
        popularity: training interactions of each item; items without any count.
        head_share: the most popular share of the items, rounded up, is the head. Ties go by item id.
        max_popularity: instead, items with at most so many interactions are the tail.
    """
    if max_popularity is not None:
        tail = popularity <= max_popularity
    else:
        items = np.arange(1, len(popularity))
        order = items[np.lexsort((items, -popularity[1:]))]
        tail = np.zeros(len(popularity), dtype=bool)
        tail[order[math.ceil(head_share * len(items)) :]] = True
    tail[0] = False
    return tail
