"""What a store's ``manifest.json`` may say. It may come from anywhere: it is checked before it is believed.

A store has exactly the files that its modalities call for, so the manifest cannot name one outside the folder; a
link that leaves the folder is refused as well.
"""

import hashlib
import json
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from recbole_sda.errors import SDAError
from recbole_sda.features.arrays import DTYPES
from recbole_sda.progress import progress_bar

FORMAT = 2
MANIFEST = "manifest.json"
ITEMS = "items.txt"
SKIPPED = "skipped.csv"
DIGEST_BYTES = 16
MOST_ITEMS = 2**40
LARGEST_MANIFEST = 16 * 2**20  # bytes
MODALITY = re.compile(r"\w[\w-]*")  # also the start of file names
SHA256 = re.compile(r"[0-9a-f]{64}")
FIELDS = {"items": int, "dtype": str, "modalities": dict, "settings": dict, "files": dict}
MODALITY_FIELDS = {"width": int, "present": int, "contents": bool}
FILE_FIELDS = {"bytes": int, "sha256": str}
HASH_BYTES = 2**24
SHOW_PROGRESS_BYTES = 2**30


def read_manifest(folder: Path) -> dict:
    """The manifest of a finished store, checked.

    Raises:
        SDAError: no store, another format, or what no store says.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise SDAError(f"{folder} is no feature store: it has no {MANIFEST}. Run `embed` to make one.")
    check_inside(path)
    if path.stat().st_size > LARGEST_MANIFEST:
        raise SDAError(f"{path} has more than {LARGEST_MANIFEST} bytes; a store's never has")
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SDAError(f"{path} is not JSON ({error}); embed again") from error
    if not isinstance(manifest, dict):
        raise SDAError(f"{path} holds no JSON object; embed again")
    number = manifest.get("format")
    if type(number) is not int or number != FORMAT:
        found = reprlib.repr(number)
        raise SDAError(f"{folder} has store format {found}, this version reads {FORMAT}; embed again")
    if fault := next(_faults(manifest), None):
        raise SDAError(f"{path}: {fault}; embed again")
    return manifest


def file_names(modality: str, contents: bool) -> list[str]:
    """The files of one modality: values, presence and, if they are known, the contents' digests."""
    return [f"{modality}{kind}.npy" for kind in ("", ".present", ".content")[: 3 if contents else 2]]


def check_inside(path: Path) -> None:
    """Refuse a link that leaves the folder in which it lies."""
    if path.resolve().parent != path.parent.resolve():
        raise SDAError(f"{path} is a link that leaves its folder; a store's files lie in it")


def check_size(path: Path, recorded: dict) -> None:
    if not path.is_file():
        raise SDAError(f"the feature store lacks {path}; embed again")
    check_inside(path)
    size = path.stat().st_size
    if size != recorded["bytes"]:
        raise SDAError(f"{path} has {size} bytes, {recorded['bytes']} were written; embed again")


def checksums(folder: Path, names: Iterable[str], description: str) -> dict[str, str]:
    """SHA-256 of every file, in threads, with a progress bar when they are large."""
    paths = [folder / name for name in names]
    total = sum(path.stat().st_size for path in paths)
    show = total >= SHOW_PROGRESS_BYTES
    workers = min(len(paths), os.cpu_count() or 1)
    with progress_bar(total, description, "B", show=show) as bar, ThreadPoolExecutor(workers) as pool:
        return dict(zip(names, pool.map(lambda path: sha256(path, bar.update), paths), strict=True))


def sha256(path: Path, told: Callable[[int], object] = lambda read: None) -> str:
    """The file's SHA-256; ``told`` is called with the bytes read since it was called last."""
    state, buffer = hashlib.sha256(), bytearray(HASH_BYTES)
    with path.open("rb") as file:
        while read := file.readinto(buffer):
            state.update(memoryview(buffer)[:read])
            told(read)
    return state.hexdigest()


def _faults(manifest: dict) -> Iterator[str]:
    """What is wrong with it. Each check relies on those before it: only the first fault counts."""
    yield from _type_faults("", manifest, FIELDS)
    items, modalities, files = manifest["items"], manifest["modalities"], manifest["files"]
    if not 0 <= items <= MOST_ITEMS:
        yield f"{items} items cannot be"
    if manifest["dtype"] not in DTYPES:
        yield f"dtype is {reprlib.repr(manifest['dtype'])}, not one of {', '.join(DTYPES)}"
    if not isinstance(manifest.get("dataset"), str | None):
        yield f"dataset is {reprlib.repr(manifest['dataset'])}, not a name"
    if not modalities:
        yield "it names no modality"
    needed = {ITEMS, SKIPPED}
    for name, entry in modalities.items():
        if not MODALITY.fullmatch(name):
            yield f"{reprlib.repr(name)} is no name of a modality"
        yield from _type_faults(f"modality {name}: ", entry, MODALITY_FIELDS)
        if entry["width"] < 1 or not 0 <= entry["present"] <= items:
            yield f"modality {name}: {entry['present']} of {items} items and width {entry['width']} cannot be"
        needed.update(file_names(name, entry["contents"]))
    if set(files) != needed:
        yield f"its files are {reprlib.repr(sorted(files))}, those of its modalities {sorted(needed)}"
    for name, entry in files.items():
        yield from _type_faults(f"file {name}: ", entry, FILE_FIELDS)
        if not SHA256.fullmatch(entry["sha256"]):
            yield f"file {name}: {reprlib.repr(entry['sha256'])} is no SHA-256"


def _type_faults(where: str, values: object, fields: dict[str, type]) -> Iterator[str]:
    if not isinstance(values, dict):
        yield f"{where}{reprlib.repr(values)} is no mapping"
    for name, kind in fields.items():
        if type(values.get(name)) is not kind:  # isinstance would take True for a number
            yield f"{where}{name} is {reprlib.repr(values.get(name))}, not {kind.__name__}"
