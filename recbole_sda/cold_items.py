"""Items that training never sees, so that how a model does on new items can be measured.

They are taken out of the interactions before RecBole splits them: no training row, no history and no validation
target holds one. What stays is a user's last interaction, the test target, where that is with a cold item.
"""

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from recbole_sda.errors import SDAError
from recbole_sda.evaluation.checks import LEAVE_ONE_OUT
from recbole_sda.model import SLOTS, ItemFeatures

# A user's target is a test target to every kind of model if so many items come before it.
LEAST_HISTORY = 2


def check_cold(config) -> None:
    """Raises: SDAError: items are to be held out from a model that could not score them."""
    slots = SLOTS.get(config["model"])
    if config["cold_share"] and slots and slots.cold:
        raise SDAError(
            f"cold_share={config['cold_share']}: {config['model']} cannot score items that it did not train on: "
            f"{slots.cold}; leave cold_share out, or choose another model"
        )


def hold_out_items(dataset, *, share: float, seed: int) -> str:
    """Take a random share of the items out of an unsplit RecBole dataset, and note which as ``cold_items``.

    Args:
        dataset: changed in place; gets ``cold_items``, (items + 1,) bool, padding left out, and
            ``held_out_interactions``, (users + 1, items + 1), sparse: what was taken out.
        seed: of the choice; the same for every model, variant and training seed.

    Returns:
        What was done, in a line.

    Raises:
        SDAError: the split is not leave-one-out by time; nothing is left to train on, or nothing to test.
    """
    _check_split(dataset.config["eval_args"], share)
    user, item = dataset.uid_field, dataset.iid_field
    before, cold = dataset.inter_feat, _choose(dataset.item_num, share, seed)
    kept = _kept(before, cold, user, item, dataset.time_field)
    after, gone = before[kept], before[~kept]
    targets = _count_targets(after[user], cold[after[item]], share)
    dataset.inter_feat, dataset.cold_items = after.reset_index(drop=True), cold
    # What a user had stays what the user had, to every mask of histories.
    dataset.held_out_interactions = csr_matrix(
        (np.ones(len(gone), dtype=bool), (gone[user], gone[item])), shape=(dataset.user_num, dataset.item_num)
    )
    return (
        f"cold_share={share}: {cold.sum()} of {dataset.item_num - 1} items held out; {len(after)} of "
        f"{len(before)} interactions and {after[user].nunique()} of {before[user].nunique()} users stay, "
        f"{targets} with a cold item to find"
    )


def _check_split(eval_args: dict, share: float) -> None:
    if eval_args["split"] != {"LS": "valid_and_test"} or eval_args["order"] != "TO":
        raise SDAError(
            f"cold_share={share} needs leave-one-out by time, the split is {eval_args['split']}, order "
            f"{eval_args['order']}; say --eval_args='{LEAVE_ONE_OUT}'"
        )


def _choose(items: int, share: float, seed: int) -> np.ndarray:
    """(items,) bool: a random share of the items without padding."""
    order = 1 + np.random.default_rng(seed).permutation(items - 1)
    cold = np.zeros(items, dtype=bool)
    cold[order[: round(share * len(order))]] = True
    return cold


def _count_targets(users, is_cold: np.ndarray, share: float) -> int:
    """How many of the interactions that stay are cold targets; raises where training or test would be empty."""
    if not (users[~is_cold].value_counts() > LEAST_HISTORY).any():
        raise SDAError(
            f"cold_share={share} leaves no user with more than {LEAST_HISTORY} interactions to train on; lower it"
        )
    if not is_cold.any():
        raise SDAError(f"cold_share={share}: no user's last item is among the cold items; enlarge it")
    return int(is_cold.sum())


def _kept(interactions, cold: np.ndarray, user: str, item: str, time: str) -> np.ndarray:
    """(n,) bool: the warm interactions, and the last one of each user with history enough."""
    # RecBole orders times as 32-bit numbers, ties as in the file; "last" must mean the same here.
    order = np.argsort(interactions[time].to_numpy().astype(np.float32), kind="stable")
    users, is_cold = interactions[user].to_numpy()[order], cold[interactions[item].to_numpy()[order]]
    last = np.zeros(len(order), dtype=bool)
    last[len(order) - 1 - np.unique(users[::-1], return_index=True)[1]] = True
    history = np.bincount(users, weights=~is_cold)
    keep = np.empty(len(order), dtype=bool)
    keep[order] = ~is_cold | (last & (history[users] >= LEAST_HISTORY))
    return keep


def hold_out_rows(model: nn.Module, cold: Tensor) -> None:
    """Let a model with features know its cold items: in training they are what padding is.

    Their feature rows are 0 in training, and what else the model learns an item (a bias, an embedding beside
    the features) starts at 0 and stays there, so that features alone score them.

    Args:
        cold: (items + 1,) bool.
    """
    for module in model.modules():
        if isinstance(module, ItemFeatures):
            module.hold_out(cold)
    for term in SLOTS[type(model).__name__].item_terms:
        if hasattr(model, term):  # some exist under some settings only
            _freeze_rows(_parameter(getattr(model, term)), cold)


def _parameter(term) -> nn.Parameter:
    return term.weight if isinstance(term, nn.Embedding) else term


def _freeze_rows(parameter: nn.Parameter, cold: Tensor) -> None:
    rows = torch.zeros(len(parameter), dtype=torch.bool, device=parameter.device)
    rows[: len(cold)] = cold.to(parameter.device)
    keep = (~rows).view(-1, *[1] * (parameter.dim() - 1))
    with torch.no_grad():
        parameter *= keep
    parameter.register_hook(lambda gradient: gradient * keep)
