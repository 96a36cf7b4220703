"""What a training step with MoDA costs, beside PEFT's LoRA of the same total rank and a loop over experts.

    python benchmarks/moda_vs_lora.py [--pairs=10] [--threads=2] [--shapes=tiny,50m]

A step is: random tokens through the language model, mean over the tokens, a scalar loss, backward, AdamW.
All three adapt the same layers of the same weights with r=8, alpha 32, dropout 0.1. The loop is MoDA as the
formula is written, one small low-rank pair an expert. Activations are what the forward pass keeps for backward.
"""

from collections.abc import Mapping

import torch
from harness import (
    MODALITY,
    adapt_lora,
    adapt_moda,
    build,
    embed,
    milliseconds,
    options,
    print_table,
    random_inputs,
    ratio,
    start,
    time_in_turns,
    trainable,
    training_step,
)
from torch import nn
from torch.nn import functional as F

from recbole_sda.adapters import MoDALinear

# items, tokens an item; 4 × 16 is next to no arithmetic: what is left is the fixed cost of more, smaller kernels
BATCHES = {"tiny": [(32, 64), (4, 16)], "50m": [(4, 64)]}


class LoopOverExperts(nn.Module):
    """Σ_i gᵐ_i·B_i A_i·dropout(h), one expert after the other."""

    def __init__(self, moda: MoDALinear) -> None:
        super().__init__()
        self.base_layer, self.dropout = moda.base_layer, moda.moda_dropout["default"]
        self.gate, self.embedding = moda.moda_gate["default"], moda.moda_modality_embedding["default"]
        self.scaling = moda.scaling["default"]
        self.register_buffer("modality", torch.tensor(moda.modalities["default"].index(MODALITY)))
        experts = self.gate.out_features
        self.A = nn.ParameterList(A.detach().clone() for A in moda.moda_A["default"].chunk(experts))
        self.B = nn.ParameterList(B.detach().clone() for B in moda.moda_B["default"].chunk(experts, dim=1))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        result = self.base_layer(hidden_states)
        dropped = self.dropout(hidden_states)
        gates = self.gate(self.embedding(self.modality)).softmax(dim=-1)  # (N_e,)
        for gate, A, B in zip(gates, self.A, self.B, strict=True):
            result = result + self.scaling * gate * F.linear(F.linear(dropped, A), B)
        return result


def adapt_loop(base: nn.Module) -> nn.Module:
    model = adapt_moda(base)
    for name in model.base_model.adapted_modules():
        model.base_model.model.set_submodule(name, LoopOverExperts(model.base_model.model.get_submodule(name)))
    return model


def kept_activations(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> float:
    """MiB that a forward pass keeps for backward, the parameters left out."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = embed(model, inputs)  # alive until all is counted, so that no address is used twice
    del result
    return sum(kept.values()) / 2**20


def compare(shape: str, batch: int, tokens: int, pairs: int) -> dict[str, object]:
    """One row of the table."""
    base = build(shape)
    inputs = random_inputs(base, batch, tokens)
    models = {"LoRA": adapt_lora(base), "MoDA": adapt_moda(base), "loop": adapt_loop(base)}
    results = [embed(models[name].eval(), inputs) for name in ("loop", "MoDA")]
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)
    seconds = time_in_turns({name: training_step(model, inputs) for name, model in models.items()}, pairs=pairs)
    return {
        "model": shape,
        "parameters": f"{base.num_parameters():,}",
        "batch × tokens": f"{batch} × {tokens}",
        **{f"{name} ms": milliseconds(seconds[name]) for name in models},
        "MoDA ÷ LoRA": ratio(seconds, "MoDA", "LoRA"),
        "loop ÷ LoRA": ratio(seconds, "loop", "LoRA"),
        **{f"{name} trains": f"{trainable(model):,}" for name, model in models.items()},
        "activations MiB": " / ".join(f"{kept_activations(model, inputs):.1f}" for model in models.values()),
    }


def main() -> None:
    args = options(__doc__, pairs=10, shapes="tiny,50m").parse_args()
    start(args.threads)
    print_table([compare(shape, *size, args.pairs) for shape in args.shapes.split(",") for size in BATCHES[shape]])


if __name__ == "__main__":
    main()
