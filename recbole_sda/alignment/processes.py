"""What several processes of one training owe each other: one comparison set and one gradient.

Every process embeds its share of a step's items, then compares *all* items, so that the loss is the same number
everywhere. Its gradient reaches a process's own embeddings only; the sum over the processes is the gradient
that one process with all items would have.
"""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from recbole_sda.errors import SDAError


class Processes:
    """This process among the others; with a single one everything here is the identity."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.count, self.index = accelerator.num_processes, accelerator.process_index

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def share(self, rows: np.ndarray) -> np.ndarray:
        """This process's part of ``rows``; the parts differ by one row at most."""
        if len(rows) < self.count:
            raise SDAError(f"{len(rows)} items cannot be shared by {self.count} processes; lower align_workers")
        return np.array_split(rows, self.count)[self.index]

    def gather(self, own: Tensor, total: int) -> Tensor:
        """The embeddings of all shares in the order of the items; gradients flow to the own ones.

        Args:
            own: (share, d).
            total: items in all shares together.

        Returns:
            (total, d).
        """
        if self.count == 1:
            return own
        counts = [len(part) for part in np.array_split(np.arange(total), self.count)]
        padded = F.pad(own.detach(), (0, 0, 0, counts[0] - len(own)))  # the first share is the largest
        everyone = self.accelerator.gather(padded).split(counts[0])
        parts = [rows[:count] for rows, count in zip(everyone, counts, strict=True)]
        parts[self.index] = own
        return torch.cat(parts)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Give each parameter the sum of its gradients over the processes, all in one message.

        A process whose items lack a modality has no gradient where others have one, and counts as 0 there.
        """
        if self.count == 1:
            return
        parameters = list(parameters)
        own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        given = own[0].new_tensor([p.grad is not None for p in parameters])
        flat = self.accelerator.reduce(torch.cat([*(g.flatten() for g in own), given]), reduction="sum")
        *totals, givers = flat.split([*(g.numel() for g in own), len(own)])
        for parameter, gradient, total, count in zip(parameters, own, totals, givers, strict=True):
            if count > 0:
                parameter.grad = gradient.copy_(total.view_as(gradient))

    def from_main(self, value):
        """What the main process says, so that all decide alike where rounding might differ."""
        said = [value]
        broadcast_object_list(said)
        return said[0]

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()
