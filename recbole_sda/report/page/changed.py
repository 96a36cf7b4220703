"""Whether a dataset is still what a run saw of it: its pictures and texts by digest, the demo by its settings."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np

from recbole_sda.catalog import Catalog
from recbole_sda.catalog.demo import MARKER
from recbole_sda.catalog.demo_world import KEYS, World
from recbole_sda.encoders.prompts import Prompts
from recbole_sda.features.provider import StoredModality
from recbole_sda.features.units import content_digests
from recbole_sda.key_kinds import names


def changed_items(catalog: Catalog, embedded: Mapping[str, StoredModality]) -> np.ndarray:
    """(items,) bool: whose content is not what its features were made of, as far as the store knows that."""
    changed = np.zeros(len(catalog), dtype=bool)
    for modality, (store, name) in embedded.items():
        known, prompts = store.contents(name), store.manifest["settings"].get("prompts", {})
        if modality not in catalog.kinds or known is None or name not in prompts:
            continue
        rows = store.find(catalog.tokens)
        found = rows >= 0
        then, now = known[rows[found]], content_digests(catalog, _prompts(prompts[name]), modality)[found]
        changed[found] |= (then != now).any(axis=1)
    return changed


def other_world(folder: Path, settings: Mapping) -> str:
    """What tells the demo in ``folder`` from that of the run's settings; "" where nothing does."""
    marker = folder / MARKER
    if not marker.is_file():
        return ""
    said = {name: settings[key] for name, key in KEYS.items()}
    said |= {name: names(KEYS[name], said[name]) for name in ("image_factors", "text_factors")}
    then, now = World(**said).settings(), json.loads(marker.read_bytes())
    now = {name: value for name, value in now.items() if name in then or name in KEYS}
    if other := [name for name in {**then, **now} if then.get(name) != now.get(name)]:
        shown = ", ".join(f"{KEYS.get(name, name)}={now.get(name, 'as usual')}" for name in other)
        return f"{folder} was made anew with {shown} since this run: pictures and titles are not those of the run"
    return ""


def _prompts(said: dict) -> Prompts:
    """Those that a modality's features were made with; what the store leaves out does nothing to them."""
    unsaid = {field.name: "" for field in fields(Prompts)} | {"field_templates": {}, "field_chars": {}}
    unsaid |= {"text": "{fields}", "field": "{value}", "value_chars": 1}
    return Prompts(**{**unsaid, **said})
