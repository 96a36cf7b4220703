"""MoDA on 4-bit and 8-bit base weights of bitsandbytes, which runs on the CPU too."""

import pytest
import torch
from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training
from peft.utils.integrations import dequantize_module_weight
from test_moda import base_model, config, forward, inputs
from test_moda_targets import tiny_qwen
from torch import nn
from transformers import BitsAndBytesConfig, Qwen2_5_VLForConditionalGeneration

from recbole_sda.adapters import MoDAConfig, adaptation_summary, checkpoint_routing, routing

bnb = pytest.importorskip("bitsandbytes")

LINEAR = {
    "4bit": lambda *shape, **kwargs: bnb.nn.Linear4bit(
        *shape, compute_dtype=torch.float32, quant_type="nf4", **kwargs
    ),
    # packed into bfloat16, so that no dtype tells it from a plain weight
    "4bit in bfloat16": lambda *shape, **kwargs: bnb.nn.Linear4bit(
        *shape, compute_dtype=torch.float32, quant_storage=torch.bfloat16, **kwargs
    ),
    "8bit": lambda *shape, **kwargs: bnb.nn.Linear8bitLt(*shape, has_fp16_weights=False, **kwargs),
}


def quantized(kind) -> nn.Module:
    model = base_model()
    for name, plain in list(model.named_children()):
        layer = LINEAR[kind](plain.in_features, plain.out_features, bias=plain.bias is not None)
        layer.load_state_dict(plain.state_dict())
        setattr(model, name, layer)
    return model.to("cpu")  # this is where bitsandbytes rounds


def dequantized(kind) -> nn.Module:
    model, source = base_model(), quantized(kind)
    for name, plain in model.named_children():
        plain.weight.data.copy_(dequantize_module_weight(source.get_submodule(name)))
    return model


def adapted_to(base) -> PeftModel:
    torch.manual_seed(1)
    # without dropout the mode matters to bitsandbytes alone: in eval mode 8-bit layers round their inputs too
    return get_peft_model(base, config()).train()


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", LINEAR)
def test_forward_and_gradients_equal_those_on_the_dequantised_base(kind):
    ours, theirs = adapted_to(quantized(kind)), adapted_to(dequantized(kind))
    for modality in ("image", "text"):
        results = [forward(model, modality) for model in (ours, theirs)]
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
        for result in results:
            result.square().sum().backward()
    assert len(gradients(ours)) == 2 * 4  # of the adapter alone
    for name, gradient in gradients(theirs).items():
        torch.testing.assert_close(gradients(ours)[name], gradient, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize("kind", LINEAR)
def test_merging_is_refused_and_the_remedy_works(kind, tmp_path):
    model = adapted_to(quantized(kind))
    before = forward(model, "image")
    with pytest.raises(TypeError, match=r"cannot merge.*quantised.*load the base model in bfloat16"):
        model.merge_and_unload(modality="image")
    assert torch.equal(forward(model, "image"), before)
    model.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(dequantized(kind), tmp_path)
    merged = plain.merge_and_unload(modality="image")
    torch.testing.assert_close(merged(inputs()), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", LINEAR)
def test_disabled_and_unloaded_are_the_quantised_base(kind):
    model = adapted_to(quantized(kind))
    with model.disable_adapter():
        torch.testing.assert_close(model(inputs()), quantized(kind)(inputs()))
    assert type(model.unload().first) is type(quantized(kind).first)


@pytest.mark.parametrize("kind", ["load_in_4bit", "load_in_8bit"])
def test_transformers_model_trains_with_gradient_checkpointing(kind, tmp_path):
    tiny_qwen().save_pretrained(tmp_path)
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(**{kind: True}), device_map="cpu"
    )
    checkpointing = {"use_reentrant": False, "context_fn": checkpoint_routing}
    base = prepare_model_for_kbit_training(base, gradient_checkpointing_kwargs=checkpointing)
    model = get_peft_model(base, MoDAConfig(init_weights=False)).train()
    assert adaptation_summary(model).startswith("14 linear layers adapted")
    assert adaptation_summary(model).endswith("20,224 of 179,104 parameters train")
    token_ids = torch.randint(3, 100, (2, 7), generator=torch.Generator().manual_seed(4))
    loss = 0.0
    for modality in ("image", "text"):
        with routing(modality):
            loss = loss + model(input_ids=token_ids).logits.float().square().mean()
    loss.backward()
    assert len(gradients(model)) == 14 * 4
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())
