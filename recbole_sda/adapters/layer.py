"""A frozen linear layer with one MoDA update an adapter.

    gᵐ = softmax(W_g·Emb_m)                                       gates of modality m, (N_e,)
    y  = W₀h + (α/r)·Σ_i gᵐ_i·B_i A_i·dropout(h)                  MoDA (arXiv 2512.06883)
       = W₀h + (α/r)·B·(gᵐ_rep ⊙ (A·dropout(h)))                  what runs here

The experts' A_i stacked are A (r, in), their B_i side by side are B (out, r), and gᵐ_rep repeats each
gate r/N_e times: one low-rank pair, whatever the number of experts.
"""

from __future__ import annotations

import math

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn
from torch.nn import functional as F

from recbole_sda.adapters.config import MoDAConfig
from recbole_sda.adapters.routing import active_route, modality_index, required_route

ANOTHER_BASE = (
    "the adapter was trained on another base model or with other settings; load it onto the model that "
    "base_model_name_or_path in its adapter_config.json names"
)


class MoDALayer(BaseTunerLayer):
    """The parameters of the adapters on one layer; each attribute is a table by adapter name."""

    adapter_layer_names = ("moda_A", "moda_B", "moda_gate", "moda_modality_embedding")
    other_param_names = ("r", "scaling", "modalities", "moda_dropout")

    def __init__(self, base_layer: nn.Module) -> None:
        self.base_layer = base_layer
        linear = self.get_base_layer()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.r: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.modalities: dict[str, tuple[str, ...]] = {}
        self.moda_dropout = nn.ModuleDict()
        self.moda_A = nn.ParameterDict()  # (r, in)
        self.moda_B = nn.ParameterDict()  # (out, r)
        self.moda_gate = nn.ModuleDict()  # W_g (N_e, d)
        self.moda_modality_embedding = nn.ModuleDict()  # Emb (M, d)
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.merged_modality: str | None = None
        self._unmerged_weight: torch.Tensor | None = None

    def update_layer(self, adapter_name: str, *, config: MoDAConfig, r: int, lora_alpha: float) -> None:
        """Add an adapter."""
        self.r[adapter_name] = r
        self.scaling[adapter_name] = lora_alpha / (math.sqrt(r) if config.use_rslora else r)
        if config.gate_scale == "num_experts":
            self.scaling[adapter_name] *= config.num_experts
        self.modalities[adapter_name] = config.modalities
        dropout = nn.Dropout(config.lora_dropout) if config.lora_dropout else nn.Identity()
        # an adapter that comes to a model in eval mode must not start to drop
        self.moda_dropout[adapter_name] = dropout.train(self.get_base_layer().training)
        self.moda_A[adapter_name] = nn.Parameter(torch.empty(r, self.in_features))
        self.moda_B[adapter_name] = nn.Parameter(torch.empty(self.out_features, r))
        self.moda_gate[adapter_name] = nn.Linear(config.modality_embedding_dim, config.num_experts, bias=False)
        self.moda_modality_embedding[adapter_name] = nn.Embedding(
            len(config.modalities), config.modality_embedding_dim
        )
        self.reset_parameters(adapter_name, init_weights=config.init_weights)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def reset_parameters(self, adapter_name: str, *, init_weights: bool | str = True) -> None:
        """Draw A by `init_weights`, Emb ~ N(0, 1), W_g as nn.Linear does; B = 0, random where it is False."""
        A, B = self.moda_A[adapter_name], self.moda_B[adapter_name]
        if init_weights == "kaiming":
            nn.init.kaiming_uniform_(A, a=math.sqrt(5))
        elif init_weights == "orthogonal":
            nn.init.orthogonal_(A)
        else:
            nn.init.normal_(A, std=0.01)
        if init_weights:
            nn.init.zeros_(B)
        else:
            nn.init.normal_(B, std=self.r[adapter_name] ** -0.5)
        self.moda_gate[adapter_name].reset_parameters()
        self.moda_modality_embedding[adapter_name].reset_parameters()

    def gates(self, adapter_name: str) -> torch.Tensor:
        """softmax(W_g·Emb_m) of every modality m, (M, N_e)."""
        embedding = self.moda_modality_embedding[adapter_name].weight  # (M, d)
        return self.moda_gate[adapter_name](embedding).softmax(dim=-1)

    def rank_scales(self, adapter_name: str) -> torch.Tensor:
        """(α/r)·gᵐ_rep of every modality m, (M, r): the factor of each row of A·h."""
        gates = self.gates(adapter_name)
        return self.scaling[adapter_name] * gates.repeat_interleave(
            self.r[adapter_name] // gates.shape[-1], dim=-1
        )

    def get_delta_weight(self, adapter_name: str, *, modality: str) -> torch.Tensor:
        """(α/r)·Σ_i gᵐ_i·B_i A_i in float32, (out, in)."""
        scales = self.rank_scales(adapter_name)[modality_index(modality, self.modalities[adapter_name])]
        return (self.moda_B[adapter_name].float() * scales.float()) @ self.moda_A[adapter_name].float()


class MoDALinear(nn.Module, MoDALayer):
    """`nn.Linear` with MoDA adapters.

    Args:
        base_layer: the frozen layer.
        adapter_name: name of the first adapter.
        config, r, lora_alpha: its settings; rank and alpha may differ from layer to layer.
    """

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, *, config: MoDAConfig, r: int, lora_alpha: float
    ) -> None:
        super().__init__()
        MoDALayer.__init__(self, base_layer)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config=config, r=r, lora_alpha=lora_alpha)
        self.register_load_state_dict_pre_hook(_check_shapes)

    def forward(self, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """(B, T, in) -> (B, T, out) under the active `routing`, in the dtype of the base layer's result."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.merged:
            self._check_route_fits_merged()
        result = self.base_layer(hidden_states, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        dtype = result.dtype
        for adapter_name in self.active_adapters:
            if adapter_name in self.moda_A:
                result = result + self._update(adapter_name, hidden_states)
        return result.to(dtype)

    def merge(
        self,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
        *,
        modality: str | None = None,
    ) -> None:
        """Add the update of one modality to the base weight.

        The weight as it was is kept on the CPU until `unmerge`: subtracting the update again would not
        give it back in bfloat16.

        Args:
            safe_merge: refuse a result that is not finite.
            adapter_names: None is all active adapters.
            modality: None takes the name out of an enclosing `routing`, or the only modality there is.
        """
        adapter_names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.moda_A]
        # before the early return: a second merge for another modality must not pass as done
        modality = self._modality_to_merge(adapter_names or self.merged_adapters, modality)
        if not adapter_names:
            return
        weight = self.get_base_layer().weight
        if not weight.is_floating_point() or weight.shape != (self.out_features, self.in_features):
            raise TypeError(
                f"cannot merge MoDA into a quantised weight ({type(weight).__name__} of dtype {weight.dtype}): "
                "rounding it again would lose the update; load the base model in bfloat16, the adapter onto it, "
                "and merge there"
            )
        with torch.no_grad():
            merged = weight.float()
            for name in adapter_names:
                merged = merged + self.get_delta_weight(name, modality=modality).to(weight.device)
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(  # PEFT's words, for those who look for them
                    "NaNs detected in the merged weights. "
                    f"The adapter {', '.join(adapter_names)} seems to be broken"
                )
            if self._unmerged_weight is None:
                self._unmerged_weight = weight.detach().to("cpu", copy=True)
            weight.copy_(merged)
        self.merged_adapters.extend(adapter_names)
        self.merged_modality = modality

    def unmerge(self) -> None:
        """Put the base weight back as it was, bit for bit."""
        if not self.merged:
            return
        with torch.no_grad():
            self.get_base_layer().weight.copy_(self._unmerged_weight)
        self.merged_adapters.clear()
        self.merged_modality = self._unmerged_weight = None

    def __repr__(self) -> str:
        return "moda." + super().__repr__()

    def _update(self, adapter_name: str, hidden_states: torch.Tensor) -> torch.Tensor:
        A, B = self.moda_A[adapter_name], self.moda_B[adapter_name]
        index = required_route().index(self.modalities[adapter_name], hidden_states)
        scales = self.rank_scales(adapter_name)[index]  # (r,), (B, 1, r) or (B, T, r)
        hidden_states = self._cast_input_dtype(hidden_states, A.dtype)
        low_rank = F.linear(self.moda_dropout[adapter_name](hidden_states), A)  # (B, T, r)
        return F.linear(low_rank * scales.to(low_rank.dtype), B)  # (B, T, out)

    def _modality_to_merge(self, adapter_names: list[str], modality: str | None) -> str | None:
        route = active_route()
        if modality is None and route is not None:
            modality = route.name
        for name in adapter_names:
            modalities = self.modalities[name]
            if modality is None and len(modalities) > 1:
                raise ValueError(
                    "merging MoDA needs a modality, because the gates and so the merged weights differ from "
                    f'modality to modality; give e.g. merge_and_unload(modality="{modalities[0]}") '
                    f"out of {modalities}"
                )
            modality = modality or modalities[0]
            modality_index(modality, modalities)
        if self.merged and modality != self.merged_modality:
            raise ValueError(
                f"already merged for {self.merged_modality!r}, cannot also merge for {modality!r}; "
                "call unmerge_adapter() first"
            )
        return modality

    def _check_route_fits_merged(self) -> None:
        route = active_route()
        if route is not None and route.name != self.merged_modality:
            asked = repr(route.name) if route.name else "ids"
            raise RuntimeError(
                f"the adapter is merged for {self.merged_modality!r} but routing asks for {asked}; "
                "call unmerge_adapter() first"
            )


def _check_shapes(layer: MoDALinear, state_dict: dict[str, torch.Tensor], prefix: str, *_) -> None:
    """An adapter of another base model is one short error, instead of torch's list of all its tensors."""
    for name, parameter in layer.named_parameters():
        loaded = state_dict.get(prefix + name)
        if name.startswith("moda_") and loaded is not None and loaded.shape != parameter.shape:
            raise RuntimeError(
                f"{prefix.removeprefix('base_model.model.')}{name} has shape {tuple(loaded.shape)} in the adapter "
                f"and {tuple(parameter.shape)} in this model: {ANOTHER_BASE}"
            )
