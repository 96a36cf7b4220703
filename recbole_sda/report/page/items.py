"""The items on the page: each is numbered once, and its title and picture are read once, whoever shows it."""

from collections.abc import Iterable
from pathlib import Path

from recbole_sda.catalog import Catalog
from recbole_sda.catalog.contact_sheet import picture_modality
from recbole_sda.catalog.settings import check_choices, dataset_settings
from recbole_sda.errors import SDAError
from recbole_sda.progress import progress_bar
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

    def read(self, folder: Path, said: dict) -> list[dict]:
        """``id``, ``title``, ``picture`` (a data URI or ""), ``why`` it has none, and ``facts`` of every item.

        Args:
            folder: the dataset's.
            said: keys of the configuration that say how its items are read.
        """
        tokens = self.tokens
        try:
            catalog, modality = _open(folder, tokens, said)
        except (SDAError, OSError, LookupError, TypeError, ValueError) as error:  # of a configuration of any age
            return [self._entry(token, "", "", str(error)) for token in tokens]
        refused = {record.item: record.reason for record in catalog.skipped}
        entries = []
        with progress_bar(len(tokens), "pictures", "item", show=len(tokens) > 100) as bar:
            for row, token in enumerate(tokens):
                picture, why = _picture(catalog, modality, row, refused.get(token))
                entries.append(self._entry(token, _title(catalog.item(row)), picture, why))
                bar.update()
        return entries

    def _entry(self, token: str, title: str, picture: str, why: str) -> dict:
        facts = self.facts.get(token, [])
        return {"id": token, "title": title or token, "picture": picture, "why": why, "facts": facts}


def _open(folder: Path, tokens: list[str], said: dict) -> tuple[Catalog, str | None]:
    """Only these items, and of their files only the pictures; the index of checked files is left as it is."""
    if not folder.is_dir():
        raise SDAError(f"the dataset's folder {folder} is not there; say --data_path=FOLDER with the one it is in")
    settings = {**dataset_settings(folder.resolve()), **said}
    modality = picture_modality(check_choices(folder, settings))
    catalog = Catalog.open(
        folder,
        tokens,
        modalities=[modality] if modality else [],
        kinds={modality: "image"} if modality else {},
        name=folder.resolve().name,
        item_field=settings["ITEM_ID_FIELD"],
        text_fields=settings["text_fields"],
        image_folder=settings["image_folder"],
        max_image_pixels=settings["max_image_pixels"],
        show_progress=False,
    )
    return catalog, modality


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
