"""RecBole's trainer of the model at hand, with our collector and checkpoints that load safely."""

import logging
import math
from functools import cache

import numpy as np
import torch

from recbole_sda import compat

compat.prepare_recbole()

from recbole.trainer import Trainer  # noqa: E402
from recbole.utils import get_trainer  # noqa: E402

from recbole_sda.distributed import DistributedMixin  # noqa: E402
from recbole_sda.evaluation import RankingMixin, SDACollector  # noqa: E402
from recbole_sda.resume import (  # noqa: E402
    TrainingFiles,
    data_fingerprint,
    restore_training,
    token_fingerprint,
    training_state,
    unregistered,
    write_state,
)

logger = logging.getLogger(__name__)


def build_trainer(config, model, checkpoint_file: str | None = None, *, resume: bool = False):
    """The trainer that RecBole would choose, extended.

    Args:
        checkpoint_file: where the best state goes; RecBole's own choice, by model and second, if None.
        resume: ``fit`` goes on from what a killed process left of this checkpoint, see :mod:`recbole_sda.resume`.
            The best state is then in ``trainer.saved_model_file``, and becomes the checkpoint by ``finish``.
    """
    trainer = _extended(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model)
    if checkpoint_file is not None:
        trainer.files = TrainingFiles(checkpoint_file) if resume else None
        trainer.saved_model_file = str(trainer.files.unfinished) if resume else checkpoint_file
    return trainer


@cache
def _extended(base: type) -> type:
    return type(f"SDA{base.__name__}", (DistributedMixin, SDATrainerMixin, base), {})


class SDATrainerMixin(RankingMixin):
    """Goes over any RecBole trainer."""

    files: TrainingFiles | None = None
    best_epoch: int | None = None
    tokens: int | None = None
    features: dict | None = None  # what the features are, wherever they lie

    def __init__(self, config, model):
        super().__init__(config, model)
        self.eval_collector = SDACollector(config)
        self.curve = []  # a dictionary an evaluation, see `note_evaluation`
        self.latest_valid = None

    def fit(self, train_data, valid_data=None, *args, **kwargs):
        self.check_prepared(valid_data)
        self.tokens = token_fingerprint(train_data._dataset)
        if self.files is not None:
            self._go_on(train_data, valid_data)
        return super().fit(train_data, valid_data, *args, **kwargs)

    def note_evaluation(self, epoch: int, score: float) -> None:
        """Extend ``curve``; RecBole's loops call back after every evaluation.

        Args:
            epoch: counted from 0, as RecBole does; the curve counts from 1.
        """
        loss = float(self.train_loss_dict[epoch])
        self.curve.append({"epoch": epoch + 1, "train_loss": loss, "valid_score": float(score)})

    def finish(self) -> None:
        """After the last use of the best state, which becomes the checkpoint."""
        self.files.finish(self.saved_model_file)

    @property
    def _keeps_epochs(self) -> bool:
        """A loop of a trainer's own (NCL, RaCT, S3Rec) may depend on what only this process knows, and of several
        processes (DDP) each would have to."""
        return self.files is not None and self.config["single_spec"] and super().fit.__func__ is Trainer.fit

    def _go_on(self, train_data, valid_data):
        """To where a killed process was, if it left that."""
        if not self._keeps_epochs:
            alone = self.config["single_spec"]
            reason = "has a training loop of its own" if alone else "trains in several processes"
            logger.info("%s %s; killed, it starts anew", self.config["model"], reason)
            return
        self.data = data_fingerprint(train_data._dataset)
        self.loaders = [loader for loader in (train_data, valid_data) if loader is not None]
        self.unregistered_before = unregistered(self.model)
        state = self.files.load_last(self.data)
        if state is None:
            return
        restore_training(self, self.loaders, state)
        self.start_epoch, self.best_epoch = state["epoch"], state["best_epoch"]
        if self.best_epoch is not None:
            self.saved_model_file = str(self.files.best(self.best_epoch))
        logger.info("%s goes on with epoch %d of %d", self.config["model"], self.start_epoch + 1, self.epochs)

    def _train_epoch(self, train_data, epoch_idx, *args, **kwargs):
        # Only here is the epoch before over with all that follows its training, whatever way RecBole's loop took.
        if self._keeps_epochs and epoch_idx > self.start_epoch:
            state = training_state(self, self.loaders)
            self.files.save_last({"epoch": epoch_idx, "best_epoch": self.best_epoch, "data": self.data, **state})
        return super()._train_epoch(train_data, epoch_idx, *args, **kwargs)

    def _valid_epoch(self, valid_data, show_progress=False):
        score, result = super()._valid_epoch(valid_data, show_progress=show_progress)
        self.latest_valid = result
        return float(score), result  # a numpy number would not load with the checkpoint

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        """RecBole's entries, with the configuration as plain values, in torch's own pickle protocol.

        Since torch 2.6 a file with other objects than tensors and plain values, or in RecBole's
        protocol 4, loads only if it is trusted to run code. Ours needs no such trust, and RecBole's
        ``torch.load`` reads it.
        """
        if not self.config["single_spec"] and self.config["local_rank"] != 0:
            return
        file = kwargs.pop("saved_model_file", None) or self._best_file(epoch)
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
            "tokens": self.tokens,
            "features": self.features,
            "optimizer": self.optimizer.state_dict(),
        }
        write_state(file, state)
        if verbose:
            self.logger.info(f"Saving current: {file}")

    def pretrain(self, *args, **kwargs):
        """RecBole's (S3Rec, RaCT) leaves nothing to evaluate but what ``save_step`` happened to save."""
        checkpoint = self.saved_model_file
        outcome = super().pretrain(*args, **kwargs)
        self.saved_model_file = checkpoint
        self._save_checkpoint(self.pretrain_epochs - 1, verbose=False)
        return outcome

    def save_pretrained_model(self, epoch, saved_model_file):
        """Of S3Rec and RaCT, whose next stage reads it."""
        self.saved_model_file = saved_model_file
        self._save_checkpoint(epoch, verbose=False, saved_model_file=saved_model_file)

    def _best_file(self, epoch: int) -> str:
        if self._keeps_epochs:
            self.best_epoch, self.saved_model_file = epoch, str(self.files.best(epoch))
        return self.saved_model_file


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
