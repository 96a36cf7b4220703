"""The alignment losses by their name in a configuration: ours, and classes of the user's own."""

import inspect

from recbole_sda.alignment.cmsa import CMSALoss
from recbole_sda.alignment.info_nce import InfoNCELoss
from recbole_sda.alignment.similarity import AlignmentLoss
from recbole_sda.errors import SDAError
from recbole_sda.own_classes import import_named, source_digest

LOSSES = {"cmsa": CMSALoss, "info_nce": InfoNCELoss}
# Their arguments; the configuration's keys carry align_ before them.
SHARED_ARGUMENTS = ("temperature", "learn_temperature", "center", "normalize")
TEACHER_ARGUMENTS = (
    *("teacher", "teacher_temperature", "teacher_perplexity", "stop_gradient", "scale_teacher"),
    *("divergence", "transpose_target"),
)


def find_loss(name: str) -> type[AlignmentLoss]:
    """The loss of that name, or the subclass of ``AlignmentLoss`` that ``package.module:Class`` names.

    Raises:
        SDAError: there is none.
    """
    if name in LOSSES:
        return LOSSES[name]
    if ":" not in name:
        raise SDAError(f"alignment={name!r} is unknown; choose {', '.join(LOSSES)}, or package.module:Class")
    loss = import_named(name, key="alignment")
    if not (inspect.isclass(loss) and issubclass(loss, AlignmentLoss)):
        raise SDAError(f"alignment={name!r} is no loss: it needs to be a subclass of AlignmentLoss")
    return loss


def has_teacher(name: str) -> bool:
    """Whether the loss is CMSA or builds upon it."""
    return issubclass(find_loss(name), CMSALoss)


def loss_arguments(name: str) -> tuple[str, ...]:
    """What the configuration gives to the loss."""
    return SHARED_ARGUMENTS + (TEACHER_ARGUMENTS if has_teacher(name) else ())


def loss_identity(name: str) -> dict:
    """What tells two classes of one name apart: of ours nothing, of the user's own its source.

    Raises:
        SDAError: the source cannot be read.
    """
    if name in LOSSES:
        return {}
    return {"alignment_source": source_digest(find_loss(name), key="alignment")}
