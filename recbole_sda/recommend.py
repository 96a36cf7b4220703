"""Stage 3: RecBole trains and evaluates a recommender, on features or on item IDs."""

import os
from pathlib import Path

import torch

from recbole_sda import compat

compat.prepare_recbole()

from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.utils import ModelType, init_seed  # noqa: E402

from recbole_sda.artefacts import digest  # noqa: E402
from recbole_sda.config import SDAConfig, known_keys  # noqa: E402
from recbole_sda.errors import SDAError  # noqa: E402
from recbole_sda.evaluation import tail_of  # noqa: E402
from recbole_sda.features import FeatureProvider, FeatureStore  # noqa: E402
from recbole_sda.model import attach_item_features  # noqa: E402
from recbole_sda.progress import progress_bar  # noqa: E402
from recbole_sda.trainer import build_trainer, plain  # noqa: E402

# Scores held at once in full ranking: 256 MB in float32.
EVAL_SCORES = 64_000_000
MAX_EVAL_USERS = 4096
# What a checkpoint's configuration says of the process that wrote it, and of the comparison it was part of.
NOT_RESTORED = {
    *("model", "dataset", "config_files", "compare", "result_file"),
    *("local_rank", "world_size", "nproc", "ip", "port", "offset"),
}


def load_dataset(config: SDAConfig):
    """RecBole's dataset after its own filters, with its random state as RecBole sets it."""
    init_seed(config["seed"], config["reproducibility"])
    return create_dataset(config)


def item_tokens(dataset) -> tuple[str, ...]:
    """The items in RecBole's order, padding left out."""
    return tuple(map(str, dataset.field2id_token[dataset.iid_field][1:]))


def recommend(config: SDAConfig, features: Path | None, *, label: str) -> dict:
    """Train, choose by validation, test once.

    The order of seeding is RecBole's, so that without features the numbers are stock RecBole's.

    Args:
        features: a feature store's folder; None runs the model on item IDs.
        label: names the run in the progress bar and in the checkpoint's file name.

    Returns:
        ``items`` and ``missing`` (modality → items without it); ``valid`` and ``test``: metric → value, in
        RecBole's lower case; ``epochs``; ``checkpoint``.
    """
    config["features"] = str(features) if features else "none"  # the checkpoint says what it needs
    dataset, provider, model, (train_data, valid_data, test_data) = _build(config)
    _check_tail_metric(config, train_data, valid_data)
    checkpoint = _checkpoint_file(config, label)
    # Until it is done under a name of this process: the same command started twice must not mix its epochs.
    unfinished = checkpoint.with_name(f"{checkpoint.name}.{os.getpid()}")
    trainer = build_trainer(config, model, str(unfinished))
    with progress_bar(config["epochs"], f"train {label}", "epoch") as bar:

        def show(epoch: int, score: float) -> None:
            bar.update(epoch + 1 - bar.n)
            bar.set_postfix({f"valid {config['valid_metric'].lower()}": f"{score:.4f}"})

        _, best_valid = trainer.fit(
            train_data, valid_data, show_progress=config["show_progress"], callback_fn=show
        )
    test = trainer.evaluate(test_data, show_progress=config["show_progress"])
    unfinished.replace(checkpoint)
    return {
        "items": dataset.item_num - 1,  # padding left out
        "missing": {m: int((~provider.present(m)).sum()) for m in config["modalities"]} if provider else {},
        "skipped": len(provider.store.skipped()) if provider else 0,
        "valid": plain(best_valid),
        "test": plain(test),
        "epochs": len(trainer.train_loss_dict),
        "checkpoint": str(checkpoint),
    }


def load(checkpoint: str | Path) -> tuple:
    """A trained recommender from its checkpoint, with its features attached.

    Returns:
        config, model in evaluation mode, dataset, train, validation and test data: what RecBole's
        ``load_data_and_model`` returns.

    Raises:
        SDAError: no such file, or its feature store is gone.
    """
    if not Path(checkpoint).is_file():
        raise SDAError(f"checkpoint {checkpoint} does not exist; a run's result names it under artefacts")
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if saved["left_out"]:
        raise SDAError(
            f"checkpoint {checkpoint} lacks {', '.join(saved['left_out'])} of {saved['config']['model']}, which "
            "only a pickle could hold; train it again"
        )
    values = {key: value for key, value in saved["config"].items() if key in known_keys() - NOT_RESTORED}
    values["data_path"] = str(Path(saved["config"]["data_path"]).parent)
    if values["train_neg_sample_args"]["distribution"] == "none":
        values["train_neg_sample_args"] = None
    config = SDAConfig(saved["config"]["model"], saved["config"]["dataset"], config_dict=values)
    dataset, _, model, data = _build(config)
    model.load_state_dict(saved["state_dict"])
    model.load_other_parameter(saved["other_parameter"])
    return config, model.eval(), dataset, *data


def _build(config: SDAConfig) -> tuple:
    """dataset, provider or None, model with its features, three data loaders; seeded in RecBole's order."""
    dataset = load_dataset(config)
    provider = None
    if config["features"] != "none":
        provider = FeatureProvider(FeatureStore.open(config["features"]), item_tokens(dataset))
    config["eval_batch_size"] = eval_batch_size(config, dataset.item_num)
    data = data_preparation(config, dataset)
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    model = config.model_class(config, data[0]._dataset).to(config["device"])
    if provider is not None:
        attach_item_features(model, provider, config)
    return dataset, provider, model, data


def _checkpoint_file(config: SDAConfig, label: str) -> Path:
    """A name of its own for each configuration, so that runs side by side leave each other's alone."""
    run = digest(plain(config.final_config_dict))
    return Path(config["checkpoint_dir"]) / f"{config['model']}-{config['dataset']}-{label}-{run}.pth"


def eval_batch_size(config: SDAConfig, n_items: int) -> int:
    """In full ranking RecBole counts users × items here for all but sequential models, one user at a time."""
    ranks_all = set(config["eval_args"]["mode"].values()) == {"full"}
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL or not ranks_all or config.chosen("eval_batch_size"):
        return config["eval_batch_size"]
    users = min(MAX_EVAL_USERS, max(1, EVAL_SCORES // n_items))
    return users * n_items


def _check_tail_metric(config: SDAConfig, train_data, valid_data) -> None:
    if not config["valid_metric"].lower().startswith("tail"):
        return
    tail = tail_of(config, train_data)
    targets = valid_data._dataset.inter_feat[config["ITEM_ID_FIELD"]].numpy()
    if not tail[targets].any():
        raise SDAError(
            f"valid_metric={config['valid_metric']} is undefined: no validation target is a tail item; "
            "change tail_head_share or tail_max_popularity, or validate by NDCG@10"
        )
