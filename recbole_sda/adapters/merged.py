"""Inference without the adapter's cost: its update inside the weights while one modality passes."""

from collections.abc import Iterator
from contextlib import contextmanager

from peft import PeftModel
from torch import nn

from recbole_sda.adapters.model import MoDAModel
from recbole_sda.adapters.routing import routing


@contextmanager
def merged(model: nn.Module, modality: str) -> Iterator[None]:
    """Within it, the weights of `model` are those that serve `modality`.

    MoDA's come out again bit for bit. LoRA's are the same for every modality and stay in: PEFT takes them out by
    subtraction, and merging them again would round differently. A quantised base, which would lose the update,
    and a model without an adapter are left as they are.
    """
    if not isinstance(model, PeftModel) or getattr(model.get_base_model(), "is_quantized", False):
        yield
        return
    tuner = model.base_model
    if isinstance(tuner, MoDAModel):
        with routing(modality):
            tuner.merge_adapter()
        try:
            yield
        finally:
            tuner.unmerge_adapter()
    else:
        if not any(getattr(module, "merged", False) for module in tuner.modules()):
            tuner.merge_adapter()
        yield
