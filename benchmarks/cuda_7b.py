"""Training steps of MoDA and LoRA at Qwen2.5-VL-7B's shape on one CUDA device. Random weights, no download.

    python benchmarks/cuda_7b.py [--pairs=5] [--batch=32] [--tokens=128] [--peak-tflops=0]
    python benchmarks/cuda_7b.py --shape=tiny --device=cpu        # that the script itself runs

bfloat16, and 4-bit (nf4) where bitsandbytes is installed; gradient checkpointing. A step is: random tokens through
the language model, mean over the tokens, a scalar loss, backward, AdamW. Peak memory is that of one step, both
adapters on the device.

MFU, model FLOPs a second ÷ the device's peak, recomputation not counted. For each token:

    4·N          the N frozen weights of the decoder's linear layers: forward and the gradient of their input
  + 6·N_a        the N_a trainable weights: their own gradient too
  + 6·L·T·H      causal attention over T tokens in L layers of width H: forward 2, backward 4
"""

import importlib.util
import sys
from collections.abc import Callable
from statistics import median

import torch
from harness import (
    SHAPES,
    adapt_lora,
    adapt_moda,
    build,
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
from torch.autograd import DeviceType

from recbole_sda.adapters import checkpoint_routing

# dense bfloat16 TFLOP/s, not looked up for your card: `--peak-tflops` wins; the first name that fits
PEAK_TFLOPS = {"H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "A100": 312}
TOP_OPS = 10


def main() -> None:
    parser = options(__doc__, pairs=5, batch=32, tokens=128, device="cuda", peak_tflops=0.0)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    args = parser.parse_args()
    if args.device != "cpu" and not torch.cuda.is_available():
        print("needs a CUDA device")
        sys.exit(2)
    start(args.threads)
    peak = peak_tflops(args.device, args.peak_tflops)
    for weights in ("bfloat16", "4-bit") if importlib.util.find_spec("bitsandbytes") else ("bfloat16",):
        base = build(args.shape, dtype=torch.bfloat16, device=args.device)
        if weights == "4-bit":
            quantise(base.model.language_model.layers)
            base.is_loaded_in_4bit = True  # PEFT's LoRA asks
        print(f"\n{args.shape}, {weights}, {args.batch} × {args.tokens} tokens")
        compare(base, args.batch, args.tokens, pairs=args.pairs, peak=peak)


def compare(base: nn.Module, batch: int, tokens: int, *, pairs: int, peak: float | None) -> None:
    """Print the two adapters' table, then where MoDA's time goes."""
    models = {"LoRA": adapt_lora(base), "MoDA": adapt_moda(base)}
    inputs = random_inputs(base, batch, tokens)
    for model in models.values():
        model.get_base_model().gradient_checkpointing_enable(
            {"use_reentrant": False, "context_fn": checkpoint_routing}
        )
    steps = {name: training_step(model, inputs) for name, model in models.items()}
    seconds = time_in_turns(steps, pairs=pairs)
    rows = []
    for name, model in models.items():
        tokens_a_second = batch * tokens / median(seconds[name])
        row = {"adapter": name, "trains": f"{trainable(model):,}", "tokens/s": f"{tokens_a_second:,.0f}"}
        if peak:
            row["MFU"] = f"{tokens_a_second * flops_a_token(base, model, tokens) / peak / 1e12:.1%}"
        if base.device.type == "cuda":
            row["peak GiB"] = f"{peak_memory(steps[name]):.1f}"
        rows.append(row | {"÷ LoRA": ratio(seconds, name, "LoRA")})
    print_table(rows)
    print_table(top_operations(steps["MoDA"], base.device.type))


def peak_tflops(device: str, given: float) -> float | None:
    """The device's peak, printed beside its name: `given`, or from the table; None where it is not known."""
    device_name = torch.cuda.get_device_name() if device != "cpu" else "CPU"
    peak = given or next((p for name, p in PEAK_TFLOPS.items() if name in device_name), None)
    print(f"{device_name}, peak {peak or 'unknown'} TFLOP/s")
    return peak


def quantise(module: nn.Module) -> None:
    """Make every linear layer inside a 4-bit one of bitsandbytes."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for parent in list(module.modules()):
        for name, linear in parent.named_children():
            if type(linear) is not nn.Linear:
                continue
            packed = Linear4bit(
                linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta",
                compute_dtype=torch.bfloat16, quant_type="nf4",
            )  # fmt: skip
            packed.bias = linear.bias
            packed.weight = Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4")
            setattr(parent, name, packed.to(linear.weight.device))


def flops_a_token(base: nn.Module, model: nn.Module, tokens: int) -> int:
    """The formula above."""
    config = base.config.get_text_config()
    layers = base.model.language_model.layers
    frozen = sum(m.in_features * m.out_features for m in layers.modules() if isinstance(m, nn.Linear))
    attention = config.num_hidden_layers * tokens * config.hidden_size
    return 4 * frozen + 6 * trainable(model) + 6 * attention


def peak_memory(step: Callable[[], None]) -> float:
    """GiB."""
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 2**30


def top_operations(step: Callable[[], None], device: str) -> list[dict[str, str]]:
    """The operations that take most of the device's time in one step."""
    with torch.profiler.profile() as profile:
        step()
    which = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    operations = [event for event in profile.key_averages() if event.device_type == DeviceType.CPU]  # not kernels
    times = {event.key: getattr(event, which) for event in operations}
    longest = sorted(times, key=times.get, reverse=True)[:TOP_OPS]
    return [{"operation": name[:60], "share": f"{times[name] / sum(times.values()):.1%}"} for name in longest]


if __name__ == "__main__":
    main()
