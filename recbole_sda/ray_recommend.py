"""Stage 3 in ``nproc`` processes under Ray."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from recbole_sda import compat

compat.prepare_recbole()

from recbole.trainer import trainer  # noqa: E402
from recbole.utils import ModelType, init_logger  # noqa: E402

from recbole_sda.config import SDAConfig  # noqa: E402
from recbole_sda.distributed import Unheard, in_this_process  # noqa: E402
from recbole_sda.errors import SDAError  # noqa: E402
from recbole_sda.ray_cluster import start_ray  # noqa: E402
from recbole_sda.ray_workers import run_in_workers  # noqa: E402
from recbole_sda.recommend import recommend  # noqa: E402

WITHOUT_GRADIENTS = (ModelType.TRADITIONAL, ModelType.DECISIONTREE)


def check_processes(config: SDAConfig) -> None:
    """Find out, before any work, whether ``nproc`` processes can be had and are of use.

    Raises:
        SDAError: the model does not learn by gradients, Ray is not installed or has too little room.
    """
    if config["nproc"] == 1:
        return
    if config["MODEL_TYPE"] in WITHOUT_GRADIENTS:
        raise SDAError(
            f"nproc={config['nproc']}: {config['model']} does not learn by gradients, which is what processes "
            "share; say --nproc=1"
        )
    start_ray("nproc", config["nproc"], use_gpu=_use_gpu(config), address=config["ray_address"])


def recommend_in_workers(
    config: SDAConfig,
    features: Path | None,
    *,
    label: str,
    test: bool = True,
    on_epoch: Callable[[int, dict, float], None] | None = None,
) -> dict:
    """:func:`recommend` in ``nproc`` processes, a GPU each where the device is one; with 1 it runs in this one.

    A step has ``train_batch_size`` in all processes together, as RecBole divides it. Each process loads the
    dataset and builds the model. Features on the disk are memory-mapped: processes of one machine share the
    pages, and each gathers a step's rows by itself. Features on the device are one copy each. When a process
    dies, all start anew, without what they had learned. ``on_epoch`` is pickled, and called in the first process.

    Args, returns, raises: those of ``recommend``, whose result is the first process's; and SDAError as
    ``check_processes``.
    """
    if config["nproc"] == 1:
        return recommend(config, features, label=label, test=test, on_epoch=on_epoch)
    check_processes(config)
    return run_in_workers(
        partial(_recommend_here, config, features, {"label": label, "test": test, "on_epoch": on_epoch}),
        key="nproc",
        workers=config["nproc"],
        use_gpu=_use_gpu(config),
        address=config["ray_address"],
        name=f"recommend-{label}",
        storage=Path(config["checkpoint_dir"]).resolve() / "ray",
    )


def _recommend_here(config: SDAConfig, features: Path | None, options: dict, device: torch.device) -> dict:
    config = in_this_process(config, device)
    root = logging.getLogger()
    if config["local_rank"] == 0:
        root.handlers.clear()  # Ray's; beside them RecBole's would not be installed
        init_logger(config)
    else:
        root.setLevel(logging.ERROR)
        trainer.get_tensorboard = lambda logger: Unheard()  # RecBole would draw this process's curves, too
    return recommend(config, features, **options)


def _use_gpu(config: SDAConfig) -> bool:
    return torch.device(config["device"]).type == "cuda"
