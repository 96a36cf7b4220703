"""Stage 1 on several processes or machines, under Ray Train.

Ray starts the workers, joins them into one torch process group and starts them again when one dies; training
itself is the loop of :mod:`recbole_sda.alignment.trainer`, which goes on from its checkpoint. Checkpoints and
pictures are files, so ``checkpoint_dir`` and ``data_path`` have to be on a disk that all machines see.
"""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from recbole_sda.errors import SDAError
from recbole_sda.ray_cluster import start_ray

MAX_FAILURES = 3


def run_in_workers(
    function: Callable[[torch.device], None], *, workers: int, use_gpu: bool, name: str, storage: Path
) -> None:
    """Run ``function`` in every worker at once, with the device that is its own.

    Args:
        function: what a worker does; pickled, so its package must be installed on every machine.
        workers: how many.
        use_gpu: a GPU each.
        name, storage: of Ray's own folder for the run.

    Raises:
        SDAError: Ray is not installed or has too little room, or ``function`` raised one.
    """
    start_ray("align_workers", workers, use_gpu=use_gpu)
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    refusal = storage / f"{name}.refusal.txt"
    refusal.parent.mkdir(parents=True, exist_ok=True)
    refusal.unlink(missing_ok=True)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"function": function, "refusal": refusal, "folder": os.getcwd()},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name=name, storage_path=str(storage), failure_config=FailureConfig(max_failures=MAX_FAILURES)
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        if refusal.is_file():
            raise SDAError(refusal.read_text(encoding="utf-8")) from error
        raise


def _work(config: dict) -> None:
    from ray.train import get_context
    from ray.train.torch import get_device

    sys.argv = sys.argv[:1]  # RecBole's Config reads the command line, and a worker's is Ray's
    logging.getLogger("recbole_sda").setLevel(logging.WARNING if get_context().get_world_rank() else logging.INFO)
    os.chdir(config["folder"])  # relative paths are those of the process that asked for the workers
    refusal = config["refusal"]
    if refusal.is_file():  # a mistake in the input, which Ray takes for a machine that failed and tries again
        raise SDAError(refusal.read_text(encoding="utf-8"))
    try:
        config["function"](get_device())
    except SDAError as error:
        refusal.write_text(str(error), encoding="utf-8")
        raise
