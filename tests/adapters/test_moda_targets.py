"""What MoDA adapts in real model families, and every mistake in its settings."""

import re

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from recbole_sda.adapters import (
    LANGUAGE_MODEL_TARGETS,
    MoDAConfig,
    adaptation_summary,
    checkpoint_routing,
    routing,
)

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def tiny_qwen() -> Qwen2_5_VLForConditionalGeneration:
    torch.manual_seed(0)
    text = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1],
    }
    ids = {
        "image_token_id": 120,
        "video_token_id": 121,
        "vision_start_token_id": 122,
        "vision_end_token_id": 123,
    }
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))


def moda_count(shapes, *, r, num_experts, modalities=2, dim=64):
    return sum(r * (rows + columns) + dim * (num_experts + modalities) for rows, columns in shapes)


def trainable(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


# targets


@pytest.mark.parametrize(
    "path",
    [
        "model.language_model.layers.0.",
        "language_model.layers.27.",
        "language_model.model.layers.3.",
        "model.text_model.layers.11.",
        "lvlm.model.language_model.layers.0.",
        "model.layers.0.",
        "layers.1.",
    ],
)
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_default_targets_match_language_models(path, projection):
    block = "mlp" if projection in PROJECTIONS[4:] else "self_attn"
    assert re.fullmatch(LANGUAGE_MODEL_TARGETS, f"{path}{block}.{projection}")


@pytest.mark.parametrize(
    "name",
    [
        "model.visual.blocks.0.mlp.gate_proj",
        "model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj",
        "model.vision_model.encoder.layers.0.self_attn.v_proj",
        "vision_tower.transformer.layers.0.mlp.up_proj",
        "model.connector.perceiver_resampler.layers.0.self_attn.q_proj",
        "text_model.encoder.layers.0.self_attn.q_proj",
        "audio_tower.layers.0.self_attn.q_proj",
        "model.language_model.layers.0.self_attn",
        "lm_head",
    ],
)
def test_default_targets_match_nothing_else(name):
    assert not re.fullmatch(LANGUAGE_MODEL_TARGETS, name)


def test_tiny_qwen_is_adapted_in_its_language_model_alone():
    model = get_peft_model(tiny_qwen(), MoDAConfig())
    names = model.adapted_modules()
    assert names == [
        f"model.language_model.layers.{layer}.{block}.{projection}"
        for layer in range(2)
        for block, projections in (("self_attn", PROJECTIONS[:4]), ("mlp", PROJECTIONS[4:]))
        for projection in projections
    ]
    kv = 32
    layer = [(64, 64), (kv, 64), (kv, 64), (64, 64), (96, 64), (96, 64), (64, 96)]
    assert trainable(model) == moda_count(layer * 2, r=8, num_experts=4)
    lora = get_peft_model(tiny_qwen(), LoraConfig(r=8, target_modules=LANGUAGE_MODEL_TARGETS))
    assert set(lora.targeted_module_names) == set(names)
    assert trainable(model) - trainable(lora) == 14 * 64 * (4 + 2)


def test_count_on_the_7b_shape():
    text = {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    }
    with torch.device("meta"):
        base = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text))
        model = get_peft_model(base, MoDAConfig())
    assert len(model.adapted_modules()) == 28 * 7
    sizes = {"pair": 0, "gate": 0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            sizes["pair" if ".moda_A" in name or ".moda_B" in name else "gate"] += parameter.numel()
    assert sizes == {"pair": 20_185_088, "gate": 75_264}


def test_layers_to_transform_goes_into_the_default_pattern(tmp_path):
    model = get_peft_model(tiny_qwen(), MoDAConfig(layers_to_transform=[1]))
    assert len(model.adapted_modules()) == 7
    assert all(".layers.1." in name for name in model.adapted_modules())
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny_qwen(), tmp_path)
    assert again.adapted_modules() == model.adapted_modules()


SELF_ATTENTION = "model.language_model.layers.{}.self_attn.{{q,k,v,o}}_proj"
MLP = "model.language_model.layers.{}.mlp.{{gate,up,down}}_proj"


@pytest.mark.parametrize(
    ("settings", "summary"),
    [
        ({}, f"14 linear layers adapted: {SELF_ATTENTION} (4 x 2), {MLP} (3 x 2); 20,224 of ".format("*", "*")),
        ({"layers_to_transform": 1}, f"7 linear layers adapted: {SELF_ATTENTION}, {MLP}; ".format(1, 1)),
        (
            {"target_modules": ["attn.qkv", "attn.proj"]},
            "4 linear layers adapted: model.visual.blocks.*.attn.{qkv,proj} (2 x 2); ",
        ),
        (
            {"target_modules": r".*merger\.mlp\.[02]|.*1\.self_attn\.q_proj", "exclude_modules": ["o_proj"]},
            "3 linear layers adapted: model.visual.merger.mlp.* (1 x 2), "
            "model.language_model.layers.1.self_attn.q_proj; ",
        ),
    ],
)
def test_summary_folds_the_numbers_of_layers(settings, summary):
    assert adaptation_summary(get_peft_model(tiny_qwen(), MoDAConfig(**settings))).startswith(summary)


def test_targets_by_name_layer_and_exclusion():
    by_name = MoDAConfig(target_modules=["q_proj"], layers_to_transform=0, layers_pattern="language_model.layers")
    assert get_peft_model(tiny_qwen(), by_name).adapted_modules() == [
        "model.language_model.layers.0.self_attn.q_proj"
    ]
    without = MoDAConfig(exclude_modules=["q_proj", "down_proj"])
    assert len(get_peft_model(tiny_qwen(), without).adapted_modules()) == 2 * 5
    everything = get_peft_model(tiny_qwen(), MoDAConfig(target_modules="all-linear")).adapted_modules()
    assert "lm_head" not in everything
    assert "model.visual.blocks.0.attn.qkv" in everything


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["qproj"]}, r"\['qproj'\]|\{'qproj'\}"),
        ({"target_modules": ["qproj"]}, r"model\.language_model\.layers\.\*\.self_attn\.q_proj"),
        ({"target_modules": r"decoder\..*\.q_proj"}, r"closest linear layers.*self_attn\.q_proj"),
        ({"exclude_modules": ".*"}, r"besides exclude_modules='\.\*'"),
        ({"target_modules": ["q_proj"], "layers_to_transform": [7]}, r"in layers_to_transform=\[7\]"),
    ],
)
def test_targets_that_match_nothing_name_what_there_is(settings, message):
    with pytest.raises(ValueError, match=message):
        get_peft_model(tiny_qwen(), MoDAConfig(**settings))


def test_model_without_linear_layers_says_so():
    with pytest.raises(ValueError, match="none at all"):
        get_peft_model(nn.Sequential(nn.Conv1d(2, 2, 1)), MoDAConfig())


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        (nn.Conv1d(2, 2, 1), "part", "'part', a Conv1d; MoDA adapts nn.Linear only"),
        (nn.MultiheadAttention(4, 2), "part.out_proj", "without calling it; add it to exclude_modules"),
    ],
)
def test_other_layers_are_refused(module, name, message):
    with pytest.raises(TypeError, match=message):
        get_peft_model(nn.ModuleDict({"part": module}), MoDAConfig(target_modules=[name]))


def test_gradient_checkpointing_of_transformers_equals_plain():
    token_ids = torch.randint(3, 100, (2, 7), generator=torch.Generator().manual_seed(4))
    results = []
    for checkpointing in (False, True):
        base = tiny_qwen()
        if checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": checkpoint_routing})
        torch.manual_seed(1)
        model = get_peft_model(base, MoDAConfig(init_weights=False)).train()
        assert model.is_gradient_checkpointing == checkpointing
        torch.manual_seed(5)  # the same dropout in both
        pooled = []
        for modality in ("image", "text"):
            with routing(modality):
                hidden = model(input_ids=token_ids, output_hidden_states=True).hidden_states[-1]
            pooled.append(hidden.mean(dim=1))
        torch.nn.functional.cosine_similarity(*pooled).sum().backward()
        results.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    plain, checkpointed = results
    assert plain.keys() == checkpointed.keys()
    assert len(plain) == 14 * 4
    for name in plain:
        torch.testing.assert_close(checkpointed[name], plain[name], rtol=1e-4, atol=1e-6)


# settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_experts": 3}, "num_experts=3 does not divide r=8; choose 1, 2, 4 or 8"),
        ({"rank_pattern": {"q_proj": 6}}, r"num_experts=4 does not divide rank_pattern\['q_proj'\]=6"),
        ({"rank_pattern": {"q_proj": 0}}, r"rank_pattern\['q_proj'\]=0 is not a positive integer"),
        ({"r": 0}, "r=0 is not a positive integer"),
        ({"r": 8.0}, "r=8.0 is not a positive integer"),
        ({"num_experts": True}, "num_experts=True is not a positive integer"),
        ({"modality_embedding_dim": -1}, "modality_embedding_dim=-1"),
        ({"lora_alpha": 0}, "lora_alpha=0 is not a positive number"),
        ({"alpha_pattern": {"q_proj": "big"}}, r"alpha_pattern\['q_proj'\]='big'"),
        ({"lora_dropout": 1.0}, r"lora_dropout=1.0 is not in \[0, 1\)"),
        ({"lora_dropout": None}, "lora_dropout=None"),
        ({"init_weights": "pissa"}, "init_weights='pissa' is unknown; choose True, False, kaiming or orthogonal"),
        ({"init_weights": 1}, "init_weights=1 is unknown"),
        ({"r": 2}, "num_experts=4 does not divide r=2; choose 1 or 2"),
        ({"gate_scale": "auto"}, "gate_scale='auto' is unknown; choose none or num_experts"),
        ({"modalities": "image"}, "modalities='image' is not a list"),
        ({"modalities": None}, "modalities=None is not a list"),
        ({"modalities": []}, "needs one or more non-empty names"),
        ({"modalities": ["image", ""]}, "non-empty names"),
        ({"modalities": ["image", "image"]}, "names one modality twice"),
        ({"target_modules": []}, r"target_modules=\[\] is empty"),
        ({"target_modules": "("}, r"target_modules='\(' is not a regular expression"),
        ({"exclude_modules": "*x"}, r"exclude_modules='\*x' is not a regular expression"),
        ({"target_modules": ".*q_proj", "layers_to_transform": [0]}, "layers_to_transform=.* has no effect"),
        (
            {"target_modules": ["q_proj"], "layers_pattern": "layers"},
            "does nothing without layers_to_transform",
        ),
        ({"layers_to_transform": [0], "layers_pattern": "layers"}, "needs target_modules as a list"),
        ({"layers_to_transform": []}, "adapts no layer"),
        ({"task_type": "NO_TASK"}, "Invalid task type"),
    ],
)
def test_bad_settings_name_key_value_and_remedy(settings, message):
    with pytest.raises(ValueError, match=message):
        MoDAConfig(**settings)


def test_defaults_are_the_papers():
    settings = MoDAConfig()
    assert (settings.peft_type, settings.r, settings.lora_alpha, settings.lora_dropout) == (
        "MODA",
        8,
        32,
        0.1,
    )
    assert (settings.num_experts, settings.modality_embedding_dim, settings.gate_scale) == (4, 64, "none")
    assert settings.modalities == ("image", "text")
    assert settings.target_modules == LANGUAGE_MODEL_TARGETS
