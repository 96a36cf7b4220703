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
from itertools import combinations, product

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from scipy import stats
from torch import Tensor, nn

from recbole_sda.adapters.config import language_model_targets
from recbole_sda.alignment.encoding import ItemEncoder, micro_batches
from recbole_sda.alignment.similarity import AlignmentLoss
from recbole_sda.catalog import Catalog
from recbole_sda.encoders import Backbone
from recbole_sda.errors import SDAError
from recbole_sda.progress import progress_bar

EACH = "each"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
CONFIDENCE = 0.95

Embed = Callable[[str, Sequence[int]], Tensor]  # modality, rows → (B, H)
Gradients = Mapping[str, Tensor]  # projection → (out, r)


def measure_conflict(
    backbone: Backbone,
    catalog: Catalog,
    loss: AlignmentLoss,
    *,
    rows: np.ndarray,
    batches: int,
    batch_size: int,
    micro_batch: int,
    num_experts: int,
    seed: int,
    mixed_precision: str = "none",
    modalities: Sequence[str] = ("image", "text"),
    show_progress: bool = True,
) -> list[dict]:
    """Gradient cosines over drawn batches, in evaluation mode: dropout would add a conflict of its own.

    Args:
        backbone: inside a LoRA or MoDA adapter. Afterwards only the B's that were looked at require gradients.
        rows: the items to draw from, all with every modality.
        batches: how many are drawn; each holds ``batch_size`` different items, ``micro_batch`` of which go
            through the backbone at once.
        mixed_precision: see :class:`AlignmentSettings`.
        num_experts: the columns of B fall into so many blocks; one expert's each in MoDA, mere columns in LoRA.

    Returns:
        :func:`summarize`'s records.

    Raises:
        SDAError: nothing to look at, all batches the same, or gradients that are not finite.
    """
    check_draws(rows, batch_size)
    parameters = last_layer_B(backbone)
    _train_only(parameters, backbone)
    backbone.eval()
    loss = loss.to(backbone.device)
    embed = ItemEncoder(backbone, catalog, mixed_precision)
    found = []
    with progress_bar(batches, "conflict", "batch", show=show_progress) as bar:
        for drawn in _draw_batches(rows, batches, batch_size, seed):
            parts = micro_batches(drawn, micro_batch)
            compare = loss
            if loss.needs_base:
                compare = partial(loss, base=[embed.embed(m, parts, base=True) for m in modalities])
                _train_only(parameters, backbone)  # PEFT's `disable_adapter` wakes up the others
            gradients = modality_gradients(embed, compare, parts, parameters, modalities=modalities)
            found.append(batch_cosines(gradients, num_experts))
            bar.update()
    return summarize(found)


def check_draws(rows: np.ndarray, batch_size: int) -> None:
    """Whether there are different batches to draw."""
    if batch_size >= len(rows):
        raise SDAError(
            f"align_batch_size={batch_size} takes all {len(rows)} training items, so that every batch would be "
            "the same; use a smaller one"
        )


def last_layer_B(backbone: Backbone) -> dict[str, nn.Parameter]:  # noqa: N802  the paper's B
    """projection → B (out, r) of the active adapter, for those of q, k, v, o in the last layer that have one."""
    model = backbone.model.get_base_model()
    last = model.config.get_text_config().num_hidden_layers - 1
    pattern = language_model_targets(last)
    layers = {
        name.rpartition(".")[2]: module
        for name, module in model.named_modules()
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
    parts: Sequence[Sequence[int]],
    parameters: Mapping[str, Tensor],
    *,
    modalities: Sequence[str],
) -> dict[str, Gradients]:
    """modality → the loss's gradients through that modality's pass alone.

    Its gradients by the embeddings come first, then each modality's embeddings are computed again, a part at a
    time, and pulled at by theirs: the same as detaching all other embeddings, in the memory of one part.

    Args:
        loss: a scalar from one (B, H) tensor a modality.
        parts: the batch's rows, in micro-batches.
        parameters: projection → B.
    """
    embeddings = [rows.requires_grad_() for rows in _embeddings(embed, parts, modalities)]
    pulls = torch.autograd.grad(loss(*embeddings), embeddings)
    gradients = {}
    for modality, pull in zip(modalities, pulls, strict=True):
        by_part = [
            torch.autograd.grad(embed(modality, part), list(parameters.values()), part_pull)
            for part, part_pull in zip(parts, pull.split([len(part) for part in parts]), strict=True)
        ]
        gradients[modality] = {
            name: sum(of_parts) for name, of_parts in zip(parameters, zip(*by_part, strict=True), strict=True)
        }
        _check_finite(modality, gradients[modality])
    return gradients


def batch_cosines(gradients: Mapping[str, Gradients], num_experts: int) -> dict[tuple, float]:
    """(modality, modality, expert or None, projection or None) → cosine; None is all of them together."""
    return {
        (*pair, *part): cosine
        for pair in combinations(gradients, 2)
        for part, cosine in gradient_cosines(*(gradients[modality] for modality in pair), num_experts).items()
    }


def gradient_cosines(first: Gradients, second: Gradients, num_experts: int) -> dict[tuple, float]:
    """(expert or None, projection or None) → cosine of the flattened gradients; nan where one is 0.

    Expert i owns columns i·r/N_e to (i+1)·r/N_e of every B. Its gate multiplies its gradient by a positive
    number, another one at each projection: the cosine of one expert at one projection does not depend on the
    gates; over several projections they are its weights. (EACH, EACH) is the mean over every expert at every
    projection.
    """
    dot, first_square, second_square = (
        _inner_products(a, b, num_experts) for a, b in ((first, second), (first, first), (second, second))
    )
    experts = {None: slice(None), **{i: i for i in range(num_experts)}}
    projections = {None: slice(None), **{name: i for i, name in enumerate(first)}}
    cosines = {}
    for (expert, column), (projection, row) in product(experts.items(), projections.items()):
        norms = first_square[row, column].sum().sqrt() * second_square[row, column].sum().sqrt()
        cosines[expert, projection] = float(dot[row, column].sum() / norms)
    cosines[EACH, EACH] = float(np.mean([cosines[part] for part in product(range(num_experts), first)]))
    return cosines


def summarize(found: Sequence[Mapping[tuple, float]]) -> list[dict]:
    """One record for each pair of modalities, expert and projection, over the batches.

    Returns:
        ``pair``, ``expert`` and ``projection`` (None: all together; EACH), ``mean``, ``low``, ``high`` of
        :func:`mean_interval`, and ``cosines``, a batch each; None where a gradient was 0.
    """
    records = []
    for first, second, expert, projection in found[0]:
        cosines = [batch[first, second, expert, projection] for batch in found]
        mean, low, high = mean_interval(cosines)
        records.append(
            {
                "pair": [first, second],
                "expert": expert,
                "projection": projection,
                "mean": _number(mean),
                "low": _number(low),
                "high": _number(high),
                "cosines": [_number(cosine) for cosine in cosines],
            }
        )
    return records


def mean_interval(cosines: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval, mean ± t·s/√n with n − 1 degrees of freedom, cut off at −1 and 1.

    Batches without a cosine do not count; with fewer than two left the interval is nan.
    """
    values = np.asarray(cosines, dtype=float)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return (np.nan,) * 3
    mean = float(values.mean())
    if len(values) == 1:
        return mean, np.nan, np.nan
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values))
    return mean, max(mean - half, -1.0), min(mean + half, 1.0)


@torch.no_grad()
def _embeddings(embed: Embed, parts: Sequence[Sequence[int]], modalities: Sequence[str]) -> list[Tensor]:
    """One (B, H) a modality."""
    return [torch.cat([embed(modality, part) for part in parts]) for modality in modalities]


def _train_only(parameters: Mapping[str, Tensor], backbone: Backbone) -> None:
    backbone.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)


def _draw_batches(rows: np.ndarray, batches: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Independent of each other, which the interval takes for granted."""
    generator = np.random.default_rng([seed, 2])
    for _ in range(batches):
        yield generator.choice(rows, batch_size, replace=False)


def _active_B(layer: BaseTunerLayer) -> nn.Parameter:  # noqa: N802
    (adapter,) = layer.active_adapters
    return layer.moda_B[adapter] if hasattr(layer, "moda_B") else layer.lora_B[adapter].weight


def _inner_products(first: Gradients, second: Gradients, num_experts: int) -> Tensor:
    """(projections, experts) float64."""
    products = [first[name].double() * second[name].double() for name in first]  # (out, r) each
    return torch.stack([p.unflatten(1, (num_experts, -1)).sum(dim=(0, 2)) for p in products])


def _check_finite(modality: str, gradients: Gradients) -> None:
    for name, gradient in gradients.items():
        if not torch.isfinite(gradient).all():
            raise SDAError(
                f"the {modality} pass gives {name} of the last decoder layer a gradient that is not finite; "
                "use backbone_dtype=float32, or lower align_learning_rate"
            )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
