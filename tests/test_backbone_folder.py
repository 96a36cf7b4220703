"""A Qwen2.5-VL from a folder, with a real tokenizer and the files that the hub's folders have."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from conftest import LOADING
from peft import get_peft_model
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from recbole_sda.adapters import MoDAConfig
from recbole_sda.encoders import backbone_identity, load_backbone, source
from recbole_sda.errors import SDAError

SOURCE = {"revision": None, "local_files_only": True, "trust_remote_code": False}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
SPECIAL += ["<|image_pad|>", "<|video_pad|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
)
ITEMS = [{"title": "Red cup"}, {"title": "Été – 東京 🎬", "brand": "a longer one " * 3}]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE without merges: a token a byte."""
    alphabet = {sign: number for number, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=SPECIAL,
        chat_template=TEMPLATE,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "qwen"
    tokenizer = make_tokenizer()
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(SPECIAL), strict=True))
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
            "pad_token_id": ids["<|endoftext|>"],
            "bos_token_id": ids["<|im_start|>"],
            "eos_token_id": ids["<|im_end|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(std=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil().save_pretrained(folder)
    # The keys of the hub's Qwen2.5-VL folders, in place of `size`.
    file = folder / "preprocessor_config.json"
    saved = {**json.loads(file.read_text()), "min_pixels": 3136, "max_pixels": 12845056}
    del saved["size"]
    saved["image_processor_type"] = "Qwen2VLImageProcessor"
    file.write_text(json.dumps(saved))
    return folder


@pytest.fixture(scope="module")
def backbone(folder):
    return load_backbone(str(folder), **LOADING)


def pictures(*sizes):
    noise = np.random.default_rng(0)
    return [Image.fromarray(noise.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


@torch.no_grad()
def test_text_from_a_folder_is_what_transformers_computes(folder, backbone, prompts):
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = make_tokenizer()
    rows = backbone("text", backbone.collate("text", ITEMS))
    for item, row in zip(ITEMS, rows, strict=True):
        line = prompts.line("text", "text", item)
        ids = torch.tensor([tokenizer.encode(f"<|im_start|>user\n{line}<|im_end|>\n")])
        states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(row, states[0].mean(dim=0), rtol=1e-4, atol=1e-5)
    assert (rows[0] - rows[1]).abs().max() > 1e-2


@torch.no_grad()
def test_image_from_a_folder_is_what_transformers_computes(folder, backbone):
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = make_tokenizer()
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 400, "longest_edge": 12544})
    images = pictures((112, 112), (60, 90), (900, 700))
    rows = backbone("image", backbone.collate("image", [{}] * 3, images))
    for image, row in zip(images, rows, strict=True):
        seen = processor(images=[image], return_tensors="pt")
        cells = int(seen["image_grid_thw"].prod()) // 4
        assert cells <= 16
        ids = torch.tensor(
            [
                tokenizer.encode(
                    "<|im_start|>user\nThe product item has the image:<|vision_start|>"
                    + "<|image_pad|>" * cells
                    + "<|vision_end|><|im_end|>\n"
                )
            ]
        )
        output = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == backbone.processor.image_token_id).int(),
            pixel_values=seen["pixel_values"],
            image_grid_thw=seen["image_grid_thw"],
            output_hidden_states=True,
        )
        torch.testing.assert_close(row, output.hidden_states[-1][0].mean(dim=0), rtol=1e-4, atol=1e-5)
    assert torch.cdist(rows, rows).fill_diagonal_(9).min() > 1e-3


@torch.no_grad()
def test_folder_batch_is_its_items_one_by_one(backbone):
    images = pictures((112, 112), (60, 90), (900, 700))
    items = [*ITEMS, {"brand": "x"}]
    for modality in ("image", "text"):
        together = backbone(modality, backbone.collate(modality, items, images))
        for row, item, image in zip(together, items, images, strict=True):
            alone = backbone(modality, backbone.collate(modality, [item], [image]))[0]
            torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-5)


def test_pixel_limits_are_ours_and_not_the_folders(backbone):
    inputs = backbone.collate("image", [{}] * 2, pictures((1000, 1000), (20, 20)))
    assert inputs["image_grid_thw"].tolist() == [[1, 8, 8], [1, 2, 2]]


def test_adapter_goes_on_the_language_model_alone(folder):
    backbone = load_backbone(str(folder), **{**LOADING, "max_pixels": 3136})
    backbone.model = get_peft_model(backbone.model, MoDAConfig())
    adapted = backbone.model.targeted_module_names
    assert len(adapted) == 2 * 7
    assert all("language_model" in name for name in adapted)
    backbone("image", backbone.collate("image", [{}], pictures((50, 50)))).sum().backward()
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)


def test_home_folder_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert backbone_identity("~/qwen", **SOURCE) == backbone_identity(str(folder), **SOURCE)
    backbone = load_backbone("~/qwen", **LOADING)
    assert backbone.hidden_size == 32


def test_identity_is_the_folders_content(folder, tmp_path):
    first = backbone_identity(str(folder), **SOURCE)
    assert first == backbone_identity(str(folder), **SOURCE)
    copy = tmp_path / "copied"
    shutil.copytree(folder, copy)
    assert backbone_identity(str(copy), **SOURCE) == first  # not the place

    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    changed = backbone_identity(str(copy), **SOURCE)
    (copy / "chat_template.jinja").write_text("other")
    assert len({first, changed, backbone_identity(str(copy), **SOURCE)}) == 3


def test_identity_of_large_files_is_their_size_and_samples(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(source, "WHOLE_FILE_BYTES", 20_000)
    monkeypatch.setattr(source, "BLOCK_BYTES", 16)
    copy = tmp_path / "copied"
    shutil.copytree(folder, copy)
    weights = copy / "model.safetensors"
    size = weights.stat().st_size
    assert size > 20_000
    seen = {backbone_identity(str(copy), **SOURCE)}
    for place in (0, 5, size - 1):  # in the first and the last sampled block
        with weights.open("r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1]))
        seen.add(backbone_identity(str(copy), **SOURCE))
    with weights.open("ab") as file:
        file.write(b"\0")
    seen.add(backbone_identity(str(copy), **SOURCE))
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"model_type": "bert"}', "is a 'bert' model; known are qwen2_vl, qwen2_5_vl, .*siglip"),
        ('{"model_type": "qwen9_vl"}', "cannot be had: .*--backbone=FOLDER.*--backbone=tiny"),
        ("{ no json", "cannot be had: .*--backbone=FOLDER.*--backbone=tiny"),
        (None, "cannot be had: .*--backbone=FOLDER.*--backbone=tiny"),
    ],
)
def test_other_folders_are_refused(tmp_path, config, message):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(SDAError, match=message) as error:
        backbone_identity(str(tmp_path), **SOURCE)
    assert os.fspath(tmp_path) in str(error.value)


def test_the_identity_of_a_hub_model_holds_the_commit(monkeypatch, tmp_path):
    """A branch moves; what was made of its earlier commit is not what it is now."""
    class Resolved(str):
        resolved = "a" * 40

    monkeypatch.setattr(source, "read_family", lambda *_, **__: None)
    options = {"revision": None, "local_files_only": False, "trust_remote_code": False}
    found = set()
    for commit in ("a" * 40, "b" * 40):
        monkeypatch.setattr(Resolved, "resolved", commit)
        monkeypatch.setattr(source, "resolve_revision", lambda *_, **__: Resolved("main"))
        found.add(source.backbone_identity("somebody/model", **options))
    assert found == {f"somebody/model@{'a' * 40}", f"somebody/model@{'b' * 40}"}
    monkeypatch.setattr(source, "resolve_revision", lambda *_, **__: None)  # not reached
    assert source.backbone_identity("somebody/model", **options) == "somebody/model@main"
