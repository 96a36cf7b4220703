"""Who took what when, as integer codes: read once, filtered by pure functions, written as rows of strings.

A row costs 16 to 20 bytes and an id its text once, so a hundred million interactions fit in a few GB. Every
filter takes `Interactions` and returns new ones in the same order of rows; `Funnel` records what each step left.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from tabulate import tabulate

ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Interactions:
    """n interactions in the order of their file.

    Attributes:
        user: (n,) int32, positions in `user_tokens`.
        item: (n,) int32, positions in `item_tokens`.
        timestamp: (n,) numbers, seconds where the source has them.
        rating: (n,) numbers, or None where the source has none.
        user_tokens: the users' ids, each once; filters leave in those without a row.
        item_tokens: the items' ids likewise.
    """

    user: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray
    rating: np.ndarray | None
    user_tokens: pa.Array
    item_tokens: pa.Array

    @classmethod
    def from_tokens(
        cls, user: Sequence[str], item: Sequence[str], timestamp: Sequence, rating: Sequence | None = None
    ) -> "Interactions":
        """From columns of n values each; ids get their codes in order of first appearance."""
        (users, user_tokens), (items, item_tokens) = _encode(user), _encode(item)
        ratings = None if rating is None else np.asarray(rating)
        return cls(users, items, np.asarray(timestamp), ratings, user_tokens, item_tokens)

    def __len__(self) -> int:
        return len(self.user)

    @property
    def n_users(self) -> int:
        """Users with an interaction."""
        return int(np.count_nonzero(self.user_counts()))

    @property
    def n_items(self) -> int:
        """Items with an interaction."""
        return int(np.count_nonzero(self.item_counts()))

    def user_counts(self) -> np.ndarray:
        """(len(user_tokens),) interactions of each user."""
        return np.bincount(self.user, minlength=len(self.user_tokens))

    def item_counts(self) -> np.ndarray:
        """(len(item_tokens),) interactions of each item."""
        return np.bincount(self.item, minlength=len(self.item_tokens))

    def occurring_items(self) -> pa.Array:
        """The ids of the items with an interaction, in order of their codes."""
        return self.item_tokens.take(pa.array(np.flatnonzero(self.item_counts())))

    def take(self, rows: np.ndarray) -> "Interactions":
        """The rows of a mask, or of positions in their order."""
        rating = None if self.rating is None else self.rating[rows]
        return replace(
            self, user=self.user[rows], item=self.item[rows], timestamp=self.timestamp[rows], rating=rating
        )

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Yield (user, item, [rating,] timestamp) as strings."""
        for begin in range(0, len(self), ROWS_AT_ONCE):
            part = slice(begin, begin + ROWS_AT_ONCE)
            columns = [
                self.user_tokens.take(pa.array(self.user[part])).to_pylist(),
                self.item_tokens.take(pa.array(self.item[part])).to_pylist(),
                *([] if self.rating is None else [self.rating[part].astype(str).tolist()]),
                self.timestamp[part].astype(str).tolist(),
            ]
            yield from zip(*columns, strict=True)


class TokenCodes:
    """Integer codes of ids that come in blocks, in order of first appearance.

    Memory grows with the distinct ids. They are merged when as many have come again as are known, so that an id
    is looked at a few times only, however many blocks there are.
    """

    MERGE_AT = 1 << 20

    def __init__(self) -> None:
        self._tokens = pa.array([], pa.string())
        self._codes: list[np.ndarray] = []
        self._pending: list[pa.DictionaryArray] = []

    def add(self, tokens: pa.DictionaryArray) -> None:
        """Append a block of ids, none missing."""
        self._pending.append(tokens)
        if sum(len(block.dictionary) for block in self._pending) > max(self.MERGE_AT, len(self._tokens)):
            self._merge()

    def finish(self) -> tuple[np.ndarray, pa.Array]:
        """The codes (n,) int32 of all blocks, and the ids that they index."""
        self._merge()
        codes = np.concatenate(self._codes) if self._codes else np.empty(0, dtype=np.int32)
        return codes, self._tokens

    def _merge(self) -> None:
        # the known ids go first, and so keep their codes
        known = pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), self._tokens)
        first, *blocks = pa.chunked_array([known, *self._pending]).unify_dictionaries().chunks
        self._tokens = first.dictionary
        self._codes += [block.indices.to_numpy() for block in blocks]
        self._pending = []


class Funnel:
    """What each step left: interactions, users, items."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int, int]] = []

    def step(self, name: str, interactions: Interactions) -> Interactions:
        """Record `interactions` as what `name` left, and return them."""
        self.steps.append((name, len(interactions), interactions.n_users, interactions.n_items))
        return interactions

    def table(self) -> str:
        """A GitHub-style table of all steps."""
        rows = [(name, *(f"{count:,}" for count in counts)) for name, *counts in self.steps]
        return tabulate(
            rows,
            headers=("step", "interactions", "users", "items"),
            tablefmt="github",
            disable_numparse=True,
            colalign=("left", "right", "right", "right"),
        )


def rating_at_least(interactions: Interactions, threshold: float) -> Interactions:
    """Only interactions rated `threshold` or better.

    Raises:
        ValueError: the interactions have no ratings.
    """
    if interactions.rating is None:
        raise ValueError("interactions without ratings have none to compare with a threshold")
    return interactions.take(interactions.rating >= threshold)


def without_repeats(interactions: Interactions) -> Interactions:
    """One row for each user and item: the earliest, of equally early ones the first in the file."""
    order = np.lexsort((interactions.timestamp, interactions.item, interactions.user))  # stable
    user, item = interactions.user[order], interactions.item[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    kept = np.zeros(len(order), dtype=bool)
    kept[order[first]] = True
    return interactions.take(kept)


def most_popular_items(interactions: Interactions, n: int) -> Interactions:
    """Only interactions with the `n` items that have most of them; of equals, those that appear first."""
    most = np.argsort(-interactions.item_counts(), kind="stable")[:n]
    kept = np.zeros(len(interactions.item_tokens), dtype=bool)
    kept[most] = True
    return interactions.take(kept[interactions.item])


def k_core(interactions: Interactions, *, users: int, items: int) -> Interactions:
    """The largest part in which every user has `users` interactions or more and every item `items`.

    Leaving out a user may make an item too rare and the other way round, so both are left out again and again
    until nothing changes. The result does not depend on the order; it may be empty.
    """
    while True:
        enough = interactions.user_counts() >= users
        enough_of_item = interactions.item_counts() >= items
        kept = enough[interactions.user] & enough_of_item[interactions.item]
        if kept.all():
            return interactions
        interactions = interactions.take(kept)


def in_time_order(interactions: Interactions) -> Interactions:
    """Sorted by time, ties by file order.

    RecBole sorts by time itself, but in float32, which is 64 seconds coarse today, and stably: rows that are
    written in order of time keep it.
    """
    return interactions.take(np.argsort(interactions.timestamp, kind="stable"))


def _encode(tokens: Sequence[str]) -> tuple[np.ndarray, pa.Array]:
    column = pa.array(tokens, type=pa.string())
    if column.null_count:
        raise ValueError(f"{column.null_count} ids are missing")
    codes = TokenCodes()
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        codes.add(chunk.dictionary_encode())
    return codes.finish()
