"""Training that was killed goes on after its last whole epoch, and ends as if nothing had happened.

Beside ``X.pth``, which appears when all is done, lie in the meantime

::

    X.pth.epoch7     the best state so far, named by its epoch; RecBole's checkpoint. X.pth.unfinished where
                     training cannot go on from an epoch
    X.pth.last       everything the next epoch depends on, and which epoch is the best
    X.pth.lock       held by the process that trains

and after a training that was not tested, until it is

::

    X.pth.random     the random state with which the test would have begun

The lock's file, empty, stays when the rest goes: a process that waits for it and one that comes later would
otherwise hold two different files. A best state is removed only after a last state names its successor, so that
the two always fit together. All of it is tensors and plain values.
"""

import logging
import random
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from recbole_sda.artefacts import written_whole
from recbole_sda.errors import SDAError

logger = logging.getLogger(__name__)


@contextmanager
def sole_training(checkpoint: Path) -> Iterator[None]:
    """One process at a time trains this checkpoint; the same command started twice waits for the first."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(checkpoint.with_name(checkpoint.name + ".lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("another process trains %s; waiting until it is done", checkpoint)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_state(path: Path, state: dict) -> None:
    """Whole or not at all. Through a file of Python's own: torch's hides from its error that the disk is full."""
    with written_whole(path) as unfinished, unfinished.open("wb") as file:
        torch.save(state, file)


class TrainingFiles:
    """What lies on the disk while ``checkpoint`` is in training."""

    def __init__(self, checkpoint: str | Path):
        self.checkpoint = Path(checkpoint)
        self.last, self.unfinished = self._beside("last"), self._beside("unfinished")
        self.random = self._beside("random")

    def best(self, epoch: int) -> Path:
        return self._beside(f"epoch{epoch}")

    def save_last(self, state: dict) -> None:
        """Atomically; then best states that it does not name go."""
        write_state(self.last, state)
        self._remove_best_states(but=state["best_epoch"])

    def load_last(self, data: int) -> dict | None:
        """The state after the last whole epoch, or None to start anew.

        Args:
            data: what :func:`data_fingerprint` says of the data now; other data starts anew.
        """
        if not self.last.is_file():
            return None
        state = torch.load(self.last, map_location="cpu", weights_only=True)
        if state["data"] != data:
            logger.warning("%s was trained on other data under the same name; training starts anew", self.last)
            return None
        best = state["best_epoch"]
        if best is not None and not self.best(best).is_file():
            logger.warning("%s is gone; training starts anew", self.best(best))
            return None
        return state

    def save_random(self) -> None:
        write_state(self.random, _random_state())

    def restore_random(self) -> None:
        """Where it was saved: a test that draws then draws as it would have right after the training."""
        if self.random.is_file():
            _set_random_state(torch.load(self.random, map_location="cpu", weights_only=True))

    def forget_random(self) -> None:
        """Once the test is written down."""
        self.random.unlink(missing_ok=True)

    def finish(self, best: str | Path) -> None:
        """``best`` becomes the checkpoint, the rest goes; a file of RecBole's own naming stays, too."""
        self.last.unlink(missing_ok=True)
        if Path(best).name.startswith(self.checkpoint.name):
            Path(best).replace(self.checkpoint)
        else:
            with written_whole(self.checkpoint) as unfinished:
                shutil.copyfile(best, unfinished)
        self._remove_best_states(but=None)

    def _beside(self, suffix: str) -> Path:
        return self.checkpoint.with_name(f"{self.checkpoint.name}.{suffix}")

    def _remove_best_states(self, but: int | None) -> None:
        for file in self.checkpoint.parent.glob(f"{self.checkpoint.name}.epoch*"):
            if but is None or file != self.best(but):
                file.unlink()


def training_state(trainer, loaders: Sequence) -> dict:
    """What the next epoch depends on, between two epochs.

    Args:
        trainer: RecBole's; its model, optimizers and early stopping.
        loaders: whose shuffling goes on.
    """
    return {
        "model": trainer.model.state_dict(),
        "unregistered": _unregistered_state(trainer.model, trainer.unregistered_before),
        "optimizers": {name: optimizer.state_dict() for name, optimizer in _optimizers(trainer).items()},
        "early_stopping": {name: getattr(trainer, name) for name in ("cur_step", "best_valid_score")},
        "best_valid_result": _numbers(trainer.best_valid_result),
        "train_loss": dict(trainer.train_loss_dict),
        "curve": list(trainer.curve),
        "random": _random_state(),
        "generators": [loader.generator.get_state() for loader in loaders],
    }


def restore_training(trainer, loaders: Sequence, state: dict) -> None:
    """Raises: SDAError: the state is of a model of another shape."""
    try:
        trainer.model.load_state_dict(state["model"])
        for name, optimizer in _optimizers(trainer).items():
            if name in state["optimizers"]:
                optimizer.load_state_dict(state["optimizers"][name])
    except (RuntimeError, ValueError) as error:
        raise SDAError(
            f"{trainer.files.last} is of another {type(trainer.model).__name__} under the same name, perhaps of "
            "another version; remove it to train anew"
        ) from error
    _set_unregistered(trainer.model, state["unregistered"], trainer.device)
    for name, value in state["early_stopping"].items():
        setattr(trainer, name, value)
    trainer.best_valid_result = state["best_valid_result"]
    trainer.train_loss_dict, trainer.curve = state["train_loss"], state["curve"]
    for loader, generator in zip(loaders, state["generators"], strict=True):
        loader.generator.set_state(generator)
    _set_random_state(state["random"])


def token_fingerprint(dataset) -> int:
    """Of the users and items and their order, on which every row of a model depends."""
    tokens = (dataset.field2id_token[field] for field in (dataset.uid_field, dataset.iid_field))
    return zlib.crc32("\n".join(str(token) for field in tokens for token in field).encode())


def data_fingerprint(*datasets) -> int:
    """Of a training set, and of those it is validated and tested on: tokens, interactions, all their fields."""
    fingerprint = token_fingerprint(datasets[0])
    for dataset in datasets:
        for table in (dataset.inter_feat, dataset.user_feat, dataset.item_feat):
            for field in sorted(table.columns) if table is not None else ():
                fingerprint = zlib.crc32(np.ascontiguousarray(table[field].numpy()), fingerprint)
    return fingerprint


def _optimizers(trainer) -> dict[str, torch.optim.Optimizer]:
    """By attribute; RecVAE's trainer has two more and points ``optimizer`` at one of them while it trains."""
    found = {name: value for name, value in vars(trainer).items() if isinstance(value, torch.optim.Optimizer)}
    by_identity = {id(value): name for name, value in found.items()}  # the last name of each
    return {name: found[name] for name in by_identity.values()}


def unregistered(model: nn.Module) -> dict[str, object]:
    """Attributes of numbers that are neither parameters nor buffers: counters, queues, histories."""
    kinds = (int, float, Tensor, np.ndarray, torch.Generator)
    return {
        f"{prefix}.{name}".lstrip("."): (value, getattr(value, "_version", None))
        for prefix, module in model.named_modules()
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training" and isinstance(value, kinds)
    }


def _unregistered_state(model: nn.Module, before: dict) -> dict:
    """Those that may have changed since ``before``; graphs of the adjacency do not, and are large."""
    state = {}
    for name, (value, version) in unregistered(model).items():
        if isinstance(value, torch.Generator):
            state[name] = value.get_state()
        elif isinstance(value, np.ndarray):
            if value.dtype.kind in "biuf":
                state[name] = torch.from_numpy(value.copy())
        elif not isinstance(value, Tensor):
            state[name] = value
        elif value.layout == torch.strided and not _is_same(before.get(name), value, version):
            state[name] = value.detach()
    return state


def _is_same(noted: tuple | None, value: Tensor, version: int) -> bool:
    return noted is not None and noted[0] is value and noted[1] == version


def _set_unregistered(model: nn.Module, state: dict, device) -> None:
    for path, value in state.items():
        prefix, _, name = path.rpartition(".")
        module = model.get_submodule(prefix)
        now = getattr(module, name, None)
        if isinstance(now, torch.Generator):
            now.set_state(value)
        elif isinstance(now, np.ndarray):
            setattr(module, name, value.numpy())
        else:
            setattr(module, name, value.to(device) if isinstance(value, Tensor) else value)


def _random_state() -> dict:
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, keys.tolist(), *rest],
        "python": random.getstate(),
    }


def _set_random_state(state: dict) -> None:
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    for device, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator, device)


def _numbers(result: dict | None) -> dict | None:
    """Metrics as Python's own numbers."""
    return result and {name: getattr(value, "item", lambda value=value: value)() for name, value in result.items()}
