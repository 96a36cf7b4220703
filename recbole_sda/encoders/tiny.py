"""The built-in backbone: Qwen2.5-VL's architecture at 420,064 random parameters, for trying the road.

It has never seen a picture or a word. What it gives is a random but fixed function of the item: colours
move the image embedding, words move the text embedding, and a trainable adapter can work with that. It
needs no download and no GPU, and its weights come from a seed of their own, whatever the run's seed is.
"""

import re
import zlib

import torch
from transformers import (
    PreTrainedTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from recbole_sda.encoders.processors import processor_class

WEIGHTS_SEED = 2512_06883
VOCABULARY = 4096
SPECIAL_TOKENS = {
    "pad_token": "<|pad|>",
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
}
VISION_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>{% endfor %}"
)


class HashingTokenizer(PreTrainedTokenizer):
    """Lower-cased words and signs, each hashed (CRC-32) into one of 4,096 rows.

    A vocabulary cannot be learned without a corpus, and a catalogue's own would tie the backbone to the
    catalogue; hashing gives every language's words a row of their own, but for collisions.
    """

    model_input_names = ("input_ids", "attention_mask")
    _reserved = len(SPECIAL_TOKENS) + len(VISION_TOKENS)

    def __init__(self, **kwargs):
        super().__init__(**SPECIAL_TOKENS, extra_special_tokens=VISION_TOKENS, **kwargs)

    @property
    def vocab_size(self) -> int:
        return VOCABULARY

    def get_vocab(self) -> dict[str, int]:
        return dict(self.added_tokens_encoder)

    def _tokenize(self, text: str, **kwargs) -> list[str]:
        return re.findall(r"\w+|[^\w\s]", text.lower())

    def _convert_token_to_id(self, token: str) -> int:
        special = (*SPECIAL_TOKENS.values(), *VISION_TOKENS)
        if token in special:
            return special.index(token)
        return self._reserved + zlib.crc32(token.encode()) % (VOCABULARY - self._reserved)


def build_tiny_model(attn_implementation: str | None = None) -> Qwen2_5_VLForConditionalGeneration:
    """In evaluation mode, float32."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(WEIGHTS_SEED)  # torch.manual_seed would reseed CUDA too, for good
        model = Qwen2_5_VLForConditionalGeneration._from_config(
            tiny_config(), attn_implementation=attn_implementation
        )
        _spread_initial_weights(model)
    return model.eval()


def build_tiny_processor():
    """The family's processor around the hashing tokenizer."""
    return processor_class("Qwen2_5_VLProcessor")(
        image_processor=Qwen2VLImageProcessorPil(),
        tokenizer=HashingTokenizer(),
        video_processor=None,
        chat_template=CHAT_TEMPLATE,
    )


def tiny_config() -> Qwen2_5_VLConfig:
    tokenizer = HashingTokenizer()
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in VISION_TOKENS}
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def _spread_initial_weights(model: torch.nn.Module) -> None:
    """Give every linear map unit gain, so that what goes in is still visible in what comes out.

    The architecture's own start (normal, 0.02) is meant for wide models in training; at a width of 64 it
    all but erases the input.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv3d):
            torch.nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        elif isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight)
