"""Names of many layers in few words: numbers as `*`, siblings in braces."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from peft import PeftModel


def adaptation_summary(model: PeftModel) -> str:
    """What an adapter of any kind has adapted and how much of it trains, on one line for a log."""
    names = model.base_model.targeted_module_names
    trainable, total = model.get_nb_trainable_parameters()
    return (
        f"{len(names)} linear layers adapted: {', '.join(folded_layers(names))}; "
        f"{trainable:,} of {total:,} parameters train"
    )


def folded_numbers(name: str) -> str:
    """model.layers.3.mlp.up_proj -> model.layers.*.mlp.up_proj"""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def folded_layers(names: Iterable[str]) -> list[str]:
    """One entry a parent, as `layers.*.self_attn.{q,k,v,o}_proj (4 x 2)`: 4 siblings in 2 layers each."""
    alike = defaultdict(list)
    for name in names:
        alike[folded_numbers(name)].append(name)
    siblings = defaultdict(list)
    for folded, originals in alike.items():
        count = len(originals)
        parent, _, child = (folded if count > 1 else originals[0]).rpartition(".")
        siblings[parent, count].append(child)
    return [_entry(parent, children, count) for (parent, count), children in siblings.items()]


def _entry(parent: str, children: list[str], count: int) -> str:
    times = f" ({len(children)} x {count})" if count > 1 else ""
    return f"{parent}.{_braced(children)}".lstrip(".") + times


def _braced(words: list[str]) -> str:
    """q_proj, k_proj -> {q,k}_proj"""
    if len(words) == 1:
        return words[0]
    endings = [word[word.find("_") :] for word in words if "_" in word]
    ending = endings[0] if len(endings) == len(words) and len(set(endings)) == 1 else ""
    return f"{{{','.join(word.removesuffix(ending) for word in words)}}}{ending}"
