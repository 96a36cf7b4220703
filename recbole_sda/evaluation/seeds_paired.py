"""How sure a difference is that was measured once with each of several seeds.

A seed is the unit here: everything that it draws (a catalogue, an adapter, a recommender's start) has been drawn
anew, and two arms that share a seed share what it drew, so that their values are paired.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95
SIGNIFICANT = 0.05
# With fewer pairs even the most extreme one of the 2^n patterns of signs has p above SIGNIFICANT.
LEAST_SEEDS = 6
HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
# Differences of floats that should be equal differ in their last bits; ties and zeros must not.
DECIMALS = 12


def paired_difference(arm: Sequence[float | None], over: Sequence[float | None]) -> dict:
    """The mean difference of two arms, seed by seed.

    Args:
        arm, over: a value a seed, in one order of seeds; a seed without a value (None) in either is left out.

    Returns:
        ``arm`` and ``over``, the means; ``difference``, their difference; ``interval``, its [low, high] at 95 %,
        mean ± t·s/√n with n − 1 degrees of freedom, None with fewer than two seeds; ``p`` of
        :func:`signed_rank_p`; ``rank_sum``, the sum of the signed ranks that it tests; ``seeds``, how many took
        part. All None, and ``seeds`` 0, if no seed has both.
    """
    pairs = [pair for pair in zip(arm, over, strict=True) if None not in pair]
    if not pairs:
        return {**dict.fromkeys(("arm", "over", "difference", "interval", "p", "rank_sum")), "seeds": 0}
    ours, theirs = np.array(pairs, dtype=np.float64).T
    differences = ours - theirs
    return {
        "arm": float(ours.mean()),
        "over": float(theirs.mean()),
        "difference": float(differences.mean()),
        "interval": _t_interval(differences),
        "p": signed_rank_p(differences),
        "rank_sum": float(_signed_ranks(differences).sum()),
        "seeds": len(pairs),
    }


def signed_rank_p(differences: Sequence[float]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test (1945), exact also with ties; 1 where all differences are 0.

    Zeros are left out, equal sizes share their mean rank. Under the null hypothesis every pattern of signs is
    equally likely: the distribution of the sum of the positive ranks is built up rank by rank, in steps of ½.
    """
    signed = _signed_ranks(differences)
    if not len(signed):
        return 1.0
    doubled = np.rint(2 * np.abs(signed)).astype(int)
    chances = np.zeros(doubled.sum() + 1)  # of each sum of positive ranks, doubled
    chances[0] = 1.0
    for rank in doubled:
        chances = (chances + np.concatenate([np.zeros(rank), chances[:-rank]])) / 2
    found = doubled[signed > 0].sum()
    return float(min(1.0, 2 * min(chances[: found + 1].sum(), chances[found:].sum())))


def verdict(
    difference: float | None,
    p: float | None,
    *,
    rank_sum: float | None,
    seeds: int,
    least_seeds: int = LEAST_SEEDS,
) -> str:
    """What came out of a claim that an arm is above another.

    Args:
        difference: the arm's mean less the other's.
        p: corrected for all claims that are tested together.
        rank_sum: of :func:`paired_difference`; where its sign is not that of the mean, a few seeds lead the mean
            away from what p is about, and nothing is decided.
        seeds: how many were measured.
        least_seeds: with fewer nothing is decided.

    Returns:
        HOLDS: significantly above; FAILS: significantly below; OPEN: neither.
    """
    if p is None or p >= SIGNIFICANT or seeds < least_seeds or difference * rank_sum <= 0:
        return OPEN
    return HOLDS if difference > 0 else FAILS


def _signed_ranks(differences: Sequence[float]) -> np.ndarray:
    """The rank of each size, equal ones sharing theirs, with the sign of its difference; zeros are left out."""
    differences = np.asarray(differences, dtype=np.float64).round(DECIMALS)
    differences = differences[differences != 0]
    return np.sign(differences) * stats.rankdata(np.abs(differences))


def _t_interval(differences: np.ndarray) -> list[float] | None:
    if len(differences) < 2:
        return None
    half = stats.t.ppf((1 + LEVEL) / 2, len(differences) - 1) * stats.sem(differences)
    return [float(differences.mean() - half), float(differences.mean() + half)]
