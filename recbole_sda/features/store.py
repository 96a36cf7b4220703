"""Embeddings on disk: one memory-mapped ``.npy`` a modality, a mask of what is present, the item tokens.

::

    <store>/manifest.json      format, settings, shapes, SHA-256 of every file
            items.txt          one item token a line, in row order
            image.npy          (items, width) float16; rows of missing items are 0
            image.present.npy  (items,) bool
            text.npy …         the same for each modality
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from recbole_sda.artefacts import read_manifest, write_manifest
from recbole_sda.errors import SDAError

FORMAT = 1
ITEMS = "items.txt"


class FeatureStore:
    """Read-only features of a catalogue; opening reads the manifest and the tokens, no embedding.

    Use :meth:`open`.

    Attributes:
        path: the folder.
        manifest: what made it, see :func:`write_store`.
        tokens: item token of every row.
    """

    def __init__(self, path: Path, manifest: dict, tokens: list[str]):
        self.path = path
        self.manifest = manifest
        self.tokens = tokens

    @classmethod
    def open(cls, path: str | Path, verify: bool = False) -> "FeatureStore":
        """Open a finished store.

        Args:
            path: its folder.
            verify: compare every file with its checksum; otherwise sizes and shapes only.

        Raises:
            SDAError: no store, another format, incomplete, or changed since it was written.
        """
        path = Path(path)
        if not (path / "manifest.json").is_file():
            raise SDAError(f"{path} is no feature store: it has no manifest.json. Run `embed` to make one.")
        try:
            manifest = read_manifest(path)
        except ValueError as error:
            raise SDAError(f"{path / 'manifest.json'} is not JSON ({error}); embed again") from error
        if manifest.get("format") != FORMAT:
            raise SDAError(
                f"{path} has store format {manifest.get('format')!r}, this version reads {FORMAT}; embed again"
            )
        for name, file in manifest["files"].items():
            _check_file(path / name, file, verify)
        # Not splitlines: it also splits at signs such as U+2028, which a token may hold.
        tokens = (path / ITEMS).read_bytes().decode().split("\n")[:-1]
        if len(tokens) != manifest["items"]:
            raise SDAError(
                f"{path / ITEMS} has {len(tokens)} items, the manifest {manifest['items']}; embed again"
            )
        store = cls(path, manifest, tokens)
        for modality in store.modalities:
            rows = len(store.values(modality)), len(store.present(modality))
            if rows != (len(tokens), len(tokens)):
                raise SDAError(
                    f"{path}: {modality} has {rows[0]} rows and {rows[1]} marks of presence for {len(tokens)} "
                    "items; embed again"
                )
        return store

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.manifest["modalities"])

    def __len__(self) -> int:
        return len(self.tokens)

    def values(self, modality: str) -> np.ndarray:
        """(items, width), memory-mapped; rows of missing items are 0."""
        return np.load(self.path / f"{self._known(modality)}.npy", mmap_mode="r", allow_pickle=False)

    def present(self, modality: str) -> np.ndarray:
        """(items,) bool."""
        return np.load(self.path / f"{self._known(modality)}.present.npy", allow_pickle=False)

    def _known(self, modality: str) -> str:
        if modality not in self.modalities:
            raise SDAError(f"{self.path} holds {', '.join(self.modalities)}; it has no modality {modality!r}")
        return modality


def write_store(
    folder: Path,
    tokens: Sequence[str],
    modalities: Mapping[str, np.ndarray],
    *,
    settings: dict,
    dataset: str | None = None,
) -> None:
    """Finish a store in ``folder``, where each modality's ``<name>.npy`` has been written already.

    Args:
        tokens: item token of every row.
        modalities: name → (items,) bool, the rows that are present.
        settings: what made the embeddings; JSON values. Kept in the manifest.
        dataset: whose items these are, if the store is for one dataset.
    """
    folder = Path(folder)
    (folder / ITEMS).write_bytes("".join(f"{token}\n" for token in tokens).encode())
    names = [ITEMS]
    for modality, present in modalities.items():
        np.save(folder / f"{modality}.present.npy", np.asarray(present, dtype=bool), allow_pickle=False)
        names += [f"{modality}.npy", f"{modality}.present.npy"]
    write_manifest(
        folder,
        {
            "format": FORMAT,
            "items": len(tokens),
            "modalities": {name: int(present.sum()) for name, present in modalities.items()},
            "dataset": dataset,
            "settings": settings,
            "files": {
                name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in names
            },
        },
    )


def _check_file(path: Path, recorded: dict, verify: bool) -> None:
    if not path.is_file():
        raise SDAError(f"the feature store lacks {path}; embed again")
    size = path.stat().st_size
    if size != recorded["bytes"]:
        raise SDAError(f"{path} has {size} bytes, {recorded['bytes']} were written; embed again")
    if verify and _sha256(path) != recorded["sha256"]:
        raise SDAError(f"{path} does not match its checksum; embed again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
