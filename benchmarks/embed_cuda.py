"""Embedding at Qwen2.5-VL-3B's and -7B's shape on one CUDA device: items a second, FLOPs, what bounds it.

    python benchmarks/embed_cuda.py [--shapes=3b,7b] [--items=2048] [--batch-tokens=8192] [--peak-tflops=0]
    python benchmarks/embed_cuda.py --shapes=tiny --items=32 --device=cpu      # that the script itself runs

bfloat16, random weights, no download. The text pass has 5 to 120 words an item, the image pass a picture of
`--side` pixels squared; each goes the whole road to a store, read ahead by `--read-workers` processes. `÷ bare` is
its speed beside forward passes of the same batches with their inputs on the device: what it lacks to 1 is lost to
reading, tokenising and storing. The second table is where the device's time goes within a batch.

MFU, model FLOPs a second ÷ the device's peak; padding and what is not a matrix product are not counted:

    2·N + 2·L·T·H    a token of the decoder: N weights of its linear layers; causal attention over T tokens
    2·V + 4·D·P·W    a patch of the vision tower: V weights of its blocks; D layers of width W, attention over P
                     patches of the picture in some layers, of a window in the others
    2·M              a patch of the vision tower, its embedding and merger: M weights, the merger's a quarter each
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from cuda_7b import peak_memory, peak_tflops, top_operations
from embedding import embed_into, embed_settings, make_backbone, make_catalog, make_texts
from harness import build, options, print_table, ratio, start, time_in_turns
from torch import Tensor, nn

from recbole_sda.catalog import Catalog
from recbole_sda.encoders import Backbone
from recbole_sda.encoders.batching import batches_by_tokens, collate_items
from recbole_sda.features.shards import EmbedSettings

MERGED = 4  # patches to a token


def main() -> None:
    parser = options(
        __doc__,
        shapes="3b,7b",
        items=2048,
        batch_tokens=8192,
        side=256,
        read_workers=8,
        pairs=3,
        device="cuda",
        peak_tflops=0.0,
    )
    args = parser.parse_args()
    if args.device != "cpu" and not torch.cuda.is_available():
        print("needs a CUDA device")
        sys.exit(2)
    start(args.threads)
    peak = peak_tflops(args.device, args.peak_tflops)
    settings = embed_settings(batch_tokens=args.batch_tokens, read_workers=args.read_workers)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        catalogs = {
            "text": make_catalog(folder / "texts", make_texts(args.items)),
            "image": make_catalog(
                folder / "pictures", [""] * args.items, modalities=["image"], picture_side=args.side
            ),
        }
        for shape in args.shapes.split(","):
            print(f"\n{shape}, bfloat16, {args.items:,} items, batches of at most {args.batch_tokens:,} tokens")
            model = build(shape, dtype=torch.bfloat16, device=args.device)
            backbone = make_backbone(model, max_pixels=args.side**2)
            rows, operations = [], []
            for modality, catalog in catalogs.items():
                one_pass = Pass(backbone, catalog, modality, settings)
                rows.append(one_pass.row(folder / "store", args.pairs, peak))
                operations += [{"pass": modality} | row for row in one_pass.operations()]
            print_table(rows)
            print()
            print_table(operations)


class Pass:
    """One modality of a catalogue through one model."""

    def __init__(self, backbone: Backbone, catalog: Catalog, modality: str, settings: EmbedSettings):
        self.backbone, self.catalog, self.modality, self.settings = backbone, catalog, modality, settings
        self.counts = token_counts(backbone, catalog, modality)

    def row(self, store: Path, pairs: int, peak: float | None) -> dict[str, str]:
        """The table's."""
        backbone, items = self.backbone, len(self.catalog)
        runs = {
            "road": lambda: embed_into(store, self.catalog, backbone, self.settings),
            "bare": self.bare_forward(list(batches_by_tokens(self.counts, self.settings.batch_tokens))),
        }
        seconds = time_in_turns(runs, pairs=pairs)
        taken = median(seconds["road"])
        row = {
            "pass": self.modality,
            "items/s": f"{items / taken:,.1f}",
            "tokens/s": f"{sum(self.counts) / taken:,.0f}",
            "÷ bare": ratio(seconds, "bare", "road"),
        }
        if peak:
            row["MFU"] = f"{self.flops() / taken / peak / 1e12:.1%}"
            row["MFU of bare"] = f"{self.flops() / median(seconds['bare']) / peak / 1e12:.1%}"
        if backbone.device.type == "cuda":
            row["peak GiB"] = f"{peak_memory(runs['road']):.1f}"
        return row

    def operations(self) -> list[dict[str, str]]:
        largest = next(batches_by_tokens(self.counts, self.settings.batch_tokens))
        return top_operations(self.bare_forward([largest]), self.backbone.device.type)

    def bare_forward(self, batches: Sequence[Sequence[int]]) -> Callable[[], None]:
        ready = [
            {name: value.to(self.backbone.device) for name, value in self.inputs(rows).items()} for rows in batches
        ]

        def run() -> None:
            with torch.inference_mode():
                for inputs in ready:
                    self.backbone(self.modality, inputs)

        return run

    def inputs(self, rows: Sequence[int]) -> dict[str, Tensor]:
        return collate_items(self.catalog, self.backbone, self.modality, rows)

    def flops(self) -> float:
        """Of all items, by the formula above."""
        model = self.backbone.model
        config = model.config.get_text_config()
        per_token = 2 * linear_weights(model.model.language_model.layers)
        attention = 2 * config.num_hidden_layers * config.hidden_size
        total = sum(per_token * tokens + attention * tokens**2 for tokens in self.counts)
        if self.modality == "image":
            grids = self.inputs(range(1))["image_grid_thw"].prod(dim=1)  # all pictures have one size
            total += len(self.catalog) * vision_flops(model, int(grids[0]))
        return total


def token_counts(backbone: Backbone, catalog: Catalog, modality: str) -> list[int]:
    if modality == "text":
        items = [catalog.item(row) for row in range(len(catalog))]
        return [len(ids) for ids in backbone.encode_texts("text", items)]
    return backbone.count_tokens(modality, catalog.sizes(modality)).tolist()


def vision_flops(model: nn.Module, patches: int) -> float:
    """Of one picture."""
    tower, config = model.model.visual, model.config.vision_config
    window = (config.window_size // config.patch_size) ** 2
    whole = len(config.fullatt_block_indexes)
    seen = whole * patches + (config.depth - whole) * min(window, patches)  # patches, summed over the layers
    around = tower.patch_embed.proj.weight.numel() + linear_weights(tower.merger) / MERGED
    return patches * (2 * linear_weights(tower.blocks) + 2 * around + 4 * config.hidden_size * seen)


def linear_weights(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


if __name__ == "__main__":
    main()
