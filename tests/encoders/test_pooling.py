"""From hidden states to one vector, against loops; and what cannot be pooled."""

import pytest
import torch
import transformers
from encoders.families import FAMILIES, RECIPES
from encoders.samples import collate, load
from oracles import pool_mean_loop

from recbole_sda.encoders import Pooling
from recbole_sda.encoders.pooling import pool_last_token, pool_mean
from recbole_sda.errors import SDAError

NAMES = ["qwen2_5_vl", "llava", "qwen3_vl", "clip", "siglip"]
DEFAULTS = {"kind": "mean", "layer": None, "last_layers": 1, "dimension": None}


def pooling(**changes) -> Pooling:
    return Pooling(**{**DEFAULTS, **changes})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {name: FAMILIES[name](root / name) for name in NAMES}


def last_token_loop(states, mask):
    rows = []
    for row in range(len(states)):
        kept = [states[row, t] for t in range(states.shape[1]) if mask[row, t]]
        rows.append(kept[-1])
    return torch.stack(rows).float()


def all_states(folder, name, kind, inputs):
    """Every layer's hidden states in the space of the embedding, by transformers alone."""
    model = getattr(transformers, RECIPES[name].model).from_pretrained(folder).eval()
    if name in ("qwen2_5_vl", "llava", "qwen3_vl"):
        return model(**inputs, output_hidden_states=True).hidden_states
    if kind == "text":
        mask = {"attention_mask": inputs["attention_mask"]} if name == "clip" else {}
        states = model.text_model(inputs["input_ids"], **mask, output_hidden_states=True).hidden_states
        project = model.text_projection if name == "clip" else model.text_model.head
        return [project(model.text_model.final_layer_norm(one)) for one in states]
    states = model.vision_model(inputs["pixel_values"], output_hidden_states=True).hidden_states
    normed = [model.vision_model.post_layernorm(one) for one in states]
    return [model.visual_projection(one) for one in normed] if name == "clip" else normed


def test_pools_are_loops_over_tokens():
    states = torch.randn(4, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]])
    for pool, loop in ((pool_mean, pool_mean_loop), (pool_last_token, last_token_loop)):
        torch.testing.assert_close(pool(states, mask), loop(states, mask))
        disturbed = states.masked_fill(mask.unsqueeze(-1) == 0, 1e6)  # padding leaves no trace
        torch.testing.assert_close(pool(disturbed, mask), pool(states, mask))
        assert pool(states.bfloat16(), mask).dtype is torch.float32


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["text", "image"])
@torch.no_grad()
def test_layers_and_pools_are_those_of_transformers_states(folders, name, kind):
    backbone = load(folders[name])
    inputs = collate(backbone, kind)
    states, mask = all_states(folders[name], name, kind, inputs), inputs["attention_mask"]
    assert len(states) == backbone.family.layers + 1 == 3
    for pool, loop in (("mean", pool_mean_loop), ("last_token", last_token_loop)):
        cases = [({"layer": layer}, states[layer]) for layer in (0, 1, 2, -1, -3)]
        cases += [({"last_layers": 2}, (states[1] + states[2]) / 2), ({}, states[-1])]
        cases += [({"dimension": 5}, states[-1][..., :5])]
        for choice, expected in cases:
            backbone = load(folders[name], pooling=pooling(kind=pool, **choice))
            found = backbone(kind, inputs)
            assert found.shape == (4, backbone.embedding_size)
            torch.testing.assert_close(found, loop(expected, mask), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_last_token_is_the_templates_last(folders):
    backbone = load(folders["llava"], pooling=pooling(kind="last_token"))
    inputs = collate(backbone, "text")
    together = backbone("text", inputs)
    for row in range(4):
        alone = collate(backbone, "text", [row])
        assert alone["attention_mask"].all()
        states = backbone.model(**alone, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(together[row], states[0, -1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_auto_is_the_mean_or_the_models_own(folders):
    for name, kind in (("llava", "mean"), ("clip", "model"), ("siglip", "model")):
        assert load(folders[name], pooling=pooling(kind="auto")).pooling == pooling(kind=kind)
    whole, cut = (load(folders["clip"], pooling=pooling(kind="auto", dimension=d)) for d in (None, 7))
    inputs = collate(whole, "text")
    assert (whole.hidden_size, whole.embedding_size, cut.hidden_size, cut.embedding_size) == (24, 24, 24, 7)
    assert torch.equal(cut("text", inputs), whole("text", inputs)[:, :7])


def test_hidden_states_are_asked_for_only_where_needed(folders, monkeypatch):
    asked = []
    for choice, expected in (({}, False), ({"layer": 1}, True), ({"last_layers": 2}, True)):
        backbone = load(folders["llava"], pooling=pooling(**choice))
        forward = backbone.model.model.forward

        def spy(*args, forward=forward, **options):
            asked.append(options["output_hidden_states"])
            return forward(*args, **options)

        monkeypatch.setattr(backbone.model.model, "forward", spy)
        backbone("text", collate(backbone, "text"))
        assert asked.pop() is expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "max"}, "pooling='max' is unknown; choose auto, mean, last_token or model"),
        ({"layer": 1, "last_layers": 2}, "pooling_layer=1 and pooling_last_layers=2 contradict each other"),
        ({"layer": 1.5}, "pooling_layer=1.5 is not a whole number; leave it out"),
        ({"layer": True}, "pooling_layer=True is not a whole number"),
        ({"last_layers": 0}, "pooling_last_layers=0 is not a whole number of 1 or more"),
        ({"last_layers": None}, "pooling_last_layers=None is not a whole number of 1 or more"),
        ({"dimension": 0}, "embedding_dimension=0 is not a whole number of 1 or more; leave it out"),
    ],
)
def test_bad_values_are_refused(values, message):
    with pytest.raises(SDAError, match=message):
        pooling(**values)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("llava", {"layer": 3}, r"pooling_layer=3: the model has 2 layers; give 0 \(the embeddings\) to 2"),
        ("llava", {"layer": -4}, "pooling_layer=-4: the model has 2 layers; .* -3 to -1"),
        ("llava", {"last_layers": 3}, "pooling_last_layers=3: the model has 2 layers; give 1 to 2"),
        ("llava", {"dimension": 33}, "embedding_dimension=33: the model's embeddings have 32 coordinates"),
        ("clip", {"dimension": 25}, "embedding_dimension=25: the model's embeddings have 24 coordinates"),
        ("llava", {"kind": "model"}, "pooling=model: only dual encoders .* choose mean or last_token"),
        ("clip", {"kind": "model", "layer": 1}, "pooling_layer=1 does nothing with the model's own pooling"),
        ("siglip", {"kind": "auto", "last_layers": 2}, "pooling_last_layers=2 does nothing .* pooling=mean"),
    ],
)
def test_what_a_model_cannot_pool_is_refused_before_weights_are_read(folders, monkeypatch, name, values, message):
    def refuse(*args, **kwargs):
        raise AssertionError("weights were read")

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", refuse)
    with pytest.raises(SDAError, match=message):
        load(folders[name], pooling=pooling(**values))
