"""Artefacts on disk: named by a digest of what made them, finished or absent, built by one process at a time."""

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

import psutil
from filelock import FileLock

DIGEST_CHARS = 16


def digest(settings: dict) -> str:
    """The name of the artefact that ``settings`` (JSON values only) produce."""
    canonical = json.dumps(settings, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:DIGEST_CHARS]


def build_once(folder: Path, build: Callable[[Path], None]) -> bool:
    """Have ``folder``, by calling ``build`` on an unfinished one unless it is there already.

    The unfinished folder stands beside the final one and is renamed when ``build`` returns, so what has
    the final name is finished. What an interrupted ``build`` left in it is still there for the next one, which
    may go on from it. A second process that wants the same artefact waits for the first.

    Returns:
        True when it was built now, False when it was reused.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if folder.is_dir():
            return False
        unfinished = folder.with_name(folder.name + ".unfinished")
        unfinished.mkdir(exist_ok=True)
        build(unfinished)
        unfinished.rename(folder)
        return True


def clear_folder(folder: Path) -> None:
    """For a build that cannot go on from what an interrupted one left."""
    shutil.rmtree(folder)
    folder.mkdir()


def write_manifest(folder: Path, manifest: dict) -> None:
    text = json.dumps(manifest, indent=2, ensure_ascii=False, sort_keys=True)
    (Path(folder) / "manifest.json").write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict:
    return json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; the file takes its place when it is whole, and goes if it never is.

    What a killed process has left of an earlier try goes, too.
    """
    path = Path(path)
    _remove_abandoned(path)
    unfinished = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}.unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Unfinished files of processes of this machine that are no more; of other machines it cannot be known."""
    for left in path.parent.glob(f"{escape(path.name)}.{escape(platform.node())}.*.unfinished"):
        process = left.suffixes[-2].removeprefix(".")
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            left.unlink(missing_ok=True)
