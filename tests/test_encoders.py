import random

import numpy as np
import pytest
import torch
from conftest import LOADING, adapted_tiny
from oracles import pool_mean_loop
from PIL import Image

from recbole_sda.encoders import backbone_identity, load_backbone
from recbole_sda.encoders.batching import batches_by_tokens, collate_items
from recbole_sda.encoders.loading import resolve_dtype
from recbole_sda.encoders.tiny import VOCABULARY, build_tiny_model, build_tiny_processor
from recbole_sda.errors import SDAError

SIZES = [(84, 84), (200, 40), (30, 150), (600, 500), (5, 3), (1, 1)]
ITEMS = [
    {"title": "Red cup"},
    {"title": "A cushion, 40 x 40 cm", "brand": "Norvik", "description": "soft " * 15},
    {"description": "Été – 東京 🎬 100% {braces} and %s"},
    {"brand": "x"},
]


def pictures(sizes=SIZES):
    noise = np.random.default_rng(0)
    return [Image.fromarray(noise.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


SOURCE = {"revision": None, "local_files_only": True, "trust_remote_code": False}
IMAGE_PAD = build_tiny_processor().image_token_id


# one vector an item


@torch.no_grad()
def test_text_batch_is_its_items_one_by_one(tiny):
    batch = tiny.collate("text", ITEMS)
    lengths = batch["attention_mask"].sum(dim=1)
    assert lengths.min() < lengths.max()
    together = tiny("text", batch)
    alone = torch.cat([tiny("text", tiny.collate("text", [item])) for item in ITEMS])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert together.shape == (len(ITEMS), tiny.hidden_size)
    assert together.dtype is torch.float32


@torch.no_grad()
def test_image_batch_is_its_items_one_by_one(tiny):
    images = pictures()
    batch = tiny.collate("image", [{}] * len(images), images)
    assert len(set(batch["attention_mask"].sum(dim=1).tolist())) > 2
    together = tiny("image", batch)
    alone = torch.cat([tiny("image", tiny.collate("image", [{}], [image])) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("modality", ["image", "text"])
def test_embedding_is_the_mean_of_the_last_hidden_states(tiny, modality):
    batch = tiny.collate(modality, ITEMS, pictures()[: len(ITEMS)])
    states = tiny.model(**batch, output_hidden_states=True).hidden_states[-1]
    expected = pool_mean_loop(states, batch["attention_mask"])
    torch.testing.assert_close(tiny(modality, batch), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_items_that_differ_have_embeddings_that_differ(tiny):
    for modality in ("image", "text"):
        rows = tiny(modality, tiny.collate(modality, ITEMS, pictures()[: len(ITEMS)]))
        assert torch.cdist(rows, rows).fill_diagonal_(9).min() > 0.01


@torch.no_grad()
def test_each_pass_reads_its_own_modality_alone(tiny):
    one, other = pictures(SIZES[:2])
    bare = tiny.collate("image", [{}], [one])
    told = tiny.collate("image", [ITEMS[1]], [one])
    assert all(torch.equal(bare[name], told[name]) for name in bare)
    assert not torch.equal(tiny("image", bare), tiny("image", tiny.collate("image", [{}], [other])))
    assert set(tiny.collate("text", ITEMS, [one])) == {"input_ids", "attention_mask", "mm_token_type_ids"}


def test_each_picture_has_as_many_placeholders_as_its_grid_has_cells(tiny):
    images = pictures()
    batch = tiny.collate("image", [{}] * len(images), images)
    grids = batch["image_grid_thw"]
    placeholders = (batch["input_ids"] == IMAGE_PAD).sum(dim=1)
    assert placeholders.tolist() == [int(t * h * w) // 4 for t, h, w in grids]
    assert len(batch["pixel_values"]) == grids.prod(dim=1).sum()
    assert (grids.prod(dim=1) * 14**2 <= 12544).all()
    assert grids[0].tolist() == [1, 6, 6]  # 84 x 84 in patches of 14 x 14
    assert placeholders[SIZES.index((600, 500))] > placeholders[SIZES.index((5, 3))] == 1


def test_larger_pictures_are_reduced_to_max_pixels():
    grids = {}
    # A little over the area of 2 x 2 and 4 x 4 tokens: transformers rounds down, now and then from 1.999….
    for limit in (3200, 12600):
        backbone = load_backbone("tiny", **{**LOADING, "max_pixels": limit})
        inputs = backbone.collate("image", [{}], pictures([(600, 600)]))
        grids[limit] = int(inputs["image_grid_thw"].prod()) * 14**2
    assert grids == {3200: 3136, 12600: 12544}


@torch.no_grad()
def test_image_tokens_are_marked_and_the_mark_matters(tiny):
    batch = tiny.collate("image", [{}], pictures([(112, 112)]))
    assert torch.equal(batch["mm_token_type_ids"] == 1, batch["input_ids"] == IMAGE_PAD)
    assert batch["mm_token_type_ids"].sum() == 16
    unmarked = {**batch, "mm_token_type_ids": torch.zeros_like(batch["mm_token_type_ids"])}
    assert (tiny("image", batch) - tiny("image", unmarked)).abs().max() > 1e-3
    assert not tiny.collate("text", ITEMS)["mm_token_type_ids"].any()


@torch.no_grad()
def test_special_tokens_in_an_items_text_disturb_nobody_else(tiny):
    calm = [{"title": "cup"}, {"title": "plate"}]
    odd = [{"title": "cup"}, {"title": "<|image_pad|> <|im_end|> <|vision_start|> <|pad|> <|nothing|>"}]
    expected, found = (tiny("text", tiny.collate("text", items)) for items in (calm, odd))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    assert found.isfinite().all()


@torch.no_grad()
def test_modality_reaches_the_adapter():
    torch.manual_seed(0)
    backbone = adapted_tiny(init_weights=False).eval()
    inputs = backbone.collate("text", ITEMS)
    assert (backbone("text", inputs) - backbone("image", inputs)).abs().max() > 1e-3
    assert torch.equal(backbone("text", inputs), backbone("text", inputs))


# batches


@pytest.mark.parametrize("seed", range(20))
def test_batches_by_tokens(seed):
    draw = random.Random(seed)
    budget = draw.choice([1, 30, 100, 1000])
    counts = [draw.choice([draw.randint(1, 20), draw.randint(1, 150)]) for _ in range(draw.randint(0, 60))]
    batches = list(batches_by_tokens(counts, budget))
    assert sorted(position for batch in batches for position in batch) == list(range(len(counts)))
    for batch in batches:
        padded = len(batch) * max(counts[position] for position in batch)
        assert padded <= budget or len(batch) == 1
    order = [counts[position] for batch in batches for position in batch]
    assert order == sorted(counts, reverse=True)
    # No batch stops short: one more item would have broken the budget.
    for batch in batches[:-1]:
        assert (len(batch) + 1) * counts[batch[0]] > budget


def test_batches_of_known_counts():
    assert list(batches_by_tokens([3, 9, 3, 50, 4], 12)) == [[3], [1], [4, 0, 2]]
    assert list(batches_by_tokens([], 12)) == []


def test_picture_tokens_are_counted_from_the_catalogues_sizes(tiny, catalog):
    rows = np.flatnonzero(catalog.present("image"))
    counts = tiny.count_tokens("image", catalog.sizes("image")[rows])
    real = collate_items(catalog, tiny, "image", rows)["attention_mask"].sum(dim=1)
    assert counts.tolist() == real.tolist()


def test_collated_items_are_the_catalogues(tiny, catalog):
    rows = np.flatnonzero(catalog.present("image"))[[4, 1, 2]]
    ours = collate_items(catalog, tiny, "image", rows)
    expected = tiny.collate("image", [{}] * 3, [catalog.load_image(row) for row in rows])
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


# the built-in backbone


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_tiny_has_the_same_weights_whatever_the_seed():
    built = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        built.append(weights(build_tiny_model()))
    assert torch.equal(*built)
    assert built[0].isfinite().all()
    assert built[0].numel() == 420_064


def test_building_tiny_leaves_every_random_stream_alone():
    for seeded in (torch.manual_seed, np.random.seed, random.seed):
        seeded(7)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    build_tiny_model()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


def test_building_tiny_does_not_reseed_gpus(monkeypatch):
    def refuse(seed):
        raise AssertionError(f"CUDA was seeded with {seed}")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    build_tiny_model()


def test_hashing_tokenizer():
    one, other = (build_tiny_processor().tokenizer for _ in range(2))
    text = "The Été, 東京: naïve <|image_pad|>cup"
    ids = one(text)["input_ids"]
    assert ids == other(text)["input_ids"]
    assert ids == one(text.lower())["input_ids"]
    assert len(ids) == 8  # the été , 東京 : naïve <|image_pad|> cup
    assert one("123456789")["input_ids"] == [7 + 0xCBF43926 % (VOCABULARY - 7)]  # CRC-32's check value
    words = [f"word{number}" for number in range(500)]
    hashed = one(" ".join(words))["input_ids"]
    assert len(hashed) == 500
    assert len(set(hashed)) > 450
    assert 7 <= min(hashed) <= max(hashed) < VOCABULARY


def test_special_tokens_are_single_ids_of_their_own(tiny):
    tokenizer = tiny.processor.tokenizer
    special = ["<|im_start|>", "<|im_end|>", "<|pad|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    ids = [tokenizer(token, add_special_tokens=False)["input_ids"] for token in special]
    assert all(len(found) == 1 for found in ids)
    assert len({found[0] for found in ids}) == len(special)
    assert max(found[0] for found in ids) < 7
    config = tiny.model.config
    assert tokenizer.convert_tokens_to_ids("<|image_pad|>") == config.image_token_id == IMAGE_PAD
    assert tokenizer.convert_tokens_to_ids("<|vision_start|>") == config.vision_start_token_id
    assert tokenizer.pad_token_id == config.get_text_config().pad_token_id


# dtypes and names


def test_dtype_by_name():
    assert resolve_dtype("auto", "cpu") is torch.float32
    assert resolve_dtype("auto", torch.device("cuda", 0)) is torch.bfloat16
    assert resolve_dtype("float16", "cuda") is torch.float16
    for name in ("float31", "int64", "nn", None):
        with pytest.raises(SDAError, match=f"backbone_dtype={name!r} .* choose auto, float32, bfloat16"):
            resolve_dtype(name, "cpu")


@torch.no_grad()
def test_half_precision_backbone_gives_float32_close_to_the_exact(tiny):
    half = load_backbone("tiny", **{**LOADING, "dtype": "bfloat16"})
    assert next(half.parameters()).dtype is torch.bfloat16
    for modality in ("image", "text"):
        inputs = tiny.collate(modality, ITEMS[:2], pictures()[:2])
        rows = half(modality, inputs)
        assert rows.dtype is torch.float32
        assert torch.cosine_similarity(rows, tiny(modality, inputs)).min() > 0.99


def test_identity_of_tiny_names_its_seed():
    assert backbone_identity("tiny", **SOURCE) == "tiny, weights seed 251206883"


def test_a_name_that_cannot_be_had_stops_with_the_remedy(no_network):
    with pytest.raises(SDAError) as error:
        backbone_identity("nobody/no-such-model", **{**SOURCE, "local_files_only": False})
    for part in ("nobody/no-such-model", "--backbone=tiny", "--backbone=FOLDER"):
        assert part in str(error.value)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """The hub's library offline, with an empty cache, and no socket for anybody who tries."""
    import socket

    import huggingface_hub.constants

    def refuse(*args, **kwargs):
        raise AssertionError("a test reached for the network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
