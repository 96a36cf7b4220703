"""Which items a user may be recommended: ``history_mask`` and ``protocol``.

Each restriction sets the scores of the other items to −inf, in place, and leaves the user's targets as they are;
every model goes through the same one.
"""

import logging
from collections.abc import Callable

import numpy as np
import torch
from recbole.utils import ModelType
from scipy.sparse import csr_matrix
from torch import Tensor

logger = logging.getLogger(__name__)

NEGATIVES = 100
# (scores, users, row of each target, its item)
Restriction = Callable[[Tensor, Tensor, Tensor, Tensor], None]


def restrictions(config, train_data, valid_data, test_data) -> dict[object, Restriction]:
    """What restricts the candidates of validation and of test, by data loader; empty where nothing does.

    Args:
        train_data, valid_data, test_data: RecBole's loaders; the latter two may be empty or None.
    """
    if restricted_by(config) is None:
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


def restricted_by(config) -> str | None:
    """The key that asks for it, with its value; None where RecBole's own mask, or none, is all there is."""
    if config["protocol"] == "uni100":
        return "protocol=uni100"
    if config["history_mask"] == "all":
        return "history_mask=all"
    masks = config["history_mask"] == "recbole" and config["MODEL_TYPE"] != ModelType.SEQUENTIAL
    if masks and config["cold_share"]:  # RecBole's own mask does not know what was held out of the splits
        return f"cold_share={config['cold_share']}"
    return None


def interactions(loader) -> csr_matrix:
    """(users, items) bool: where the split has an interaction, or one that was held out of it altogether."""
    dataset = loader._dataset
    matrix = dataset.inter_matrix(form="csr").astype(bool)
    held_out = getattr(dataset, "held_out_interactions", None)
    return matrix if held_out is None else matrix + held_out.astype(bool)


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
    """The targets against 100 items that the user never touched, the same for a user whenever they are asked for.

    They are drawn for a batch and not kept: of ten million users they would fill 4 GB.

    Args:
        touched: (users, items), not 0 where the user had the item in any split.
    """

    def __init__(self, touched: csr_matrix, *, seed: int):
        touched.sum_duplicates()
        self.touched, self.seed = touched, seed
        untouched = touched.shape[1] - 1 - np.diff(touched.indptr)
        if short := int((untouched[1:] < NEGATIVES).sum()):
            logger.warning("%d users have fewer than %d untouched items; they are ranked on all", short, NEGATIVES)

    def __call__(self, scores: Tensor, users: Tensor, positive_u: Tensor, positive_i: Tensor) -> None:
        negatives = torch.from_numpy(self.negatives(users.cpu().numpy())).to(scores.device)
        targets, others = scores[positive_u, positive_i], scores.gather(1, negatives)
        scores.fill_(-torch.inf)
        scores.scatter_(1, negatives, others)  # padding, which fills up short rows, scores −inf itself
        scores[positive_u, positive_i] = targets

    def negatives(self, users: np.ndarray) -> np.ndarray:
        """For each of ``users`` 100 different items that they did not touch, each equally likely; (users, 100).

        A user's draw, by rising id, depends on the seed, the user's id and what they touched. Where fewer items
        are left it is all of them after 0, the padding item.
        """
        touched = self.touched[users]
        untouched = touched.shape[1] - 1 - np.diff(touched.indptr)
        return items_of_ranks(touched, draw_ranks(untouched, random_numbers(self.seed, users)))


def random_numbers(seed: int, users: np.ndarray) -> np.ndarray:
    """100 numbers in [0, 1) for each user, (100, users), that depend on the seed and the user's id alone.

    Each user has a stream of SplitMix64, whose n-th number needs none of those before it: Steele, Lea and Flood,
    "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    of_seed = _mix(np.array([seed % 2**64], dtype=np.uint64))
    of_users = _mix(of_seed + users.astype(np.uint64) * _GAMMA)
    draws = np.arange(1, NEGATIVES + 1, dtype=np.uint64)[:, None]
    return (_mix(of_users + draws * _GAMMA) >> 11) * 2.0**-53


_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> 30)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> 27)) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> 31)


def draw_ranks(sizes: np.ndarray, random: np.ndarray) -> np.ndarray:
    """Different numbers of 1 … sizes[u] in each row, rising, (users, 100); Floyd's algorithm for all at once.

    Bentley and Floyd, "A sample of brilliance", CACM 30(9), 1987. Where a size is below 100, 0 fills up.

    Args:
        random: (100, users), in [0, 1).
    """
    last = (sizes - NEGATIVES + np.arange(NEGATIVES)[:, None]).astype(np.int32)
    drawn = np.floor(random * (last + 1)).astype(np.int32)
    drawn[last < 0] = -1
    for draw in range(1, NEGATIVES):
        taken = (drawn[:draw] == drawn[draw]).any(axis=0)
        drawn[draw, taken] = last[draw, taken]
    return np.sort(np.where(last < 0, 0, drawn + 1).T, axis=1)


def items_of_ranks(touched: csr_matrix, ranks: np.ndarray) -> np.ndarray:
    """The r-th untouched item of each user: r and as many as there are touched items below it; 0 for 0."""
    users, n_items = touched.shape
    start, count = touched.indptr[:-1].astype(np.int64), np.diff(touched.indptr)
    place = np.arange(touched.nnz) - np.repeat(start, count)
    # A user's touched items in turn, less those before them, and all users after one another: one sorted array.
    borders = np.repeat(np.arange(users), count) * n_items + touched.indices - place
    asked = np.arange(users)[:, None] * n_items + ranks
    return ranks + np.searchsorted(borders, asked, side="right") - start[:, None]
