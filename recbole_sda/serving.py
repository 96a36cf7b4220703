"""What a shop takes from a trained recommender: the best items for its users, and its items' embeddings."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recbole_sda.errors import SDAError
from recbole_sda.histories import Histories
from recbole_sda.loading import Loaded, load
from recbole_sda.model.slots import SLOTS, check_model
from recbole_sda.progress import progress_bar
from recbole_sda.recommend import EVAL_SCORES, MAX_EVAL_USERS

NAMED = 5  # unknown users in an error
MAX_PAIRS = 1 << 18  # scored at once by models that score pairs only


class Recommendations(NamedTuple):
    """Of some users, best first."""

    users: np.ndarray  # (B,) tokens
    items: np.ndarray  # (B, k) tokens
    scores: np.ndarray  # (B, k) float32


def top_k(
    recommender: Loaded | str | Path,
    users: Sequence[str] | None = None,
    *,
    k: int = 10,
    exclude_history: bool = True,
    batch_users: int | None = None,
) -> pd.DataFrame:
    """The k best items for each user, given all that is known of them.

    The known interactions are those of the dataset after RecBole's filters, validation and test targets among
    them: what a shop would serve now, not what the test measured. A sequential model sees the newest
    ``MAX_ITEM_LIST_LENGTH`` of them, up to the last. A general model's user factors are as old as its training
    split; its history is what it leaves out.

    Args:
        recommender: a checkpoint, or what :func:`recbole_sda.load` returned.
        users: their tokens; None takes all that have an interaction. :func:`recommendations` takes millions.
        exclude_history: leave out all items that the user had.
        batch_users: users scored at once; None takes as many as fit 256 MB of scores.

    Returns:
        ``user``, ``item``, ``rank`` from 1, ``score``; k rows a user, users in the order asked for.

    Raises:
        SDAError: an unknown user; a user with fewer than k candidates.
    """
    parts = recommendations(
        recommender, users, k=k, exclude_history=exclude_history, batch_users=batch_users, show_progress=False
    )
    return pd.concat([as_table(part) for part in parts], ignore_index=True)


def recommendations(
    recommender: Loaded | str | Path,
    users: Sequence[str] | None = None,
    *,
    k: int,
    exclude_history: bool = True,
    batch_users: int | None = None,
    show_progress: bool = True,
) -> Iterator[Recommendations]:
    """:func:`top_k`, a batch of users at a time."""
    if type(k) is not int or k < 1:
        raise SDAError(f"k={k!r} must be a whole number of at least 1")
    loaded = as_loaded(recommender)
    histories = Histories(loaded.config)
    ids = _user_ids(histories, users)
    _check_candidates(histories, ids, k, exclude_history)
    tokens = {f: loaded.dataset.field2id_token[f] for f in (loaded.dataset.uid_field, loaded.dataset.iid_field)}
    user_tokens, item_tokens = tokens.values()
    size = batch_users or max(1, min(MAX_EVAL_USERS, EVAL_SCORES // loaded.dataset.item_num))
    with progress_bar(len(ids), "recommend", "user", show=show_progress) as bar:
        for batch in ids.split(size):
            scores, items = _scores(loaded, histories, batch, exclude_history).topk(k)
            yield Recommendations(
                user_tokens[batch.numpy()], item_tokens[items.cpu().numpy()], scores.cpu().numpy()
            )
            bar.update(len(batch))


def as_table(part: Recommendations) -> pd.DataFrame:
    users, k = part.items.shape
    return pd.DataFrame(
        {
            "user": np.repeat(part.users, k).astype(str),
            "item": part.items.ravel().astype(str),
            "rank": np.tile(np.arange(1, k + 1), users),
            "score": part.scores.ravel(),
        }
    )


@torch.no_grad()
def item_embeddings(recommender: Loaded | str | Path) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """What a trained recommender knows of each item.

    Args:
        recommender: a checkpoint, or what :func:`recbole_sda.load` returned.

    Returns:
        The item tokens; and by the model's attribute each table that it looks items up in, (items, d) float32,
        padding and mask rows left out. With features these are the projected rows. The first is the model's item
        table; others (HGN's second, VBPR's biases) follow, last ``restore_item_e``: rows that a graph propagated.

    Raises:
        SDAError: the model has no item table.
    """
    loaded = as_loaded(recommender)
    name, model, n_items = type(loaded.model).__name__, loaded.model, loaded.dataset.item_num
    if name not in SLOTS:
        check_model(name)
    tables: dict[int, tuple[str, Tensor]] = {}
    for attribute in (*SLOTS[name].tables, *SLOTS[name].item_terms, "restore_item_e"):
        held = getattr(model, attribute, None)
        table = held if isinstance(held, Tensor) else getattr(held, "weight", None)
        if table is not None and len(table) >= n_items:
            tables.setdefault(id(held), (attribute, table))
    arrays = {
        name: table[1:n_items].reshape(n_items - 1, -1).float().cpu().numpy() for name, table in tables.values()
    }
    return tuple(map(str, loaded.dataset.field2id_token[loaded.dataset.iid_field][1:])), arrays


def as_loaded(recommender: Loaded | str | Path) -> Loaded:
    return load(recommender) if isinstance(recommender, str | Path) else Loaded(*recommender)


def _user_ids(histories: Histories, users: Sequence[str] | None) -> Tensor:
    if users is None:
        return histories.counts.nonzero().squeeze(1)
    if not len(users):
        raise SDAError("no user is named; name some, or leave users out to take all")
    rows = histories.dataset.field2token_id[histories.dataset.uid_field]
    ids = [rows.get(str(user), 0) for user in users]
    unknown = [str(user) for user, id in zip(users, ids, strict=True) if not histories.counts[id]]
    if unknown:
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        raise SDAError(
            f"users {', '.join(map(repr, unknown[:NAMED]))}{more} have no interaction in the dataset after its "
            "filters; leave them out"
        )
    return torch.tensor(ids)


def _check_candidates(histories: Histories, users: Tensor, k: int, exclude_history: bool) -> None:
    items = histories.dataset.item_num - 1
    if k > items:
        raise SDAError(f"k={k}, but there are {items} items; lower k")
    if not exclude_history:
        return
    for user in users[histories.counts[users] > items - k]:  # unless an item is repeated
        candidates = items - len(histories.items(user.view(1))[1].unique())
        if candidates < k:
            token = histories.dataset.id2token(histories.dataset.uid_field, user.item())
            raise SDAError(
                f"k={k}, but user {str(token)!r} has {candidates} candidates besides the items of its history; "
                "lower k"
            )


@torch.no_grad()
def _scores(loaded: Loaded, histories: Histories, users: Tensor, exclude_history: bool) -> Tensor:
    """(users, items + 1), −∞ for padding and history."""
    interaction = loaded.test_data.transform(loaded.test_data._dataset, histories.inputs(users))
    interaction = interaction.to(loaded.config["device"])
    try:
        scores = loaded.model.full_sort_predict(interaction)
    except NotImplementedError:
        scores = scores_of_pairs(loaded, interaction)
    scores = scores.view(len(users), -1)
    scores[:, 0] = -torch.inf
    if exclude_history:
        rows, items = histories.items(users)
        scores[rows.to(scores.device), items.to(scores.device)] = -torch.inf
    return scores


def scores_of_pairs(loaded: Loaded, interaction) -> Tensor:
    users, items = len(interaction), loaded.dataset.get_item_feature().to(loaded.config["device"])
    columns = []
    for some in torch.arange(len(items)).split(max(1, MAX_PAIRS // users)):
        pairs = interaction.repeat_interleave(len(some))
        pairs.update(items[some].repeat(users))
        columns.append(loaded.model.predict(pairs).view(users, -1))
    return torch.cat(columns, dim=1)
