"""A vision-language model as an encoder: items of one modality in, one vector an item out."""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from recbole_sda.adapters import routing
from recbole_sda.encoders.pooling import pool_mean
from recbole_sda.encoders.prompts import Prompts


class Backbone(nn.Module):
    """A Qwen2.5-VL with its tokenizer and image processor, bare or inside a PEFT adapter.

    Args:
        model: the transformers model, or a ``PeftModel`` around it.
        tokenizer, image_processor: transformers'; no torchvision, no processor class.
        prompts: what an item is turned into.
    """

    def __init__(self, model: nn.Module, tokenizer, image_processor, prompts: Prompts):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.prompts = prompts
        self.tokenizer.padding_side = "right"
        config = model.config
        self.hidden_size = config.get_text_config().hidden_size
        self.image_token_id = config.image_token_id
        self.image_token = tokenizer.convert_ids_to_tokens(config.image_token_id)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def max_image_tokens(self) -> int:
        """Tokens of an image pass with the largest picture that ``max_pixels`` lets through."""
        side = self.image_processor.patch_size * self.image_processor.merge_size
        area = self.image_processor.size["longest_edge"]
        prompt = self.tokenizer(self.prompt("image", {}), add_special_tokens=False)["input_ids"]
        return area // side**2 + len(prompt)

    def prompt(self, modality: str, fields: Mapping[str, str]) -> str:
        return self.tokenizer.apply_chat_template(self.prompts.message(modality, fields), tokenize=False)

    def collate(
        self, modality: str, items: Sequence[Mapping[str, str]], images: Sequence[Image.Image] = ()
    ) -> dict[str, Tensor]:
        """Model inputs of B items in one modality.

        Args:
            items: each item's non-empty fields.
            images: each item's picture, for the image pass.
        """
        texts = [self.prompt(modality, item) for item in items]
        pictures = {}
        if modality == "image":
            pictures = dict(self.image_processor(images=list(images), return_tensors="pt"))
            merged = self.image_processor.merge_size**2
            counts = (pictures["image_grid_thw"].prod(dim=1) // merged).tolist()
            texts = [
                text.replace(self.image_token, self.image_token * count)
                for text, count in zip(texts, counts, strict=True)
            ]
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
        return {
            "input_ids": tokens["input_ids"],  # (B, T)
            "attention_mask": tokens["attention_mask"],
            # Without it the model silently gives pictures plain text positions.
            "mm_token_type_ids": (tokens["input_ids"] == self.image_token_id).int(),
            **pictures,  # pixel_values (patches, values), image_grid_thw (B, 3)
        }

    def forward(self, modality: str, inputs: Mapping[str, Tensor]) -> Tensor:
        """Args: inputs: from :meth:`collate`. Returns: (B, H) float32, the mean over all tokens."""
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        with routing(modality):
            # The decoder without its language-model head: nobody asks for 150,000 logits a token.
            hidden_states = self._decoder()(**inputs, use_cache=False).last_hidden_state
        return pool_mean(hidden_states, inputs["attention_mask"])

    def _decoder(self) -> nn.Module:
        bare = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return getattr(bare, bare.base_model_prefix)
