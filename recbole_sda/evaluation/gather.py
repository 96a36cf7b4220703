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
        rows: this process's, by name, on the CPU; the same names in the same order in every process.
        samples: of the evaluation, all processes together.
    """
    gathered = {name: gather_tensor(values) for name, values in rows.items()}
    return interleave(gathered, samples)


def gather_tensor(values: Tensor) -> list[Tensor]:
    """Every process's tensor, by rank, on the CPU; they may differ in length, and in nothing else."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    lengths = _all_gather(torch.tensor([len(values)], device=device))
    padded = values.new_zeros(max(map(int, lengths)), *values.shape[1:], device=device)
    padded[: len(values)] = values
    return [piece[:length].cpu() for piece, length in zip(_all_gather(padded), lengths, strict=True)]


def _all_gather(values: Tensor) -> list[Tensor]:
    gathered = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, values)
    return gathered


def interleave(gathered: dict[str, list[Tensor]], samples: int) -> dict[str, Tensor]:
    """Undo torch's ``DistributedSampler``: process r of n has rows r, r + n, …, the last ones repeat the first.

    ``rec.targets`` are (row, item) and go by their row. What has another number of rows than its process has
    samples (scores of sampled candidates) is strung together.

    Args:
        gathered: by name, each process's rows.
    """
    joined = {}
    for name, pieces in gathered.items():
        share = -(-samples // len(pieces))
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
