"""From a recipe to a folder with a tiny random model, its tokenizer and its processor's settings."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

STANDARD = ("pad_token", "bos_token", "eos_token", "unk_token")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Args: as transformers names them; in `config`, a token stands for its id."""

    model: str
    config: dict
    tokens: list[str]
    parts: dict[str, dict]
    special: dict[str, str]
    template: str | None = None
    begin: str | None = None
    end: str | None = None
    lower: bool = False
    processor: dict = field(default_factory=dict)
    masked: bool = True


def build(recipe: Recipe, folder: Path) -> Path:
    tokenizer = build_tokenizer(recipe)
    build_model(recipe, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    file, settings = folder / "preprocessor_config.json", {}
    for name, options in recipe.parts.items():  # one file has the settings of all parts
        getattr(transformers, name)(**options).save_pretrained(folder)
        settings |= json.loads(file.read_text())
    if "image_processor_type" in settings:  # the hub's folders do not name the backend
        settings["image_processor_type"] = settings["image_processor_type"].removesuffix("Pil")
    file.write_text(json.dumps(settings))
    if recipe.processor:
        (folder / "processor_config.json").write_text(json.dumps(recipe.processor))
    return folder


def build_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Byte-level BPE without merges: a token a byte."""
    alphabet = {sign: number for number, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if recipe.lower:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.add_special_tokens(recipe.tokens)
    ends = [token for token in (recipe.begin, recipe.end) if token]
    if ends:
        parts = [*([recipe.begin] if recipe.begin else []), "$A", *([recipe.end] if recipe.end else [])]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=parts, special_tokens=[(token, tokenizer.token_to_id(token)) for token in ends]
        )
    standard = {key: token for key, token in recipe.special.items() if key in STANDARD}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **standard,
        model_input_names=["input_ids", "attention_mask"] if recipe.masked else ["input_ids"],
        extra_special_tokens={key: token for key, token in recipe.special.items() if key not in standard},
        chat_template=recipe.template,
    )


def build_model(recipe: Recipe, tokenizer) -> nn.Module:
    model_class = getattr(transformers, recipe.model)
    values = _with_ids(recipe.config, tokenizer)
    values["text_config"] |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    for key in ("bos_token_id", "eos_token_id"):
        values["text_config"].setdefault(key, getattr(tokenizer, key))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = model_class(model_class.config_class(**values)).eval()
        for module in model.modules():  # of unit gain: a start meant for wide models would erase the input
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight)
    return model


def _with_ids(values: dict, tokenizer) -> dict:
    found = {}
    for key, value in values.items():
        if isinstance(value, dict):
            value = _with_ids(value, tokenizer)
        elif isinstance(value, str) and value in tokenizer.added_tokens_encoder:
            value = tokenizer.convert_tokens_to_ids(value)
        found[key] = value
    return found
