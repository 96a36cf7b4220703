"""The adapter's folder: its card, what is saved, the wrong base model, a cut file, a process without RecBole."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from test_moda import adapted, base_model, config, forward, inputs
from torch import nn

from recbole_sda.adapters import MoDAConfig
from recbole_sda.adapters.card import HEADING

PLAIN_PEFT = Path(__file__).with_name("plain_peft.py")


def decoder(layers=2, width=8) -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(width, width) for _ in range(layers))})


def saved_decoder(folder, **shape) -> Path:
    targets = [str(number) for number in range(shape.get("layers", 2))]
    model = get_peft_model(decoder(**shape), MoDAConfig(target_modules=targets))
    model.save_pretrained(folder)
    return folder


# the card


def test_card_tells_how_to_load_and_its_code_runs(tmp_path):
    model = adapted()
    for _ in range(2):  # saving over it keeps one section
        model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\n")  # PEFT's own front matter is still where the hub looks for it
    assert card.count(HEADING) == 1
    assert "`import recbole_sda.adapters` comes first" in card
    assert "`image`, `text`" in card
    (code,) = re.findall(r"```python\n(import recbole_sda.*?)```", card, flags=re.DOTALL)
    names = {"base_model": base_model(), "inputs": {"hidden_states": inputs()}}
    exec(code.replace("path/to/this/folder", str(tmp_path)), names)
    torch.testing.assert_close(names["outputs"], forward(model, "image"))


def test_folder_of_a_named_adapter_has_a_card_of_its_own(tmp_path):
    model = adapted()
    model.add_adapter("other", config(modalities=["audio"]))
    model.save_pretrained(tmp_path, selected_adapters=["other"])
    assert 'routing("audio")' in (tmp_path / "other" / "README.md").read_text()
    assert PeftConfig.from_pretrained(tmp_path / "other").modalities == ("audio",)


# what is saved


@pytest.mark.parametrize("init_weights", [True, False, "kaiming", "orthogonal"])
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_every_start_is_saved_and_loaded(tmp_path, init_weights, low_cpu_mem_usage):
    model = adapted(init_weights=init_weights)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * parameter.requires_grad)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base_model(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert loaded.peft_config["default"].init_weights == init_weights
    assert torch.equal(forward(loaded, "text"), forward(model, "text"))


def test_modules_to_save_train_and_are_stored_with_their_own_adapter(tmp_path):
    settings = {"target_modules": ["first"], "modules_to_save": ["second"]}
    model = adapted(**settings)
    model.add_adapter("other", config(**settings))
    outputs = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        trained = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
        assert {key.split(".")[4] for key in trained if ".second." in key} == {name}
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
        forward(model, "image" if name == "default" else "text").square().mean().backward()
        optimizer.step()
        outputs[name] = forward(model, "image")
    assert not torch.allclose(outputs["default"], outputs["other"])
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base_model(), tmp_path)
    loaded.load_adapter(tmp_path / "other", "other")
    for name, expected in outputs.items():
        loaded.set_adapter(name)
        assert torch.equal(forward(loaded, "image"), expected)


# the wrong folder


def test_adapter_of_a_wider_model_is_one_short_error(tmp_path):
    folder = saved_decoder(tmp_path, width=8)
    with pytest.raises(RuntimeError) as error:
        PeftModel.from_pretrained(decoder(width=12), folder)
    assert str(error.value) == (
        "layers.0.moda_A.default has shape (8, 8) in the adapter and (8, 12) in this model: the adapter was "
        "trained on another base model or with other settings; load it onto the model that "
        "base_model_name_or_path in its adapter_config.json names"
    )


def test_mismatched_sizes_can_still_be_ignored(tmp_path):
    folder = saved_decoder(tmp_path, width=8)
    with pytest.warns(UserWarning, match="ignore_mismatched_sizes"):
        PeftModel.from_pretrained(decoder(width=12), folder, ignore_mismatched_sizes=True)


def test_adapter_of_a_deeper_model_is_an_error_not_half_an_adapter(tmp_path):
    folder = saved_decoder(tmp_path, layers=4)
    with pytest.raises(RuntimeError, match=r"not adapted in this model, e\.g\. .*layers\.2\.moda_.*another base"):
        PeftModel.from_pretrained(decoder(layers=2), folder)


def test_cut_weights_are_refused(tmp_path):
    adapted().save_pretrained(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SafetensorError, match="incomplete metadata, file not fully covered"):
        PeftModel.from_pretrained(base_model(), tmp_path)


# without RecBole


def test_plain_peft_script_finds_everything_true_where_recbole_cannot_be_imported():
    script = f"import sys; sys.path[:0] = {sys.path!r}; import plain_peft; plain_peft.main()"
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    count, summary, *findings = result.stdout.splitlines()
    assert count.startswith("trainable params: 1,920 || all params: 4,288")
    assert summary.startswith("2 linear layers adapted")
    assert len(findings) == 9
    assert all(finding.endswith(": True") for finding in findings), findings
