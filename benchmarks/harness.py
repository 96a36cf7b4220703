"""What the benchmarks share: model shapes, random inputs, one training step, timing in turns, one table.

Clocks drift and machines are shared, so a figure is a ratio: the contestants run A B C, B C A, C A B, … in one
process, and each round gives one ratio. Where other work runs beside it, `--threads=1` is steadier: threads that
wait for each other multiply a disturbance.
"""

import argparse
import copy
import platform
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from tabulate import tabulate
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from recbole_sda.adapters import LANGUAGE_MODEL_TARGETS, MoDAConfig, routing
from recbole_sda.encoders.pooling import pool_mean
from recbole_sda.encoders.tiny import build_tiny_model, tiny_config

SEED = 0
MODALITY = "text"
SECONDS_A_TIMING = 0.2

# 3b and 7b are Qwen/Qwen2.5-VL-3B-Instruct and -7B-Instruct; 50m has about their proportions in 51,971,328
# parameters.
TEXT_CONFIGS = {
    "50m": {
        "vocab_size": 16384,
        "bos_token_id": None,  # Qwen's would lie outside the vocabulary
        "eos_token_id": None,
        "hidden_size": 512,
        "intermediate_size": 2752,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
    },
    "3b": {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "7b": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
}
LARGE_VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
VISION_CONFIGS = {
    "50m": {"depth": 4, "hidden_size": 256, "intermediate_size": 512, "num_heads": 4, "out_hidden_size": 512},
    "3b": {**LARGE_VISION, "out_hidden_size": 2048},
    "7b": {**LARGE_VISION, "out_hidden_size": 3584},
}
# which ids stand for a picture: those of the built-in tokenizer, which serves every shape here
IMAGE_TOKENS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
SHAPES = ("tiny", *TEXT_CONFIGS)

LORA = {"r": 8, "lora_alpha": 32, "lora_dropout": 0.1, "target_modules": LANGUAGE_MODEL_TARGETS}


def options(description: str, **defaults: object) -> argparse.ArgumentParser:
    """A parser with one option a keyword, and `--threads`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in ({"threads": 2} | defaults).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser


def start(threads: int) -> None:
    """Fix the threads and print what the figures depend on."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", FutureWarning)  # of pandas and torch, about RecBole's ways
    print(f"torch {torch.__version__}, {threads} threads, {_processor_name()}")


def build(shape: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> nn.Module:
    """A Qwen2.5-VL with random weights, evaluation mode."""
    if shape == "tiny":
        return build_tiny_model().to(device, dtype)
    built_in = tiny_config()
    config = Qwen2_5_VLConfig(
        text_config=TEXT_CONFIGS[shape],
        vision_config=VISION_CONFIGS[shape],
        tie_word_embeddings=shape != "7b",
        **{name: getattr(built_in, name) for name in IMAGE_TOKENS},
    )
    torch.manual_seed(SEED)
    with torch.device(device):
        return Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=dtype).eval()


def adapt(base: nn.Module, config: PeftConfig) -> nn.Module:
    """An adapter on `base`'s own frozen weights; `base` stays as it is."""
    shared = {id(parameter): parameter for parameter in base.parameters()}
    torch.manual_seed(SEED)
    return get_peft_model(copy.deepcopy(base, memo=shared), config)


def adapt_moda(base: nn.Module) -> nn.Module:
    return adapt(base, MoDAConfig(**LORA, init_weights=False))  # B is random: equal results then mean something


def adapt_lora(base: nn.Module) -> nn.Module:
    return adapt(base, LoraConfig(**LORA))


def random_inputs(model: nn.Module, batch: int, tokens: int) -> dict[str, Tensor]:
    """Random words. No pictures: the vision tower has no adapter and would only dilute the ratios."""
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(100, model.config.get_text_config().vocab_size, (batch, tokens), generator=generator)
    return {"input_ids": ids.to(model.device), "attention_mask": torch.ones_like(ids).to(model.device)}


def embed(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """(B, H), as `recbole_sda.encoders.Backbone` pools it: the decoder without its language-model head."""
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    with routing(MODALITY):
        hidden_states = bare.model(**inputs, use_cache=False).last_hidden_state
    return pool_mean(hidden_states, inputs["attention_mask"])


def training_step(model: nn.Module, inputs: Mapping[str, Tensor]) -> Callable[[], None]:
    """Forward, a scalar loss, backward, AdamW."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)

    def step() -> None:
        embed(model, inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def trainable(model: nn.Module) -> int:
    """Number of parameters that train."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def time_in_turns(runs: Mapping[str, Callable[[], object]], *, pairs: int) -> dict[str, list[float]]:
    """Seconds a call, one timing a round for each of `runs`; every round starts with another one."""
    for run in runs.values():
        run()
    calls = max(1, round(SECONDS_A_TIMING / max(_seconds(run) for run in runs.values())))
    names, seconds = list(runs), {name: [] for name in runs}
    for turn in range(pairs):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(_seconds(runs[name], calls))
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], of: str, to: str) -> str:
    """Median, smallest and largest of the rounds' ratios."""
    ratios = [a / b for a, b in zip(seconds[of], seconds[to], strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def milliseconds(seconds: Sequence[float]) -> str:
    return f"{1000 * median(seconds):.1f}"


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))


def _seconds(run: Callable[[], object], calls: int = 1) -> float:
    _wait_for_device()
    began = time.perf_counter()
    for _ in range(calls):
        run()
    _wait_for_device()
    return (time.perf_counter() - began) / calls


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # Linux; platform.processor() is empty there
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
