"""An evaluation that several processes share gives the rows, and so the numbers, of one process."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.data.distributed import DistributedSampler

from recbole_sda.evaluation.collector import join, rank
from recbole_sda.evaluation.gather import gather_rows, interleave

USERS, ITEMS = 11, 20


def collected(indices, batch=3):
    """What the collector has after the evaluation of these users, each with two targets."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(USERS, ITEMS, generator=generator)
    targets = torch.stack([torch.randperm(ITEMS, generator=generator)[:2] for _ in range(USERS)])
    batches = []
    for part in torch.tensor(indices).split(batch):
        row = torch.arange(len(part)).repeat_interleave(2)
        batches.append({**rank(scores[part], row, targets[part].flatten(), 5), "rec.users": part})
    return join(batches)


def shares(processes, users=USERS):
    data = list(range(users))
    return [list(DistributedSampler(data, processes, r, shuffle=False, drop_last=False)) for r in range(processes)]


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=0, atol=0)


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 11, 13])
def test_the_samplers_shares_go_back_to_the_rows_of_one_process(processes):
    parts = [collected(share) for share in shares(processes)]
    assert sum(len(part["rec.users"]) for part in parts) >= USERS  # repeated users are in it
    assert_same(interleave(parts, USERS), collected(range(USERS)))


def test_rows_of_another_number_than_the_samples_are_strung_together():
    parts = [{"rec.score": torch.arange(4)}, {"rec.score": torch.arange(4, 8)}]
    assert interleave(parts, 2)["rec.score"].tolist() == list(range(8))


def test_every_process_gets_the_rows_of_all(tmp_path):
    mp.start_processes(_process, args=(2, tmp_path), nprocs=2, start_method="fork")
    expected = collected(range(USERS))
    for process in range(2):
        assert_same(torch.load(tmp_path / f"{process}.pt", weights_only=True), expected)


def _process(process, processes, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=process, world_size=processes)
    rows = collected(shares(processes)[process])
    torch.save(gather_rows(rows, USERS), folder / f"{process}.pt")
    dist.destroy_process_group()
