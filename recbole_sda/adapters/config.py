"""The settings of MoDA, checked before any weight is made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from peft import PeftConfig

from recbole_sda.adapters.card import write_card

GATE_SCALES = ("none", "num_experts")
OTHER_INITS = ("kaiming", "orthogonal")


class _PeftType(str):
    """PEFT's `PeftType` is a `str` enum that is closed to outsiders: a string with a `value` is as good."""

    @property
    def value(self) -> str:
        return str(self)


PEFT_TYPE = _PeftType("MODA")


def language_model_targets(layers: int | Sequence[int] | None = None) -> str:
    """The pattern of the q, k, v, o, gate, up and down projections of a language model's decoder layers.

    The path down to `layers` is spelled out, because vision towers have a `gate_proj`
    (Qwen2.5-VL) or `encoder.layers.0.self_attn.q_proj` (CLIP, SigLIP) of their own.

    Args:
        layers: only these layer numbers; None is all of them.
    """
    numbers = [layers] if isinstance(layers, int) else layers
    number = r"\d+" if numbers is None else f"(?:{'|'.join(map(str, numbers))})"
    return (
        # LVLMs: model.language_model.layers, language_model.model.layers, model.text_model.layers;
        # a text-only decoder: model.layers, layers
        r"(?:(?:.*\.)?(?:language_model|text_model)\.)?(?:model\.)*"
        rf"layers\.{number}\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)"
    )


LANGUAGE_MODEL_TARGETS = language_model_targets()


@dataclass
class MoDAConfig(PeftConfig):
    """Settings of a MoDA adapter; the defaults are the paper's (arXiv 2512.06883).

    A bad value raises `ValueError` that names the key, the value and the remedy.
    """

    r: int = field(default=8, metadata={"help": "Total rank of all experts together; num_experts divides it."})
    lora_alpha: float = field(default=32, metadata={"help": "The update is scaled by lora_alpha / r."})
    lora_dropout: float = field(
        default=0.1, metadata={"help": "Dropout on the input of the low-rank pair, in [0, 1)."}
    )
    num_experts: int = field(
        default=4, metadata={"help": "Experts an adapted layer, each of rank r / num_experts."}
    )
    modalities: tuple[str, ...] = field(
        default=("image", "text"),
        metadata={"help": "Names of the modalities; ids in `routing` are positions in this list."},
    )
    modality_embedding_dim: int = field(
        default=64, metadata={"help": "Width of the learned modality embedding that the gate reads."}
    )
    gate_scale: str = field(
        default="none",
        metadata={
            "help": "`none` leaves the gates as they are, on average 1 / num_experts. `num_experts` "
            "multiplies them by num_experts: the update then starts at the size of a LoRA of equal alpha."
        },
    )
    use_rslora: bool = field(default=False, metadata={"help": "Scale by lora_alpha / sqrt(r) instead."})
    target_modules: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Names of linear layers, a regular expression that matches full names, or `all-linear`. "
            "None takes the seven projections of every decoder layer of the language model and leaves "
            "the vision tower alone."
        },
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names or a regular expression of layers to leave out."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None,
        metadata={
            "help": "Numbers of the layers to adapt. With target_modules=None they go into its pattern and "
            "this key is None afterwards; not with a regular expression, which names its layers itself."
        },
    )
    layers_pattern: list[str] | str | None = field(
        default=None,
        metadata={"help": "Name of the list of layers that layers_to_transform counts, e.g. `layers`."},
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Other modules to train and to store with the adapter."}
    )
    init_weights: bool | Literal["kaiming", "orthogonal"] = field(
        default=True,
        metadata={
            "help": "True is the paper's start: A ~ N(0, 0.01²) and B = 0, so at the base model. `kaiming` draws "
            "A as LoRA does, `orthogonal` with orthonormal rows, so that the experts start in different "
            "directions. False draws a random B, for tests."
        },
    )
    rank_pattern: dict[str, int] = field(
        default_factory=dict, metadata={"help": "Other total ranks for layers that match a name or pattern."}
    )
    alpha_pattern: dict[str, float] = field(
        default_factory=dict, metadata={"help": "Other values of lora_alpha for layers that match."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PEFT_TYPE
        self._check_experts()
        self._check_scales()
        self._check_modalities()
        self._resolve_targets()

    def to_dict(self) -> dict[str, Any]:
        """Plain values; sets become sorted lists, so that equal settings are saved as equal files."""
        return {
            key: sorted(value) if isinstance(value, set) else value for key, value in super().to_dict().items()
        }

    def save_pretrained(self, save_directory: str, **kwargs) -> None:
        """PEFT's `save_pretrained`; the model card that PEFT has written by then learns how to load MoDA."""
        super().save_pretrained(save_directory, **kwargs)
        write_card(Path(save_directory), self.modalities)

    def _check_experts(self) -> None:
        for key in ("r", "num_experts", "modality_embedding_dim"):
            _check_positive_integer(key, getattr(self, key))
        ranks = {"r": self.r} | {f"rank_pattern[{name!r}]": rank for name, rank in self.rank_pattern.items()}
        for key, rank in ranks.items():
            _check_positive_integer(key, rank)
            if rank % self.num_experts:
                divisors = [str(number) for number in range(1, rank + 1) if rank % number == 0]
                raise ValueError(
                    f"num_experts={self.num_experts} does not divide {key}={rank}; choose {_either(divisors)}"
                )

    def _check_scales(self) -> None:
        alphas = {"lora_alpha": self.lora_alpha}
        alphas |= {f"alpha_pattern[{name!r}]": alpha for name, alpha in self.alpha_pattern.items()}
        for key, alpha in alphas.items():
            if not _is_number(alpha) or alpha <= 0:
                raise ValueError(f"{key}={alpha!r} is not a positive number; the paper uses 32")
        if not _is_number(self.lora_dropout) or not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout={self.lora_dropout!r} is not in [0, 1); the paper uses 0.1")
        if self.gate_scale not in GATE_SCALES:
            raise ValueError(f"gate_scale={self.gate_scale!r} is unknown; choose {_either(GATE_SCALES)}")
        if not isinstance(self.init_weights, bool) and self.init_weights not in OTHER_INITS:
            choices = _either(("True", "False", *OTHER_INITS))
            raise ValueError(f"init_weights={self.init_weights!r} is unknown; choose {choices}")

    def _check_modalities(self) -> None:
        names = self.modalities
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise ValueError(f'modalities={names!r} is not a list of names; give e.g. ("image", "text")')
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f'modalities={names!r} needs one or more non-empty names, e.g. ("image", "text")')
        if len(set(names)) < len(names):
            raise ValueError(f"modalities={names!r} names one modality twice; ids would be ambiguous")
        self.modalities = tuple(names)  # JSON hands back a list

    def _resolve_targets(self) -> None:
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError(
                f"layers_pattern={self.layers_pattern!r} does nothing without layers_to_transform; give both"
            )
        if self.target_modules is None:
            self._use_language_model_targets()
        elif not self.target_modules:
            raise ValueError(f"target_modules={self.target_modules!r} is empty; leave it out for the default")
        elif isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError(
                f"layers_to_transform={self.layers_to_transform!r} has no effect on the pattern "
                f"target_modules={self.target_modules!r}; put the layer numbers into it, or give a list"
            )
        for key in ("target_modules", "exclude_modules"):
            value = getattr(self, key)
            if isinstance(value, str):
                _check_pattern(key, value)
            elif value is not None:
                setattr(self, key, set(value))

    def _use_language_model_targets(self) -> None:
        if self.layers_pattern:
            raise ValueError(
                f"layers_pattern={self.layers_pattern!r} needs target_modules as a list of names; "
                "the default targets know where the language model's layers are"
            )
        if self.layers_to_transform == []:
            raise ValueError("layers_to_transform=[] adapts no layer; leave it out to adapt all")
        self.target_modules = language_model_targets(self.layers_to_transform)
        self.layers_to_transform = None


def _check_positive_integer(key: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{key}={value!r} is not a positive integer; give 1 or more")


def _check_pattern(key: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"{key}={pattern!r} is not a regular expression ({error}); for plain names give a list"
        ) from None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _either(choices: Sequence[str]) -> str:
    *most, last = choices
    return f"{', '.join(most)} or {last}" if most else last
