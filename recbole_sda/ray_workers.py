"""One function in several processes at once, under Ray Train.

Ray starts the workers, on one machine or many, joins them into one torch process group (NCCL on GPUs, Gloo on
CPUs) and starts them all again when one dies. What they read and write are files, so ``checkpoint_dir`` and
``data_path`` have to be on a disk that all machines see.
"""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from recbole_sda.errors import SDAError
from recbole_sda.ray_cluster import start_ray

MAX_FAILURES = 3


def run_in_workers(
    function: Callable[[torch.device], Any],
    *,
    key: str,
    workers: int,
    use_gpu: bool,
    name: str,
    storage: Path,
    address: str | None = None,
) -> Any:
    """Run ``function`` in every worker at once, with the device that is its own.

    Args:
        function: what a worker does; pickled, so its package must be installed on every machine.
        key: of the configuration, that asked for the workers; named in errors.
        workers: how many.
        use_gpu: a GPU each.
        name: of the run, for Ray's eyes.
        storage: a folder for what Ray keeps while it runs.
        address: of a running cluster.

    Returns:
        What the first worker's call returned.

    Raises:
        SDAError: Ray is not installed or has too little room, or ``function`` raised one.
    """
    start_ray(key, workers, use_gpu=use_gpu, address=address)
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    storage.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=storage, prefix=f"{name}-", ignore_cleanup_errors=True) as folder:
        refusal = Path(folder) / "refusal.txt"
        trainer = TorchTrainer(
            _work,
            train_loop_config={"function": function, "refusal": refusal, "folder": os.getcwd()},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
            run_config=RunConfig(
                name=name, storage_path=folder, failure_config=FailureConfig(max_failures=MAX_FAILURES)
            ),
        )
        try:
            return trainer.fit().return_value
        except TrainingFailedError as error:
            if refusal.is_file():
                raise SDAError(refusal.read_text(encoding="utf-8")) from error
            raise


def _work(config: dict) -> Any:
    from ray.train import get_context
    from ray.train.torch import get_device

    sys.argv = sys.argv[:1]  # RecBole's Config reads the command line, and a worker's is Ray's
    logging.getLogger("recbole_sda").setLevel(logging.WARNING if get_context().get_world_rank() else logging.INFO)
    os.chdir(config["folder"])  # relative paths are those of the process that asked for the workers
    refusal = config["refusal"]
    if refusal.is_file():  # a mistake in the input, which Ray takes for a machine that failed and tries again
        raise SDAError(refusal.read_text(encoding="utf-8"))
    try:
        return config["function"](get_device())
    except SDAError as error:
        refusal.write_text(str(error), encoding="utf-8")
        raise
