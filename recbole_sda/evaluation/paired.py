"""How sure a gain is: two variants of one model on the same users.

The users are the sample: others could have come. All rows of a user, from every seed and from a split that leaves
several, are drawn together and ranked by their mean, so that a model trained three times has not three times the
users. What yet another seed would give is not in the interval; the deviation over the seeds speaks of that.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from recbole_sda.errors import SDAError

LEVEL = 0.95
# Averages over seeds differ in their last bits by the order of summation; ties and zeros must not.
DECIMALS = 12
# Counts drawn at once: 32 MB.
CELLS = 4_000_000
VALUES = ("base", "other", "gain", "gain_interval", "relative_gain", "relative_interval", "p")


def paired_gain(base, other, *, resamples: int, seed: int, users=None) -> dict:
    """The gain of ``other`` over ``base``, both measured on the same rows.

    A mean is the sum over the rows by their number, as the metric itself is. The p-value is Wilcoxon's
    signed-rank test (Wilcoxon 1945) on the users' differences, with users at zero left out
    (``zero_method="wilcox"``): two variants agree on most users, who say nothing of the direction, and to rank
    them (Pratt) would press the ranks of the others together until their size no longer counted. It asks whether
    a user is as likely to win as to lose as much, which is not quite whether the means are equal.

    Args:
        base, other: (rows,) a metric's values; NaN in both where the row is not in the metric's group.
        resamples: bootstrap samples of the users.
        users: (rows,) int, whose row it is. Empty: each row is a user.

    Returns:
        ``base`` and ``other``, the means; ``gain``, their difference; ``relative_gain``, in % of the base, None
        if that is 0; ``gain_interval`` and ``relative_interval``, [low, high] of the percentile bootstrap at
        95 %, the latter None if a resample's base was 0; ``p``; ``users``, how many took part. All are None,
        and ``users`` is 0, if nobody is in the group.

    Raises:
        SDAError: a row is in the group of one of the two alone.
    """
    totals = _by_user(base, other, users)  # (users, 3)
    if totals.empty:
        return {**dict.fromkeys(VALUES), "users": 0}
    difference, relative = _gains(totals.to_numpy().sum(axis=0, keepdims=True))
    differences, relatives = _gains(_resampled_sums(totals, resamples, np.random.default_rng(seed)))
    return {
        "base": float(totals["base"].sum() / totals["rows"].sum()),
        "other": float(totals["other"].sum() / totals["rows"].sum()),
        "gain": float(difference[0]),
        "gain_interval": _interval(differences),
        "relative_gain": float(relative[0]) if np.isfinite(relative[0]) else None,
        "relative_interval": _interval(relatives),
        "p": _wilcoxon((totals["other"] - totals["base"]) / totals["rows"]),
        "users": len(totals),
    }


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (1979): the i-th smallest of m times m − i + 1, never below a smaller one's.

    None, an undefined test, stays None and does not count.
    """
    defined = np.array([p for p in p_values if p is not None])
    order = np.argsort(defined, kind="stable")
    steps = defined[order] * np.arange(len(defined), 0, -1)
    corrected = np.empty(len(defined))
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    remaining = iter(corrected.tolist())
    return [None if p is None else next(remaining) for p in p_values]


def _by_user(base, other, users) -> pd.DataFrame:
    """Sums ``base`` and ``other`` and the number of ``rows`` of each user in the group."""
    base, other = np.asarray(base, dtype=np.float64), np.asarray(other, dtype=np.float64)
    inside = ~np.isnan(base)
    if not np.array_equal(inside, ~np.isnan(other)):
        raise SDAError("a user is in the metric's group in one variant only; the two were not tested on one split")
    users = np.arange(len(base)) if users is None else np.asarray(users)
    rows = pd.DataFrame({"base": base, "other": other, "rows": 1.0})[inside]
    return rows.groupby(users[inside]).sum()


def _resampled_sums(totals: pd.DataFrame, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Sums over users drawn with replacement, (resamples, 3).

    Ranking metrics take few values, so users are of few kinds (a hundred among 22,000), and the number of each
    kind in a resample is multinomial: the bootstrap exactly, at a cost that does not grow with the users.
    """
    kinds = totals.value_counts()
    values, shares = kinds.index.to_frame().to_numpy(), kinds.to_numpy() / len(totals)  # (kinds, 3), (kinds,)
    batch = max(1, CELLS // len(kinds))
    sizes = [min(batch, resamples - start) for start in range(0, resamples, batch)]
    return np.concatenate([rng.multinomial(len(totals), shares, size=size) @ values for size in sizes])


def _gains(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Difference of the means and relative gain in %, from (n, 3) sums of base, other and rows."""
    base, other, rows = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return (other - base) / rows, 100 * (other - base) / base


def _interval(values: np.ndarray) -> list[float] | None:
    if not np.isfinite(values).all():
        return None
    return np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()


def _wilcoxon(differences: pd.Series) -> float:
    differences = differences.to_numpy().round(DECIMALS)
    differences = differences[differences != 0]
    return float(stats.wilcoxon(differences).pvalue) if len(differences) else 1.0
