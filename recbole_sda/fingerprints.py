"""What data and features are, by their content, wherever they lie."""

from collections.abc import Iterable
from pathlib import Path

from recbole_sda.features.manifest import ITEMS, checksums
from recbole_sda.features.sources import open_features


def files_identity(folder: Path, patterns: Iterable[str]) -> dict[str, str]:
    """File → SHA-256, of those of the folder that have such names."""
    names = sorted({file.name for pattern in patterns for file in folder.glob(pattern)})
    return checksums(folder, names, "read the interactions") if names else {}


def interactions_identity(config) -> dict[str, str]:
    """File → SHA-256 of what RecBole reads of the dataset."""
    patterns = [f"{config['dataset']}*.{kind}" for kind in ("inter", "item", "user")]
    return files_identity(Path(config["data_path"]), patterns)


def features_identity(config) -> dict[str, list[str]]:
    """Modality → checksums of the values, of whose is present, and of the items, of imported features.

    Args:
        config: of a plan, whose ``features`` are stores.
    """
    found = {}
    for name, (store, modality) in open_features(config["features"], config["modalities"]).items():
        files = (f"{modality}.npy", f"{modality}.present.npy", ITEMS)
        found[name] = [store.manifest["files"][file]["sha256"] for file in files]
    return found
