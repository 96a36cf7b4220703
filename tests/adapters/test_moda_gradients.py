"""Gradients where they go wrong easily: two passes before one backward, micro-batches, two processes."""

import pytest
import torch
from test_moda import adapted, forward, inputs, loop_through
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from recbole_sda.adapters import checkpoint_routing

BATCH = 4


class TwoPasses(nn.Module):
    """The image and the text pass of a batch and a loss of each sequence's pair, (B,)."""

    def __init__(self, model, *, checkpointing=False):
        super().__init__()
        self.model, self.checkpointing = model, checkpointing

    def forward(self, hidden_states):
        image, text = (forward(self.run, modality, hidden_states) for modality in ("image", "text"))
        return pair_loss(image, text)

    def run(self, hidden_states):
        if not self.checkpointing:
            return self.model(hidden_states)
        return checkpoint(self.model, hidden_states, use_reentrant=False, context_fn=checkpoint_routing)


def pair_loss(image, text):
    return (image * text.roll(1, dims=-1) + image.pow(3)).sum(dim=(1, 2))  # (B, T, d) -> (B,)


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def plain_gradients():
    """Of the mean loss of the whole batch, by the loop over experts."""
    model = adapted()
    first, second = model.base_model.model.children()
    image, text = (
        loop_through(second, torch.tanh(loop_through(first, inputs(batch=BATCH), modality)), modality)
        for modality in (0, 1)
    )
    pair_loss(image, text).mean().backward()
    return gradients(model)


def assert_plain(ours):
    theirs = plain_gradients()
    assert len(theirs) == 2 * 4
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert theirs[name].abs().max() > 0
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("micro_batch", [1, 2, BATCH])
def test_micro_batches_of_two_passes_add_up_to_the_whole_batch(micro_batch, checkpointing):
    model = adapted()
    passes = TwoPasses(model, checkpointing=checkpointing)
    for part in inputs(batch=BATCH).split(micro_batch):
        (passes(part).sum() / BATCH).backward()
    assert_plain(gradients(model))


def one_process(rank, folder, world_size):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size
    )
    part = inputs(batch=BATCH).chunk(world_size)[rank]
    for checkpointing in (False, True):
        torch.save(distributed_gradients(part, checkpointing), folder / f"{rank}-{checkpointing}.pt")
    torch.distributed.barrier()  # whoever leaves while the other still talks can leave it waiting
    torch.distributed.destroy_process_group()


def distributed_gradients(part, checkpointing):
    model = adapted()
    passes = DistributedDataParallel(TwoPasses(model, checkpointing=checkpointing))
    passes(part).mean().backward()
    return gradients(model)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    torch.multiprocessing.spawn(one_process, args=(tmp_path, 2), nprocs=2)
    for checkpointing in (False, True):
        for rank in range(2):
            assert_plain(torch.load(tmp_path / f"{rank}-{checkpointing}.pt"))
