"""Every family goes the same road: a folder, items, embeddings, an adapter."""

import re

import numpy as np
import pytest
import torch
import transformers
from conftest import PROMPTS
from encoders.families import FAMILIES, RECIPES
from encoders.samples import FILE_SIZES, FILES, ITEMS, collate, load, pictures, recordings
from oracles import pool_mean_loop
from peft import PeftModel, get_peft_model

from recbole_sda.adapters import MoDAConfig
from recbole_sda.encoders import Prompts, families
from recbole_sda.errors import SDAError

KINDS = [(name, kind) for name in FAMILIES for kind in families.FAMILIES[name].kinds]
CHAT = [(name, kind) for name, kind in KINDS if not families.FAMILIES[name].towers]
DUAL = [(name, kind) for name, kind in KINDS if families.FAMILIES[name].towers]
# transformers loads these families' processors without torchvision.
OWN_ROAD = ("llava", "idefics3", "qwen2_audio", "clip", "siglip")

every_kind = pytest.mark.parametrize(("name", "kind"), KINDS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {name: build(root / name) for name, build in FAMILIES.items()}


@pytest.fixture(scope="module")
def backbones(folders):
    return {name: load(folder) for name, folder in folders.items()}


def test_every_family_has_a_builder():
    assert set(FAMILIES) == set(families.FAMILIES)


@every_kind
@torch.no_grad()
def test_batch_is_its_items_one_by_one(backbones, name, kind):
    backbone = backbones[name]
    inputs = collate(backbone, kind)
    assert inputs["attention_mask"][:, 0].all()  # the padding is on the right
    together = backbone(kind, inputs)
    alone = torch.cat([backbone(kind, collate(backbone, kind, [row])) for row in range(len(ITEMS))])
    assert together.shape == (len(ITEMS), backbone.embedding_size)
    assert together.dtype is torch.float32
    assert together.isfinite().all()
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert torch.pdist(together).min() > 0.01


@every_kind
def test_tokens_are_counted_without_opening_a_file(backbones, name, kind):
    backbone = backbones[name]
    real = collate(backbone, kind)["attention_mask"].sum(dim=1).tolist()
    if kind == "text":
        assert [len(ids) for ids in backbone.encode_texts("text", ITEMS)] == real
    else:
        sizes = np.array(FILE_SIZES[kind] * 2)
        assert backbone.count_tokens(kind, sizes).tolist() == real * 2


@pytest.mark.parametrize("name", [name for name in FAMILIES if "image" in families.FAMILIES[name].kinds])
@pytest.mark.parametrize("max_pixels", [3136, 50_000])
def test_picture_tokens_are_counted_at_every_limit(folders, name, max_pixels):
    backbone = load(folders[name], max_pixels=max_pixels)
    sizes = [(w, h) for w in (7, 57, 130, 400) for h in (10, 56, 190)]
    inputs = backbone.collate("image", [{}] * len(sizes), pictures(*sizes))
    counted = backbone.count_tokens("image", np.array(sizes)[:, ::-1])
    assert counted.tolist() == inputs["attention_mask"].sum(dim=1).tolist()


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "internvl", "smolvlm", "idefics3"])
def test_max_pixels_rules_the_cost_of_pictures(folders, name):
    size = np.array([[900, 900]])
    little, much = (load(folders[name], max_pixels=limit).count_tokens("image", size) for limit in (3136, 60_000))
    assert much - little > 30


@pytest.mark.parametrize("name", ["internvl", "smolvlm", "idefics3"])
def test_tiling_families_make_one_tile_below_two(folders, name):
    inputs = load(folders[name], max_pixels=100).collate("image", [{}], pictures((500, 300)))
    assert inputs["pixel_values"].shape[-4:].numel() == 3 * 56 * 56


@pytest.mark.parametrize(("name", "kind"), CHAT)
@torch.no_grad()
def test_embedding_is_the_mean_of_the_whole_models_last_states(folders, backbones, name, kind):
    model = getattr(transformers, RECIPES[name].model).from_pretrained(folders[name]).eval()
    inputs = collate(backbones[name], kind)
    states = model(**inputs, output_hidden_states=True).hidden_states[-1]
    expected = pool_mean_loop(states, inputs["attention_mask"])
    torch.testing.assert_close(backbones[name](kind, inputs), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), DUAL)
@torch.no_grad()
def test_dual_encoders_give_their_own_pooled_embedding(folders, backbones, name, kind):
    model = transformers.AutoModel.from_pretrained(folders[name]).eval()
    processor = transformers.AutoProcessor.from_pretrained(folders[name])
    padding = "max_length" if name == "siglip" else True
    if kind == "text":
        lines = [backbones[name].text_line("text", item) for item in ITEMS]
        limit = backbones[name].family.max_text_tokens
        inputs = processor(text=lines, padding=padding, truncation=True, max_length=limit, return_tensors="pt")
        expected = model.get_text_features(**inputs).pooler_output
    else:
        expected = model.get_image_features(**processor(images=FILES["image"], return_tensors="pt")).pooler_output
    found = backbones[name](kind, collate(backbones[name], kind))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), [pair for pair in CHAT if pair[0] in OWN_ROAD and pair[1] != "text"])
def test_inputs_are_those_of_transformers_own_road(folders, name, kind):
    # Limits that leave the folder's own settings as they are.
    backbone = load(folders[name], max_pixels=(4 * 56) ** 2)
    processor = transformers.AutoProcessor.from_pretrained(folders[name])
    file = FILES[kind][0]
    content = file if kind == "image" else file.samples
    parts = [{"type": "text", "text": backbone.text_line(kind, {})}, {"type": kind, kind: content}]
    expected = processor.apply_chat_template(
        [[{"role": "user", "content": parts}]] * 2, tokenize=True, return_dict=True, return_tensors="pt"
    )
    found = backbone.collate(kind, [{}] * 2, [file] * 2)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name, kind in CHAT if kind == "text"])
def test_text_prompts_are_those_of_the_chat_template(folders, backbones, name):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[name])
    found = collate(backbones[name], "text")
    for row, item in enumerate(ITEMS):
        content = [{"type": "text", "text": backbones[name].text_line("text", item)}]
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        begin = tokenizer.bos_token
        expected = tokenizer(prompt, add_special_tokens=not (begin and prompt.startswith(begin)))["input_ids"]
        assert found["input_ids"][row][found["attention_mask"][row] == 1].tolist() == expected
        assert begin is None or expected.count(tokenizer.bos_token_id) == 1


# adapters


@pytest.fixture(scope="module")
def adapted(folders):
    """Backbones in new MoDA adapters whose B is random, so that each modality has an update of its own."""
    made = {}
    for name, folder in folders.items():
        backbone = load(folder)
        torch.manual_seed(0)
        config = MoDAConfig(
            target_modules=backbone.family.targets(), modalities=backbone.family.kinds, init_weights=False
        )
        backbone.model = get_peft_model(backbone.model, config)
        made[name] = backbone.eval()
    return made


@pytest.mark.parametrize("name", FAMILIES)
def test_adapter_goes_on_all_layers_of_what_reads_items(adapted, name):
    backbone = adapted[name]
    names = backbone.model.targeted_module_names
    towers = families.FAMILIES[name].towers
    assert len(names) == (2 * 2 * 6 if towers else 2 * 7)
    if not towers:
        assert all("vision" not in one and "visual" not in one and "audio" not in one for one in names)
    of_one = [one for one in names if re.fullmatch(backbone.family.targets(1), one)]
    assert len(of_one) == len(names) / 2
    assert all(".layers.1." in one for one in of_one)


@every_kind
def test_adapter_changes_the_embedding_and_learns(adapted, name, kind):
    backbone = adapted[name]
    inputs = collate(backbone, kind)
    with torch.no_grad():
        before = backbone(kind, inputs)
        with backbone.model.disable_adapter():
            base = backbone(kind, inputs)
    assert (before - base).abs().max() > 1e-3
    backbone(kind, inputs).square().sum().backward()
    gradients = {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}
    expected = {n for n, p in backbone.named_parameters() if p.requires_grad and _reads(backbone, n, kind)}
    assert set(gradients) == expected
    assert sum(gradient.abs().sum() for gradient in gradients.values()) > 0
    with torch.no_grad():
        for parameter_name, gradient in gradients.items():
            backbone.get_parameter(parameter_name).sub_(gradient, alpha=1e-3)
        assert (backbone(kind, inputs) - before).abs().max() > 1e-5
    backbone.zero_grad(set_to_none=True)


def _reads(backbone, parameter: str, kind: str) -> bool:
    towers = backbone.family.traits.towers
    return not towers or towers[kind].norm.partition(".")[0] in parameter


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_adapter_is_saved_and_loaded(folders, adapted, tmp_path, name):
    adapted[name].model.save_pretrained(tmp_path)
    loaded = load(folders[name])
    loaded.model = PeftModel.from_pretrained(loaded.model, tmp_path)
    loaded.eval()
    for kind in loaded.kinds:
        inputs = collate(loaded, kind)
        torch.testing.assert_close(loaded(kind, inputs), adapted[name](kind, inputs), rtol=0, atol=0)


# details of single families


@torch.no_grad()
def test_the_reading_half_of_an_omni_model_is_loaded_alone(folders, backbones, tmp_path):
    name = "qwen2_5_omni_thinker"
    thinker = getattr(transformers, RECIPES[name].model).from_pretrained(folders[name])
    for file in folders[name].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = transformers.Qwen2_5OmniConfig(thinker_config=thinker.config.to_dict(), enable_audio_output=False)
    whole = transformers.Qwen2_5OmniForConditionalGeneration(config)
    whole.thinker.load_state_dict(thinker.state_dict())
    whole.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    for kind in ("text", "image", "audio"):
        inputs = collate(loaded, kind)
        torch.testing.assert_close(loaded(kind, inputs), backbones[name](kind, inputs), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["qwen2_audio", "qwen2_5_omni_thinker"])
def test_the_shortest_recording_is_heard(backbones, name):
    inputs = backbones[name].collate("audio", [{}], recordings((1, 48000)))
    assert (inputs["input_ids"] == backbones[name].processor.audio_token_id).sum() == 2


def test_recordings_longer_than_the_model_hears_are_refused(backbones):
    fits, long = recordings((32000, 16000), (32001, 16000))
    assert backbones["qwen2_audio"].collate("audio", [{}], [fits])["attention_mask"].sum() > 0
    with pytest.raises(SDAError, match=r"a recording of 2\.0 seconds is longer than the 2 .* max_audio_seconds=2"):
        backbones["qwen2_audio"].collate("audio", [{}], [long])
    collator = backbones["qwen2_audio"].collator  # before any file is opened, from the sizes alone
    collator.check_sizes("audio", np.array([[32000, 16000], [0, 0]]))
    with pytest.raises(SDAError, match=r"a recording of 2\.0 seconds is longer than the 2 .* max_audio_seconds=2"):
        collator.check_sizes("audio", np.array([[32000, 16000], [0, 0], [32001, 16000]]))


def test_a_kind_that_the_family_does_not_read_is_refused(backbones):
    backbone = load(str(backbones["llava"].model.name_or_path), kinds={"text": "text", "sound": "audio"})
    with pytest.raises(SDAError, match="'sound' is audio, and a llava model reads text and image only"):
        backbone.collate("sound", [{}], FILES["audio"][:1])


@pytest.mark.parametrize("name", ["clip", "siglip", "qwen2_5_vl"])
@torch.no_grad()
def test_long_texts_are_cut_to_the_models_limit_and_counted(folders, name):
    backbone = load(folders[name], prompts=Prompts(**{**PROMPTS, "value_chars": 2_000_000}))
    limit = backbone.family.max_text_tokens
    items = [{"a": "x"}, {"a": "long " * 20_000}, {"a": "long " * 500}]
    ids = backbone.encode_texts("text", items)
    assert [len(one) for one in ids][1:] == [limit, limit]
    assert ids[1] == ids[2]  # what is cut away leaves no trace
    assert backbone.texts_cut == 2
    end = backbone.collator.tokenizer.decode(ids[1][-1:])
    assert end in ("<|endoftext|>", "</s>", "\n")
    assert backbone("text", backbone.pad(ids)).isfinite().all()
