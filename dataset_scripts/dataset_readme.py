"""README.md of a dataset folder: where its data comes from, its terms, what was left out on the way."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import NamedTuple

from recbole_sda.errors import SDAError

README = "README.md"
README_MARK = "<!-- Written by dataset_scripts; --overwrite replaces it. -->"


@dataclass(frozen=True)
class Provenance:
    """What a dataset's README says of its source."""

    title: str
    urls: Sequence[str]
    licence: str
    citation: str


class FileRecord(NamedTuple):
    """A raw file that went into a dataset."""

    path: Path
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "FileRecord":
        try:
            with open(path, "rb") as file:
                return cls(Path(path), os.path.getsize(path), hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise SDAError(f"{path} cannot be read: {error.strerror}") from error


def readme(
    provenance: Provenance | None,
    *,
    command: str,
    files: Iterable[tuple[Path, int, str]] = (),
    funnel: str = "",
    notes: Sequence[str] = (),
) -> str:
    """README.md: source, terms and citation, how the folder was made, of which files, with what left out.

    Args:
        provenance: None where the data is the user's own.
        command: what was typed.
        files: path, bytes and sha256 of every raw file.
        funnel: a table of the counts after each step.
        notes: a sentence each.
    """
    parts = [README_MARK]
    if provenance is not None:
        parts += [f"# {provenance.title}", "\n".join(f"- <{url}>" for url in provenance.urls)]
        parts += [f"**Terms.** {provenance.licence}", f"**Cite.** {provenance.citation}"]
    parts += ["## How it was made", f"On {date.today().isoformat()} by", f"```\n{command}\n```"]
    if rows := [f"| {Path(path).name} | {size:,} | `{sha256}` |" for path, size, sha256 in files]:
        parts.append("\n".join(["| file | bytes | sha256 |", "|---|---:|---|", *rows]))
    if funnel:
        parts += ["## What was left out", funnel]
    if notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(part for part in parts if part) + "\n"
