"""A modality of one file an item: pictures or recordings, each checked before anything is made of it."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_sda.catalog.checks import check_files
from recbole_sda.catalog.files import FileFormat, FileRefused, FoundFiles, find_files, read_file
from recbole_sda.catalog.skipped import Skipped, printable
from recbole_sda.errors import SDAError


@dataclass(frozen=True, eq=False)
class FileItems:
    """The files of a list of items, in the list's order; `FileItems.open` finds and checks them."""

    modality: str
    format: FileFormat
    limit: float
    tokens: tuple[str, ...]
    folder: Path | None  # None when the dataset has none
    names: list[str]  # file names, "" when missing or refused
    digests: np.ndarray  # (items, 32) uint8, sha256 of the file, zeros when missing or refused
    sizes: np.ndarray  # (items, 2) int32, as the format tells them, zeros when missing or refused
    skipped: list[Skipped]
    ignored: tuple[str, ...]  # second files of an item, not used

    @classmethod
    def open(
        cls,
        folder: Path | None,
        tokens: tuple[str, ...],
        *,
        modality: str,
        format: FileFormat,
        limit: float,
        strict: bool,
        index_file: Path | None,
        workers: int | None,
        show_progress: bool,
    ) -> "FileItems":
        """Find and check the file of every item of `tokens`; `strict` stops at the first that is refused."""
        found = _find(folder, tokens, modality, format)
        token_of = {name: token for token, name in found.names.items()}

        def stop_at_problem(name, check) -> None:
            if check.problem:
                raise refusal(Skipped(token_of[name], modality, printable(name), check.problem), folder)

        skipped = {token: Skipped(token, modality, printable(n), why) for token, (n, why) in found.refused.items()}
        if strict and skipped:
            raise refusal(next(iter(skipped.values())), folder)
        checks = {}
        if found.names:
            checks = check_files(
                folder,
                found.names.values(),
                format=format,
                limit=limit,
                on_check=stop_at_problem if strict else None,
                index_file=index_file,
                workers=workers,
                show_progress=show_progress,
            )
        names = [""] * len(tokens)
        digests = np.zeros((len(tokens), 32), dtype=np.uint8)
        sizes = np.zeros((len(tokens), 2), dtype=np.int32)
        for row, token in enumerate(tokens):
            if token not in found.names:
                continue
            name = found.names[token]
            check = checks[name]
            if check.problem:
                skipped[token] = Skipped(token, modality, printable(name), check.problem)
                continue
            names[row], sizes[row] = name, check.size
            digests[row] = np.frombuffer(bytes.fromhex(check.digest), dtype=np.uint8)
        return cls(
            modality=modality,
            format=format,
            limit=limit,
            tokens=tokens,
            folder=folder,
            names=names,
            digests=digests,
            sizes=sizes,
            skipped=[skipped[token] for token in tokens if token in skipped],
            ignored=found.ignored,
        )

    @property
    def present(self) -> np.ndarray:
        return np.array([name != "" for name in self.names], dtype=bool)

    @property
    def contents(self) -> list[str]:
        return hexadecimal(self.digests)

    def fingerprint_parts(self) -> Iterator[Sequence[str]]:
        yield self.contents

    def load(self, row: int) -> Any:
        """What the format's `decode` makes of the item's file."""
        if not self.names[row]:
            raise SDAError(
                f"item {self.tokens[row]!r} has no {self.modality}; ask present({self.modality!r}) first"
            )
        path = self.folder / self.names[row]
        try:
            data = read_file(path)
        except FileRefused as refused:
            raise changed(path, f" ({refused})") from refused
        if hashlib.sha256(data).digest() != self.digests[row].tobytes():
            raise changed(path)
        return self.format.decode(data, self.limit)


def _find(folder: Path | None, tokens: tuple[str, ...], modality: str, format: FileFormat) -> FoundFiles:
    try:
        return find_files(folder, tokens, format.extensions) if folder else FoundFiles({}, {}, (), 0)
    except OSError as error:
        raise SDAError(
            f"modality {modality!r}: the folder {folder} of its {format.noun} cannot be read: {error.strerror}"
        ) from error


def hexadecimal(digests: np.ndarray) -> list[str]:
    """Rows of (items, 32) digests as 64 hexadecimal digits each, rows of zeros as ""."""
    here = digests.any(axis=1)
    return [row.tobytes().hex() if good else "" for row, good in zip(digests, here, strict=True)]


def refusal(skipped: Skipped, place: Path) -> SDAError:
    """The error of a strict catalogue."""
    return SDAError(
        f"{place}: item {skipped.item!r}, {skipped.modality} {skipped.file}: {skipped.reason}; repair or remove "
        f"it, or leave out strict to count the item as without {skipped.modality}"
    )


def changed(path: Path, how: str = "") -> SDAError:
    return SDAError(f"{path} changed after the catalogue was opened{how}; run again, so that it is checked anew")
