"""Texts that others have written: they may say anything, and must not be taken for commands."""

from collections import Counter

import pytest
import torch
from conftest import LOADING, PROMPTS
from encoders.families import FAMILIES
from encoders.samples import load

from recbole_sda.encoders import Prompts, load_backbone
from recbole_sda.encoders.special_tokens import SpecialTokens

TEXTS = {
    "emoji": "🎬👩‍👩‍👧‍👦🏳️‍🌈 ☺️",
    "right to left": "\u202eمرحبا بالعالم\u202c שלום \u200f",
    "html": "<b>bold</b><script>alert(1)</script><img src='x' onerror=\"y\">&lt;&#0;<!-- --></html>",
    "control": "".join(map(chr, [*range(32), 127, 0x85, 0x2028, 0xFEFF, 0xFFFE, 0x10FFFF])),
    "half a pair": "\ud800 and \udfff",
    "jinja": "{{ messages }} {% raw %} {# #}",
    "nan": "NaN",
    "combining": "e" + "\u0301" * 500,
    "empty": "",
    "blank": "   \n\t ",
}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """Every family, and the built-in one; none cuts values."""
    root = tmp_path_factory.mktemp("families")
    whole = Prompts(**{**PROMPTS, "value_chars": 2_000_000})
    made = {name: load(build(root / name), prompts=whole) for name, build in FAMILIES.items()}
    return {**made, "tiny": load_backbone("tiny", **{**LOADING, "prompts": whole})}


def special_ids(backbone, ids: list[int]) -> Counter:
    known = backbone.collator.tokenizer.added_tokens_decoder
    return Counter(one for one in ids if one in known)


@pytest.mark.parametrize("name", [*FAMILIES, "tiny"])
@torch.no_grad()
def test_an_items_text_spells_no_special_token(backbones, name):
    backbone = backbones[name]
    tokens = [token.content for token in backbone.collator.tokenizer.added_tokens_decoder.values()]
    assert len(tokens) > 1
    values = [" ".join(tokens), "".join(tokens), "".join(tokens).upper(), *(f"{t[:3]}{t}{t[3:]}" for t in tokens)]
    items = [{"title": "calm"}, *({"title": value} for value in values), {"".join(tokens): "as a field's name"}]
    # Before they are cut to the model's limit, which would hide what is at the end.
    ids = backbone.collator._encode([backbone.collator.prompt("text", item) for item in items])
    own = special_ids(backbone, ids[0])
    assert all(special_ids(backbone, one) == own for one in ids[1:])


@pytest.mark.parametrize("name", [*FAMILIES, "tiny"])
@torch.no_grad()
def test_any_text_gives_an_embedding_and_disturbs_nobody(backbones, name):
    backbone = backbones[name]
    hostile = [{"title": text} for text in TEXTS.values()]
    calm = backbone("text", backbone.collate("text", [{"title": "cup"}]))
    rows = backbone("text", backbone.collate("text", [{"title": "cup"}, *hostile]))
    assert rows.isfinite().all()
    torch.testing.assert_close(rows[:1], calm, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "clip", "tiny"])
@torch.no_grad()
def test_a_megabyte_of_text_passes(backbones, name):
    backbone = backbones[name]
    for text, least in (("word 🎬 <|image_pad|> " * 50_000, 60), ("x" * 1_000_000, 10)):
        ids = backbone.encode_texts("text", [{"title": text}])
        assert least < len(ids[0]) <= backbone.family.max_text_tokens


def test_neutralised_texts_keep_all_they_say():
    clean = SpecialTokens(["<s>", "<|im_end|>", "<|image_pad|>", "[", " ", "\n\n", "<s><s>"])
    assert clean("a <s> b") == "a < s> b"
    assert clean("<s><s>") == "< s>< s>"
    assert clean("<|im_<|im_end|>end|>") == "<|im_< |im_end|>end|>"
    assert clean("<|IM_end|>[ \n\n") == "< |IM_end|>[ \n\n"
    calm = "nothing <b>special</b> < s> s> <|im_end|"
    assert clean(calm) == calm
    assert SpecialTokens([])("<s>") == "<s>"
