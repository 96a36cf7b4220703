"""Which finished store a new embedding may add to: one that was made the same way, of another catalogue."""

from pathlib import Path

from recbole_sda.artefacts import read_manifest
from recbole_sda.errors import SDAError
from recbole_sda.features.store import FeatureStore

BEST_FIT = ("True", "auto")
# How a catalogue's adapter and features may differ from the older ones.
OF_THE_CATALOGUE = ("catalog", "adapter", "appended_to")


def find_older(append: str, features: dict, adapter: dict | None, *, checkpoint_dir: Path) -> FeatureStore:
    """The store to add to.

    Args:
        append: its folder, or one of ``BEST_FIT``: the newest under ``checkpoint_dir`` that fits.
        features: what the new features depend on.
        adapter: what a new adapter would depend on; None without one.

    Raises:
        SDAError: none fits, or the one that is named was made another way.
    """
    if append not in BEST_FIT:
        store = FeatureStore.open(append)
        if difference := _difference(store, features, adapter, checkpoint_dir):
            raise SDAError(f"append={append} was made another way: {difference}; set that, or leave append out")
        return store
    folders = sorted(
        (path.parent for path in (checkpoint_dir / "features").glob("*/manifest.json")),
        key=lambda folder: (folder / "manifest.json").stat().st_mtime,
    )
    for folder in reversed(folders):
        store = FeatureStore.open(folder)
        if not _difference(store, features, adapter, checkpoint_dir):
            return store
    raise SDAError(
        f"append={append}: of {len(folders)} stores in {checkpoint_dir / 'features'} none was made with these "
        "settings of backbone, prompts and adapter; run embed without append"
    )


def appended(features: dict, older: FeatureStore) -> dict:
    """What the longer store depends on: its new items go through the older one's adapter."""
    return {**features, "adapter": older.manifest["settings"]["adapter"], "appended_to": older.path.name}


def _difference(store: FeatureStore, features: dict, adapter: dict | None, checkpoint_dir: Path) -> str:
    """The first setting that differs, in words; nothing when they are the same."""
    theirs = store.manifest["settings"]
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
