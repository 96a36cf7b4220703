"""What a model makes of a batch, before anything is pooled: one road for chat models, one for dual encoders."""

from collections.abc import Mapping

from torch import Tensor, nn

from recbole_sda.encoders.families import Family, Tower
from recbole_sda.encoders.pooling import Pooling, mean_of_layers


def pooled_embedding(
    model: nn.Module, family: Family, kind: str, inputs: Mapping[str, Tensor], pooling: Pooling
) -> Tensor:
    """(B, width) float32.

    Args:
        model: transformers', whose adapted layers know the modality.
        inputs: on the model's device.
        pooling: without ``auto``.
    """
    if family.shared:
        states = _decoder_states(model, inputs, pooling)
    else:
        tower = family.traits.towers[kind]
        if pooling.kind == "model":
            return _run_tower(model, tower, inputs).pooler_output.float()
        states = _tower_states(model, tower, inputs, pooling)
    return pooling.pool(states, inputs["attention_mask"].to(states.device))


def _decoder_states(model: nn.Module, inputs: Mapping[str, Tensor], pooling: Pooling) -> Tensor:
    """(B, T, H). The last layer's are normed, as the language-model head would see them; the others are not."""
    # Without the head: nobody asks for 150,000 logits a token.
    decoder = getattr(model, model.base_model_prefix)
    output = decoder(**inputs, use_cache=False, output_hidden_states=pooling.chooses_layers)
    if not pooling.chooses_layers:
        return output.last_hidden_state
    return mean_of_layers(pooling.chosen(output.hidden_states))


def _tower_states(model: nn.Module, tower: Tower, inputs: Mapping[str, Tensor], pooling: Pooling) -> Tensor:
    """(B, T, projected). Towers do not agree on whether their last state is normed: every layer's is, here."""
    norm = model.get_submodule(tower.norm)
    project = model.get_submodule(tower.projection) if tower.projection else nn.Identity()
    output = _run_tower(model, tower, inputs, output_hidden_states=True)
    return mean_of_layers([project(norm(states)) for states in pooling.chosen(output.hidden_states)])


def _run_tower(model: nn.Module, tower: Tower, inputs: Mapping[str, Tensor], **options):
    return getattr(model, tower.features)(**{name: inputs[name] for name in tower.inputs}, **options)
