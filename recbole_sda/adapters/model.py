"""Puts MoDA on the linear layers of a model, the way PEFT's own methods do."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from difflib import SequenceMatcher

import peft.mapping
import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import get_pattern_key
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from recbole_sda.adapters.config import PEFT_TYPE, MoDAConfig
from recbole_sda.adapters.layer import ANOTHER_BASE, MoDALayer, MoDALinear
from recbole_sda.adapters.names import folded_numbers
from recbole_sda.adapters.routing import routing

NAMES_IN_AN_ERROR = 10


class MoDAModel(BaseTuner):
    """A model with MoDA adapters; made by `peft.get_peft_model(model, MoDAConfig(...))`."""

    prefix = "moda_"
    tuner_layer_cls = MoDALayer
    target_module_mapping = {}  # noqa: RUF012  PEFT reads it; the config resolves its targets itself

    def adapted_modules(self) -> list[str]:
        """Names of the adapted layers, in the order of the model."""
        return [name for name, module in self.model.named_modules() if isinstance(module, MoDALayer)]

    @torch.no_grad()
    def gate_weights(self) -> dict[str, dict[str, list[float]]]:
        """Adapted layer → modality → the share of each expert, of the first active adapter."""
        adapter_name = self.active_adapters[0]
        shares = {}
        for name in self.adapted_modules():
            layer = self.model.get_submodule(name)
            if adapter_name in layer.moda_gate:
                table = layer.gates(adapter_name).tolist()
                shares[name] = dict(zip(layer.modalities[adapter_name], table, strict=True))
        return shares

    def merge_adapter(
        self,
        adapter_names: list[str] | None = None,
        safe_merge: bool = False,
        *,
        modality: str | None = None,
    ) -> None:
        """PEFT's `merge_adapter` for one modality; `unmerge_adapter` takes it back exactly."""
        with _routing_if_given(modality):
            super().merge_adapter(adapter_names=adapter_names, safe_merge=safe_merge)

    def merge_and_unload(
        self,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
        *,
        modality: str | None = None,
    ) -> nn.Module:
        """The plain model whose weights serve one modality at no extra cost, and are wrong for the others."""
        with _routing_if_given(modality):
            return super().merge_and_unload(
                progressbar=progressbar, safe_merge=safe_merge, adapter_names=adapter_names
            )

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args, **kwargs) -> None:
        """PEFT's `inject_adapter`, whose error for targets that match nothing says what there is."""
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except ValueError as error:
            config = self.peft_config[adapter_name]
            if any(self._check_target_module_exists(config, name) for name, _ in model.named_modules()):
                raise  # something matched: another error
            raise type(error)(_no_match_message(model, config)) from error

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: MoDAConfig, adapter_name: str, state_dict: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        state_dict = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        # PEFT would drop them without a word
        strangers = [name for name in state_dict.keys() - model.state_dict().keys() if f".{cls.prefix}" in name]
        if strangers:
            raise RuntimeError(
                f"the adapter has weights for layers that are not adapted in this model, e.g. {min(strangers)}: "
                f"{ANOTHER_BASE}"
            )
        return state_dict

    def _create_and_replace(
        self,
        peft_config: MoDAConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_,
    ) -> None:
        rank_key = get_pattern_key(peft_config.rank_pattern, current_key)
        alpha_key = get_pattern_key(peft_config.alpha_pattern, current_key)
        settings = {
            "config": peft_config,
            "r": peft_config.rank_pattern.get(rank_key, peft_config.r),
            "lora_alpha": peft_config.alpha_pattern.get(alpha_key, peft_config.lora_alpha),
        }
        if isinstance(target, MoDALayer):
            target.update_layer(adapter_name, **settings)
            return
        _check_linear(target, current_key)
        new_module = MoDALinear(target, adapter_name, **settings)
        if adapter_name not in self.active_adapters:
            new_module.requires_grad_(False)  # a further adapter does not train until it is set active
        self._replace_module(parent, target_name, new_module, target)


def register() -> None:
    """Make MODA known to PEFT, for `get_peft_model`, `save_pretrained` and `PeftModel.from_pretrained`.

    `peft.utils.register_peft_method` refuses names from outside PEFT. `PeftType` is a `str` enum,
    so a plain string is as good a key of the tables behind it. Calling it again changes nothing.
    """
    entries = (
        (peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING, MoDAConfig),
        (peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING, MoDAModel),
        (peft.mapping.PEFT_TYPE_TO_PREFIX_MAPPING, MoDAModel.prefix),
    )
    for table, entry in entries:
        if table.setdefault(PEFT_TYPE, entry) != entry:
            raise RuntimeError(
                f"peft_type {PEFT_TYPE!r} already belongs to {table[PEFT_TYPE]!r}; "
                "import only one package that registers it"
            )


def _routing_if_given(modality: str | None) -> AbstractContextManager:
    return nullcontext() if modality is None else routing(modality)


def _check_linear(target: nn.Module, name: str) -> None:
    layer = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    if not isinstance(layer, nn.Linear):
        raise TypeError(
            f"target_modules matches {name!r}, a {type(layer).__name__}; MoDA adapts nn.Linear only: "
            "narrow target_modules or add the layer to exclude_modules"
        )
    if isinstance(layer, NonDynamicallyQuantizableLinear):
        # nn.MultiheadAttention reads this layer's weight and never calls it: the adapter would do nothing
        raise TypeError(
            f"target_modules matches {name!r}, which nn.MultiheadAttention uses without calling it; "
            "add it to exclude_modules"
        )


def _no_match_message(model: nn.Module, config: MoDAConfig) -> str:
    narrowing = "".join(
        f" {preposition} {key}={getattr(config, key)!r}"
        for preposition, key in (("besides", "exclude_modules"), ("in", "layers_to_transform"))
        if getattr(config, key) is not None
    )
    closest = ", ".join(_closest_linear_names(model, config.target_modules))
    return (
        f"target_modules={config.target_modules!r} matches no layer to adapt{narrowing}. "
        f"The closest linear layers of this model: {closest or 'none at all'}"
    )


def _closest_linear_names(model: nn.Module, targets: str | set[str]) -> list[str]:
    """Names of linear layers, numbers as `*`, the most similar to the targets first."""
    wanted = [targets] if isinstance(targets, str) else sorted(targets)
    names = {folded_numbers(name) for name, module in model.named_modules() if isinstance(module, nn.Linear)}

    def similarity(name: str) -> float:
        return max((SequenceMatcher(None, target, name).ratio() for target in wanted), default=0.0)

    return sorted(names, key=lambda name: (-similarity(name), name))[:NAMES_IN_AN_ERROR]
