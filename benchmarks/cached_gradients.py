"""What a comparison of thousands costs: cached gradients beside one graph over the whole batch.

    python benchmarks/cached_gradients.py [--shape=tiny] [--batches=64,256,1024,4096] [--plain-up-to=1024]

Random tokens through the language model with MoDA, an image pass and a text pass an item, CMSA over the whole
batch. Three ways to the same gradient: plain (one graph), plain with gradient checkpointing, and cached in
micro-batches. Memory is the growth of the process's peak during one step, each in a process of its own. Time is
measured in turns with a forward pass F and a forward and backward pass F+B of one micro-batch; the bound is
1.05 × (2F+B)/(F+B).
"""

import json
import resource
import subprocess
import sys
from statistics import median

import torch
from harness import SEED, adapt_moda, build, options, print_table, ratio, start, time_in_turns
from torch import Tensor, nn

from recbole_sda.adapters import checkpoint_routing, routing
from recbole_sda.alignment import CMSALoss, cached_step
from recbole_sda.encoders.pooling import pool_mean

MODALITIES = ("image", "text")
SLACK = 1.05


class Step:
    """One training step's gradient over ``batch`` items.

    Args:
        way: ``plain``, ``checkpointed`` or ``cached``.
    """

    def __init__(self, shape: str, way: str, batch: int, micro_batch: int, tokens: int):
        base = build(shape)
        if way == "checkpointed":
            base.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": checkpoint_routing})
        self.model = adapt_moda(base).train()
        self.loss = CMSALoss(0.1)
        generator = torch.Generator().manual_seed(SEED)
        vocabulary = self.model.config.get_text_config().vocab_size
        size = micro_batch if way == "cached" else batch
        self.passes = {
            modality: torch.randint(100, vocabulary, (batch, tokens), generator=generator).split(size)
            for modality in MODALITIES
        }

    def __call__(self) -> None:
        cached_step(self.encode, self.passes, self.loss)
        self.model.zero_grad()

    def encode(self, modality: str, ids: Tensor) -> Tensor:
        with routing(modality):
            states = self.model.get_base_model().model(input_ids=ids, use_cache=False).last_hidden_state
        return pool_mean(states, torch.ones_like(ids))

    def forward(self) -> None:
        """F of one micro-batch."""
        with torch.no_grad():
            self.encode("text", self.passes["text"][0])

    def forward_backward(self) -> None:
        """F + B of one micro-batch."""
        self.encode("text", self.passes["text"][0]).square().mean().backward()
        self.model.zero_grad()


def peak_growth(args, way: str, batch: int) -> float:
    """MiB by which one step raises the peak of a new process, after a first step of one micro-batch."""
    command = [sys.executable, __file__, f"--cell={way},{batch}"]
    command += [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in ("shape", "threads", "tokens")]
    command += [f"--micro-batch={args.micro_batch}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_cell(args) -> None:
    way, batch = args.cell.split(",")
    step = Step(args.shape, way, int(batch), args.micro_batch, args.tokens)
    Step(args.shape, way, args.micro_batch, args.micro_batch, args.tokens)()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def compare(args, batch: int) -> dict[str, object]:
    """One row of the table."""
    ways = ["cached", "checkpointed"] + (["plain"] if batch <= args.plain_up_to else [])
    steps = {way: Step(args.shape, way, batch, args.micro_batch, args.tokens) for way in ways}
    cached: nn.Module | Step = steps["cached"]
    runs = {**steps, "F": cached.forward, "F+B": cached.forward_backward}
    seconds = time_in_turns(runs, pairs=args.pairs)
    item = {way: [s / batch / len(MODALITIES) for s in seconds[way]] for way in ways}
    item |= {name: [s / args.micro_batch for s in seconds[name]] for name in ("F", "F+B")}
    bounds = [SLACK * (f + fb) / fb for f, fb in zip(item["F"], item["F+B"], strict=True)]
    row = {"items": batch}
    for way in ("plain", "checkpointed", "cached"):
        there = way in ways
        row |= {f"{way} MiB": f"{peak_growth(args, way, batch):,.0f}" if there else "–"}
        row |= {f"{way} ms an item": f"{1000 * median(item[way]):.2f}" if there else "–"}
    per_pass = [c / fb for c, fb in zip(item["cached"], item["F+B"], strict=True)]
    row |= {"cached ÷ (F+B)": f"{median(per_pass):.2f}", "bound": f"{median(bounds):.2f}"}
    if "plain" in ways:
        row |= {"cached ÷ plain": ratio(seconds, "cached", "plain")}
    return row


def main() -> None:
    parser = options(
        __doc__,
        shape="tiny",
        batches="64,256,1024,4096",
        plain_up_to=1024,
        micro_batch=16,
        tokens=48,
        pairs=5,
        cell="",
    )
    args = parser.parse_args()
    if args.cell:
        torch.set_num_threads(args.threads)
        measure_cell(args)
        return
    start(args.threads)
    print(f"{args.shape}, {args.tokens} tokens a pass, micro-batches of {args.micro_batch}")
    print_table([compare(args, int(batch)) for batch in args.batches.split(",")])


if __name__ == "__main__":
    main()
