"""The state of a training on the way: one safetensors file, replaced in one move.

What was trained can be kept at single steps besides, for whoever wants to see how it went.

The tensors are the trained parameters, the best ones so far and the optimizer's; the step and the records stand
as JSON in the file's header. The order of the items, dropout and learning rate are functions of the step.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from recbole_sda.artefacts import written_whole
from recbole_sda.errors import SDAError

FILE = "training_state.safetensors"
KEPT = "steps"  # the folder of what is kept
Parameters = Mapping[str, torch.nn.Parameter]


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        step: optimizer steps done.
        records: of the looks at the held-out items so far.
        best: the parameters at the best of them.
        recent: what the steps since the last look measured.
    """

    step: int = 0
    records: list[dict] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    recent: list[dict[str, float]] = field(default_factory=list)


def save_state(
    folder: Path, progress: Progress, parameters: Parameters, optimizer: torch.optim.Optimizer, *, settings: str
) -> None:
    """Write the state; a process that is killed meanwhile leaves the old one.

    Args:
        parameters: name → what is trained.
        settings: what made it, compared by :func:`load_state`.
    """
    tensors = {f"parameter.{name}": value for name, value in parameters.items()}
    tensors |= {f"best.{name}": value for name, value in progress.best.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    header = {"step": progress.step, "records": progress.records, "recent": progress.recent, "settings": settings}
    unfinished = folder / f"{FILE}.unfinished"
    save_file(
        {name: value.detach().contiguous().cpu() for name, value in tensors.items()},
        unfinished,
        {"state": json.dumps(header)},
    )
    unfinished.replace(folder / FILE)


def load_state(
    folder: Path, parameters: Parameters, optimizer: torch.optim.Optimizer, *, settings: str
) -> Progress | None:
    """Put parameters and optimizer back where :func:`save_state` left them.

    Returns:
        The progress; None when the folder holds no state.

    Raises:
        SDAError: the file is broken, or of a training with other settings or another model.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    remedy = f"remove {path} to train from the start"
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise SDAError(f"{path} is broken ({error}); {remedy}") from error
    if header["settings"] != settings:
        raise SDAError(f"{path} is of a training with other settings; {remedy}")
    groups = {"parameter": {}, "best": {}, "optimizer": {}}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        groups[kind][rest] = value
    found = {name: value.shape for name, value in groups["parameter"].items()}
    if found != {name: parameter.shape for name, parameter in parameters.items()}:
        raise SDAError(f"{path} is of another model or adapter; {remedy}")
    restore_parameters(parameters, groups["parameter"])
    _restore_optimizer(optimizer, groups["optimizer"])
    return Progress(header["step"], header["records"], groups["best"], header["recent"])


def keep_parameters(folder: Path, step: int, parameters: Parameters) -> None:
    """Write what is trained as it is after ``step``, for :func:`kept_parameters`."""
    (folder / KEPT).mkdir(exist_ok=True)
    values = {name: value.detach().contiguous().cpu() for name, value in parameters.items()}
    with written_whole(folder / KEPT / f"{step}.safetensors") as unfinished:
        save_file(values, unfinished)


def kept_parameters(folder: Path, step: int) -> dict[str, Tensor] | None:
    """None: the training ended before that step."""
    path = folder / KEPT / f"{step}.safetensors"
    return load_file(path) if path.is_file() else None


def remove_state(folder: Path) -> None:
    """Called when the result is safe elsewhere."""
    for name in (FILE, f"{FILE}.unfinished"):
        (folder / name).unlink(missing_ok=True)


@torch.no_grad()
def restore_parameters(parameters: Parameters, values: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
