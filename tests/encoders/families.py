"""A tiny random model of every family, built offline into a folder like those of the model hub.

`FAMILIES` maps a name to a builder: `FAMILIES["llava"](folder)` writes a folder that `load_backbone` reads.

    cd tests && python -m encoders.families llava FOLDER
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from encoders.building import Recipe, build

SIDE = 56  # of the pictures of families with one size
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 14,
}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
QWEN_TOWER = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 32}
AUDIO_TOWER = {
    "num_mel_bins": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "d_model": 16,
    "max_source_positions": 100,  # two seconds
}
EXTRACTOR = {"feature_size": 16, "sampling_rate": 16000, "hop_length": 160, "chunk_length": 2, "n_fft": 400}

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}IMAGE"
    "{% elif part['type'] == 'audio' %}AUDIO{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
)
QWEN_CHAT = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
LLAVA_CHAT = (  # the beginning of the text is the tokenizer's
    "{% for message in messages %}{{ message['role'] | upper }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
)
IDEFICS_CHAT = (
    "BEGIN{% for message in messages %}{{ message['role'] | capitalize }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}"
)


def qwen(name: str, **differences) -> Recipe:
    ids = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    ids |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    return Recipe(
        model=f"{name}ForConditionalGeneration",
        config={"text_config": {**TEXT, **MROPE}, "vision_config": QWEN_TOWER, **ids, **differences},
        tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", *ids.values()],
        special={"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"},
        template=QWEN_CHAT,
        parts={"Qwen2VLImageProcessorPil": {"patch_size": differences.pop("patch_size", 14)}},
    )


def idefics(name: str, image_processor: str, begin: str, **special) -> Recipe:
    places = [f"<row_{row + 1}_col_{column + 1}>" for row in range(6) for column in range(6)]
    marks = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    pixels = {"size": {"longest_edge": 4 * SIDE}, "max_image_size": {"longest_edge": SIDE}}
    return Recipe(
        model=f"{name}ForConditionalGeneration",
        config={
            "text_config": {**TEXT, "model_type": "llama"},
            "vision_config": TOWER,
            "image_token_id": "<image>",
            "scale_factor": 2,
        },
        tokens=["<pad>", begin, *marks, *places, *special.pop("more", [])],
        special={"pad_token": "<pad>", "bos_token": begin, "eos_token": "<end_of_utterance>"},
        begin=begin,
        template=IDEFICS_CHAT.replace("BEGIN", begin),
        parts={image_processor: {**pixels, "return_row_col_info": True}},
        processor={"image_seq_len": 4},
    )


AUDIO_TOKENS = {"audio_token": "<|AUDIO|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>"}
OMNI_TOKENS = {
    **AUDIO_TOKENS,
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
}
INTERNVL_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
CHATML_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML_SPECIAL = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
AUDIO_CHAT = CHATML.replace("AUDIO", "<|audio_bos|><|AUDIO|><|audio_eos|>")
ONE_SIZE = {"size": {"height": SIDE, "width": SIDE}}

RECIPES = {
    "qwen2_vl": qwen(
        "Qwen2VL", vision_config={"depth": 2, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2, "num_heads": 2}
    ),
    "qwen2_5_vl": qwen("Qwen2_5_VL", vision_config={**QWEN_TOWER, "fullatt_block_indexes": [1]}),
    "qwen3_vl": qwen(
        "Qwen3VL",
        text_config={**TEXT, **MROPE, "head_dim": 8},
        vision_config={**QWEN_TOWER, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
        patch_size=16,
    ),
    "llava": Recipe(
        model="LlavaForConditionalGeneration",
        config={
            "text_config": {**TEXT, "model_type": "llama"},
            "vision_config": {**TOWER, "model_type": "clip_vision_model", "projection_dim": 32},
            "image_token_index": "<image>",
            "image_seq_length": 16,
        },
        tokens=["<unk>", "<s>", "</s>", "<image>", "<pad>"],
        special={"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        begin="<s>",
        template=LLAVA_CHAT,
        parts={"CLIPImageProcessorPil": {"size": {"shortest_edge": SIDE}, "crop_size": ONE_SIZE["size"]}},
        processor={
            "patch_size": 14,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
    ),
    "internvl": Recipe(
        model="InternVLForConditionalGeneration",
        config={
            "text_config": {**TEXT, "model_type": "qwen2"},
            "vision_config": {**TOWER, "image_size": [SIDE, SIDE], "patch_size": [14, 14]},
            "image_token_id": "<IMG_CONTEXT>",
            "image_seq_length": 4,
        },
        tokens=[*CHATML_TOKENS, *INTERNVL_TOKENS.values()],
        special={**CHATML_SPECIAL, **INTERNVL_TOKENS},
        template=CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"),
        parts={"GotOcr2ImageProcessorPil": {**ONE_SIZE, "crop_to_patches": True, "max_patches": 12}},
        processor={"image_seq_length": 4},
    ),
    "idefics3": idefics("Idefics3", "Idefics3ImageProcessorPil", "<|begin_of_text|>"),
    "smolvlm": idefics("SmolVLM", "SmolVLMImageProcessorPil", "<|im_start|>", more=["<video>"]),
    "qwen2_audio": Recipe(
        model="Qwen2AudioForConditionalGeneration",
        config={
            "text_config": {**TEXT, "model_type": "qwen2"},
            "audio_config": AUDIO_TOWER,
            "audio_token_index": "<|AUDIO|>",
        },
        tokens=[*CHATML_TOKENS, *AUDIO_TOKENS.values()],
        special=CHATML_SPECIAL,
        template=AUDIO_CHAT,
        parts={"WhisperFeatureExtractor": EXTRACTOR},
    ),
    "qwen2_5_omni_thinker": Recipe(
        model="Qwen2_5OmniThinkerForConditionalGeneration",
        config={
            "text_config": {**TEXT, **MROPE},
            "vision_config": {**QWEN_TOWER, "fullatt_block_indexes": [1]},
            "audio_config": {**AUDIO_TOWER, "n_window": 10, "output_dim": 32},
            "audio_token_index": "<|AUDIO|>",
            "image_token_index": "<|IMAGE|>",
            "video_token_index": "<|VIDEO|>",
            "audio_start_token_id": "<|audio_bos|>",
            "audio_end_token_id": "<|audio_eos|>",
            "vision_start_token_id": "<|vision_bos|>",
            "vision_end_token_id": "<|vision_eos|>",
        },
        tokens=[*CHATML_TOKENS, *OMNI_TOKENS.values()],
        special={**CHATML_SPECIAL, **OMNI_TOKENS},
        template=AUDIO_CHAT.replace("IMAGE", "<|vision_bos|><|IMAGE|><|vision_eos|>", 1),
        parts={"Qwen2VLImageProcessorPil": {}, "WhisperFeatureExtractor": EXTRACTOR},
    ),
    "clip": Recipe(
        model="CLIPModel",
        config={
            "text_config": {**TEXT, "max_position_embeddings": 77, "eos_token_id": "<|endoftext|>"},
            "vision_config": TOWER,
            "projection_dim": 24,
        },
        tokens=["<|startoftext|>", "<|endoftext|>"],
        special={"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        begin="<|startoftext|>",
        end="<|endoftext|>",
        lower=True,
        parts={"CLIPImageProcessorPil": {"size": {"shortest_edge": SIDE}, "crop_size": ONE_SIZE["size"]}},
    ),
    "siglip": Recipe(
        model="SiglipModel",
        config={"text_config": {**TEXT, "max_position_embeddings": 64}, "vision_config": TOWER},
        tokens=["</s>", "<unk>"],
        special={"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"},
        end="</s>",
        lower=True,
        masked=False,  # as on the hub: the model sees its padding
        parts={"SiglipImageProcessorPil": ONE_SIZE},
    ),
}


FAMILIES: dict[str, Callable[[Path], Path]] = {name: partial(build, recipe) for name, recipe in RECIPES.items()}


if __name__ == "__main__":
    name, folder = sys.argv[1:]
    print(FAMILIES[name](Path(folder)))
