"""Gradient conflict: do the passes of two modalities pull one low-rank update the same way?

1. The alignment loss of a batch, once a modality, with every other modality's embedding detached.
2. Its gradients of B at the q, k, v and o projection of the last decoder layer: one set a modality.
3. The cosine of two modalities' sets, flattened: of all of it, of each expert's columns, of each projection.

Gates that send the modalities to different experts bring the cosine of all of it to 0, whatever the experts
are told. So there is the mean over each expert at each projection, too, on which the gates have no say.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from recbole_sda.alignment.cosines import Gradients, batch_cosines, summarize
from recbole_sda.alignment.encoding import ItemEncoder
from recbole_sda.alignment.sampling import presence, split_items
from recbole_sda.alignment.settings import AlignmentSettings
from recbole_sda.alignment.similarity import AlignmentLoss
from recbole_sda.catalog import Catalog
from recbole_sda.encoders import Backbone
from recbole_sda.encoders.families import Family
from recbole_sda.errors import SDAError
from recbole_sda.progress import progress_bar

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")

Embed = Callable[[str, Sequence[int]], Tensor]  # modality, rows → (B, H)


def measure_conflict(
    backbone: Backbone,
    catalog: Catalog,
    loss: AlignmentLoss,
    settings: AlignmentSettings,
    *,
    batches: int,
    num_experts: int,
    held_out: bool = False,
    show_progress: bool = True,
) -> list[dict]:
    """Gradient cosines of every pair of modalities over drawn batches, in evaluation mode: dropout would add a
    conflict of its own.

    Args:
        backbone: inside a LoRA or MoDA adapter. Afterwards only the B's that were looked at require gradients.
        settings: of the training whose items are drawn from, those that have every modality.
        held_out: draw from the items that it holds out instead.
        batches: how many are drawn.
        num_experts: the columns of B fall into so many blocks; one expert's each in MoDA, mere columns in LoRA.

    Returns:
        :func:`summarize`'s records.

    Raises:
        SDAError: nothing to look at, all batches the same, or gradients that are not finite.
    """
    rows = rows_to_draw(catalog, settings, held_out=held_out)
    parameters = last_layer_B(backbone)
    _train_only(parameters, backbone)
    backbone.eval()
    loss = loss.to(backbone.device)
    embed = ItemEncoder(backbone, catalog, settings)
    drawn = list(_draw_batches(rows, batches, settings))
    reads = (read for batch in drawn for read in embed.reads(batch, loss.needs_base + 2))
    found = []
    with progress_bar(batches, "conflict", "batch", show=show_progress) as bar, embed.ahead(reads):
        for batch in drawn:
            compare = partial(loss, items=torch.from_numpy(batch)) if loss.needs_items else loss
            if loss.needs_base:
                compare = partial(compare, base=list(embed.embed(batch, base=True).values()))
                _train_only(parameters, backbone)  # PEFT's `disable_adapter` wakes up the others
            gradients = modality_gradients(embed, compare, embed.passes(batch), parameters)
            found.append(batch_cosines(gradients, num_experts))
            bar.update()
    return summarize(found)


def rows_to_draw(catalog: Catalog, settings: AlignmentSettings, *, held_out: bool = False) -> np.ndarray:
    """The training items that have every modality, or those held out.

    Raises:
        SDAError: all batches would be the same.
    """
    rows, which = split_items(catalog, settings)[held_out], "held-out" if held_out else "training"
    rows = rows[presence(catalog, settings.modalities)[:, rows].all(axis=0)]
    if settings.batch_size >= len(rows):
        remedy = ", or raise align_holdout_share" if held_out else ""
        raise SDAError(
            f"align_batch_size={settings.batch_size} takes all {len(rows)} {which} items that have every "
            f"modality, so that every batch would be the same; use a smaller one{remedy}"
        )
    return rows


def check_family(family: Family) -> None:
    """Raises: SDAError: the modalities share no layer to pull at."""
    if not family.shared:
        raise SDAError(
            f"a {family.model_type} model is a dual encoder, whose modalities share no layer: the gradients have "
            "no cosine; choose a backbone with one decoder for all modalities"
        )


def last_layer_B(backbone: Backbone) -> dict[str, nn.Parameter]:  # noqa: N802  the paper's B
    """projection → B (out, r) of the active adapter, for those of q, k, v, o in the last layer that have one."""
    check_family(backbone.family)
    last = backbone.family.layers - 1
    pattern = backbone.family.targets(last)
    layers = {
        name.rpartition(".")[2]: module
        for name, module in backbone.model.get_base_model().named_modules()
        if isinstance(module, BaseTunerLayer) and re.fullmatch(pattern, name)
    }
    found = {name: _active_B(layers[name]) for name in PROJECTIONS if name in layers}
    if not found:
        raise SDAError(
            f"target_modules adapts none of {', '.join(PROJECTIONS)} in the last decoder layer, {last}, whose "
            "gradients are compared; leave target_modules out, or add one of them"
        )
    return found


def modality_gradients(
    embed: Embed,
    loss: Callable[..., Tensor],
    passes: Mapping[str, Sequence[Sequence[int]]],
    parameters: Mapping[str, Tensor],
) -> dict[str, Gradients]:
    """modality → the loss's gradients through that modality's pass alone.

    Its gradients by the embeddings come first, then each modality's embeddings are computed again, a part at a
    time, and pulled at by theirs: the same as detaching all other embeddings, in the memory of one part.

    Args:
        loss: a scalar from one (B, H) tensor a modality.
        passes: modality → the batch's rows, in micro-batches.
        parameters: projection → B.
    """
    embeddings = [rows.requires_grad_() for rows in _embeddings(embed, passes)]
    pulls = torch.autograd.grad(loss(*embeddings), embeddings)
    gradients = {}
    for (modality, parts), pull in zip(passes.items(), pulls, strict=True):
        by_part = [
            torch.autograd.grad(embed(modality, part), list(parameters.values()), part_pull)
            for part, part_pull in zip(parts, pull.split([len(part) for part in parts]), strict=True)
        ]
        gradients[modality] = {
            name: sum(of_parts) for name, of_parts in zip(parameters, zip(*by_part, strict=True), strict=True)
        }
        _check_finite(modality, gradients[modality])
    return gradients


@torch.no_grad()
def _embeddings(embed: Embed, passes: Mapping[str, Sequence[Sequence[int]]]) -> list[Tensor]:
    """One (B, H) a modality."""
    return [torch.cat([embed(modality, part) for part in parts]) for modality, parts in passes.items()]


def _train_only(parameters: Mapping[str, Tensor], backbone: Backbone) -> None:
    backbone.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)


def _draw_batches(rows: np.ndarray, batches: int, settings: AlignmentSettings) -> Iterator[np.ndarray]:
    """Independent of each other, which the interval takes for granted."""
    generator = np.random.default_rng([settings.seed, 2])
    for _ in range(batches):
        yield generator.choice(rows, settings.batch_size, replace=False)


def _active_B(layer: BaseTunerLayer) -> nn.Parameter:  # noqa: N802
    (adapter,) = layer.active_adapters
    return layer.moda_B[adapter] if hasattr(layer, "moda_B") else layer.lora_B[adapter].weight


def _check_finite(modality: str, gradients: Gradients) -> None:
    for name, gradient in gradients.items():
        if not torch.isfinite(gradient).all():
            raise SDAError(
                f"the {modality} pass gives {name} of the last decoder layer a gradient that is not finite; "
                "use backbone_dtype=float32, or lower align_learning_rate"
            )
