"""Which finished store a new embedding may add to: one that was made the same way, of another catalogue."""

import logging
from pathlib import Path

from recbole_sda.artefacts import digest, read_manifest
from recbole_sda.errors import SDAError
from recbole_sda.features.store import FeatureStore

logger = logging.getLogger(__name__)

BEST_FIT = ("True", "auto")
# How a catalogue's adapter and features may differ from the older ones.
OF_THE_CATALOGUE = ("catalog", "adapter", "appended_to")


def find_older(
    append: str, features: dict, adapter: dict | None, *, dataset: str, checkpoint_dir: Path
) -> FeatureStore:
    """The store to add to.

    Args:
        append: its folder, or one of ``BEST_FIT``: the newest under ``checkpoint_dir`` that fits.
        features: what the new features depend on.
        adapter: what a new adapter would depend on; None without one.
        dataset: whose items they are.

    Raises:
        SDAError: none fits, or the one that is named was made another way.
    """
    if append not in BEST_FIT:
        store = FeatureStore.open(append)
        if difference := _difference(store, features, adapter, dataset, checkpoint_dir):
            raise SDAError(f"append={append} was made another way: {difference}; set that, or leave append out")
        return store
    folders = sorted(
        (path.parent for path in (checkpoint_dir / "features").glob("*/manifest.json") if _finished(path)),
        key=lambda folder: (folder / "manifest.json").stat().st_mtime,
    )
    for folder in reversed(folders):
        try:
            store = FeatureStore.open(folder)
        except SDAError as error:
            logger.warning("not appended to: %s", error)
            continue
        if not _difference(store, features, adapter, dataset, checkpoint_dir):
            return store
    raise SDAError(
        f"append={append}: of {len(folders)} stores in {checkpoint_dir / 'features'} none was made with these "
        "settings of backbone, prompts and adapter; run embed without append"
    )


def appended(features: dict, older: FeatureStore) -> dict:
    """What the longer store depends on: its new items go through the older one's adapter."""
    adapter = older.manifest["settings"]["adapter"]
    return {**features, "adapter": adapter, "appended_to": digest(older.manifest["files"])}


def is_complete(older: FeatureStore, features: dict) -> bool:
    """Whether it was made of this very catalogue, so that there is nothing to add."""
    return older.manifest["settings"]["catalog"] == features["catalog"]


def _finished(manifest: Path) -> bool:
    return manifest.parent.suffix != ".unfinished"


def _difference(
    store: FeatureStore, features: dict, adapter: dict | None, dataset: str, checkpoint_dir: Path
) -> str:
    """The first thing that differs, in words; nothing when they are the same."""
    theirs = store.manifest["settings"]
    if store.manifest["dataset"] != dataset:
        return f"it is of dataset {store.manifest['dataset']!r}, not {dataset!r}"
    if "adapter" not in theirs:
        return "it was not embedded here"
    if difference := _first_difference(theirs, features):
        return difference
    trained = theirs["adapter"]
    if (trained == "none") != (adapter is None):
        return f"its adapter is {trained}, here it is {'none' if adapter is None else 'another'}"
    if adapter is None:
        return ""
    folder = checkpoint_dir / "adapters" / trained
    if not (folder / "manifest.json").is_file():
        return f"its adapter {folder} is gone"
    return _first_difference(read_manifest(folder)["settings"], adapter)


def _first_difference(theirs: dict, ours: dict) -> str:
    for key in sorted({*theirs, *ours} - {*OF_THE_CATALOGUE}):
        if theirs.get(key) != ours.get(key):
            return f"{key} was {theirs.get(key)!r} and is {ours.get(key)!r}"
    return ""
