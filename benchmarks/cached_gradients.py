"""What a comparison of thousands costs: cached gradients beside one graph over the whole batch.

    python benchmarks/cached_gradients.py [--shape=tiny] [--batches=64,256,1024,4096] [--plain-up-to=1024]

Random tokens through the language model with MoDA, an image pass and a text pass an item, CMSA over the whole
batch. Three ways to the same gradient: plain (one graph), plain with gradient checkpointing, and cached in
micro-batches. Memory is the growth of the process's peak during one step, each in a process of its own. Time is
measured in turns with a forward pass F and a forward and backward pass F+B of the same micro-batches; the bound is
1.05 × (2F+B)/(F+B). A micro-batch that is too small to keep the machine busy costs more beside plain than that.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import torch
from harness import SEED, adapt_moda, build, options, print_table, ratio, start, time_in_turns
from torch import Tensor

from recbole_sda.adapters import checkpoint_routing, routing
from recbole_sda.alignment import CMSALoss, cached_step
from recbole_sda.encoders.pooling import pool_mean

MODALITIES = ("image", "text")
SLACK = 1.05
FEW = 16
TIMED_ITEMS = 4096  # a row's rounds together; a large batch is steady enough with fewer


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
        """F of a few micro-batches."""
        with torch.no_grad():
            for ids in self.few_micro_batches:
                self.encode("text", ids)

    def forward_backward(self) -> None:
        """F + B of the same."""
        for ids in self.few_micro_batches:
            self.encode("text", ids).square().mean().backward()
        self.model.zero_grad()

    @property
    def few_micro_batches(self) -> tuple[Tensor, ...]:
        return self.passes["text"][:FEW]


def peak_growth(args, way: str, batch: int) -> float:
    """MiB by which one step raises the peak of a new process, after a first step of one micro-batch."""
    command = [sys.executable, __file__, f"--cell={way},{batch}"]
    command += [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in ("shape", "threads", "tokens")]
    command += [f"--micro-batch={args.micro_batch}"]
    # what is freed goes back at once: the peak is what was alive, and not what the allocator kept
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def measure_cell(args) -> None:
    way, batch = args.cell.split(",")
    step = Step(args.shape, way, int(batch), args.micro_batch, args.tokens)
    warm_up = Step(args.shape, way, args.micro_batch, args.micro_batch, args.tokens)
    warm_up.loss.chunk_rows = 1  # torch imports a great deal when it checkpoints for the first time
    warm_up()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from here on
    before = resident_mib("VmRSS")
    step()
    print(json.dumps(resident_mib("VmHWM") - before))


def resident_mib(what: str) -> float:
    """Linux's count of this process alone; `getrusage` would add what its parent held when it was started."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def compare(args, batch: int) -> dict[str, object]:
    """One row of the table."""
    ways = ["cached", "checkpointed"] + (["plain"] if batch <= args.plain_up_to else [])
    steps = {way: Step(args.shape, way, batch, args.micro_batch, args.tokens) for way in ways}
    cached = steps["cached"]
    runs = {**steps, "F": cached.forward, "F+B": cached.forward_backward}
    seconds = time_in_turns(runs, pairs=max(1, min(args.pairs, TIMED_ITEMS // batch)))
    item = {way: [s / batch / len(MODALITIES) for s in seconds[way]] for way in ways}
    few = sum(len(ids) for ids in cached.few_micro_batches)
    item |= {name: [s / few for s in seconds[name]] for name in ("F", "F+B")}
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
