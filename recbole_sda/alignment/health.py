"""Measures that show whether embeddings align, and warnings when training goes wrong.

A *record* is what one look at the held-out items found; training keeps one after the other and
:func:`warnings` reads nothing else.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_sda.alignment.similarity import center_and_normalize

COLLAPSED_SPREAD = 0.1
NEAR_BASE = 0.01
GATE_LOOKS, GATE_PATH, GATE_DETOUR = 6, 0.3, 4.0


def mean_pairwise_cosine(embeddings: Tensor) -> float:
    """Mean cosine over all pairs of different rows, uncentred, (B, d) → [-1, 1]; 1 is total collapse."""
    unit = F.normalize(embeddings.double(), dim=-1)
    rows = len(unit)
    return float((unit.sum(dim=0).square().sum() - rows) / (rows * (rows - 1)))


def effective_rank(embeddings: Tensor) -> float:
    """exp of the entropy of the centred rows' normalised singular values (Roy and Vetterli, 2007)."""
    centred = embeddings.double() - embeddings.double().mean(dim=0, keepdim=True)
    values = torch.linalg.svdvals(centred)
    if values.sum() == 0:
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def distance_to_base(embeddings: Tensor, base: Tensor) -> float:
    """How far adaptation has moved the items, in units of how far apart the base model holds them.

    Args:
        embeddings, base: (B, d), row i of both belongs to item i.
    """
    embeddings, base = embeddings.double(), base.double()
    moved = (embeddings - base).norm(dim=1).mean()
    spread = (base - base.mean(dim=0, keepdim=True)).norm(dim=1).mean()
    return float(moved / spread)


def retrieval(
    first: Tensor, second: Tensor, *, names: Sequence[str] = ("image", "text"), k: int = 5, center: bool = True
) -> dict[str, float]:
    """How well each item finds itself in the other modality.

    Args:
        first, second: (B, d), row i of both belongs to item i.
        names: what the two are called.
        k: recall is the share of items found among the k nearest.

    Returns:
        recall of both directions and their mean reciprocal rank. Ties count against the item, so
        that collapsed embeddings score at the bottom.
    """
    cross = center_and_normalize(first, center=center) @ center_and_normalize(second, center=center).T
    # `not <` rather than `>=`: a NaN counts against the item, too.
    ranks = [(~(scores < scores.diagonal().unsqueeze(1))).sum(dim=1) for scores in (cross, cross.T)]
    reciprocal = torch.cat(ranks).double().reciprocal().mean()
    return {
        f"{names[0]}_to_{names[1]}_recall@{k}": float((ranks[0] <= k).double().mean()),
        f"{names[1]}_to_{names[0]}_recall@{k}": float((ranks[1] <= k).double().mean()),
        "mrr": float(reciprocal),
    }


def retrieval_by_pairs(
    views: Mapping[str, Tensor], present: Mapping[str, Tensor], *, center: bool
) -> dict[str, float]:
    """:func:`retrieval` of every pair of modalities, among the items that have both; ``mrr`` is the pairs' mean.

    Args:
        views: modality → (B, d).
        present: modality → (B,) bool.
    """
    found, reciprocals = {}, []
    for names in combinations(views, 2):
        both = present[names[0]] & present[names[1]]
        measured = retrieval(*(views[name][both] for name in names), names=names, center=center)
        reciprocals.append(measured.pop("mrr"))
        found |= measured
    return {**found, "mrr": fmean(reciprocals)}


def warnings(records: list[dict], *, steps: int) -> list[str]:
    """What is wrong at the last of these records, each with its remedy.

    Args:
        records: of the looks so far; the first is from before training.
        steps: of the whole training.
    """
    found = [_collapse(records[0], records[-1]), _near_base(records[-1], steps), _unsteady_gates(records)]
    return [warning for warning in found if warning]


def _collapse(start: dict, now: dict) -> str | None:
    """Spread is 1 − the mean pairwise cosine. A tenth of what it was, in any modality, is a collapse."""
    for name, cosine in now["mean_pairwise_cosine"].items():
        spread, before = 1 - cosine, 1 - start["mean_pairwise_cosine"][name]
        if spread < COLLAPSED_SPREAD * before:
            return (
                f"the {name} embeddings are collapsing: 1 − mean pairwise cosine fell from {before:.2e} to "
                f"{spread:.2e} (effective rank {now['effective_rank'][name]:.1f}); "
                "set align_center=True, raise align_temperature or lower align_learning_rate"
            )
    return None


def _near_base(now: dict, steps: int) -> str | None:
    """Half of the training is over and the items stand where the base model puts them."""
    farthest = max(now["distance_to_base"].values())
    if now["step"] < steps / 2 or farthest >= NEAR_BASE:
        return None
    return (
        f"the adapted embeddings are those of the base model: they have moved by {farthest:.2e} of its spread; "
        "raise align_learning_rate or align_steps, or with MoDA set gate_scale=num_experts"
    )


def _unsteady_gates(records: list[dict]) -> str | None:
    """Over the last looks the gates went a long way and ended near where they began."""
    tables = [_gate_table(record["gates"]) for record in records[-GATE_LOOKS:] if record.get("gates")]
    if len(tables) < GATE_LOOKS:
        return None
    moves = [_gate_distance(before, after) for before, after in pairwise(tables)]
    path, way = sum(moves), _gate_distance(tables[0], tables[-1])
    if path < GATE_PATH or path < GATE_DETOUR * way:
        return None
    return (
        f"the gates fluctuate: over the last {GATE_LOOKS} looks they moved by {path:.2f} in all and arrived "
        f"{way:.2f} away (1 is another expert altogether); lower align_learning_rate or raise align_batch_size"
    )


def _gate_table(gates: dict[str, dict[str, list[float]]]) -> Tensor:
    """(layers × modalities, experts); layers may differ in number of modalities, not of experts."""
    return torch.tensor([shares for modalities in gates.values() for shares in modalities.values()])


def _gate_distance(before: Tensor, after: Tensor) -> float:
    """Mean total variation, in [0, 1]."""
    return float((before - after).abs().sum(dim=-1).mean() / 2)
