"""An evaluation that several processes share gives the rows, and so the numbers, of one process."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.data.distributed import DistributedSampler

from recbole_sda.evaluation.collector import join, rank
from recbole_sda.evaluation.gather import gather_rows, gather_tensor, interleave

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
    gathered = {name: [part[name] for part in parts] for name in parts[0]}
    assert sum(map(len, gathered["rec.users"])) >= USERS  # repeated users are in it
    assert_same(interleave(gathered, USERS), collected(range(USERS)))


def test_rows_of_another_number_than_the_samples_are_strung_together():
    gathered = {"rec.score": [torch.arange(4), torch.arange(4, 8)]}
    assert interleave(gathered, 2)["rec.score"].tolist() == list(range(8))


def test_every_process_gets_the_rows_of_all(tmp_path):
    mp.start_processes(_process, args=(2, tmp_path), nprocs=2, start_method="fork")
    expected = collected(range(USERS))
    pieces = [ragged(process) for process in range(2)]
    for process in range(2):
        rows, gathered = torch.load(tmp_path / f"{process}.pt", weights_only=True)
        assert_same(rows, expected)
        for found, piece in zip(gathered, zip(*pieces, strict=True), strict=True):
            assert_same(dict(enumerate(found)), dict(enumerate(piece)))


def ragged(process):
    """Tensors of other lengths in each process, one of them empty in the first, and of every kind of number."""
    generator = torch.Generator().manual_seed(process)
    return [
        torch.rand(3 + 4 * process, generator=generator),
        torch.rand(5 * process, 2, 3, generator=generator) < 0.5,
        torch.randint(9, (2 - process, 1), generator=generator, dtype=torch.int32),
    ]


def _process(process, processes, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=process, world_size=processes)
    rows = collected(shares(processes)[process])
    found = gather_rows(rows, USERS), [gather_tensor(values) for values in ragged(process)]
    torch.save(found, folder / f"{process}.pt")
    dist.destroy_process_group()
