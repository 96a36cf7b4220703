"""Cached gradients: a comparison of thousands of items in the memory of one micro-batch.

1. Embed every micro-batch without a graph.
2. Compare all embeddings; the loss gives the gradient of each of them.
3. Embed every micro-batch again, with a graph and the same dropout, and send its embeddings' gradients back.

The gradients are those of the whole batch (Gao et al., *Scaling Deep Contrastive Learning Batch Size under
Memory Limited Setup*, 2021). A step takes two forward passes and one backward pass.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch")


def cached_step(
    encode: Callable[[str, Batch], Tensor],
    passes: Mapping[str, Sequence[Batch]],
    loss: Callable[..., Tensor],
) -> Tensor:
    """Add the gradient of ``loss`` to the parameters behind ``encode`` and to the loss's own.

    Args:
        encode: embeddings (b, d) of one micro-batch in one modality. It is called twice with each and has
            to do the same both times, dropout included: torch's random state is put back for the second call.
        passes: modality → its micro-batches, in the order of the items. What a micro-batch is, row numbers
            that are read when they are needed or ready inputs, is between the caller and ``encode``. Where
            every modality has a single one, its graph is kept and nothing is computed twice. The modalities
            may be cut differently, and one may be empty.
        loss: a scalar from one (B, d) tensor a modality, in the order of ``passes``.

    Returns:
        The loss, detached.
    """
    if all(len(batches) == 1 for batches in passes.values()):
        value = loss(*[encode(modality, batches[0]) for modality, batches in passes.items()])
        value.backward()
        return value.detach()

    states, leaves = {}, {}
    for modality, batches in passes.items():
        states[modality], leaves[modality] = _embed(encode, modality, batches)
    value = loss(*leaves.values())
    value.backward()
    for modality, batches in passes.items():
        _send_back(encode, modality, batches, states[modality], leaves[modality].grad)
    return value.detach()


def split_inputs(inputs: Mapping[str, Tensor], size: int) -> list[dict[str, Tensor]]:
    """A model's inputs in micro-batches of ``size`` items, for callers who have them whole.

    Qwen-VL packs the patches of all pictures along the first dimension of ``pixel_values``; they are cut where
    ``image_grid_thw``, (B, 3), says that a picture ends. Everything else has one row an item.
    """
    grids = inputs.get("image_grid_thw")
    count = len(inputs["input_ids"])
    starts = range(0, count, size)
    micro_batches = [
        {name: value[first : first + size] for name, value in inputs.items() if name != "pixel_values"}
        for first in starts
    ]
    if "pixel_values" not in inputs:
        return micro_batches
    if grids is None or len(grids) != count:
        found = None if grids is None else tuple(grids.shape)
        raise ValueError(
            f"pixel_values can be cut only with one row of image_grid_thw for each of the {count} items; "
            f"found {found}"
        )
    patches = [int(part.prod(dim=1).sum()) for part in grids.split(size)]
    for micro_batch, pixels in zip(micro_batches, inputs["pixel_values"].split(patches), strict=True):
        micro_batch["pixel_values"] = pixels
    return micro_batches


@torch.no_grad()
def _embed(encode, modality: str, batches: Sequence) -> tuple[list, Tensor]:
    """The random state before each micro-batch, and all embeddings as a leaf that wants a gradient, (B, d)."""
    states, parts = [], []
    for batch in batches:
        states.append(_random_state())
        parts.append(encode(modality, batch))
    return states, torch.cat(parts).requires_grad_()


def _send_back(encode, modality: str, batches: Sequence, states: list, gradient: Tensor | None) -> None:
    if gradient is None:
        return  # the loss did not look at this modality
    first = 0
    for batch, state in zip(batches, states, strict=True):
        with _restored(state):
            embeddings = encode(modality, batch)
        if len(embeddings):
            embeddings.backward(gradient[first : first + len(embeddings)].to(embeddings.dtype))
        first += len(embeddings)


def _random_state() -> tuple[Tensor, list[Tensor]]:
    # asking CUDA for its state would start it
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


@contextmanager
def _restored(state: tuple[Tensor, list[Tensor]]) -> Iterator[None]:
    """Inside, torch draws as it did from ``state``; afterwards it goes on as if nothing had been drawn."""
    cpu, devices = state
    with torch.random.fork_rng(devices=range(len(devices))):
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)
        yield
