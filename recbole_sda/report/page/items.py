"""The items on the page: each is numbered once, and its title and picture are read once, whoever shows it."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from recbole_sda.catalog import Catalog
from recbole_sda.catalog.contact_sheet import picture_modality
from recbole_sda.catalog.settings import check_choices, dataset_settings
from recbole_sda.errors import SDAError
from recbole_sda.features.provider import StoredModality
from recbole_sda.progress import progress_bar
from recbole_sda.report.page.changed import changed_items, other_world
from recbole_sda.report.page.thumbnails import thumbnail

TITLE_FIELDS = ("title", "name", "item_name", "product_title", "movie_title")
TITLE_CHARS = 160


class ShownItems:
    """Items in the order in which the page came upon them.

    Attributes:
        facts: token → lines about it.
    """

    def __init__(self):
        self._numbers: dict[str, int] = {}
        self.facts: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def tokens(self) -> list[str]:
        return list(self._numbers)

    def number(self, token: str) -> int:
        return self._numbers.setdefault(token, len(self._numbers))

    def numbers(self, tokens: Iterable[str]) -> list[int]:
        return [self.number(token) for token in tokens]

    def tell(self, token: str, fact: str) -> None:
        self.facts.setdefault(token, []).append(fact)

    def read(self, folder: Path, said: dict, embedded: Mapping[str, StoredModality]) -> tuple[list[dict], str]:
        """Every item as it is now, and a warning where that is not what the run saw.

        Args:
            folder: the dataset's.
            said: keys of the configuration that say how its items are read.
            embedded: the run's features, which know what they were made of.

        Returns:
            ``id``, ``title``, ``picture`` (a data URI or ""), ``why`` it has none, and ``facts`` of every item;
            and the warning, or "".
        """
        tokens = self.tokens
        try:
            catalog, modality, settings = _open(folder, tokens, said, embedded)
            warning = self._compare(catalog, embedded) or other_world(folder, settings)
        except (SDAError, OSError, LookupError, TypeError, ValueError) as error:  # of a configuration of any age
            return [self._entry(token, "", "", str(error)) for token in tokens], ""
        refused = {record.item: record.reason for record in catalog.skipped}
        entries = []
        with progress_bar(len(tokens), "pictures", "item", show=len(tokens) > 100) as bar:
            for row, token in enumerate(tokens):
                picture, why = _picture(catalog, modality, row, refused.get(token))
                entries.append(self._entry(token, _title(catalog.item(row)), picture, why))
                bar.update()
        return entries, warning

    def _compare(self, catalog: Catalog, embedded: Mapping[str, StoredModality]) -> str:
        """Tells each item that is another now, and how many there are."""
        other = changed_items(catalog, embedded)
        for row in np.flatnonzero(other):
            self.tell(catalog.tokens[row], "its picture or text is another now than when its features were made")
        if not other.any():
            return ""
        return (
            f"{other.sum():,} of the {len(other):,} items on this page have another picture or text now than when "
            "their features were made: pictures and titles are those of now, everything else is of then"
        )

    def _entry(self, token: str, title: str, picture: str, why: str) -> dict:
        facts = self.facts.get(token, [])
        return {"id": token, "title": title or token, "picture": picture, "why": why, "facts": facts}


def _open(
    folder: Path, tokens: list[str], said: dict, embedded: Mapping[str, StoredModality]
) -> tuple[Catalog, str | None, dict]:
    """Only these items, and of their files only the pictures; the index of checked files is left as it is."""
    if not folder.is_dir():
        raise SDAError(f"the dataset's folder {folder} is not there; say --data_path=FOLDER with the one it is in")
    settings = {**dataset_settings(folder.resolve()), **said}
    kinds = check_choices(folder, settings)
    modality = picture_modality(kinds)
    wanted = [name for name, kind in kinds.items() if name == modality or (kind == "text" and name in embedded)]
    catalog = Catalog.open(
        folder,
        tokens,
        modalities=wanted,
        kinds={name: kinds[name] for name in wanted},
        name=folder.resolve().name,
        item_field=settings["ITEM_ID_FIELD"],
        text_fields=settings["text_fields"],
        image_folder=settings["image_folder"],
        max_image_pixels=settings["max_image_pixels"],
        show_progress=False,
    )
    return catalog, modality, settings


def _picture(catalog: Catalog, modality: str | None, row: int, refused: str | None) -> tuple[str, str]:
    if modality is None:
        return "", "the catalogue has no pictures"
    if not catalog.content[modality].names[row]:
        return "", f"refused: {refused}" if refused else "no picture"
    try:
        return thumbnail(catalog.load(modality, row)), ""
    except SDAError as error:  # it changed since it was checked
        return "", str(error)


def _title(fields: dict[str, str]) -> str:
    """The value of the field that is called a title, or the first."""
    by_name = {name.lower(): value for name, value in fields.items()}
    text = next((by_name[name] for name in TITLE_FIELDS if name in by_name), next(iter(fields.values()), ""))
    text = " ".join(text.split())
    return text if len(text) <= TITLE_CHARS else text[: TITLE_CHARS - 1] + "…"
