"""From a sequence's hidden states to one vector."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recbole_sda.encoders.families import Family
from recbole_sda.errors import SDAError

KINDS = ("auto", "mean", "last_token", "model")


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """Which hidden states make an embedding, and how.

    Args:
        kind: ``mean`` over the tokens; ``last_token``; ``model``: a dual encoder's own pooled embedding;
            ``auto``: the model's own where it has one, else the mean.
        layer: which hidden layer is pooled; 0 the embeddings, -1 the last. None is the last.
        last_layers: the mean over so many last layers is pooled.
        dimension: only the first so many coordinates are kept (Matryoshka). None keeps all.
    """

    kind: str
    layer: int | None
    last_layers: int
    dimension: int | None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise SDAError(f"pooling={self.kind!r} is unknown; choose {', '.join(KINDS[:-1])} or {KINDS[-1]}")
        for key, value, least in (
            ("pooling_layer", self.layer, None),
            ("pooling_last_layers", self.last_layers, 1),
            ("embedding_dimension", self.dimension, 1),
        ):
            _check_whole(key, value, least, optional=key != "pooling_last_layers")
        if self.layer is not None and self.last_layers != 1:
            raise SDAError(
                f"pooling_layer={self.layer} and pooling_last_layers={self.last_layers} contradict each other; "
                "give one of them"
            )

    @property
    def chooses_layers(self) -> bool:
        return self.layer is not None or self.last_layers != 1

    def resolve(self, family: Family) -> "Pooling":
        """The same for a certain model, without ``auto``.

        Raises:
            SDAError: it has no such layer, fewer coordinates, or no pooling of its own.
        """
        layers, width = family.layers, family.width
        kind = ("mean" if family.shared else "model") if self.kind == "auto" else self.kind
        if kind == "model":
            self._check_own(family)
        if self.layer is not None and not -layers - 1 <= self.layer <= layers:
            raise SDAError(
                f"pooling_layer={self.layer}: the model has {layers} layers; give 0 (the embeddings) to {layers}, "
                f"or -{layers + 1} to -1"
            )
        if self.last_layers > layers:
            raise SDAError(
                f"pooling_last_layers={self.last_layers}: the model has {layers} layers; give 1 to {layers}"
            )
        if self.dimension is not None and self.dimension > width:
            raise SDAError(
                f"embedding_dimension={self.dimension}: the model's embeddings have {width} coordinates; "
                "give fewer, or leave it out to keep all"
            )
        return replace(self, kind=kind)

    def chosen(self, hidden_states: Sequence[Tensor]) -> Sequence[Tensor]:
        """The layers to take the mean of. Args: hidden_states: (B, T, H) each, the embeddings first."""
        return [hidden_states[self.layer]] if self.layer is not None else hidden_states[-self.last_layers :]

    def pool(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """Args: (B, T, H) and (B, T). Returns: (B, H) float32."""
        return POOLS[self.kind](hidden_states, attention_mask)

    def _check_own(self, family: Family) -> None:
        if family.shared:
            raise SDAError(
                "pooling=model: only dual encoders such as CLIP have a pooled embedding of their own; "
                "choose mean or last_token"
            )
        if self.chooses_layers:
            key = "pooling_layer" if self.layer is not None else "pooling_last_layers"
            value = self.layer if self.layer is not None else self.last_layers
            raise SDAError(
                f"{key}={value} does nothing with the model's own pooling, which knows the last layer only; "
                "leave it out, or choose pooling=mean or pooling=last_token"
            )


def mean_of_layers(layers: Sequence[Tensor]) -> Tensor:
    """(B, T, H) each, on one device or several → (B, T, H) float32 on the last one's."""
    return torch.stack([states.float().to(layers[-1].device) for states in layers]).mean(dim=0)


def pool_mean(hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over all tokens that are not padding.

    Args:
        hidden_states: (B, T, H).
        attention_mask: (B, T), 1 for a token and 0 for padding.

    Returns:
        (B, H) float32.
    """
    mask = attention_mask.unsqueeze(-1).float()  # (B, T, 1)
    return (hidden_states.float() * mask).sum(dim=1) / mask.sum(dim=1)


def pool_last_token(hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
    """The last token that is not padding, on whichever side the padding is. Arguments as `pool_mean`'s."""
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = (positions * attention_mask.bool()).argmax(dim=1)  # (B,)
    return hidden_states[torch.arange(len(last), device=last.device), last].float()


POOLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": pool_mean, "last_token": pool_last_token}


def _check_whole(key: str, value: object, least: int | None, *, optional: bool) -> None:
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        wanted = "a whole number" if least is None else f"a whole number of {least} or more"
        raise SDAError(f"{key}={value!r} is not {wanted}{'; leave it out' if optional else ''}")
