"""One function in two processes that torch joins, on CPUs."""

import os
import traceback
from pathlib import Path

import torch
from torch import multiprocessing


def in_two_processes(function, folder: Path, *arguments) -> list:
    """What each of the two returned: tensors and plain values.

    Args:
        function: of a module; called with the process's number and ``arguments``.
        folder: for what the processes leave each other.
    """
    multiprocessing.spawn(_join, args=(function, folder, arguments), nprocs=2)
    return [torch.load(folder / f"result-{rank}.pt") for rank in range(2)]


def _join(rank, function, folder, arguments):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting-{function.__name__}", rank=rank, world_size=2
    )
    try:
        torch.save(function(rank, *arguments), folder / f"result-{rank}.pt")
    except Exception:
        traceback.print_exc()
        raise
    finally:
        torch.distributed.destroy_process_group()
