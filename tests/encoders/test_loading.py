"""Every option of loading, and every way in which a backbone cannot be had."""

import json
import shutil

import pytest
import torch
import transformers
from conftest import LOADING
from encoders.families import FAMILIES
from encoders.samples import collate, load
from peft import get_peft_model
from safetensors.torch import load_file, save_file

from recbole_sda.adapters import MoDAConfig
from recbole_sda.encoders import backbone_identity, check_loading, load_backbone, loading, read_family
from recbole_sda.errors import SDAError

SOURCE = {name: LOADING[name] for name in ("revision", "local_files_only", "trust_remote_code")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {name: build(root / name) for name, build in FAMILIES.items()}


@pytest.fixture
def no_weights(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("weights were read")

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", refuse)


@pytest.mark.parametrize("name", FAMILIES)
def test_family_is_read_without_weights(folders, no_weights, name):
    family = read_family(str(folders[name]), **SOURCE)
    assert family.model_type == name
    assert family.shared == (name not in ("clip", "siglip"))
    assert family.layers == 2
    assert family.width == (24 if name == "clip" else 32)
    assert backbone_identity(str(folders[name]), **SOURCE).startswith("folder ")


def test_the_built_in_backbone_is_of_a_family(no_weights):
    family = read_family("tiny", **SOURCE)
    assert (family.model_type, family.kinds, family.width, family.layers) == (
        "qwen2_5_vl",
        ("text", "image"),
        64,
        2,
    )


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_half_precision_is_close_to_the_exact(folders, name):
    half, exact = load(folders[name], dtype="bfloat16"), load(folders[name])
    assert next(half.parameters()).dtype is torch.bfloat16
    for kind in exact.kinds:
        inputs = collate(exact, kind)
        rows = half(kind, inputs)
        assert rows.dtype is torch.float32
        assert torch.cosine_similarity(rows, exact(kind, inputs)).min() > 0.99


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_attention_by_name_gives_the_same(folders, name):
    eager, sdpa = (load(folders[name], attn_implementation=one) for one in ("eager", "sdpa"))
    assert (eager.model.config._attn_implementation, sdpa.model.config._attn_implementation) == ("eager", "sdpa")
    for kind in eager.kinds:
        inputs = collate(eager, kind)
        torch.testing.assert_close(eager(kind, inputs), sdpa(kind, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava", "qwen2_audio"])
@pytest.mark.parametrize(("quantization", "layer"), [("4bit", "Linear4bit"), ("8bit", "Linear8bitLt")])
def test_quantised_weights_are_close_and_take_an_adapter(folders, name, quantization, layer):
    pytest.importorskip("bitsandbytes")
    backbone, exact = load(folders[name], quantization=quantization), load(folders[name])
    names = {type(module).__name__ for module in backbone.model.modules()}
    assert layer in names
    inputs = collate(exact, "text")
    with torch.no_grad():
        similar = torch.cosine_similarity(backbone("text", inputs), exact("text", inputs))
    assert similar.min() > 0.8
    config = MoDAConfig(target_modules=backbone.family.targets(), modalities=backbone.family.kinds)
    backbone.model = get_peft_model(backbone.model, config)
    assert len(backbone.model.targeted_module_names) == 14
    backbone("text", inputs).sum().backward()
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)


@torch.no_grad()
def test_a_device_map_gives_the_same(folders):
    mapped, plain = load(folders["llava"], device_map="auto"), load(folders["llava"])
    inputs = collate(plain, "image")
    torch.testing.assert_close(mapped("image", inputs), plain("image", inputs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "3bit"}, "backbone_quantization='3bit' is unknown; choose none, 8bit, 4bit"),
        ({"device_map": "everywhere"}, "backbone_device_map='everywhere' is unknown; choose auto"),
        ({"attn_implementation": "fast"}, "backbone_attn_implementation='fast' cannot be used: .* eager or sdpa"),
        ({"dtype": "float31"}, "backbone_dtype='float31'"),
        ({"revision": "v1"}, "backbone_revision='v1' says nothing about backbone=.* leave it out"),
    ],
)
@pytest.mark.parametrize("name", ["tiny", "llava", "clip", "qwen2_5_omni_thinker"])
def test_bad_options_are_refused_before_weights_are_read(folders, no_weights, name, options, message):
    with pytest.raises(SDAError, match=message):
        load(folders.get(name, name), **options)


@pytest.mark.parametrize("options", [{"quantization": "8bit"}, {"device_map": "auto"}])
def test_the_built_in_backbone_has_options_that_do_nothing(options):
    (key,) = options
    with pytest.raises(SDAError, match=f"backbone_{key} does nothing for the built-in tiny"):
        load_backbone("tiny", **{**LOADING, **options})


def test_quantisation_without_its_library_is_refused(folders, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    family = read_family(str(folders["llava"]), **SOURCE)
    options = {"attn_implementation": None, "device_map": None}
    with pytest.raises(SDAError, match=r"backbone_quantization='4bit' needs bitsandbytes; pip install"):
        check_loading("x", family, quantization="4bit", **options)
    check_loading("x", family, quantization="none", **options)


def test_unknown_families_are_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(SDAError, match="is a 'bert' model; known are") as error:
        read_family(str(tmp_path), **SOURCE)
    assert all(name in str(error.value) for name in FAMILIES)


def test_a_revision_that_cannot_be_had_is_named():
    with pytest.raises(SDAError, match="backbone='nobody/none' at backbone_revision='v9' cannot be had"):
        read_family("nobody/none", **{**SOURCE, "revision": "v9"})


@pytest.fixture
def copy(folders, tmp_path):
    return lambda name: shutil.copytree(folders[name], tmp_path / name)


def test_a_chat_model_without_a_chat_template_is_refused(copy):
    folder = copy("llava")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(SDAError, match=r"llava model has no chat template.* put that one's chat_template.jinja"):
        load(folder)


@pytest.mark.parametrize(
    "template",
    [
        "{% for message in messages %}{{ message['content'] }}{% endfor %}",
        "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}",
        "<image>{% for m in messages %}{% for p in m['content'] %}<image>{{ p['text'] }}{% endfor %}{% endfor %}",
        "<image>",
    ],
)
def test_a_template_that_leaves_out_a_part_is_refused(copy, template):
    folder = copy("llava")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(SDAError, match=r"does not write a line and its .* once each"):
        load(folder)


@pytest.mark.parametrize("file", ["preprocessor_config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_without_one_of_its_files_is_refused(copy, file):
    folder = copy("qwen2_5_vl")
    (folder / file).unlink()
    with pytest.raises(SDAError, match=r"backbone='.*qwen2_5_vl' cannot be loaded: "):
        load(folder)


def test_weights_that_are_missing_or_broken_are_not_made_up(copy):
    folder = copy("llava")
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file({key: value for key, value in weights.items() if "lm_head" not in key}, file, {"format": "pt"})
    load(folder)  # nobody needs the head
    left_out = "model.language_model.layers.1.self_attn.q_proj.weight"
    assert any(key.endswith("layers.1.self_attn.q_proj.weight") for key in weights)
    few = {key: value for key, value in weights.items() if not key.endswith("layers.1.self_attn.q_proj.weight")}
    save_file(few, file, {"format": "pt"})
    with pytest.raises(SDAError, match=f"cannot be loaded: its files lack .* weights, {left_out} among them"):
        load(folder)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(SDAError, match="cannot be loaded: "):
        load(folder)


@torch.no_grad()
def test_a_template_that_trims_its_text_is_left_to_it(copy):
    folder = copy("llava")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("{{ part['text'] }}", "{{ part['text'] | trim }}"))
    trimming, plain = load(folder), load(copy("qwen2_5_vl"))
    assert trimming.collator.prompt("text", {"a": "x"}).endswith(" a is x; ")
    assert trimming.collator._format("text", "  y \n").endswith("USER: y ")
    assert plain.collator._format("text", "  y \n").endswith("user\n  y \n<|im_end|>\n")


def test_smolvlm_says_what_it_needs(folders, monkeypatch):
    from transformers.models.smolvlm import processing_smolvlm

    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    with pytest.raises(SDAError, match=r"cannot be loaded: .*pip install num2words"):
        load(folders["smolvlm"])


def test_code_that_comes_with_a_model_does_not_run(copy):
    folder = copy("llava")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('code ran')")
    with pytest.raises(SDAError, match="cannot be had"):
        read_family(str(folder), **SOURCE)
