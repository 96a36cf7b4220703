"""What is left out of raw interactions: the same steps in the same order for every source, each counted."""

from collections.abc import Callable, Iterator

from interactions import (
    Funnel,
    Interactions,
    in_time_order,
    k_core,
    most_popular_items,
    rating_at_least,
    without_repeats,
)

from recbole_sda.errors import SDAError

Step = Callable[[Interactions], Interactions]


def narrow(
    interactions: Interactions, *, rating_threshold: float | None, max_items: int | None, users: int, items: int
) -> tuple[Interactions, Funnel]:
    """Threshold, repeats, popular items, k-core, in this order.

    Args:
        interactions: as read.
        rating_threshold: leaves out lower ratings; None leaves out none.
        max_items: keeps the items with most interactions; None keeps all.
        users, items: interactions that a user and an item need.

    Returns:
        What is left, in order of time, and the counts after each step.

    Raises:
        SDAError: a step left nothing, after the table of what led there was printed; there are no ratings.
    """
    if rating_threshold is not None and interactions.rating is None:
        raise SDAError(f"--rating-threshold {rating_threshold:g}: this dataset has no ratings; leave it out")
    funnel = Funnel()
    kept = funnel.step("read", interactions)
    for name, step in _steps(rating_threshold, max_items, users, items):
        kept = funnel.step(name, step(kept))
        if not len(kept):
            print(funnel.table(), flush=True)
            raise SDAError(f"no interaction is left after the step '{name}' (see the table); ask for less there")
    return in_time_order(kept), funnel


def _steps(rating_threshold, max_items, users, items) -> Iterator[tuple[str, Step]]:
    if rating_threshold is not None:
        yield f"rated {rating_threshold:g} or better", lambda found: rating_at_least(found, rating_threshold)
    yield "earliest of each user and item", without_repeats
    if max_items is not None:
        yield f"{max_items:,} most popular items", lambda found: most_popular_items(found, max_items)
    if max(users, items) > 1:
        name = f"{users}-core" if users == items else f"{users}-core of users, {items}-core of items"
        yield name, lambda found: k_core(found, users=users, items=items)
