"""MoDA's mathematics against the slow loop, and its life inside PEFT: merge, save, switch, delete."""

import subprocess
import sys

import pytest
import torch
from oracles import moda_loop
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from recbole_sda.adapters import MoDAConfig, MoDALinear, adaptation_summary, register, routing

MODALITIES = ("image", "text")


class TwoLayers(nn.Module):
    """(B, T, 12) -> (B, T, 10), enough of a model for PEFT."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 16)
        self.second = nn.Linear(16, 10, bias=False)

    def forward(self, hidden_states):
        return self.second(torch.tanh(self.first(hidden_states)))


def base_model(dtype=torch.float32):
    torch.manual_seed(0)
    return TwoLayers().to(dtype)


def config(**settings):
    defaults = {"target_modules": ["first", "second"], "lora_dropout": 0.0, "init_weights": False}
    return MoDAConfig(**defaults | settings)


def adapted(dtype=torch.float32, autocast_adapter_dtype=True, **settings):
    base = base_model(dtype)
    torch.manual_seed(1)
    return get_peft_model(base, config(**settings), autocast_adapter_dtype=autocast_adapter_dtype).eval()


def inputs(dtype=torch.float32, batch=4):
    return torch.randn(batch, 5, 12, generator=torch.Generator().manual_seed(2)).to(dtype)


def forward(model, modality, hidden_states=None):
    with routing(modality):
        return model(inputs() if hidden_states is None else hidden_states)


def first_layer(model) -> MoDALinear:
    return model.base_model.model.first


def loop_through(layer, hidden_states, modality, *, lora_alpha=32, gate_factor=1.0):
    return moda_loop(
        hidden_states,
        layer.base_layer.weight,
        bias=layer.base_layer.bias,
        A=layer.moda_A["default"],
        B=layer.moda_B["default"],
        gate_weight=layer.moda_gate["default"].weight,
        embedding=layer.moda_modality_embedding["default"].weight,
        modality=modality,
        lora_alpha=lora_alpha,
        gate_factor=gate_factor,
    )


# the formula


@pytest.mark.parametrize("num_experts", [1, 2, 4, 8])
@pytest.mark.parametrize(("gate_scale", "per_expert"), [("none", 0), ("num_experts", 1)])
def test_fused_equals_loop_over_experts(num_experts, gate_scale, per_expert):
    layer = first_layer(adapted(num_experts=num_experts, gate_scale=gate_scale))
    for index, name in enumerate(MODALITIES):
        loop = loop_through(layer, inputs(), index, gate_factor=num_experts if per_expert else 1.0)
        torch.testing.assert_close(forward(layer, name), loop)


def test_fused_gradients_equal_loop():
    layer = first_layer(adapted())
    parameters = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    assert len(parameters) == 4
    for index, name in enumerate(MODALITIES):
        fused = torch.autograd.grad(forward(layer, name).square().sum(), parameters)
        loop = torch.autograd.grad(loop_through(layer, inputs(), index).square().sum(), parameters)
        for ours, theirs in zip(fused, loop, strict=True):
            assert theirs.abs().max() > 0
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_one_expert_equals_peft_lora():
    moda = adapted(num_experts=1)
    lora = get_peft_model(
        base_model(), LoraConfig(r=8, lora_alpha=32, lora_dropout=0.0, target_modules=["first", "second"])
    ).eval()
    for ours, theirs in zip(moda.base_model.model.children(), lora.base_model.model.children(), strict=True):
        theirs.lora_A["default"].weight.data.copy_(ours.moda_A["default"])
        theirs.lora_B["default"].weight.data.copy_(ours.moda_B["default"])
    torch.testing.assert_close(forward(moda, "image"), lora(inputs()))


def test_starts_at_base_model_with_documented_initialisation():
    torch.manual_seed(3)
    base = nn.Sequential(nn.Linear(512, 256))
    model = get_peft_model(base, MoDAConfig(target_modules=["0"], modalities=[f"m{i}" for i in range(64)]))
    layer = model.base_model.model[0].requires_grad_(False)
    assert layer.moda_A["default"].shape == (8, 512)
    assert layer.moda_B["default"].shape == (256, 8)
    assert layer.moda_A["default"].std() == pytest.approx(0.01, rel=0.05)
    assert layer.moda_B["default"].abs().max() == 0
    assert layer.moda_modality_embedding["default"].weight.std() == pytest.approx(1.0, rel=0.05)
    gate = layer.moda_gate["default"].weight
    assert gate.shape == (4, 64)
    assert gate.abs().max() <= 64**-0.5  # nn.Linear's uniform bound
    hidden_states = torch.randn(3, 512)
    torch.testing.assert_close(forward(model, "m7", hidden_states), layer.base_layer(hidden_states))


@pytest.mark.parametrize("init_weights", [True, "kaiming", "orthogonal"])
def test_every_start_but_the_random_one_is_at_the_base_model(init_weights):
    model = adapted(init_weights=init_weights, num_experts=2)
    torch.testing.assert_close(forward(model, "text"), base_model()(inputs()))
    A = first_layer(model).moda_A["default"].detach()
    if init_weights == "kaiming":
        lora = get_peft_model(nn.Sequential(nn.Linear(12, 16)), LoraConfig(r=8, target_modules=["0"]))
        bound = lora.base_model.model[0].lora_A["default"].in_features ** -0.5
        assert 0.8 * bound < A.abs().max() <= bound
    elif init_weights == "orthogonal":
        torch.testing.assert_close(A @ A.T, torch.eye(8))
    else:
        assert A.abs().max() < 0.05


def test_rslora_and_patterns_change_rank_and_scale():
    model = adapted(use_rslora=True, rank_pattern={"second": 4}, alpha_pattern={"second": 2})
    first, second = model.base_model.model.children()
    assert (first.r["default"], second.r["default"]) == (8, 4)
    assert first.scaling["default"] == pytest.approx(32 / 8**0.5)
    assert second.scaling["default"] == pytest.approx(2 / 4**0.5)


def test_dropout_acts_in_training_only():
    model = adapted(lora_dropout=0.5)
    torch.testing.assert_close(forward(model, "image"), forward(model, "image"))
    model.train()
    assert not torch.allclose(forward(model, "image"), forward(model, "image"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("autocast_adapter_dtype", [True, False])
def test_dtype_of_result_is_that_of_the_base(dtype, autocast_adapter_dtype):
    model = adapted(dtype, autocast_adapter_dtype)
    adapter_dtype = first_layer(model).moda_A["default"].dtype
    assert adapter_dtype == (torch.float32 if autocast_adapter_dtype else dtype)
    result = forward(model, "text", inputs(dtype))
    assert result.dtype == dtype
    reference = forward(adapted(), "text")
    torch.testing.assert_close(result.float(), reference, rtol=0.05, atol=0.05)


# merging


@pytest.mark.parametrize("modality", MODALITIES)
def test_merged_equals_unmerged(modality):
    expected = forward(adapted(), modality)
    merged = adapted().merge_and_unload(modality=modality, safe_merge=True)
    assert type(merged.first) is nn.Linear
    torch.testing.assert_close(merged(inputs()), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_unmerge_restores_every_bit_and_next_modality_is_exact(dtype):
    model = adapted(dtype)
    layer = first_layer(model)
    before = layer.weight.clone()
    expected = {name: forward(model, name, inputs(dtype)) for name in MODALITIES}
    for name in MODALITIES * 2:
        model.merge_adapter(modality=name)
        assert not torch.equal(layer.weight, before)
        result = model(inputs(dtype))  # no routing needed
        torch.testing.assert_close(result.float(), expected[name].float(), rtol=0.05, atol=0.05)
        model.unmerge_adapter()
        assert torch.equal(layer.weight, before)


def test_merge_takes_the_modality_of_an_enclosing_routing_or_the_only_one():
    expected = forward(adapted(), "text")
    with routing("text"):
        merged = adapted().merge_and_unload()
    torch.testing.assert_close(merged(inputs()), expected)
    single = adapted(modalities=["text"])
    expected = forward(single, "text")
    torch.testing.assert_close(single.merge_and_unload()(inputs()), expected)


def test_merging_without_modality_says_why():
    model = adapted()
    with pytest.raises(ValueError, match=r"gates.*differ.*modality=\"image\""):
        model.merge_and_unload()
    with pytest.raises(ValueError, match="differ"), routing(torch.zeros(4, dtype=torch.long)):
        model.merge_adapter()
    with pytest.raises(ValueError, match=r"unknown modality 'audio'.*'image', 'text'"):
        model.merge_adapter(modality="audio")
    assert not first_layer(model).merged


def test_merged_model_refuses_another_modality():
    model = adapted()
    model.merge_adapter(modality="image")
    forward(model, "image")
    with pytest.raises(RuntimeError, match="merged for 'image' but routing asks for 'text'"):
        forward(model, "text")
    with (
        pytest.warns(UserWarning, match="already merged"),
        pytest.raises(ValueError, match=r"already merged for 'image'.*unmerge_adapter"),
    ):
        model.merge_and_unload(modality="text")


def test_safe_merge_refuses_broken_adapter():
    model = adapted()
    layer = first_layer(model)
    layer.moda_A["default"].data[0, 0] = float("nan")
    before = layer.weight.clone()
    with pytest.raises(ValueError, match=r"NaNs detected.*adapter default seems to be broken"):
        model.merge_adapter(modality="text", safe_merge=True)
    assert torch.equal(layer.weight, before)


def test_merge_refuses_quantised_weight():
    layer = first_layer(adapted())
    layer.base_layer.weight = nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(TypeError, match=r"torch\.int8.*load the base model in bfloat16"):
        layer.merge(modality="text")


# life in PEFT


def test_disabled_and_unloaded_equal_base_without_routing():
    expected = base_model()(inputs())
    model = adapted()
    with model.disable_adapter():
        torch.testing.assert_close(model(inputs()), expected)
    assert not torch.allclose(forward(model, "image"), expected)
    model.merge_adapter(modality="image")
    with model.disable_adapter():
        torch.testing.assert_close(model(inputs()), expected)
    unloaded = adapted().unload()
    assert type(unloaded.first) is nn.Linear
    torch.testing.assert_close(unloaded(inputs()), expected)


def test_counts_and_summary_are_printed(capsys):
    model = adapted(init_weights=True)
    model.print_trainable_parameters()
    pair, gate = 8 * (12 + 16 + 16 + 10), 2 * 64 * (4 + 2)
    total = pair + gate + 12 * 16 + 16 + 16 * 10
    assert f"trainable params: {pair + gate:,} || all params: {total:,}" in capsys.readouterr().out
    assert adaptation_summary(model) == (
        f"2 linear layers adapted: {{first,second}}; {pair + gate:,} of {total:,} parameters train"
    )


def test_an_adapter_added_to_a_model_in_eval_mode_does_not_drop():
    model = adapted()
    model.add_adapter("other", config(lora_dropout=0.9))
    model.set_adapter("other")
    torch.testing.assert_close(forward(model, "image"), forward(model, "image"))


def test_two_adapters_switch_and_delete():
    model = adapted()
    one = forward(model, "image")
    model.add_adapter("other", config(modalities=["text", "audio"], num_experts=2))
    torch.testing.assert_close(forward(model, "image"), one)
    assert not first_layer(model).moda_A["other"].requires_grad
    model.set_adapter("other")
    assert first_layer(model).moda_A["other"].requires_grad
    assert not first_layer(model).moda_A["default"].requires_grad
    two = forward(model, "audio")
    assert not torch.allclose(one, two)
    with pytest.raises(ValueError, match="unknown modality 'image'; this adapter has 'text', 'audio'"):
        forward(model, "image")
    model.set_adapter("default")
    torch.testing.assert_close(forward(model, "image"), one)
    model.delete_adapter("default")
    assert "default" not in first_layer(model).moda_gate
    assert "default" not in first_layer(model).scaling
    torch.testing.assert_close(forward(model, "audio"), two)


def test_two_active_adapters_add_up_and_merge_together():
    model = adapted()
    layer, hidden_states = first_layer(model), inputs()
    base = layer.base_layer(hidden_states)
    model.add_adapter("other", config())
    updates = []
    for name in ("default", "other"):
        model.set_adapter(name)
        updates.append(forward(layer, "text", hidden_states) - base)
    model.base_model.set_adapter(["default", "other"])
    both = forward(layer, "text", hidden_states)
    torch.testing.assert_close(both, base + sum(updates))
    layer.merge(modality="text")
    torch.testing.assert_close(layer(hidden_states), both)
    layer.unmerge()
    torch.testing.assert_close(layer.base_layer(hidden_states), base)


def test_only_adapter_parameters_train():
    trainable = [name for name, parameter in adapted().named_parameters() if parameter.requires_grad]
    assert len(trainable) == 2 * 4
    assert all(".moda_" in name for name in trainable)


def test_second_adapter_on_all_linear_leaves_the_first_ones_gate_alone():
    model = adapted(target_modules="all-linear")
    model.add_adapter("other", config(target_modules="all-linear"))
    assert model.adapted_modules() == ["first", "second"]


def test_register_is_idempotent_and_refuses_a_stranger(monkeypatch):
    import peft.mapping

    register()
    register()
    assert peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING["MODA"] is MoDAConfig
    monkeypatch.setitem(peft.mapping.PEFT_TYPE_TO_PREFIX_MAPPING, "MODA", "other_")
    with pytest.raises(RuntimeError, match="already belongs to 'other_'"):
        register()


def test_saved_equals_loaded_in_a_fresh_process_without_recbole(tmp_path):
    model = adapted(modalities=["image", "text", "audio"], gate_scale="num_experts", use_rslora=True)
    model.save_pretrained(tmp_path / "adapter")
    files = sorted(path.name for path in (tmp_path / "adapter").iterdir())
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(files)
    torch.save({"base": base_model().state_dict(), "inputs": inputs()}, tmp_path / "case.pt")
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
import torch
from peft import PeftModel
from recbole_sda.adapters import routing
assert "recbole" not in sys.modules
from test_moda import TwoLayers
case = torch.load({str(tmp_path / "case.pt")!r})
model = TwoLayers()
model.load_state_dict(case["base"])
model = PeftModel.from_pretrained(model, {str(tmp_path / "adapter")!r}).eval()
with routing("audio"), torch.no_grad():
    torch.save(model(case["inputs"]), {str(tmp_path / "result.pt")!r})
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    torch.testing.assert_close(torch.load(tmp_path / "result.pt"), forward(model, "audio").detach())


def test_saving_twice_gives_the_same_files(tmp_path):
    model = adapted(target_modules=["second", "first"])
    for folder in ("one", "two"):
        model.save_pretrained(tmp_path / folder)
    again = PeftModel.from_pretrained(base_model(), tmp_path / "one")
    assert again.peft_config["default"].modalities == MODALITIES
    again.save_pretrained(tmp_path / "three")
    weights = [
        (tmp_path / folder / "adapter_model.safetensors").read_bytes() for folder in ("one", "two", "three")
    ]
    assert weights[0] == weights[1] == weights[2]
    configs = [(tmp_path / folder / "adapter_config.json").read_bytes() for folder in ("one", "two")]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_loaded_beside_another_adapter(tmp_path, low_cpu_mem_usage):
    model = adapted(num_experts=2)
    model.save_pretrained(tmp_path)
    other = adapted(init_weights=True)
    other.load_adapter(tmp_path, "loaded", low_cpu_mem_usage=low_cpu_mem_usage)
    other.set_adapter("loaded")
    torch.testing.assert_close(forward(other, "text"), forward(model, "text"))
