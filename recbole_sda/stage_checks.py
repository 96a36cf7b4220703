"""What cannot work is found before any work: the backbone, the catalogue, the adapter and the batches."""

import os
from importlib.util import find_spec

from recbole_sda.alignment.sampling import check_comparable, split_items
from recbole_sda.catalog.corrupted import corrupted_rows
from recbole_sda.encoders import check_loading
from recbole_sda.errors import SDAError
from recbole_sda.stage_settings import StageSettings

KIND_IN_WORDS = {
    "image": "a readable picture",
    "text": "a text",
    "audio": "a readable recording",
    "vectors": "a vector",
}
MIN_VECTOR_WIDTH = 3
LOADING_KEYS = ("attn_implementation", "quantization", "device_map")


def check_stages(settings: StageSettings) -> None:
    """Find out whether the backbone can be had and the catalogue can be aligned and embedded.

    Raises:
        SDAError: at the first thing that cannot work, with the key and the remedy.
    """
    config = settings.config
    _ = settings.identity, settings.features
    check_loading(
        config["backbone"], settings.family, **{name: config[f"backbone_{name}"] for name in LOADING_KEYS}
    )
    settings.pooling.resolve(settings.family)
    _check_kinds(settings)
    _check_presence(settings)
    _check_installed(config)
    if (processes := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        raise SDAError(
            f"WORLD_SIZE={processes}: a launcher started several processes, which would wait for each other's "
            f"artefacts; start one and say --align_workers={processes}"
        )
    if config["adapter"] != "none":
        _check_vectors(settings)
        _check_adapter(settings)
        _check_batch_size(settings)
        for name, share in settings.content_corruption.items():
            corrupted_rows(settings.catalog, name, share, seed=config["seed"])


def _check_installed(config) -> None:
    if config["index"] and find_spec("faiss") is None:
        raise SDAError("index=True needs faiss; pip install 'recbole_sda[index]'")
    for key in ("align_workers", "embed_workers"):
        if config[key] > 1 and find_spec("ray") is None:
            raise SDAError(f"{key}={config[key]} needs Ray; pip install 'recbole_sda[tune]'")


def _check_kinds(settings: StageSettings) -> None:
    readable = (*settings.family.kinds, "vectors")  # vectors need a projector and no reader
    for modality, kind in settings.catalog.kinds.items():
        if kind not in readable:
            others = ",".join(name for name, other in settings.catalog.kinds.items() if other in readable)
            raise SDAError(
                f"backbone={settings.config['backbone']!r} reads {' and '.join(settings.family.kinds)}, and "
                f"{modality} is {kind}; use another backbone, --modalities={others}, or vectors: "
                f"{modality}.npy with {modality}.items.txt in the dataset's folder"
            )


def _check_vectors(settings: StageSettings) -> None:
    for modality, width in settings.vector_widths.items():
        if width < MIN_VECTOR_WIDTH:
            raise SDAError(
                f"{modality}: vectors of {width} numbers have no direction once their mean is taken away; "
                f"{MIN_VECTOR_WIDTH} at least are needed, for example by one-hot intervals of a number"
            )


def _check_presence(settings: StageSettings) -> None:
    present = {m: bool(settings.catalog.present(m).any()) for m in settings.config["modalities"]}
    for modality in (m for m, any_item in present.items() if not any_item):
        others = ",".join(m for m, any_item in present.items() if any_item)
        remedy = f"--modalities={others}" if others else "--features=none"
        lacking = KIND_IN_WORDS[settings.catalog.kinds[modality]]
        raise SDAError(f"no item of {settings.catalog.name!r} has {lacking}; use {remedy}")


def _check_adapter(settings: StageSettings) -> None:
    for what, build in (("adapter", settings.peft_config), ("alignment", settings.loss)):
        try:
            build()
        except (ValueError, TypeError) as error:
            prefix = ", whose keys carry align_" if what == "alignment" else ""
            raise SDAError(f"the {what}'s configuration{prefix}: {error}") from error


def _check_batch_size(settings: StageSettings) -> None:
    config, loss, alignment = settings.config, settings.loss(), settings.alignment()
    size, perplexity = config["align_batch_size"], config["align_teacher_perplexity"]
    if size < (least := loss.min_rows):
        raise SDAError(
            f"align_batch_size={size} leaves nothing to compare with; "
            f"align_center={config['align_center']} needs at least {least}"
        )
    train, held = split_items(settings.catalog, alignment)
    compared, workers = min(size, len(train), len(held)), config["align_workers"]
    if workers > compared:
        raise SDAError(
            f"align_workers={workers} leaves some without one of the {compared} items that are compared at "
            f"once (align_batch_size={size}, {len(train)} to train on, {len(held)} held out); lower it"
        )
    if config["alignment"] == "cmsa" and perplexity is not None and perplexity >= compared:
        raise SDAError(
            f"align_teacher_perplexity={perplexity} is not below the {compared} items that are compared at "
            f"once (align_batch_size={size}, {len(train)} to train on, {len(held)} held out); lower it"
        )
    check_comparable(settings.catalog, loss, alignment)
