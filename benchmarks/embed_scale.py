"""What embedding costs as a catalogue grows: seconds and memory, built-in tiny backbone.

    python benchmarks/embed_scale.py [--sizes=1000,10000,100000] [--pictures-up-to=10000] [--threads=2]

Distinct texts of 5 to 120 words, log-normal, and pictures of 64 × 64, all distinct. Each size has a process of its
own. Embedding is what `embed` does once the catalogue is open: tokens and pictures through the model, shards, the
finished store. Memory is how far the process's resident set grew at its peak, after a first embedding of few
items; mapped pages of the store's files count, those of processes that read ahead do not. Linux only.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from embedding import embed_into, embed_settings, make_backbone, make_catalog, make_texts
from harness import build, options, print_table, start

PICTURE_SIDE = 64
WARM_UP = 64


def main() -> None:
    parser = options(__doc__, sizes="1000,10000,100000", pictures_up_to=10000, read_workers=1, cell=0)
    args = parser.parse_args()
    if args.cell:
        torch.set_num_threads(args.threads)
        print(json.dumps(measure_cell(args)))
        return
    start(args.threads)
    rows = []
    for items in map(int, args.sizes.split(",")):
        rows.append(in_new_process(args, items))
        print(rows[-1], flush=True)
    print_table(rows)


def in_new_process(args, items: int) -> dict[str, str]:
    command = [sys.executable, __file__, f"--cell={items}"]
    given = ("pictures_up_to", "read_workers", "threads")
    command += [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in given]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_cell(args) -> dict[str, str]:
    """One row of the table."""
    items, pictured = args.cell, args.cell <= args.pictures_up_to
    kept = {"modalities": ["image", "text"], "picture_side": PICTURE_SIDE} if pictured else {}
    backbone = make_backbone(build("tiny"), max_pixels=PICTURE_SIDE**2)
    settings = embed_settings(read_workers=args.read_workers)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        embed_into(folder / "store", make_catalog(folder / "few", make_texts(WARM_UP), **kept), backbone, settings)
        before = resident_mib("VmRSS")
        catalog, _, _ = measure(lambda: make_catalog(folder / "items", make_texts(items), **kept))
        held = resident_mib("VmRSS") - before
        _, seconds, growth = measure(lambda: embed_into(folder / "store", catalog, backbone, settings))
    return {
        "items": f"{items:,}",
        "modalities": " and ".join(catalog.kinds),
        "seconds": f"{seconds:.1f}",
        "seconds a 1,000 items": f"{1000 * seconds / items:.2f}",
        "MiB the open catalogue holds": f"{held:.0f}",
        "MiB that embedding adds at its peak": f"{growth:.0f}",
        "MiB in all at the peak": f"{resident_mib('VmHWM'):.0f}",
    }


def measure(work: Callable[[], object]) -> tuple[object, float, float]:
    """What it returns, seconds, MiB by which the resident set grew at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins at what is resident now
    before, began = resident_mib("VmRSS"), time.perf_counter()
    result = work()
    seconds = time.perf_counter() - began
    return result, seconds, resident_mib("VmHWM") - before


def resident_mib(what: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


if __name__ == "__main__":
    main()
