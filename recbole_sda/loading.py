"""A trained recommender back from its checkpoint, which is tensors and plain values."""

from pathlib import Path
from typing import NamedTuple

import torch

from recbole_sda.config import SDAConfig, find_model, known_keys
from recbole_sda.errors import SDAError
from recbole_sda.features.sources import import_features, open_features
from recbole_sda.recommend import build
from recbole_sda.resume import token_fingerprint

# What a checkpoint's configuration says of the process that wrote it, and of the comparison it was part of.
NOT_RESTORED = {
    *("model", "dataset", "config_files", "compare", "result_file", "seeds"),
    *("local_rank", "world_size", "nproc", "ip", "port", "offset", "gpu_id"),
}


class Loaded(NamedTuple):
    """What RecBole's ``load_data_and_model`` returns, in its order."""

    config: SDAConfig
    model: torch.nn.Module
    dataset: object
    train_data: object
    valid_data: object
    test_data: object


def load(
    checkpoint: str | Path,
    *,
    features: str | Path | None = None,
    data_path: str | Path | None = None,
    model: str | None = None,
) -> Loaded:
    """A trained recommender from its checkpoint, with its features attached and its dataset split as it was.

    It is built on the device of this machine's configuration, wherever it was trained.

    Args:
        features: where its features are now, if they were moved since; as in ``--features``.
        data_path: the folder that holds the dataset's folder now, if it was moved since.
        model: ``package.module:Class`` of a model of your own that is not registered. Nothing is imported because
            a checkpoint says so.

    Returns:
        config, model in evaluation mode, dataset, train, validation and test data.

    Raises:
        SDAError: no such checkpoint; its features or its dataset are not where they were, or are others.
    """
    saved = read_checkpoint(checkpoint)
    _check_model(checkpoint, saved["config"]["model"], model)
    config = _configuration(checkpoint, saved["config"], features, data_path)
    dataset, provider, model, data = build(config)
    if saved["features"] not in (None, provider and provider.identities()):
        raise SDAError(
            f"checkpoint {checkpoint} was trained on other features than features={config['features']} holds; say "
            "load(checkpoint, features=PATH) with those it was trained on, or train it again"
        )
    if saved["tokens"] not in (None, token_fingerprint(dataset)):
        raise SDAError(
            f"checkpoint {checkpoint} was trained on other users or items than "
            f"{config['dataset']} has now, so that its rows belong to others; train it again"
        )
    try:
        model.load_state_dict(saved["state_dict"])
    except RuntimeError as error:
        raise SDAError(
            f"checkpoint {checkpoint} was trained on other features than features={config['features']}, or by "
            f"another version: {' '.join(str(error).split())}"
        ) from error
    others = saved["other_parameter"].items()
    on_device = {name: v.to(config["device"]) if isinstance(v, torch.Tensor) else v for name, v in others}
    model.load_other_parameter(on_device)
    return Loaded(config, model.eval(), dataset, *data)


def read_checkpoint(checkpoint: str | Path) -> dict:
    """A checkpoint's entries, its tensors on the CPU.

    Raises:
        SDAError: no such file, or not a checkpoint of ours, or one that could not hold the whole model.
    """
    if not Path(checkpoint).is_file():
        raise SDAError(f"checkpoint {checkpoint} does not exist; a run's result names it under artefacts")
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        left_out, _, _ = (saved[entry] for entry in ("left_out", "tokens", "features"))
    except Exception as error:  # torch raises many kinds for files that are not its own
        raise SDAError(
            f"{checkpoint} is no checkpoint of recbole_sda: tensors and plain values are needed, with no pickled "
            "object among them; a run's result names its checkpoint under artefacts"
        ) from error
    if left_out:
        raise SDAError(
            f"checkpoint {checkpoint} lacks {', '.join(left_out)} of {saved['config']['model']}, which "
            "only a pickle could hold; train it again"
        )
    return saved


def _check_model(checkpoint, saved: str, named: str | None) -> None:
    """Raises: SDAError: the class that was trained is not known here, or not the one that is named."""
    try:
        found = find_model(named or saved)
    except SDAError as error:
        if named:
            raise
        raise SDAError(
            f"checkpoint {checkpoint} is of a model {saved!r}, which is not known here; if it is your own, say "
            f"model=package.module:{saved} with where the class is"
        ) from error
    if found.__name__ != saved:
        raise SDAError(
            f"checkpoint {checkpoint} is of a model {saved!r}, and model={named} is another; leave it out"
        )


def _configuration(checkpoint, saved: dict, features, data_path) -> SDAConfig:
    values = {key: value for key, value in saved.items() if key in known_keys() - NOT_RESTORED}
    values["data_path"] = str(data_path or Path(saved["data_path"]).parent)
    if values["train_neg_sample_args"]["distribution"] == "none":
        values["train_neg_sample_args"] = None
    folder = Path(values["data_path"]) / saved["dataset"]
    if not folder.is_dir():
        raise SDAError(
            f"checkpoint {checkpoint} was trained on {folder}, which is not there; say "
            "load(checkpoint, data_path=FOLDER) with the folder that holds it"
        )
    try:
        if features is not None:
            values["features"] = import_features(str(features), Path(checkpoint).parent / "features")
        elif values["features"] != "none":
            open_features(values["features"])
    except SDAError as error:
        raise SDAError(
            f"checkpoint {checkpoint} needs the features it was trained on: {error}; say "
            "load(checkpoint, features=PATH) with where they are"
        ) from error
    return SDAConfig(saved["model"], saved["dataset"], config_dict=values)
