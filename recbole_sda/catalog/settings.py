"""What a run would read of a dataset's settings: the same files in the same order, without RecBole."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from recbole_sda.catalog.atomic import read_header
from recbole_sda.catalog.fields import ItemFields
from recbole_sda.catalog.items import Catalog
from recbole_sda.catalog.modalities import Source, kinds_of
from recbole_sda.defaults import (
    over_our_defaults,
    read_datasets_own,
    read_properties,
    read_yaml,
    recbole_properties_folder,
)
from recbole_sda.errors import SDAError
from recbole_sda.key_kinds import check_kinds, keys_of_type, names, typed_value

FILTERS = ("user_inter_num_interval", "item_inter_num_interval", "val_interval", "rm_dup_inter")
ANY_NUMBER = "[0,inf)"  # how RecBole spells no filter


def dataset_settings(folder: Path, files: Sequence[str] = (), typed: Mapping[str, str] | None = None) -> dict:
    """The keys of a run on the dataset in `folder`, no matter the model.

    Args:
        folder: ``dataset/<name>``, absolute.
        files: configuration files.
        typed: what the command line says, as text.

    Raises:
        SDAError: a file cannot be read, a typed key is unknown, a value is of the wrong kind.
    """
    name = folder.name
    chosen = {key: value for file in files for key, value in read_yaml(file).items()}
    chosen |= {key: typed_value(key, value) for key, value in (typed or {}).items()}
    particular = {**read_properties("dataset", name), **read_datasets_own(folder)}
    defaults = {**_recbole_defaults(name), **over_our_defaults(particular, chosen)}
    if unknown := [key for key in typed or () if key not in defaults]:
        raise SDAError(f"key {unknown[0]!r} is unknown to the catalogue; `catalog --help` says which there are")
    values = {**defaults, **chosen}
    for key in keys_of_type("list"):
        values[key] = names(key, values[key])
    _check_recboles(values)
    if not values["modalities"]:
        raise SDAError(f"modalities={values['modalities']!r} names none; choose image, text or image,text")
    check_kinds(values)
    return values


def open_described(
    folder: Path, tokens: Iterable[str], settings: Mapping, *, strict: bool = False, show_progress: bool = True
) -> Catalog:
    """The items `tokens` of the dataset `folder`, read as a configuration or `dataset_settings` says."""
    return Catalog.open(
        folder,
        tokens,
        modalities=settings["modalities"],
        kinds=settings["modality_kinds"],
        name=Path(folder).name,
        item_field=settings["ITEM_ID_FIELD"],
        text_fields=settings["text_fields"],
        image_folder=settings["image_folder"],
        max_image_pixels=settings["max_image_pixels"],
        max_audio_seconds=settings["max_audio_seconds"],
        strict=strict,
        index_folder=Path(settings["checkpoint_dir"]) / "catalog",
        show_progress=show_progress,
    )


def check_choices(folder: Path, settings: Mapping) -> dict[str, str]:
    """The kind of each modality, where the dataset in `folder` has what the settings name.

    Looks at names and at the head of the .item file only. A head that cannot be read is no matter of settings:
    `check.check_dataset` tells.

    Raises:
        SDAError: `text_fields`, `modalities`, `modality_kinds` or `image_folder` name what is not there.
    """
    image_folder = settings["image_folder"]
    if image_folder is not None and not Path(image_folder).is_dir():
        raise SDAError(f"image_folder={image_folder} is not a folder; leave it out for {folder / 'images'}")
    if settings["text_fields"]:
        _check_text_fields(folder / f"{folder.name}.item", settings["text_fields"])
    source = Source(
        folder=folder,
        name=folder.name,
        tokens=(),
        texts=ItemFields({}, (), ()),
        image_folder=Path(image_folder) if image_folder else None,
        max_image_pixels=settings["max_image_pixels"],
        max_audio_seconds=settings["max_audio_seconds"],
        strict=False,
        index_folder=None,
        workers=None,
        show_progress=False,
    )
    return kinds_of(source, settings["modalities"], settings["modality_kinds"] or {})


def _check_text_fields(item_file: Path, wanted: Sequence[str]) -> None:
    if not item_file.exists():
        raise SDAError(f"text_fields={wanted}, but {item_file} does not exist")
    try:
        header = read_header(item_file)
    except SDAError:
        return
    if unknown := [field for field in wanted if field not in header]:
        raise SDAError(f"text_fields: {item_file} has no field {unknown[0]!r}; it has {', '.join(header)}")


def _check_recboles(values: dict) -> None:
    """What kind RecBole's keys are of, as far as they are read here; lists of names become such."""
    for key in ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD", "checkpoint_dir"):
        if not isinstance(values[key], str) and (key, values[key]) != ("TIME_FIELD", None):
            raise SDAError(f"{key}={values[key]!r} must be text; in YAML put quotes around it")
    values["benchmark_filename"] = names("benchmark_filename", values["benchmark_filename"])
    wanted = values["load_col"] or {}
    columns = wanted.get("inter", "*") if isinstance(wanted, dict) else None
    named = isinstance(columns, list) and all(isinstance(name, str) for name in columns)
    if columns != "*" and not named:
        raise SDAError(f"load_col={wanted!r} must be a mapping such as {{inter: [user_id, item_id]}}")


def _recbole_defaults(name: str) -> dict:
    folder = recbole_properties_folder()
    files = [folder / "overall.yaml", folder / "dataset" / "sample.yaml", folder / "dataset" / f"{name}.yaml"]
    return {key: value for file in files if file.is_file() for key, value in read_yaml(file).items()}
