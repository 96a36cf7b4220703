"""RecBole's training in several processes (DDP), on CPUs too, whoever has started and joined them.

RecBole's data loaders give every process its part of the data and 1 / n of ``train_batch_size``, so that a step
of all n together has the size that one process has. torch averages the gradients.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import SyncBatchNorm
from torch.nn.parallel import DistributedDataParallel


def in_this_process(config, device: torch.device):
    """Make ``config`` that of one of several processes; the group must be there.

    RecBole calls it ``local_rank`` and takes it for the number among all: it seeds by it, and 0 saves.

    Args:
        device: of this process.

    Returns:
        The same configuration.
    """
    rank = dist.get_rank()
    config.final_config_dict |= {
        "single_spec": False,
        "local_rank": rank,
        "world_size": dist.get_world_size(),
        "device": device,
    }
    if rank > 0:  # what one process has to say, others do not repeat
        config.final_config_dict |= {"state": "error", "show_progress": False, "log_wandb": False}
    return config


def from_main(value: Any) -> Any:
    """What the first process says, once it says it; without others, ``value``."""
    if not dist.is_initialized():
        return value
    said = [value]
    dist.broadcast_object_list(said)
    return said[0]


class Unheard:
    """A TensorBoard that writes nothing."""

    def add_scalar(self, *args, **kwargs) -> None: ...

    add_hparams = add_scalar


class DistributedMixin:
    """Goes over any RecBole trainer; with one process it changes nothing."""

    def __init__(self, config, model):
        alone = config["single_spec"]
        config["single_spec"] = True  # RecBole would wrap the model for the GPU of its rank, and know no other
        try:
            super().__init__(config, model)
        finally:
            config["single_spec"] = alone
        if not alone:
            self.distributed_model = distributed(model, config["device"])

    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """RecBole's, from the first process's file, which nobody opens before it is written."""
        if load_best_model:
            model_file = from_main(model_file or self.saved_model_file)
        return super().evaluate(eval_data, load_best_model, model_file, show_progress)

    def finish(self) -> None:
        """The first process's files are those of all."""
        if self.config["local_rank"] == 0:
            super().finish()


def distributed(model: torch.nn.Module, device: torch.device) -> DistributedDataParallel:
    """``model`` among its likes in the other processes, all with the first one's parameters from here on.

    What ``model._ddp_params_and_buffers_to_ignore`` names is left alone: features are the same everywhere already.
    """
    if device.type == "cpu":
        return DistributedDataParallel(model)
    # Replaces the layers inside ``model``, not their parameters, which an optimizer may hold. CUDA alone has it.
    return DistributedDataParallel(SyncBatchNorm.convert_sync_batchnorm(model), device_ids=[device])
