"""One raw file from the web, resumably and verified.

A download grows as `<file>.part` and takes its name when it is complete and its checksum fits. A part is
continued only where the server can show, by `ETag` or `Last-Modified`, that it is still the same file.
"""

import asyncio
import hashlib
import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from archives import unpack
from polite import Answer, Failed, Manners, PoliteClient, Unavailable, too_large

from recbole_sda.errors import SDAError
from recbole_sda.progress import progress_bar

__all__ = ["fetch", "unpack"]

MAX_BYTES = 64 * 2**30
DOWNLOAD_MANNERS = Manners(at_once=1, total_seconds=None)


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    max_bytes: int = MAX_BYTES,
    manners: Manners = DOWNLOAD_MANNERS,
    show_progress: bool = True,
) -> Path:
    """Download `url` to the file `target`, going on where an earlier call stopped; a complete one is kept.

    Args:
        sha256, md5: hexadecimal digests that the file must have, where its publisher gives them.
        max_bytes: a longer file is refused.

    Raises:
        SDAError: the file cannot be had, is not the expected one (then it is deleted), or cannot be written.
    """
    target = Path(target)
    try:
        if target.exists():
            if wrong := _mismatch(target, sha256=sha256, md5=md5):
                raise SDAError(f"{target} has {wrong}: it is not the file of {url}; delete it to download it anew")
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        download = _Download(url, target, max_bytes, show_progress)
        asyncio.run(download.run(manners))
        if wrong := _mismatch(download.part, sha256=sha256, md5=md5):
            download.forget()
            raise SDAError(
                f"{url} gave a file with {wrong}; it was deleted. Run the same command again; if that does not "
                "help, the file was changed at its source"
            )
        os.replace(download.part, target)
        download.forget()
        return target
    except Failed as failure:
        raise SDAError(
            f"{url} cannot be downloaded ({failure}); run the same command again to go on, "
            f"or save the file as {target} with a browser"
        ) from failure
    except OSError as error:
        raise SDAError(
            f"{target} cannot be written ({error.strerror or error}); put that right and run the same "
            "command again: it goes on with what is missing"
        ) from error


class _Download:
    """The part on disk, and a note beside it of which file it is a part."""

    def __init__(self, url: str, target: Path, max_bytes: int, show_progress: bool) -> None:
        self.url, self.target, self.max_bytes, self.show_progress = url, target, max_bytes, show_progress
        self.part = target.with_name(f"{target.name}.part")
        self.note = target.with_name(f"{target.name}.part.json")

    async def run(self, manners: Manners) -> None:
        self.part.open("ab").close()  # an unwritable folder is found before the first request
        try:
            async with PoliteClient(manners) as client:
                await client.fetch(self.url, self._receive, headers=self._range, accept=(200, 206, 416))
        except Failed:
            if not self.part.stat().st_size:
                self.forget()
            raise

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def _range(self) -> dict[str, str]:
        """The headers that ask for the rest only; none without proof that the file is the same."""
        with suppress(FileNotFoundError, ValueError):  # no note, or half a one
            offset, note = self.part.stat().st_size, json.loads(self.note.read_text(encoding="utf-8"))
            if offset and note["url"] == self.url and note["validator"]:
                return {"Range": f"bytes={offset}-", "If-Range": note["validator"]}
        return {}

    async def _receive(self, answer: Answer) -> None:
        offset = self.part.stat().st_size
        if answer.status == 200:
            offset = 0
            self._begin(answer)
        elif answer.status == 416 and _content_range(answer) == (None, offset):
            return  # nothing was missing
        elif not offset or _content_range(answer)[0] != offset:
            os.truncate(self.part, 0)
            raise Unavailable(f"range: bytes from {offset} on were asked for, others were offered")
        length = int(answer.headers.get("content-length", 0))
        if offset + length > self.max_bytes:
            raise too_large(self.max_bytes)
        if length > shutil.disk_usage(self.part.parent).free:
            raise SDAError(f"{self.part.parent} has no room for {length:,} bytes of {self.url}; make room there")
        bar = progress_bar(offset + length or None, self.target.name, "B", show=self.show_progress, initial=offset)
        bar.unit_scale = True
        with bar, open(self.part, "r+b") as file:
            file.seek(offset)
            async for chunk in answer.chunks:
                if file.tell() + len(chunk) > self.max_bytes:
                    file.truncate(0)
                    raise too_large(self.max_bytes)
                file.write(chunk)
                bar.update(len(chunk))

    def _begin(self, answer: Answer) -> None:
        if "text/html" in answer.headers.get("content-type", "") and self.target.suffix not in (".html", ".htm"):
            raise Failed("a web page came instead of the file")
        os.truncate(self.part, 0)
        tag = answer.headers.get("etag", "")  # W/"…" would not say that the bytes are the same
        validator = tag if tag.startswith('"') else answer.headers.get("last-modified", "")
        self.note.write_text(json.dumps({"url": self.url, "validator": validator}), encoding="utf-8")


def _content_range(answer: Answer) -> tuple[int | None, int | None]:
    """First byte and length of the whole file by `Content-Range`; None where it does not say."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", answer.headers.get("content-range", ""))
    return tuple(number and int(number) for number in found.groups()) if found else (None, None)


def _mismatch(path: Path, **expected: str | None) -> str:
    """`sha256 …, expected …` for the first digest that `path` has not; empty if it has them all."""
    for name, digest in expected.items():
        if digest is None:
            continue
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, name).hexdigest()
        if found != digest.lower():
            return f"{name} {found}, expected {digest.lower()}"
    return ""
