"""`python -m recbole_sda.catalog check dataset/NAME`: look at a dataset before anything is trained on it."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from recbole_sda.artefacts import written_whole
from recbole_sda.catalog.check import Checked, check_dataset
from recbole_sda.catalog.check_report import as_text
from recbole_sda.catalog.contact_sheet import (
    MAX_ITEMS,
    choose_items,
    draw_contact_sheet,
    load_font,
    picture_modality,
)
from recbole_sda.catalog.settings import check_choices, dataset_settings
from recbole_sda.errors import SDAError

FINE, DATA_IS_LOST, WRONG_USAGE = 0, 1, 2
_HUB_SECONDS = 10
EPILOG = """\
Settings come from properties/, the dataset's own YAML and --config_files, as in a run; any of them may follow as
--key=value: --modalities=text, --text_fields=title,brand, --image_folder=FOLDER, --checkpoint_dir=FOLDER (which
holds the index of checked files, shared with runs).

Exit status: 0 fine; 1 a run would lose data: refused files, items with interactions and nothing else, interactions
that RecBole refuses or drops, a file that cannot be read at all; with --strict any warning, too; 2 wrong usage:
options and settings that cannot be, or that name what the dataset lacks.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns: the exit status."""
    options, typed = parse_options(argv)
    try:
        settings, count_tokens = prepare(options, typed)
    except (SDAError, ImportError) as error:
        return _complain(error, WRONG_USAGE)
    try:
        checked = check_dataset(options.folder, settings, count_tokens=count_tokens)
    except (SDAError, ImportError) as error:
        return _complain(error, DATA_IS_LOST)
    _print(as_text(checked.report))
    try:
        write_files(checked, options)
    except SDAError as error:
        return _complain(error, WRONG_USAGE)
    lost = checked.report["problems"] or (options.strict and checked.report["warnings"])
    return DATA_IS_LOST if lost else FINE


def parse_options(argv: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, str]]:
    """Our options, and the configuration keys after them."""
    parser = argparse.ArgumentParser(
        prog="python -m recbole_sda.catalog",
        usage="%(prog)s check dataset/NAME [--output=FILE.json] [--contact-sheet=FILE.png] [--key=value ...]",
        description="Count what a dataset has, name what is broken, show its pictures. Trains and loads no model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("verb", choices=["check"])
    add("folder", type=lambda text: Path(os.path.abspath(text)), help="dataset/NAME, with NAME.inter in it")
    add("--output", type=Path, metavar="FILE.json", help="write the figures as JSON, too")
    add("--contact-sheet", type=Path, metavar="FILE.png", help="write a grid of pictures with id and title")
    add(
        "--sheet-items",
        type=int,
        default=60,
        metavar="N",
        help="items on it, the most popular first (default: 60)",
    )
    add("--sheet-seed", type=int, metavar="SEED", help="a random sample instead of the most popular")
    add(
        "--sheet-font", type=Path, metavar="FILE", help="font of the sheet, for scripts that the default one lacks"
    )
    add("--tokenizer", metavar="NAME", help="count tokens: a folder, a name on the model hub, tiny (built in)")
    add("--strict", action="store_true", help="warnings count as loss of data")
    add("--config_files", default="", metavar="A,B", help="more configuration")
    options, others = parser.parse_known_args(argv)
    typed = dict(other.removeprefix("--").partition("=")[::2] for other in others)
    if stray := [other for other in others if not other.startswith("--") or "=" not in other]:
        parser.error(f"argument {stray[0]!r} is not understood; write --key=value")
    return options, typed


def prepare(options: argparse.Namespace, typed: Mapping[str, str]) -> tuple:
    """The settings and what counts tokens, if anything.

    Raises:
        SDAError: what is asked for cannot work, before any work.
    """
    if not options.folder.is_dir():
        raise SDAError(f"dataset folder {options.folder} does not exist")
    for path in filter(None, (options.output, options.contact_sheet)):
        if not path.absolute().parent.is_dir():
            raise SDAError(f"{path}: its folder does not exist; make it first")
    settings = dataset_settings(options.folder, options.config_files.replace(",", " ").split(), typed)
    kinds = check_choices(options.folder, settings)
    if options.contact_sheet:
        _check_sheet(options, kinds)
    return settings, _token_counter(options.tokenizer, settings) if options.tokenizer else None


def _check_sheet(options: argparse.Namespace, kinds: Mapping[str, str]) -> None:
    if not 1 <= options.sheet_items <= MAX_ITEMS:
        raise SDAError(f"--sheet-items={options.sheet_items} must lie between 1 and {MAX_ITEMS}")
    if options.sheet_seed is not None and options.sheet_seed < 0:
        raise SDAError(f"--sheet-seed={options.sheet_seed} must be 0 or more")
    if picture_modality(kinds) is None:
        raise SDAError(
            f"--contact-sheet needs pictures, and modalities={','.join(kinds)} has none; "
            "say --modalities=image,text"
        )
    load_font(options.sheet_font)


def _token_counter(name: str, settings: Mapping):
    from recbole_sda.encoders.source import TINY, resolve_name  # transformers loads here, if it is asked for
    from recbole_sda.encoders.text_lengths import TextLengths

    if name != TINY and not Path(resolve_name(name)).is_dir() and not _hub_answers(name):
        settings = {**settings, "backbone_local_files_only": True}
    return TextLengths.open(name, settings)


def _hub_answers(name: str) -> bool:
    """Whether the model hub can be reached, by one request; transformers would repeat each for half a minute."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=_HUB_SECONDS)
    except (HfHubHTTPError, ValueError):  # an answer, or no name that it could be asked for
        return True
    except Exception:  # which one depends on the hub's HTTP library
        return False
    return True


def write_files(checked: Checked, options: argparse.Namespace) -> None:
    """Raises: SDAError: a file cannot be written, or a picture changed meanwhile."""
    if options.output:
        text = json.dumps(checked.report, indent=2, ensure_ascii=False) + "\n"
        _write(options.output, lambda path: path.write_text(text, encoding="utf-8"))
    if options.contact_sheet:
        catalog = checked.catalog
        rows = choose_items(catalog, options.sheet_items, options.sheet_seed)
        modality = picture_modality(catalog.kinds)
        sheet = draw_contact_sheet(catalog, rows, modality=modality, font_file=options.sheet_font)
        _write(options.contact_sheet, lambda path: sheet.save(path, "PNG"))


def _write(path: Path, write: Callable[[Path], object]) -> None:
    try:
        with written_whole(path) as unfinished:
            write(unfinished)
    except OSError as error:
        raise SDAError(f"{path} cannot be written: {error.strerror or error}") from error


def _print(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))  # a terminal may know less than a title uses


def _complain(error: Exception, status: int) -> int:
    print(f"recbole_sda: {' '.join(str(error).split())}", file=sys.stderr)  # a YAML's faults come in several lines
    return status


if __name__ == "__main__":
    sys.exit(main())
