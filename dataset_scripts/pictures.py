"""The pictures of a dataset, fetched politely: `image_urls.csv` → `images/<item>.(jpg|png|webp)`.

    python dataset_scripts/pictures.py dataset/amazon-beauty

An item's URLs are tried in order until one gives a picture that the catalogue can read: judged by its content
and decoded to its end, never by its name or what the server calls it. Its bytes are kept as they were sent. A
GIF is refused, not converted: the catalogue reads JPEG, PNG and WebP, and shops send GIFs where they have no
picture. `images/manifest.csv` tells what became of each item. The command can be stopped at any moment and
started again: items that have a picture, or failed for good, are not asked again.

Exit status: 0, nothing is left to ask (some items may have no picture: see the summary); 3, run it again, some
failures may pass; 1, an error, or no picture at all; 130, stopped by Ctrl-C.
"""

import argparse
import asyncio
import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

import clone  # noqa: F401
from dataset_pictures import IMAGES
from filelock import FileLock, Timeout
from image_urls import IMAGE_URLS, UrlFile, Urls
from picture_manifest import FAILED, LATER, MANIFEST, OK, Manifest, Row, Summary
from polite import Answer, Failed, Manners, PoliteClient, Unavailable, read_body

from recbole_sda.catalog.files import FileRefused
from recbole_sda.catalog.images import EXTENSIONS, decode_picture
from recbole_sda.defaults import read_datasets_own
from recbole_sda.errors import SDAError
from recbole_sda.progress import progress_bar

_MAX_NAME_BYTES = 255  # of a file, in the usual file systems


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """What is asked of a picture, and how a site is treated."""

    manners: Manners = field(default_factory=Manners)
    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000  # as the catalogue's max_image_pixels
    retry_failed: bool = False
    show_progress: bool = True


def fetch_pictures(urls: Urls, folder: Path, *, options: PictureOptions | None = None) -> Summary:
    """Fill `folder` with the pictures of the items in `urls` and tell in its `manifest.csv` what became of each.

    Args:
        urls: item -> its URLs in order of preference; only `len(urls)` and `urls.items()` are used.
        folder: a dataset's `images/`; made where it is missing.

    Raises:
        SDAError: the folder cannot be written (before the first request, or later when the disk is full; what
            was fetched stays), or another process fills it.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0), Manifest(folder / MANIFEST) as manifest:
            return asyncio.run(_Filler(urls, folder, manifest, options or PictureOptions()).run())
    except Timeout:
        raise SDAError(f"{folder} is being filled by another process; wait for it or stop it") from None
    except OSError as error:  # the network's have become causes of failure
        raise SDAError(
            f"{folder} cannot be written: {error.strerror or error}; put that right and run the same command "
            "again: it goes on with what is missing"
        ) from error


class _Filler:
    """One run: as many workers as requests may be under way share one iterator over the items."""

    def __init__(self, urls: Urls, folder: Path, manifest: Manifest, options: PictureOptions) -> None:
        self.folder, self.manifest, self.options = folder, manifest, options
        self.present = _present(folder)
        self.summary = Summary(len(urls))
        self.items = iter(urls.items())
        self.bar = progress_bar(self.summary.items, "pictures", "item", show=options.show_progress)

    async def run(self) -> Summary:
        try:
            async with PoliteClient(self.options.manners) as client, asyncio.TaskGroup() as workers:
                for number in range(self.options.manners.at_once):
                    workers.create_task(self._work(client, self.folder / f".{number}.part"))
        except ExceptionGroup as group:  # one full disk stops several workers
            raise group.exceptions[0] from None
        finally:
            self.bar.close()
        return self.summary

    async def _work(self, client: PoliteClient, part: Path) -> None:
        try:
            for item, urls in self.items:
                await self._serve(client, item, urls, part)
                self.bar.update()
        finally:
            part.unlink(missing_ok=True)

    async def _serve(self, client: PoliteClient, item: str, urls: Sequence[str], part: Path) -> None:
        if item in self.present:
            self.summary.there += 1
            return
        row = self._remembered(item, urls)
        if row is None:
            row, data = await self._ask(client, item, urls)
            self._settle(row, data, part)
        self.summary.count(row)

    def _remembered(self, item: str, urls: Sequence[str]) -> Row | None:
        """The failure that an earlier run settled, unless the URLs have changed since."""
        row = self.manifest.failures.get(item)
        if row is None or self.options.retry_failed or row.url != (urls[-1] if urls else ""):
            return None
        return row

    async def _ask(self, client: PoliteClient, item: str, urls: Sequence[str]) -> tuple[Row, bytes]:
        row = Row(item, urls[-1] if urls else "", FAILED, "no URL")
        if not _is_file_name(item):
            return row._replace(cause="item id: no file can have this name"), b""
        for url in urls:
            try:
                data = await client.fetch(url, partial(_read_picture, max_bytes=self.options.max_bytes))
                extension = await asyncio.to_thread(check_picture, data, self.options.max_pixels)
            except Unavailable as failure:
                return Row(item, url, LATER, str(failure)), b""
            except Failed as failure:
                row = Row(item, url, FAILED, str(failure))
            else:
                digest = hashlib.sha256(data).hexdigest()
                return Row(item, url, OK, "", len(data), digest, f"{item}.{extension}"), data
        return row, b""

    def _settle(self, row: Row, data: bytes, part: Path) -> None:
        if row.status != OK:
            self.manifest.append(row)
            return
        part.write_bytes(data)
        self.manifest.append(row)
        os.replace(part, self.folder / row.file)


def check_picture(data: bytes, max_pixels: int) -> str:
    """The extension for `data` by its content; Failed when it is no picture that the catalogue reads."""
    extension = _extension(data)
    try:
        decode_picture(data, max_pixels)
    except FileRefused as refusal:
        raise Failed(f"bad picture: {refusal}") from refusal
    return extension


def _extension(data: bytes) -> str:
    if not data:
        raise Failed("empty body")
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith((b"GIF87a", b"GIF89a")):
        raise Failed("a GIF, which the catalogue does not read")
    if data.startswith(b"\x1f\x8b"):
        raise Failed("not a picture: compressed, though it was asked for as it is")
    if data.lstrip()[:1] == b"<":
        raise Failed("not a picture: a web page")
    raise Failed("not a picture: unknown content")


async def _read_picture(answer: Answer, max_bytes: int) -> bytes:
    if {"noai", "noimageai"} & set(answer.headers.get("x-robots-tag", "").lower().replace(",", " ").split()):
        raise Failed("X-Robots-Tag: the site wants no use of it for machine learning")
    return await read_body(answer, max_bytes)


def _present(folder: Path) -> set[str]:
    """The items whose picture is in `folder`, whoever put it there."""
    with os.scandir(folder) as entries:
        names = [entry.name.rpartition(".") for entry in entries if entry.is_file() and entry.stat().st_size]
    return {item for item, _, extension in names if extension.lower() in EXTENSIONS}


def _is_file_name(item: str) -> bool:
    """Whether `<item>.webp` is a file in the folder, as `recbole_sda.catalog.files` looks for it."""
    name = f"{item}.{max(EXTENSIONS, key=len)}"
    return (
        bool(item) and "\0" not in item and Path(name).name == name and len(os.fsencode(name)) <= _MAX_NAME_BYTES
    )


def main(argv: Sequence[str] | None = None) -> int:
    options, dataset = parse_options(argv)
    try:
        summary = fetch_pictures(UrlFile(dataset / IMAGE_URLS), dataset / IMAGES, options=options)
    except SDAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on with what is missing", file=sys.stderr)
        return 130
    print(summary)
    if hint := _unused(dataset):
        print(hint)
    return summary.status


def _unused(dataset: Path) -> str:
    """What a dataset that was made without pictures has to be told now."""
    settings = dataset / f"{dataset.resolve().name}.yaml"
    modalities = read_datasets_own(dataset.resolve()).get("modalities")
    if not modalities or "image" in modalities:
        return ""
    return f"{settings} says modalities: {modalities}; delete that line so that runs use the pictures"


def parse_options(argv: Sequence[str] | None) -> tuple[PictureOptions, Path]:
    """The options and the dataset folder; each default stands in Manners or PictureOptions."""
    parser = argparse.ArgumentParser(
        description="Fetch the pictures of a dataset.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("dataset", type=Path, help=f"dataset folder with {IMAGE_URLS}, e.g. dataset/amazon-beauty")

    def add(name: str, default: object, **how) -> None:
        parser.add_argument(f"--{name}", default=default, **how)

    add("at-once", Manners.at_once, type=_positive(int), metavar="N", help="requests under way")
    add("at-once-per-host", Manners.at_once_per_host, type=_positive(int), metavar="N", help="at one host")
    add("per-second", Manners.per_second, type=_positive(float), metavar="X", help="requests a second at one host")
    add("attempts", Manners.attempts, type=_positive(int), metavar="N", help="at one URL, before another run")
    add("total-seconds", Manners.total_seconds, type=_positive(float), metavar="S", help="for one picture")
    add("max-bytes", PictureOptions.max_bytes, type=_positive(int), metavar="N", help="of a picture")
    add("max-pixels", PictureOptions.max_pixels, type=_positive(int), metavar="N", help="of a picture")
    add("user-agent", Manners.user_agent, type=_ascii, metavar="TEXT", help="add how to reach you")
    add("retry-failed", False, action="store_true", help="ask again for what failed for good")
    add("allow-private", False, action="store_true", help="also addresses of your own network")
    found = vars(parser.parse_args(argv))
    dataset = found.pop("dataset")
    manners = Manners(**{key.name: found.pop(key.name) for key in fields(Manners) if key.name in found})
    return PictureOptions(manners=manners, **found), dataset


def _positive(number: type) -> type:
    def parse(text: str):
        value = number(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    parse.__name__ = f"positive {number.__name__}"  # argparse names it in its message
    return parse


def _ascii(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise argparse.ArgumentTypeError("only printable ASCII characters can be sent")
    return text


if __name__ == "__main__":
    sys.exit(main())
