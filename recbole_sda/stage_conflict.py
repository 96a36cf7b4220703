"""Gradient conflict of one configuration: under its adapter, and at steps on the way there."""

import logging
from collections.abc import Collection

from recbole_sda.alignment import AlignmentLoss
from recbole_sda.alignment.checkpoint import kept_parameters, restore_parameters
from recbole_sda.alignment.conflict import check_family, measure_conflict, rows_to_draw
from recbole_sda.encoders import Backbone
from recbole_sda.errors import SDAError
from recbole_sda.stage_settings import StageSettings

logger = logging.getLogger(__name__)


def check_conflict(settings: StageSettings, steps: Collection[int] = (), *, held_out: bool = False) -> None:
    """Find out, before a backbone is loaded, what cannot be measured.

    Raises:
        SDAError: modalities that share no layer, too few items, steps that the training does not have.
    """
    alignment = settings.alignment()
    check_family(settings.family)
    rows_to_draw(settings.catalog, alignment)
    if held_out or steps:
        rows_to_draw(settings.catalog, alignment, held_out=True)
    if beyond := [step for step in steps if not 0 <= step <= alignment.steps]:
        raise SDAError(
            f"diagnose_steps={','.join(map(str, steps))}: the training has no step {beyond[0]}; choose from 0 to "
            f"align_steps={alignment.steps}"
        )


def conflict(stages, backbone: Backbone, loss: AlignmentLoss, *, held_out: bool) -> list[dict]:
    """Args: stages: an :class:`~recbole_sda.stages.EncoderStages`; backbone: inside an adapter."""
    return measure_conflict(
        backbone,
        stages.training_catalog,
        loss,
        stages.settings.alignment(),
        batches=stages.config["diagnose_batches"],
        num_experts=stages.config["num_experts"],
        held_out=held_out,
    )


def conflict_at_steps(stages, backbone: Backbone, folder, steps: Collection[int]) -> list[dict]:
    """Of what a training has kept.

    Args:
        stages: an :class:`~recbole_sda.stages.EncoderStages`.
        backbone: inside a new adapter, which becomes that of each step.
        folder: where :func:`recbole_sda.alignment.trainer.align` kept the steps.

    Returns:
        The records of :func:`conflict`, each with ``step`` and ``held_out``.
    """
    loss = stages.settings.loss()
    parameters = {**dict(backbone.named_parameters()), **{f"loss.{n}": p for n, p in loss.named_parameters()}}
    records = []
    for step in sorted(steps):
        values = kept_parameters(folder, step)
        if values is None:
            logger.warning("align_patience ended the training before step %d, which is left out", step)
            continue
        restore_parameters({name: parameters[name] for name in values}, values)
        for held_out in (False, True):
            found = conflict(stages, backbone, loss, held_out=held_out)
            records += [{"step": step, "held_out": held_out, **record} for record in found]
    return records
