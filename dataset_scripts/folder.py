"""A dataset folder as the scripts here leave it: checked before the work, written all at once or not at all.

<name>.inter, <name>.item     RecBole's atomic files
<name>.yaml                   text fields, prompts, filters, leave-one-out evaluation by time
README.md                     where the data comes from, under which terms, and what was left out on the way
image_urls.csv                item_id,url: a row an address, in order of preference, where they are known
images/                       the pictures; a rewrite deletes none of them
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dataset_pictures import IMAGES, check_none_lost, fetched_pictures
from dataset_readme import README, README_MARK
from image_urls import IMAGE_URLS, write_urls
from texts import examples

from recbole_sda.catalog.atomic import replacing_folder, write_atomic
from recbole_sda.errors import SDAError

# Names under which RecBole and recbole_sda find data of their own, wherever a folder of that name lies.
TAKEN = {"ml-100k": "movielens-100k", "demo": "my-demo"}

Rows = Iterable[Sequence[str]]

_PROPERTIES = """\
# Written by dataset_scripts; edit freely.
# text_fields (list): the fields of {name}.item that make an item's text, in this order.
text_fields: {text_fields}
prompt_domain: {prompt_domain}  # (str) What an item is called in the prompts.
{modalities}
# Selectively Loading
load_col:               # (dict) The suffix of atomic files: (list) field names to be loaded.
    inter: [{inter_fields}]

# Filtering
user_inter_num_interval: "[{k},inf)"    # (str) Users with fewer interactions are left out, again and again.
item_inter_num_interval: "[{k},inf)"    # (str) Items with fewer interactions likewise.

# Evaluation
eval_args:              # (dict) Leave one out by time: a user's last item tests, the one before validates.
    split: {{'LS': 'valid_and_test'}}
    order: TO
    group_by: user
    mode: full
valid_metric: NDCG@10   # (str) The metric that chooses the best epoch.
"""
_MODALITIES = """\
modalities: {modalities}      # (list) There are no pictures. Remove this line when images/ has been filled.
"""


def check_output(output: Path, *, overwrite: bool, inputs: Mapping[str, Path | None]) -> Path:
    """The absolute output folder, if it may be written: what is replaced there was written by these scripts.

    Args:
        output: the folder asked for.
        overwrite: whether a dataset there may be replaced.
        inputs: option, such as `--items` → the file or folder to be read, which must outlive the rewrite.
    """
    output = Path(os.path.abspath(output))
    if output.name in TAKEN:
        raise SDAError(
            f"--output {output}: --dataset={output.name} means a dataset that comes with RecBole or recbole_sda; "
            f"choose another name, such as {output.with_name(TAKEN[output.name])}"
        )
    _check_parent(output)
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return output
    if not overwrite:
        raise SDAError(f"--output {output} exists; choose another folder or add --overwrite")
    if not (output / f"{output.name}.inter").is_file():
        raise SDAError(
            f"--output {output} holds no {output.name}.inter, so it is no dataset to overwrite; "
            "choose another folder"
        )
    for option, path in inputs.items():
        if path is not None and path.resolve().is_relative_to(output.resolve()):
            raise SDAError(
                f"{option} {path} lies in --output {output}, which --overwrite would replace; "
                "move it out or choose another folder"
            )
    if strange := {path.name for path in output.iterdir() if not _is_ours(path, output.name)}:
        raise SDAError(
            f"--output {output} holds what these scripts did not write and --overwrite would delete"
            f"{examples(strange)}; move it out or choose another folder"
        )
    return output


def _check_parent(output: Path) -> None:
    """Refuse an `output` beside which no folder can be made; nothing is left of the attempt."""
    missing = [parent for parent in output.parents if not os.path.exists(parent)]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        os.rmdir(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise SDAError(f"--output {output}: {output.parent} cannot be written: {error.strerror}") from error
    finally:
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()


def _is_ours(path: Path, name: str) -> bool:
    if path.name == IMAGES:
        return path.is_dir()
    if path.name == README:
        return path.read_bytes().startswith(README_MARK.encode())
    return path.name in {f"{name}.inter", f"{name}.item", f"{name}.yaml", IMAGE_URLS}


def write_dataset(
    output: Path,
    *,
    inter_fields: Sequence[str],
    interactions: Rows,
    item_fields: Sequence[str],
    items: Rows,
    settings: Mapping,
    readme: str | Callable[[], str],
    place_pictures: Callable[[Path], None] | None = None,
    image_urls: Iterable[tuple[str, str]] | None = None,
) -> None:
    """Write the dataset folder `output`; after any error it is what it was.

    Args:
        output: as `check_output` returned it.
        inter_fields, item_fields: `name:type` each.
        interactions, items, image_urls: rows of strings, streamed in this order.
        settings: the keywords of `properties` but the first two. Without `modalities` a dataset that has
            neither pictures nor their addresses says `[text]`.
        readme: the text of README.md; a function is asked when all rows are written.
        place_pictures: fills the folder it is given; a file of the old images/ that it would take away is an
            SDAError. Without it, images/ is kept as it was.
    """
    name = output.name
    try:
        with replacing_folder(output) as folder:
            place_pictures = place_pictures or fetched_pictures(output)
            if place_pictures is not None:
                (folder / IMAGES).mkdir()
                place_pictures(folder / IMAGES)
                check_none_lost(output / IMAGES, folder / IMAGES)
            write_atomic(folder / f"{name}.inter", inter_fields, interactions)
            write_atomic(folder / f"{name}.item", item_fields, items)
            if image_urls is not None:
                write_urls(folder / IMAGE_URLS, image_urls)
            if place_pictures is None and image_urls is None:
                settings = {"modalities": ["text"], **settings}
            loaded = [field.partition(":")[0] for field in inter_fields]
            (folder / f"{name}.yaml").write_text(properties(name, loaded, **settings), encoding="utf-8")
            text = readme if isinstance(readme, str) else readme()
            (folder / README).write_text(text, encoding="utf-8")
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise SDAError(f"--output {output} cannot be written: {error.strerror or error}{where}") from error


def properties(
    name: str,
    inter_fields: Sequence[str],
    *,
    text_fields: Sequence[str],
    prompt_domain: str = "item",
    k_core: int | None = None,
    modalities: Sequence[str] | None = None,
) -> str:
    """The dataset's property YAML."""
    return _PROPERTIES.format(
        name=name,
        text_fields=_flow(list(text_fields)),
        prompt_domain=_flow(prompt_domain),
        modalities=_MODALITIES.format(modalities=_flow(list(modalities))) if modalities else "",
        inter_fields=", ".join(inter_fields),
        k=k_core or 0,  # said in any case: properties/dataset/ may have another for this name
    )


def _flow(value) -> str:
    return json.dumps(value, ensure_ascii=False)  # JSON is YAML
