"""RecBole's trainer of the model at hand, with our collector and checkpoints that load safely."""

import math
from functools import cache

import numpy as np
import torch

from recbole_sda import compat

compat.prepare_recbole()

from recbole.utils import get_trainer  # noqa: E402

from recbole_sda.evaluation import SDACollector  # noqa: E402


def build_trainer(config, model, checkpoint_file: str | None = None):
    """The trainer that RecBole would choose, extended.

    Args:
        checkpoint_file: where the best state goes; RecBole's own choice, by model and second, if None.
    """
    trainer = _extended(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model)
    if checkpoint_file is not None:
        trainer.saved_model_file = checkpoint_file
    return trainer


@cache
def _extended(base: type) -> type:
    return type(f"SDA{base.__name__}", (SDATrainerMixin, base), {})


class SDATrainerMixin:
    """Goes over any RecBole trainer."""

    def __init__(self, config, model):
        super().__init__(config, model)
        self.eval_collector = SDACollector(config)

    def _valid_epoch(self, valid_data, show_progress=False):
        score, result = super()._valid_epoch(valid_data, show_progress=show_progress)
        return float(score), result  # a numpy number would not load with the checkpoint

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        """RecBole's entries, with the configuration as plain values, in torch's own pickle protocol.

        Since torch 2.6 a file with other objects than tensors and plain values, or in RecBole's
        protocol 4, loads only if it is trusted to run code. Ours needs no such trust, and RecBole's
        ``torch.load`` reads it.
        """
        if not self.config["single_spec"] and self.config["local_rank"] != 0:
            return
        file = kwargs.pop("saved_model_file", self.saved_model_file)
        others = self.model.other_parameter()
        loadable = {name: value for name, value in others.items() if _is_plain(value)}
        # Modules are in the state already. What is neither (the sparse matrices of ItemKNN, EASE, …) stays in
        # this process's model alone, and the file says so.
        left_out = [n for n in others if n not in loadable and not isinstance(others[n], torch.nn.Module)]
        state = {
            "config": plain(self.config.final_config_dict),
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": self.best_valid_score,
            "state_dict": self.model.state_dict(),
            "other_parameter": loadable,
            "left_out": left_out,
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, file)
        if verbose:
            self.logger.info(f"Saving current: {file}")


def _is_plain(value) -> bool:
    return value is None or isinstance(value, torch.Tensor | bool | int | float | str)


def plain(value):
    """JSON values: numpy's numbers become Python's, NaN becomes null, what JSON does not know becomes text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str | None) else str(value)
