"""What serving a merged MoDA costs: its forward pass beside the base model's, which it should equal.

    python benchmarks/merged_inference.py [--pairs=20] [--threads=2] [--shapes=tiny,50m]

Random tokens through the language model without gradients, mean over the tokens. The unmerged adapter stands
beside them.
"""

import copy

import torch
from harness import (
    MODALITY,
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
)
from torch import nn

BATCHES = {"tiny": (32, 64), "50m": (4, 64)}  # items, tokens an item


def merged(base: nn.Module) -> nn.Module:
    return adapt_moda(copy.deepcopy(base)).merge_and_unload(modality=MODALITY)


def compare(shape: str, pairs: int) -> dict[str, object]:
    """One row of the table."""
    base, (batch, tokens) = build(shape), BATCHES[shape]
    inputs = random_inputs(base, batch, tokens)
    models = {"base": base, "merged": merged(base), "unmerged": adapt_moda(base).eval()}
    with torch.inference_mode():
        results = [embed(models[name], inputs) for name in ("merged", "unmerged")]
        torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)
        seconds = time_in_turns({n: lambda m=m: embed(m, inputs) for n, m in models.items()}, pairs=pairs)
    return {
        "model": shape,
        "batch × tokens": f"{batch} × {tokens}",
        **{f"{name} ms": milliseconds(seconds[name]) for name in models},
        "merged ÷ base": ratio(seconds, "merged", "base"),
        "unmerged ÷ base": ratio(seconds, "unmerged", "base"),
    }


def main() -> None:
    args = options(__doc__, pairs=20, shapes="tiny,50m").parse_args()
    start(args.threads)
    print_table([compare(shape, args.pairs) for shape in args.shapes.split(",")])


if __name__ == "__main__":
    main()
