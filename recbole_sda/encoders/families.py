"""The model families that can be a backbone, and what differs between them: one row a `model_type`.

A chat model has one decoder that reads every modality. A dual encoder has a tower a modality and a space that
both project into. To add a family of either sort, add a row.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from transformers import PreTrainedConfig

from recbole_sda.adapters.config import language_model_targets
from recbole_sda.encoders import pixels, tokens


@dataclass(frozen=True, kw_only=True)
class Tower:
    """One side of a dual encoder, by names inside the model.

    Args:
        config: of the tower, inside the model's configuration.
        features: the method that gives the pooled embedding.
        norm: after the last layer.
        projection: into the shared space; None where the tower is in it already.
        inputs: the tensors of a batch that the tower reads.
    """

    config: str
    features: str
    norm: str
    projection: str | None
    inputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What sets a family apart.

    Args:
        processor: transformers' name of its processor class.
        kinds: the kinds of modality that it reads.
        limit_pixels: how the pixel limits act, out of `pixels`.
        count_tokens: kind → how many tokens files of known sizes take, out of `tokens`.
        model_class: transformers' name of what to load.
        towers: kind → tower, of a dual encoder.
        pads_texts: every text is padded to the model's limit, and the padding is read like a text.
    """

    processor: str
    kinds: tuple[str, ...]
    limit_pixels: Callable = pixels.fixed_size
    count_tokens: Mapping[str, Callable] = field(default_factory=lambda: {"image": tokens.of_images})
    model_class: str = "AutoModelForMultimodalLM"
    towers: Mapping[str, Tower] = field(default_factory=dict)
    pads_texts: bool = False


PICTURES = ("text", "image")
SQUARE_TILES = {"limit_pixels": pixels.square_tiles, "count_tokens": {"image": tokens.of_square_tiles}}
CLIP_TEXT = Tower(
    config="text_config",
    features="get_text_features",
    norm="text_model.final_layer_norm",
    projection="text_projection",
    inputs=("input_ids", "attention_mask"),
)
CLIP_IMAGE = Tower(
    config="vision_config",
    features="get_image_features",
    norm="vision_model.post_layernorm",
    projection="visual_projection",
    inputs=("pixel_values",),
)
# SigLIP was trained to see the padding of its texts: no mask.
SIGLIP_TEXT = Tower(
    config="text_config",
    features="get_text_features",
    norm="text_model.final_layer_norm",
    projection="text_model.head",
    inputs=("input_ids",),
)
SIGLIP_IMAGE = Tower(
    config="vision_config",
    features="get_image_features",
    norm="vision_model.post_layernorm",
    projection=None,
    inputs=("pixel_values",),
)

FAMILIES: Mapping[str, Traits] = {
    "qwen2_vl": Traits(processor="Qwen2VLProcessor", kinds=PICTURES, limit_pixels=pixels.area),
    "qwen2_5_vl": Traits(processor="Qwen2_5_VLProcessor", kinds=PICTURES, limit_pixels=pixels.area),
    "qwen3_vl": Traits(processor="Qwen3VLProcessor", kinds=PICTURES, limit_pixels=pixels.area),
    "llava": Traits(processor="LlavaProcessor", kinds=PICTURES),
    "internvl": Traits(processor="InternVLProcessor", kinds=PICTURES, limit_pixels=pixels.tiles),
    "idefics3": Traits(processor="Idefics3Processor", kinds=PICTURES, **SQUARE_TILES),
    "smolvlm": Traits(processor="SmolVLMProcessor", kinds=PICTURES, **SQUARE_TILES),
    "qwen2_audio": Traits(
        processor="Qwen2AudioProcessor",
        kinds=("text", "audio"),
        count_tokens={"audio": tokens.of_recordings},
    ),
    "qwen2_5_omni_thinker": Traits(
        processor="Qwen2_5OmniProcessor",
        kinds=("text", "image", "audio"),
        limit_pixels=pixels.area,
        count_tokens={"image": tokens.of_images, "audio": tokens.of_recordings},
        model_class="Qwen2_5OmniThinkerForConditionalGeneration",
    ),
    "clip": Traits(
        processor="CLIPProcessor",
        kinds=PICTURES,
        count_tokens={"image": tokens.of_class_and_patches},
        model_class="AutoModel",
        towers={"text": CLIP_TEXT, "image": CLIP_IMAGE},
    ),
    "siglip": Traits(
        processor="SiglipProcessor",
        kinds=PICTURES,
        count_tokens={"image": tokens.of_patches},
        model_class="AutoModel",
        towers={"text": SIGLIP_TEXT, "image": SIGLIP_IMAGE},
        pads_texts=True,
    ),
}

# Models that talk, too: model_type → the part of the configuration that describes the half that reads.
PARTS = {"qwen2_5_omni": "thinker_config"}


@dataclass(frozen=True)
class Family:
    """One model's family and sizes, known from its configuration.

    Args:
        config: transformers', of a `model_type` in `FAMILIES`.
    """

    config: PreTrainedConfig

    @property
    def model_type(self) -> str:
        return self.config.model_type

    @property
    def traits(self) -> Traits:
        return FAMILIES[self.model_type]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of modality that it reads."""
        return self.traits.kinds

    @property
    def shared(self) -> bool:
        """Whether one decoder sees every modality."""
        return not self.traits.towers

    @property
    def width(self) -> int:
        """Of an embedding before it is cut."""
        config = self.config
        if self.shared:
            return config.get_text_config().hidden_size
        projected = self.traits.towers["image"].projection is not None
        return config.projection_dim if projected else config.vision_config.hidden_size

    @property
    def layers(self) -> int:
        """Of the decoder; of the shallower tower."""
        if self.shared:
            return self.config.get_text_config().num_hidden_layers
        return min(getattr(self.config, tower.config).num_hidden_layers for tower in self.traits.towers.values())

    @property
    def max_text_tokens(self) -> int:
        """The longest text that the model has positions for."""
        text = self.config.get_text_config() if self.shared else self.config.text_config
        return text.max_position_embeddings

    def targets(self, layer: int | None = None) -> str:
        """PEFT's `target_modules` of all linear maps that are adapted, or of one layer's.

        A chat model's are the q, k, v, o, gate, up and down projections of its decoder, a dual encoder's those
        of the attention and the MLP in both towers.
        """
        if self.shared:
            return language_model_targets(layer)
        number = r"\d+" if layer is None else re.escape(str(layer))
        return (
            r"(?:.*\.)?(?:text_model|vision_model)\.encoder\."
            rf"layers\.{number}\.(?:self_attn\.(?:[qkv]|out)_proj|mlp\.fc[12])"
        )
