"""What an interrupted embedding leaves, and goes on from: shards that are whole or absent, and a journal of them.

::

    <folder>/plan.json          what the shards mean; another plan begins anew
             shard-000000.npy   (units, width), renamed into place when it is on the disk
             journal.jsonl      one line a finished shard, appended after its file

Shards may be written by many processes; the journal has one writer, and a shard counts when the journal says so.
"""

import hashlib
import json
import logging
import os
from pathlib import Path

import numpy as np

from recbole_sda.artefacts import clear_folder
from recbole_sda.features.arrays import flush_folder, npy_bytes, open_array, write_atomically

logger = logging.getLogger(__name__)

PLAN = "plan.json"
JOURNAL = "journal.jsonl"


class Parts:
    """Shards of one modality's embeddings, each written once, and the journal of those that are done.

    Args:
        folder: created when it is not there.
        plan: what the shards mean, JSON values. What was made by another plan is removed.
    """

    def __init__(self, folder: Path, plan: dict):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._journal = self.folder / JOURNAL
        text = json.dumps(plan, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
        if _read(self.folder / PLAN) != text:
            if _read(self.folder / PLAN):
                logger.warning("%s was begun with other settings and is begun anew", self.folder)
            clear_folder(self.folder)
            write_atomically(self.folder / PLAN, text)
        for left in self.folder.glob("*.tmp"):
            left.unlink()
        self._cut_torn_line()

    def finished(self) -> set[int]:
        """The shards that the journal lists and whose file has the recorded size."""
        entries = map(_entry, _read(self._journal).split(b"\n"))
        bytes_of = {entry["shard"]: entry["bytes"] for entry in entries if entry}
        return {shard for shard, size in bytes_of.items() if _size(_file(self.folder, shard)) == size}

    def write(self, shard: int, values: np.ndarray) -> dict:
        """Write a shard, see :func:`write_part`."""
        return write_part(self.folder, shard, values)

    def record(self, entry: dict) -> None:
        """Append what :func:`write_part` returned to the journal. One process at a time."""
        with self._journal.open("ab") as journal:
            journal.write(json.dumps(entry, sort_keys=True).encode() + b"\n")
            journal.flush()
            os.fsync(journal.fileno())

    def read(self, shard: int) -> np.ndarray:
        """(units, width), memory-mapped."""
        return open_array(_file(self.folder, shard))

    def _cut_torn_line(self) -> None:
        """Lest the next entry be appended to the half that a killed process left."""
        with self._journal.open("ab") as journal:
            journal.truncate(_read(self._journal).rfind(b"\n") + 1)
            os.fsync(journal.fileno())
        flush_folder(self.folder)


def write_part(folder: str | Path, shard: int, values: np.ndarray) -> dict:
    """Write one shard's file, from any process.

    Args:
        folder: a :class:`Parts`' folder.
        values: (units, width), in the dtype of the store.

    Returns:
        The entry for :meth:`Parts.record`: ``shard``, ``rows``, ``width``, ``bytes``, ``sha256``.
    """
    rows, width = values.shape
    data = npy_bytes(values)
    write_atomically(_file(Path(folder), shard), data)
    return {
        "shard": int(shard),
        "rows": rows,
        "width": width,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _file(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:06d}.npy"


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _entry(line: bytes) -> dict | None:
    """A journal line; None for one that is not whole, whose shard is then made again."""
    try:
        entry = json.loads(line)
        return {"shard": int(entry["shard"]), "bytes": int(entry["bytes"])}
    except (ValueError, TypeError, KeyError):
        return None
