"""Embedding texts of mixed lengths: the road to a store, beside sentence-transformers and bare forward passes.

    python benchmarks/embed_throughput.py [--items=400] [--pairs=3] [--threads=2]

One model with random weights, one catalogue of distinct texts (5 to 120 words, log-normal), one prompt for both
sides. The road tokenises, packs, embeds, stores shards and finishes the store. sentence-transformers' `encode`
sorts, batches, pools and collects in its own way around the same model object. Each side has the best of three
sizes of its batches, in tokens (`embed_batch_tokens`) and in items (`batch_size`). (Its module for transformers
models asks for Qwen2.5-VL's processor with its part for videos, which needs torchvision; a few lines here stand in
its place.) Bare is the forward passes of the road's own batches, their inputs ready. First of all the embeddings
of both sides have to be equal.

The second table is about the same number of items of which half repeat another's text.
"""

import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from embedding import embed_into, embed_settings, make_backbone, make_catalog, make_texts
from harness import SHAPES, build, options, print_table, ratio, start, time_in_turns
from torch import Tensor

from recbole_sda.catalog import Catalog
from recbole_sda.encoders import Backbone
from recbole_sda.encoders.batching import batches_by_tokens
from recbole_sda.features import FeatureStore

BATCH_TOKENS = (1024, 2048, 8192)
BATCH_SIZES = (8, 32, 64)
TOLERANCE = 1e-4
OTHER = "sentence-transformers"


def main() -> None:
    parser = options(__doc__, items=400, pairs=3)
    parser.add_argument("--shape", choices=SHAPES, default="50m")
    args = parser.parse_args()
    if importlib.util.find_spec("sentence_transformers") is None:
        print("needs sentence-transformers: pip install -c constraints.txt sentence-transformers")
        sys.exit(2)
    start(args.threads)
    backbone = make_backbone(build(args.shape), max_pixels=65536)
    texts = make_texts(args.items)
    with tempfile.TemporaryDirectory() as temporary:
        compare(backbone, texts, Path(temporary), args.pairs)


def compare(backbone: Backbone, texts: Sequence[str], folder: Path, pairs: int) -> None:
    catalog = make_catalog(folder / "distinct", texts)
    counts = [len(ids) for ids in token_ids(backbone, catalog)]
    print(
        f"{len(texts):,} items, {min(counts)} to {max(counts)} tokens, median {median(counts):.0f}, "
        f"{sum(counts):,} in all"
    )
    encode = sentence_transformer(backbone, catalog)
    store = folder / "store"

    def embed(catalog: Catalog, batch_tokens: int) -> None:
        embed_into(store, catalog, backbone, embed_settings(batch_tokens=batch_tokens, dtype="float32"))

    embed(catalog, max(BATCH_TOKENS))
    check_equal(FeatureStore.open(store).values("text"), encode(max(BATCH_SIZES)))
    batch_tokens = fastest(BATCH_TOKENS, lambda tokens: embed(catalog, tokens), "the road by tokens a batch")
    batch_size = fastest(BATCH_SIZES, encode, f"{OTHER} by items a batch")
    half = texts[: (len(texts) + 1) // 2]
    repeating = make_catalog(folder / "repeating", (half * 2)[: len(texts)])
    runs = {
        "the road": lambda: embed(catalog, batch_tokens),
        OTHER: lambda: encode(batch_size),
        "bare": bare_forward(backbone, catalog, batch_tokens),
        "half repeat": lambda: embed(repeating, batch_tokens),
    }
    seconds = time_in_turns(runs, pairs=pairs)
    names = {
        "the road": f"the road to a store, batches of {batch_tokens:,} tokens",
        OTHER: f"{OTHER}, batches of {batch_size} items",
        "bare": "bare forward passes",
    }
    print_table(
        [
            {
                "distinct items": words,
                "items/s": f"{len(texts) / median(seconds[name]):.1f}",
                "the road's items/s ÷ its": ratio(seconds, name, "the road"),
            }
            for name, words in names.items()
        ]
    )
    print()
    rows = {"the road": "none", "half repeat": "half of them"}
    print_table(
        [
            {
                "items that repeat": words,
                "items/s": f"{len(texts) / median(seconds[name]):.1f}",
                "gain": ratio(seconds, "the road", name),
            }
            for name, words in rows.items()
        ]
    )


def token_ids(backbone: Backbone, catalog: Catalog) -> list[list[int]]:
    return backbone.encode_texts("text", [catalog.item(row) for row in range(len(catalog))])


def bare_forward(backbone: Backbone, catalog: Catalog, batch_tokens: int) -> Callable[[], None]:
    ids = token_ids(backbone, catalog)
    packed = batches_by_tokens([len(own) for own in ids], batch_tokens)
    batches = [backbone.pad([ids[position] for position in positions]) for positions in packed]

    def run() -> None:
        with torch.inference_mode():
            for inputs in batches:
                backbone("text", inputs)

    return run


def sentence_transformer(backbone: Backbone, catalog: Catalog) -> Callable[[int], np.ndarray]:
    """Batch size → (items, width), as sentence-transformers embeds the same prompts with the same model."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import InputModule
    from sentence_transformers.sentence_transformer.modules import Pooling

    class Model(InputModule):
        def __init__(self):
            super().__init__()
            self.model, self.tokenizer = backbone.model.model, backbone.processor.tokenizer

        def preprocess(self, inputs: list[str], prompt: str | None = None, **_: object) -> dict[str, Tensor]:
            return dict(self.tokenizer(inputs, padding=True, return_tensors="pt"))

        def forward(self, features: dict[str, Tensor], **_: object) -> dict[str, Tensor]:
            output = self.model(
                input_ids=features["input_ids"], attention_mask=features["attention_mask"], use_cache=False
            )
            return features | {"token_embeddings": output.last_hidden_state}

        def save(self, *_: object, **__: object) -> None:
            raise NotImplementedError

    pooling = Pooling(backbone.hidden_size, pooling_mode="mean")
    model = SentenceTransformer(modules=[Model(), pooling], device=str(backbone.device))
    prompts = [backbone.collator.prompt("text", catalog.item(row)) for row in range(len(catalog))]
    return lambda batch_size: model.encode(prompts, batch_size=batch_size, show_progress_bar=False)


def fastest(sizes: Sequence[int], run: Callable[[int], object], words: str) -> int:
    """The size with which one run is fastest; what all took is printed."""
    seconds = {}
    for size in sizes:
        began = time.perf_counter()
        run(size)
        seconds[size] = time.perf_counter() - began
    print(f"{words}: {', '.join(f'{size:,}: {taken:.1f} s' for size, taken in seconds.items())}")
    return min(seconds, key=seconds.get)


def check_equal(ours: np.ndarray, theirs: np.ndarray) -> None:
    difference = float(np.abs(ours - theirs).max())
    print(f"largest difference of an embedding's coordinate: {difference:.1e}")
    if not difference < TOLERANCE:
        sys.exit(f"the two sides do not compute the same: {difference} is not below {TOLERANCE}")


if __name__ == "__main__":
    main()
