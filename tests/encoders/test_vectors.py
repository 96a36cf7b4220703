"""Precomputed vectors as a modality of their own, through the decoder of any family."""

import numpy as np
import pytest
import torch
from conftest import LOADING
from encoders.families import FAMILIES
from peft import get_peft_model

from recbole_sda.adapters import MoDAConfig
from recbole_sda.encoders import load_backbone
from recbole_sda.encoders.vectors import load_projectors, new_projectors, projector_name, save_projectors
from recbole_sda.errors import SDAError

WIDTH = 12
VECTORS = list(np.random.default_rng(0).normal(5, 3, (4, WIDTH)).astype(np.float32))
KINDS = {"text": "text", "sound": "vectors"}


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request, tmp_path_factory):
    folder = FAMILIES[request.param](tmp_path_factory.mktemp(request.param) / "model")
    return load_backbone(str(folder), **LOADING, kinds=KINDS)


def adapted(backbone):
    torch.manual_seed(0)
    config = MoDAConfig(target_modules=backbone.family.targets(), modalities=("sound", "text"), lora_dropout=0.0)
    backbone.model = get_peft_model(backbone.model, config)
    backbone.add_projectors({"sound": WIDTH})
    return backbone.eval()


def test_vectors_without_a_projector_are_their_own_embeddings(backbone):
    inputs = backbone.collate("sound", [{}] * 4, VECTORS)
    torch.testing.assert_close(backbone("sound", inputs), torch.from_numpy(np.stack(VECTORS)))


def test_a_projected_vector_stands_in_the_prompt_and_trains(backbone):
    backbone = adapted(backbone)
    try:
        inputs = backbone.collate("sound", [{}] * 4, VECTORS)
        counts = backbone.count_tokens("sound", np.array([[1, WIDTH]] * 4))
        assert inputs["attention_mask"].sum(dim=1).tolist() == counts.tolist()
        together = backbone("sound", inputs)
        assert together.shape == (4, backbone.embedding_size)
        assert torch.pdist(together).min() > 1e-4
        for row in range(4):
            alone = backbone("sound", backbone.collate("sound", [{}], [VECTORS[row]]))
            torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)
        together.square().sum().backward()
        trained = {name for name, p in backbone.named_parameters() if p.grad is not None and p.grad.any()}
        assert "projectors.sound_projector.linear.weight" in trained
        assert any("moda_B" in name for name in trained) == backbone.family.shared
        before = backbone("text", backbone.collate("text", [{"title": "cup"}]))
        backbone("sound", inputs)
        assert torch.equal(backbone("text", backbone.collate("text", [{"title": "cup"}])), before)  # no hook stays
    finally:
        backbone.model, backbone.projectors = backbone.model.unload(), torch.nn.ModuleDict()


def test_the_soft_token_is_what_the_decoder_reads():
    """The same as embedding the prompt by hand and putting the projection where the placeholder stands."""
    backbone = adapted(load_backbone("tiny", **LOADING, kinds=KINDS))
    inputs = backbone.collate("sound", [{}], VECTORS[:1])
    position = int(inputs["vector_positions"][0])
    model = backbone.model.get_base_model()
    embeddings = model.get_input_embeddings()(inputs["input_ids"]).detach()
    embeddings[0, position] = backbone.projectors["sound_projector"](inputs["vectors"])[0].detach()
    with torch.no_grad(), backbone.model.disable_adapter():
        states = model.model.language_model(inputs_embeds=embeddings).last_hidden_state
        expected = states.mean(dim=1)
        torch.testing.assert_close(backbone("sound", inputs), expected, rtol=1e-4, atol=1e-5)
    ids, tokenizer = inputs["input_ids"][0].tolist(), backbone.collator.tokenizer
    assert ids[position - 2 : position] == tokenizer("sound:", add_special_tokens=False)["input_ids"]
    assert ids[position + 1 :] == [tokenizer.eos_token_id]


def test_the_projection_ignores_the_scale_of_the_vectors():
    backbone = adapted(load_backbone("tiny", **LOADING, kinds=KINDS))
    project = backbone.projectors["sound_projector"]
    vectors = torch.from_numpy(np.stack(VECTORS))
    torch.testing.assert_close(project(vectors * 1000 + 7), project(vectors), rtol=1e-3, atol=1e-3)


def test_the_backbone_before_adaptation_has_the_projectors_that_it_began_with():
    """Else the frozen teacher would move with the student."""
    backbone = adapted(load_backbone("tiny", **LOADING, kinds=KINDS))
    inputs = backbone.collate("sound", [{}] * 4, VECTORS)
    began = backbone("sound", inputs).detach()  # a new adapter changes nothing yet
    with torch.no_grad():
        for parameter in backbone.projectors.parameters():
            parameter.add_(0.1)
    moved = backbone("sound", inputs).detach()
    assert not torch.allclose(moved, began, rtol=1e-3, atol=1e-3)
    with torch.no_grad(), backbone.before_adaptation():
        torch.testing.assert_close(backbone("sound", inputs), began)
    torch.testing.assert_close(backbone("sound", inputs).detach(), moved)
    trained = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert [name for name in trained if "projector" in name] == [
        "projectors.sound_projector.linear.weight",
        "projectors.sound_projector.linear.bias",
    ]


def test_projectors_are_saved_and_loaded(tmp_path):
    backbone = adapted(load_backbone("tiny", **LOADING, kinds=KINDS))
    save_projectors(backbone.projectors, tmp_path)
    before = {name: tensor.clone() for name, tensor in backbone.projectors.state_dict().items()}
    torch.manual_seed(9)
    backbone.add_projectors({"sound": WIDTH})
    name = "sound_projector.linear.weight"
    assert not torch.equal(backbone.projectors.state_dict()[name], before[name])
    load_projectors(backbone.projectors, tmp_path)
    assert all(torch.equal(backbone.projectors.state_dict()[name], tensor) for name, tensor in before.items())
    backbone.add_projectors({"sound": WIDTH + 1})
    with pytest.raises(SDAError, match="does not fit the vectors of sound_projector: size mismatch"):
        load_projectors(backbone.projectors, tmp_path)
    with pytest.raises(SDAError, match=r"projectors\.safetensors does not exist, but sound_projector needs"):
        load_projectors(backbone.projectors, tmp_path / "elsewhere")


def test_a_modality_may_be_called_as_a_module_is_asked(tmp_path):
    names = ("items", "keys", "values", "type", "pop", "forward", "training", "parameters", "of_items")
    saved = new_projectors(dict.fromkeys(names, WIDTH), 8, 0.02)
    save_projectors(saved, tmp_path)
    loaded = new_projectors(dict.fromkeys(names, WIDTH), 8, 0.02)
    load_projectors(loaded, tmp_path)
    vectors = torch.from_numpy(np.stack(VECTORS))
    for name in names:
        assert torch.equal(saved[projector_name(name)](vectors), loaded[projector_name(name)](vectors))
