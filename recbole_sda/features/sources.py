"""Features of the user's own: ``--features=a,b``, each a store or a file, under names of modalities.

- a folder: a feature store, with its modalities;
- ``x.npy``: (items, width), with its items in ``x.items.txt`` (one a line) or ``x.items.npy``, or, for all arrays
  of the folder, in ``i_id_mapping.csv`` (MMRec's) or ``items.txt``;
- ``.parquet``: a column of items, and of each modality a column of lists of numbers, null where missing;
- ``.safetensors``: as ``export`` writes it;
- any other file: RecBole's atomic file, with ``iid:token`` and of each modality a ``float_seq`` column.

``cover=x.npy`` calls the modality ``cover``, and each of several ``cover_<name>``. Otherwise a modality has the
name of its column, or of the ``.npy``. A file is imported once, into a store named by a digest of its content.
"""

import difflib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from recbole_sda.artefacts import build_once, clear_folder, digest
from recbole_sda.errors import SDAError
from recbole_sda.features.exchange import fill_store, read_source
from recbole_sda.features.exchange_atomic import is_atomic
from recbole_sda.features.exchange_npy import companions
from recbole_sda.features.exchange_source import modality_name
from recbole_sda.features.manifest import checksums
from recbole_sda.features.provider import StoredModality
from recbole_sda.features.store import FeatureStore

logger = logging.getLogger(__name__)

SUFFIXES = {".npy": "npy", ".parquet": "parquet", ".safetensors": "safetensors"}
# Raised when a file of the same bytes would become another store.
IMPORT_FORMAT = 1


class Given(NamedTuple):
    """One part of ``features``."""

    name: str | None
    path: Path

    def __str__(self) -> str:
        return f"{self.name}={self.path}" if self.name else str(self.path)


def import_features(features: str, folder: Path) -> str:
    """Have every part as a checked store.

    Args:
        features: the user's, stores and files.
        folder: where the stores of files belong.

    Returns:
        The same with a store's folder in place of every file, for :func:`open_features`.

    Raises:
        SDAError: nothing there, no format that is known, or no features for a recommender.
    """
    stores = []
    for given in _parts(features):
        if given.path.is_dir():
            FeatureStore.open(given.path, verify=True)
            stores.append(given)
        else:
            stores.append(given._replace(path=_imported(given.path, folder)))
    return ",".join(map(str, stores))


def open_features(features: str, modalities: Sequence[str] | None = None) -> dict[str, StoredModality]:
    """Name → where it is, for a ``FeatureProvider``.

    Args:
        features: stores, one or several.
        modalities: those that are wanted; None takes all.

    Raises:
        SDAError: a name that is there twice, or not at all; no store.
    """
    found: dict[str, StoredModality] = {}
    for given in _parts(features):
        store = FeatureStore.open(given.path)
        for modality in store.modalities:
            name = _name(given.name, modality, len(store.modalities))
            if name in found:
                raise SDAError(
                    f"features: {found[name].store.origin} and {store.origin} both have a modality {name}; call "
                    f"one by another name, as in --features=NAME={store.origin}"
                )
            found[name] = StoredModality(store, modality)
    if unknown := [name for name in modalities or () if name not in found]:
        raise SDAError(
            f"modalities={','.join(modalities)}, but the features have {', '.join(found)} and no {unknown[0]}; "
            f"say --modalities={','.join(found)} or leave modalities out"
        )
    return {name: found[name] for name in modalities or found}


def _parts(features: str) -> list[Given]:
    whole = Path(features)
    if whole.exists():  # a path may have commas in it
        return [Given(None, whole)]
    return [_part(part.strip()) for part in features.split(",") if part.strip()]


def _part(text: str) -> Given:
    name, equals, path = text.partition("=")
    named = equals and not Path(text).exists() and Path(name).name == name
    given = Given(name, Path(path)) if named else Given(None, Path(text))
    if named and modality_name(name) != name:
        raise SDAError(f"features={text}: {name!r} is no name of a modality; use {modality_name(name)}={path}")
    if not given.path.exists():
        raise SDAError(f"features={given.path} does not exist{_nearest(given.path)}")
    return given


def _nearest(path: Path) -> str:
    beside = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(str(path), [*beside, "auto", "none"], n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _name(given: str | None, modality: str, count: int) -> str:
    if given is None:
        return modality_name(modality)
    return given if count == 1 else f"{given}_{modality_name(modality)}"


def _imported(path: Path, folder: Path) -> Path:
    try:
        return _import(path, folder)
    except SDAError as error:
        raise SDAError(f"features={path}: {str(error).removeprefix(f'{path}: ')}") from error


def _import(path: Path, folder: Path) -> Path:
    """The store of a file, made now unless it is there."""
    format = _format(path)
    files = [path, *companions(path)] if format == "npy" else [path]
    sums = {file.name: checksums(file.parent, [file.name], f"read {file.name}")[file.name] for file in files}
    settings = {"imported": path.name, "format": format, "files": sums, "import_format": IMPORT_FORMAT}
    store = folder / digest(settings)

    def build(unfinished: Path) -> None:
        clear_folder(unfinished)
        try:
            incoming = read_source(path, format=format).with_valid_names()
            fill_store(unfinished, path, incoming, settings=settings, nan_is_missing=False)
        except BaseException:
            clear_folder(unfinished)  # nothing could go on from it
            raise

    made = build_once(store, build)
    logger.info("features=%s: %s %s", path, "imported as" if made else "imported before as", store)
    return store


def _format(path: Path) -> str:
    if path.suffix in SUFFIXES:
        return SUFFIXES[path.suffix]
    if not path.stat().st_size:
        raise SDAError("the file is empty")
    if is_atomic(path):
        return "atomic"
    raise SDAError(
        f"it is no feature store, {', '.join(SUFFIXES)} or atomic file of RecBole's, whose first "
        "line names columns and types such as iid:token and emb:float_seq, with tabs between them"
    )
