"""Which modality a forward pass serves: a context that the adapted layers read.

A context and not a forward hook, because gradient checkpointing runs the forward pass a second time
during backward. Hooks are gone by then, and with an image pass and a text pass before one backward
they would answer with the wrong modality. `checkpoint_routing` hands the modality of the first run to
the second one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import local

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts


def routing(modality: str | torch.Tensor) -> AbstractContextManager:
    """Choose the modality of every MoDA layer that runs inside the `with` block.

    Args:
        modality: a name out of `MoDAConfig.modalities`, or an integer tensor of positions in it:
            (B,) one a sequence, (B, T) one a token (padding takes any valid id). Blocks nest.
    """
    return _Entered(Route(modality))


def checkpoint_routing() -> tuple[AbstractContextManager, AbstractContextManager]:
    """The `context_fn` of `torch.utils.checkpoint` that recomputes under the modality of the first run.

    model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": checkpoint_routing})
    """
    if torch.compiler.is_compiling():
        # the compiled recomputation holds its modality, and torch takes no other kind of context here
        return create_selective_checkpoint_contexts(_recompute_everything)
    return nullcontext(), _Entered(active_route())


class Route:
    """The modality of a pass, checked once, so that the layers need no look at the tensor's values."""

    def __init__(self, modality: str | torch.Tensor) -> None:
        self.modality = modality
        self.highest_id = _highest_id(modality) if isinstance(modality, torch.Tensor) else None
        if not isinstance(modality, (str, torch.Tensor)):
            raise TypeError(
                f"routing({modality!r}): give the modality's name, or an integer tensor of ids (B,) or (B, T)"
            )

    @property
    def name(self) -> str | None:
        """The modality's name, None where ids route."""
        return self.modality if isinstance(self.modality, str) else None

    def index(self, modalities: Sequence[str], hidden_states: torch.Tensor) -> int | torch.Tensor:
        """Position in `modalities`: one number, or ids that broadcast over the tokens of `hidden_states`.

        Args:
            modalities: the names that the adapter knows.
            hidden_states: (B, T, d), or (B·T, d) and (B, d) from layers that flatten.
        """
        if self.name is not None:
            return modality_index(self.name, modalities)
        if self.highest_id >= len(modalities):
            raise ValueError(
                f"routing: id {self.highest_id} is out of range; this adapter has {len(modalities)} "
                f"modalities: {_listed(modalities)}"
            )
        ids, leading = self.modality.to(hidden_states.device, torch.long), hidden_states.shape[:-1]
        if ids.shape == leading:
            return ids
        if ids.dim() == 1 and leading[:1] == ids.shape:
            return ids.view(-1, *[1] * (len(leading) - 1))  # (B,) -> (B, 1)
        if ids.dim() == 2 and leading == (ids.numel(),):
            return ids.flatten()  # (B, T) -> (B·T,)
        raise ValueError(
            f"routing: ids of shape {tuple(ids.shape)} do not fit hidden states of shape "
            f"{tuple(hidden_states.shape)}; give one id a sequence, ({leading[0]},), "
            f"or one a token, {tuple(leading)}"
        )


def active_route() -> Route | None:
    """The route of the innermost `routing` block, None outside of all."""
    return _active.route


def required_route() -> Route:
    """The active route, or an error with the remedy.

    A route that was opened outside the running backward pass is refused: checkpointing without
    `checkpoint_routing` would recompute an earlier pass under today's modality, and its gradients
    would be wrong without a word. Compiled code cannot ask for the backward pass; there a forgotten
    context is an error unless a route happens to be active during backward.
    """
    route, opened_in, now = _active.route, _active.opened_in, _backward_id()
    if None not in (opened_in, now) and opened_in != now:
        raise RuntimeError(
            "gradient checkpointing recomputes a MoDA layer without the modality of its forward pass; use "
            'gradient_checkpointing_kwargs={"use_reentrant": False, "context_fn": checkpoint_routing}'
        )
    if route is None:
        raise RuntimeError(
            "MoDA needs to know which modality this pass serves; "
            'wrap the call: `with routing("image"): model(...)` (recbole_sda.adapters.routing)'
        )
    return route


def modality_index(name: str, modalities: Sequence[str]) -> int:
    """Position of a name in `modalities`, or an error that lists them."""
    if name not in modalities:
        raise ValueError(f"unknown modality {name!r}; this adapter has {_listed(modalities)}")
    return modalities.index(name)


class _Active(local):
    """What the innermost block set, thread by thread. Not a ContextVar: torch.compile sees no change of one."""

    route: Route | None = None
    opened_in: int | None = -1  # the backward pass in which the block was opened


_active = _Active()


class _Entered:
    """Sets a route for the duration of a block; may be entered again, as a second backward does."""

    def __init__(self, route: Route | None) -> None:
        self.route = route
        self.outer = []

    def __enter__(self) -> None:
        self.outer.append((_active.route, _active.opened_in))
        _active.route, _active.opened_in = self.route, _backward_id()

    def __exit__(self, *exception) -> None:
        _active.route, _active.opened_in = self.outer.pop()


def _highest_id(ids: torch.Tensor) -> int:
    if ids.dtype == torch.bool or ids.is_floating_point() or ids.is_complex():
        raise TypeError(f"routing: ids have dtype {ids.dtype}; give integers, e.g. mask.long()")
    if ids.dim() not in (1, 2) or ids.numel() == 0:
        raise ValueError(f"routing: ids have shape {tuple(ids.shape)}; give (B,) or (B, T)")
    lowest, highest = (int(bound) for bound in ids.aminmax())
    if lowest < 0:
        raise ValueError(f"routing: id {lowest} is negative; give padding tokens any valid id")
    return highest


def _backward_id() -> int | None:
    """Number of the running backward pass, -1 outside of all, None (not known) in compiled code."""
    # what torch.utils.checkpoint itself asks to tell one backward pass from another; it cannot be traced
    return None if torch.compiler.is_compiling() else torch._C._current_graph_task_id()


def _recompute_everything(*_, **__) -> CheckpointPolicy:
    return CheckpointPolicy.PREFER_RECOMPUTE


def _listed(modalities: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in modalities)
