"""Which items a user may be recommended: ``history_mask`` and ``protocol``.

Each restriction sets the scores of the other items to −inf, in place, and leaves the user's targets as they are;
every model goes through the same one.
"""

import logging
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

logger = logging.getLogger(__name__)

NEGATIVES = 100
BLOCK = 50_000  # users drawn for at once
# (scores, users, row of each target, its item)
Restriction = Callable[[Tensor, Tensor, Tensor, Tensor], None]


def restrictions(config, train_data, valid_data, test_data) -> dict[object, Restriction]:
    """What restricts the candidates of validation and of test, by data loader; empty where nothing does.

    Args:
        train_data, valid_data, test_data: RecBole's loaders; the latter two may be empty or None.
    """
    if not is_restricted(config):
        return {}
    evaluated = [loader for loader in (valid_data, test_data) if loader]
    history = interactions(train_data)
    if config["protocol"] == "uni100":
        touched = sum((interactions(loader) for loader in evaluated), history)
        drawn = SampledCandidates(touched, seed=config["protocol_seed"])
        return dict.fromkeys(evaluated, drawn)
    masks: dict[object, Restriction] = {}
    for loader in evaluated:  # what came before: training, and at test validation
        masks[loader] = HistoryMask(history)
        history = history + interactions(loader)
    return masks


def is_restricted(config) -> bool:
    return config["protocol"] == "uni100" or config["history_mask"] == "all"


def interactions(loader) -> csr_matrix:
    """(users, items), not 0 where the split has an interaction; with those that were held out of it altogether."""
    dataset = loader._dataset
    matrix = dataset.inter_matrix(form="csr").astype(np.int32)
    held_out = getattr(dataset, "held_out_interactions", None)
    return matrix if held_out is None else matrix + held_out.astype(np.int32)


class HistoryMask:
    """No user is recommended what they had before.

    Args:
        history: (users, items), not 0 where the user had the item.
    """

    def __init__(self, history: csr_matrix):
        self.history = history

    def __call__(self, scores: Tensor, users: Tensor, positive_u: Tensor, positive_i: Tensor) -> None:
        had = self.history[users.cpu().numpy()]
        rows = np.repeat(np.arange(had.shape[0]), np.diff(had.indptr))
        device, targets = scores.device, scores[positive_u, positive_i]
        scores[torch.from_numpy(rows).to(device), torch.from_numpy(had.indices).long().to(device)] = -torch.inf
        scores[positive_u, positive_i] = targets


class SampledCandidates:
    """The targets against 100 items that the user never touched, drawn once for each user.

    Args:
        touched: (users, items), not 0 where the user had the item in any split.
    """

    def __init__(self, touched: csr_matrix, *, seed: int):
        self.negatives = draw_untouched(touched, seed)
        short = int((self.negatives == 0).any(axis=1).sum())
        if short:
            logger.warning("%d users have fewer than %d untouched items; they are ranked on all", short, NEGATIVES)

    def __call__(self, scores: Tensor, users: Tensor, positive_u: Tensor, positive_i: Tensor) -> None:
        negatives = torch.from_numpy(self.negatives[users.cpu().numpy()]).long().to(scores.device)
        targets, others = scores[positive_u, positive_i], scores.gather(1, negatives)
        scores.fill_(-torch.inf)
        scores.scatter_(1, negatives, others)  # padding, which fills up short rows, scores −inf itself
        scores[positive_u, positive_i] = targets


def draw_untouched(touched: csr_matrix, seed: int) -> np.ndarray:
    """For each user 100 different items that they did not touch, each equally likely; (users, 100) int32.

    A user's draw depends on the seed, the user's id and what they touched. Where fewer items are left it is all of
    them, filled up with 0, the padding item.
    """
    touched.sum_duplicates()
    generator = np.random.default_rng(seed)
    drawn = np.zeros((touched.shape[0], NEGATIVES), dtype=np.int32)
    for first in range(0, len(drawn), BLOCK):
        block = touched[first : first + BLOCK]
        untouched = block.shape[1] - 1 - np.diff(block.indptr)
        drawn[first : first + BLOCK] = _items_of_ranks(block, _draw_ranks(untouched, generator))
    return drawn


def _draw_ranks(sizes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Different numbers of 1 … sizes[u] in each row, (users, 100), by Floyd's algorithm for all users at once.

    Bentley and Floyd, "A sample of brilliance", CACM 30(9), 1987. Where a size is below 100, 0 fills up.
    """
    last = sizes[:, None] - NEGATIVES + np.arange(NEGATIVES)
    drawn = np.floor(generator.random(last.shape) * (last + 1)).astype(np.int64)  # one number a draw
    drawn[last < 0] = -1
    for column in range(1, NEGATIVES):
        taken = (drawn[:, :column] == drawn[:, [column]]).any(axis=1)
        drawn[taken, column] = last[taken, column]
    return np.where(last < 0, 0, drawn + 1)


def _items_of_ranks(touched: csr_matrix, ranks: np.ndarray) -> np.ndarray:
    """The r-th untouched item of each user: r and as many as there are touched items below it; 0 for 0."""
    users, n_items = touched.shape
    start, count = touched.indptr[:-1].astype(np.int64), np.diff(touched.indptr)
    place = np.arange(touched.nnz) - np.repeat(start, count)
    # A user's touched items in turn, less those before them, and all users after one another: one sorted array.
    borders = np.repeat(np.arange(users), count) * n_items + touched.indices - place
    asked = np.arange(users)[:, None] * n_items + ranks
    return ranks + np.searchsorted(borders, asked, side="right") - start[:, None]
