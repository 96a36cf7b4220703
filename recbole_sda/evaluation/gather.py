"""One evaluation from the rows of several processes.

RecBole averages the processes' results, weighted by their batches; a mean over the users of a group then comes
out wrong, coverage does so always, and users whom the sampler repeats count twice.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(rows: dict[str, Tensor], samples: int) -> dict[str, Tensor]:
    """Every process's rows in every process, in the order and number that one process has.

    Args:
        rows: this process's, by name, on the CPU.
        samples: of the evaluation, all processes together.
    """
    parts: list[dict[str, Tensor]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, rows)
    return interleave(parts, samples)


def interleave(parts: list[dict[str, Tensor]], samples: int) -> dict[str, Tensor]:
    """Undo torch's ``DistributedSampler``: process r of n has rows r, r + n, …, the last ones repeat the first.

    ``rec.targets`` are (row, item) and go by their row. What has another number of rows than its process has
    samples (scores of sampled candidates) is strung together.
    """
    processes = len(parts)
    share = -(-samples // processes)
    joined = {}
    for name in parts[0]:
        pieces = [part[name] for part in parts]
        if name == "rec.targets":
            joined[name] = _interleave_targets(pieces, samples)
        elif all(len(piece) == share for piece in pieces):
            joined[name] = torch.stack(pieces, dim=1).flatten(0, 1)[:samples]
        else:
            joined[name] = torch.cat(pieces)
    return joined


def _interleave_targets(pieces: list[Tensor], samples: int) -> Tensor:
    processes = len(pieces)
    row = torch.cat([piece[:, 0] * processes + rank for rank, piece in enumerate(pieces)])
    item = torch.cat([piece[:, 1] for piece in pieces])
    order = torch.argsort(row, stable=True)
    targets = torch.stack([row, item], dim=1)[order]
    return targets[targets[:, 0] < samples]
