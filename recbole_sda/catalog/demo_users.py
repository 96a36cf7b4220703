"""The users of the built-in catalogue: what they like, and what they pick."""

from collections.abc import Iterator

import numpy as np

from recbole_sda.catalog.attributes import ATTRIBUTES, LIKED
from recbole_sda.catalog.demo_plan import Plan, stream
from recbole_sda.catalog.demo_world import World
from recbole_sda.progress import progress_bar

SHOW_PROGRESS_CHOICES = 10**8  # users x items, some ten seconds


def draw_interactions(plan: Plan, world: World) -> Iterator[list[str]]:
    """User, item and time of every interaction, as rows of demo.inter."""
    tastes, choices, times = (stream(world.seed, name) for name in ("tastes", "choices", "times"))
    weight = np.log(plan.popularity)
    long = world.users * world.items >= SHOW_PROGRESS_CHOICES
    with progress_bar(world.users, "demo: choices", "user", show=long) as bar:
        for user in range(world.users):
            liking = weight + world.taste * _matches(plan, tastes)
            picked = _pick(liking, 5 + choices.binomial(9, 0.4), choices)
            gaps = times.integers(30_000_000), times.integers(60, 500_000, size=len(picked))
            for item, moment in zip(picked, 1_600_000_000 + gaps[0] + np.cumsum(gaps[1]), strict=True):
                yield [f"U{user:04d}", plan.tokens[item], str(moment)]
            bar.update()


def _matches(plan: Plan, tastes: np.random.Generator) -> np.ndarray:
    """(items,): how many of its attributes a new user likes."""
    matches = np.zeros(len(plan.tokens))
    for name, values in plan.attributes.items():
        liked = tastes.choice(len(ATTRIBUTES[name]), size=LIKED[name], replace=False)
        matches += np.isin(values, liked)
    return matches


def _pick(liking: np.ndarray, length: int, choices: np.random.Generator) -> np.ndarray:
    """The largest values of log-weight + Gumbel noise are draws one after another without replacement."""
    keys = liking + choices.gumbel(size=len(liking))
    return choices.permutation(np.argsort(-keys, kind="stable")[:length])
