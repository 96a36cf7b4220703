"""images/ of a dataset folder: which pictures go there, which of them can be read, and that none is lost."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from texts import examples

from recbole_sda.catalog.files import FileRefused
from recbole_sda.catalog.images import open_image
from recbole_sda.catalog.skipped import printable
from recbole_sda.defaults import read_properties
from recbole_sda.errors import SDAError
from recbole_sda.progress import progress_bar

IMAGES = "images"
MANY_PICTURES = 1000  # from here on a bar shows the checking


def chosen_pictures(source: Path, names: Iterable[str], *, link: bool) -> Callable[[Path], None]:
    """Copies of, or links to, the files `names` of the folder `source`."""

    def place(target: Path) -> None:
        for name in names:
            place_file(source / name, target / name, link=link)

    return place


def fetched_pictures(output: Path) -> Callable[[Path], None] | None:
    """Links to what lies in images/ of the dataset `output`, whoever put it there; None if there is nothing."""
    images = output / IMAGES
    if not (images.is_dir() and any(images.iterdir())):
        return None

    def link(source: str, target: str) -> None:
        place_file(Path(source), Path(target), link=True)

    def place(target: Path) -> None:
        shutil.copytree(images, target, symlinks=True, copy_function=link, dirs_exist_ok=True)

    return place


def place_file(source: Path, target: Path, *, link: bool) -> None:
    if link:
        with suppress(OSError):  # another disk, or one that knows no links
            os.link(os.path.realpath(source), target)
            return
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise SDAError(f"{source} cannot be copied: {error.strerror}") from error


def check_none_lost(old: Path, new: Path) -> None:
    """Refuse to replace the folder `old` by `new` where that lacks a file of it."""
    lost = {str(path.relative_to(old)) for path in old.rglob("*") if path.is_symlink() or not path.is_dir()}
    lost -= {str(path.relative_to(new)) for path in new.rglob("*")}
    if lost:
        raise SDAError(
            f"{old} holds {len(lost):,} files that this run does not write and --overwrite would delete"
            f"{examples(lost)}; move them out, or leave --images out to keep {IMAGES}/ as it is"
        )


def no_pictures_note(output: Path | None) -> str:
    """What holds for the pictures of `output` where none are placed."""
    if output is not None and fetched_pictures(output):
        return f"the pictures in {IMAGES}/ were kept"
    return "no pictures: the dataset's YAML says modalities: [text]"


def unreadable_pictures(folder: Path, names: Mapping[str, str]) -> dict[str, str]:
    """item → file name and reason, of the pictures `names` (item → file name) that the catalogue will refuse."""
    limit = read_properties("overall")["max_image_pixels"]

    def reason(name: str) -> str:
        try:
            open_image(folder / name, limit)
        except FileRefused as refused:
            return f"{printable(name)}: {refused}"
        return ""

    found, items = {}, list(names)
    workers = os.cpu_count() or 1
    bar = progress_bar(len(items), "check pictures", "picture", show=len(items) >= MANY_PICTURES)
    with bar, ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(items), 64 * workers):  # few at once, for which Ctrl-C must wait
            some = items[start : start + 64 * workers]
            reasons = pool.map(reason, [names[item] for item in some])
            found |= {item: why for item, why in zip(some, reasons, strict=True) if why}
            bar.update(len(some))
    return found


def unreadable_note(unreadable: Mapping[str, str]) -> str:
    return f"{len(unreadable):,} pictures cannot be read (copied all the same)" + examples(unreadable.values())
