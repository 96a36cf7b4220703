"""What some users had, what was recommended to them in the test, and what they took: as the test measured it."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.interaction import Interaction
from recbole.utils import ModelType
from torch import Tensor

from recbole_sda.errors import SDAError
from recbole_sda.evaluation.candidates import restricted_by, restrictions
from recbole_sda.loading import Loaded
from recbole_sda.serving import scores_of_pairs

SHOWN_HISTORY = 8


class Ranked(NamedTuple):
    """The first batch of the test, ranked.

    Attributes:
        users: (B,) ids.
        items: (B, k) ids, best first; 0 where there are fewer candidates.
        targets: (B,) arrays of ids.
    """

    users: np.ndarray
    items: np.ndarray
    targets: list[np.ndarray]
    had: list[np.ndarray] | None = None  # ids, oldest first: what a sequential model was shown; None of others

    @property
    def hits(self) -> np.ndarray:
        """(B,) bool: whether a target is among the items."""
        return np.array([np.isin(row, target).any() for row, target in zip(self.items, self.targets, strict=True)])


class User(NamedTuple):
    """One user's story; items are tokens."""

    token: str
    had: list[str]  # the newest, oldest first
    before: int  # how many more there were
    targets: list[str]
    recommended: dict[str, list[str]]  # variant → best first


@torch.no_grad()
def rank_first_batch(loaded: Loaded, k: int) -> Ranked:
    """Rank as the test did: the same candidates, the same histories masked.

    Raises:
        SDAError: the test ranked a sample of RecBole's own, not the catalogue.
    """
    loader, config = loaded.test_data, loaded.config
    if not isinstance(loader, FullSortEvalDataLoader):
        raise SDAError("the test ranked samples that RecBole drew (eval_args mode), not the catalogue")
    interaction, history, target_rows, target_items = next(iter(loader))
    scores = _scores(loaded, interaction)
    scores[:, 0] = -torch.inf
    if history is not None and config["history_mask"] == "recbole" and not restricted_by(config):
        scores[history] = -torch.inf
    users = interaction[config["USER_ID_FIELD"]]
    for restrict in _restriction(loaded):
        restrict(scores, users, target_rows.to(scores.device), target_items.to(scores.device))
    best, items = scores.topk(min(k, scores.shape[1] - 1))
    items[torch.isinf(best)] = 0
    targets = [target_items[target_rows == row].cpu().numpy() for row in range(len(users))]
    return Ranked(users.cpu().numpy(), items.cpu().numpy(), targets, _shown_histories(loaded, interaction))


def choose_users(ranked: Ranked, count: int, seed: int) -> np.ndarray:
    """Rows drawn at random: half of them users with a hit, half without, as far as there are such."""
    generator, hits = np.random.default_rng(seed), ranked.hits
    groups = [generator.permutation(np.flatnonzero(group)) for group in (hits, ~hits)]
    with_hit = min(len(groups[0]), max(count - count // 2, count - len(groups[1])))
    return np.concatenate([groups[0][:with_hit], groups[1][: count - with_hit]])


def tell_users(ranked: Mapping[str, Ranked], loaded: Loaded, *, count: int, seed: int) -> list[User]:
    """Some users of the test under each variant; the last variant's hits choose them.

    Args:
        ranked: variant → what :func:`rank_first_batch` returned, of the same users.
        loaded: the last variant's recommender.
    """
    last, dataset, told = list(ranked.values())[-1], loaded.dataset, []
    for row in choose_users(last, count, seed):
        user, targets = last.users[row], last.targets[row]
        had = _before_test(loaded, user) if last.had is None else last.had[row]
        shown = had[-SHOWN_HISTORY:]
        told.append(
            User(
                token=str(dataset.id2token(dataset.uid_field, user)),
                had=_tokens(dataset, shown),
                before=len(had) - len(shown),
                targets=_tokens(dataset, targets),
                recommended={variant: _tokens(dataset, found.items[row]) for variant, found in ranked.items()},
            )
        )
    return told


def _shown_histories(loaded: Loaded, interaction: Interaction) -> list[np.ndarray] | None:
    """What the batch shows a sequential model of each user's items, padding left out."""
    config = loaded.config
    if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        return None
    items = interaction[config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]].cpu().numpy()
    lengths = interaction[config["ITEM_LIST_LENGTH_FIELD"]].tolist()
    return [row[:length] for row, length in zip(items, lengths, strict=True)]


def _before_test(loaded: Loaded, user: int) -> np.ndarray:
    """The user's items in training and validation, by time where that is known."""
    items, times = [], []
    for data in (loaded.train_data, loaded.valid_data):
        dataset = data._dataset
        rows = dataset.inter_feat[dataset.uid_field] == user
        items.append(dataset.inter_feat[dataset.iid_field][rows].cpu().numpy())
        if dataset.time_field in dataset.inter_feat.interaction:
            times.append(dataset.inter_feat[dataset.time_field][rows].cpu().numpy())
    found = np.concatenate(items)
    return found[np.argsort(np.concatenate(times), kind="stable")] if times else found


def _scores(loaded: Loaded, interaction: Interaction) -> Tensor:
    """(users, items + 1)"""
    interaction = interaction.to(loaded.config["device"])
    try:
        scores = loaded.model.full_sort_predict(interaction)
    except NotImplementedError:
        scores = scores_of_pairs(loaded, interaction)
    return scores.view(len(interaction), -1)


def _restriction(loaded: Loaded) -> list:
    found = restrictions(loaded.config, loaded.train_data, loaded.valid_data, loaded.test_data)
    return [found[loaded.test_data]] if loaded.test_data in found else []


def _tokens(dataset, items) -> list[str]:
    return [str(dataset.id2token(dataset.iid_field, int(item))) for item in items if item]
