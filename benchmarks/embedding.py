"""What the embedding benchmarks share: made-up catalogues, a backbone around a shape, the road to a store."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from harness import SEED
from PIL import Image
from torch import nn

from recbole_sda.catalog import Catalog
from recbole_sda.encoders import Backbone, Pooling, Prompts
from recbole_sda.encoders.collator import Collator
from recbole_sda.encoders.families import Family
from recbole_sda.encoders.tiny import build_tiny_processor
from recbole_sda.features.embed import embed_catalog
from recbole_sda.features.shards import EmbedSettings, ShardWriter

WORDS = 8192
TYPICAL_WORDS, SPREAD = 30, 0.8  # median of a log-normal length, and the deviation of its logarithm
SHORTEST, LONGEST = 5, 120

PROMPTS = Prompts(
    domain="product",
    instruction="",
    text="The {domain} item has the following attributes: {fields}",
    image="The {domain} item has the image:",
    audio="The {domain} item has the audio:",
    vectors="The {domain} item has the {modality}:",
    field="{name} is {value};",
    value_chars=10_000,  # texts of mixed lengths are to stay so
    field_templates={},
    field_chars={},
)


def make_backbone(model: nn.Module, max_pixels: int) -> Backbone:
    """The project's encoder around a model of the harness; it reads words with the built-in tokenizer."""
    family, processor = Family(model.config), build_tiny_processor()
    family.traits.limit_pixels(processor, processor.image_processor.size["shortest_edge"], max_pixels)
    collator = Collator(processor, family, PROMPTS, {kind: kind for kind in family.kinds})
    return Backbone(model, collator, Pooling(kind="mean", layer=None, last_layers=1, dimension=None))


def make_texts(items: int) -> list[str]:
    """Random words, all texts distinct, of log-normal lengths."""
    generator = np.random.default_rng(SEED)
    lengths = generator.lognormal(np.log(TYPICAL_WORDS), SPREAD, items).clip(SHORTEST, LONGEST).astype(int)
    words = generator.integers(WORDS, size=lengths.sum())
    texts = [" ".join(f"w{word}" for word in own) for own in np.split(words, lengths.cumsum()[:-1])]
    assert len(set(texts)) == items
    return texts


def make_catalog(
    folder: Path, texts: Sequence[str], *, modalities: Sequence[str] = ("text",), picture_side: int = 0
) -> Catalog:
    """A dataset in the new `folder`, opened; with a side in pixels, each item has a picture of its own."""
    (folder / "images").mkdir(parents=True)
    tokens = [f"I{row:07d}" for row in range(len(texts))]
    lines = [f"{token}\t{text}\n" for token, text in zip(tokens, texts, strict=True)]
    (folder / f"{folder.name}.item").write_text("".join(["item_id:token\tdescription:token\n", *lines]))
    generator = np.random.default_rng(SEED)
    for token in tokens if picture_side else ():
        coarse = Image.fromarray(generator.integers(256, size=(4, 4, 3), dtype=np.uint8))
        coarse.resize((picture_side, picture_side)).save(folder / "images" / f"{token}.png")
    return Catalog.open(folder, tokens, modalities=modalities, show_progress=False)


def embed_settings(**values) -> EmbedSettings:
    """What `properties/overall.yaml` says, but for `values`."""
    return EmbedSettings(
        **{"batch_tokens": 8192, "shard_items": 2048, "read_workers": 1, "dtype": "float16"} | values
    )


def embed_into(store: Path, catalog: Catalog, backbone: Backbone, settings: EmbedSettings) -> None:
    """The whole of stage 2, from the catalogue to a finished store; an older one is removed."""
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir()
    embed_catalog(
        store,
        catalog,
        ShardWriter(backbone, catalog, settings),
        prompts=backbone.prompts,
        settings=settings,
        identity={"backbone": "random"},
        show_progress=False,
    )
