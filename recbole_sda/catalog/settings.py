"""What a run would read of a dataset's settings: the same files in the same order, without RecBole."""

from collections.abc import Mapping, Sequence
from pathlib import Path

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
    if not values["modalities"]:
        raise SDAError(f"modalities={values['modalities']!r} names none; choose image, text or image,text")
    check_kinds(values)
    return values


def _recbole_defaults(name: str) -> dict:
    folder = recbole_properties_folder()
    files = [folder / "overall.yaml", folder / "dataset" / "sample.yaml", folder / "dataset" / f"{name}.yaml"]
    return {key: value for file in files if file.is_file() for key, value in read_yaml(file).items()}
