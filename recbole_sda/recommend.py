"""Stage 3: RecBole trains and evaluates a recommender, on features or on item IDs."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch

from recbole_sda import compat

compat.prepare_recbole()

from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.utils import ModelType, init_seed  # noqa: E402

from recbole_sda.artefacts import digest  # noqa: E402
from recbole_sda.cold_items import hold_out_items, hold_out_rows  # noqa: E402
from recbole_sda.config import SDAConfig  # noqa: E402
from recbole_sda.distributed import from_main  # noqa: E402
from recbole_sda.evaluation.checks import check_dataset, check_group_metric  # noqa: E402
from recbole_sda.features import FeatureProvider  # noqa: E402
from recbole_sda.features.sources import open_features  # noqa: E402
from recbole_sda.final_test import evaluate_checkpoint, evaluate_test, leave_untested  # noqa: E402
from recbole_sda.model import attach_item_features  # noqa: E402
from recbole_sda.model.registry import model_identity  # noqa: E402
from recbole_sda.outcome import trained_once  # noqa: E402
from recbole_sda.pickles import refuse_pickles  # noqa: E402
from recbole_sda.progress import progress_bar  # noqa: E402
from recbole_sda.resume import TrainingFiles, data_fingerprint, sole_training  # noqa: E402
from recbole_sda.trainer import build_trainer, plain  # noqa: E402

logger = logging.getLogger(__name__)

# Scores held at once in full ranking: 256 MB in float32.
EVAL_SCORES = 64_000_000
# What else the command runs or says: a training is the same without.
OF_THE_COMMAND = {
    *("compare", "seeds", "result_file", "bootstrap_samples", "config_files"),
    *("space", "resume", "ray_address", "cpus", "gpus", "gpu_id"),
    *("tune_search", "tune_samples", "tune_scheduler", "tune_grace_period", "tune_reduction_factor"),
    *("tune_concurrent", "study_workers", "study_measures", "backbones"),
}
MAX_EVAL_USERS = 4096


def load_dataset(config: SDAConfig, *, announce: bool = False):
    """RecBole's dataset after its own filters and without the cold items, its random state as RecBole sets it.

    Args:
        announce: say what was held out.

    Raises:
        SDAError: what the evaluation needs is not there; no items can be held out.
    """
    dataset = load_catalogue(config)
    check_dataset(config, dataset)
    if config["cold_share"]:
        done = hold_out_items(dataset, share=config["cold_share"], seed=config["protocol_seed"])
        logger.log(logging.INFO if announce else logging.DEBUG, done)
    return dataset


def load_catalogue(config: SDAConfig):
    """RecBole's dataset after its own filters, whatever is to be evaluated."""
    refuse_pickles(config)
    init_seed(config["seed"], config["reproducibility"])
    return create_dataset(config)


def item_tokens(dataset) -> tuple[str, ...]:
    """The items in RecBole's order, padding left out."""
    return tuple(map(str, dataset.field2id_token[dataset.iid_field][1:]))


def recommend(
    config: SDAConfig,
    features: str | Path | None,
    *,
    label: str,
    test: bool = True,
    on_epoch: Callable[[int, dict, float], None] | None = None,
) -> dict:
    """Train, choose by validation, test once.

    The order of seeding is RecBole's, so that without features the numbers are stock RecBole's.

    Args:
        features: a feature store's folder, or several as ``open_features`` reads them; None runs on item IDs.
        label: names the run in the progress bar and in the checkpoint's file name.
        test: False computes nothing on the test split, and ``test`` is None; a later call tests the training that
            is there, unless its checkpoint cannot hold the whole model, which is then trained anew.
        on_epoch: called after every evaluation with the epochs trained so far, the validation's metrics, and the
            score that chooses the best epoch. What it raises ends the training.

    Returns:
        ``items`` and ``missing`` (modality → items without it); ``valid`` and ``test``: metric → value, in
        RecBole's lower case; ``epochs``; ``curve``: ``epoch`` (counted from 1), ``train_loss`` and
        ``valid_score`` of every evaluated epoch; ``seconds``; ``artefacts``: the ``checkpoint`` and
        ``user_results``, a parquet file of every user's test metrics. A training that finished before is not
        repeated.
    """
    config["features"] = str(features) if features else "none"  # the checkpoint says what it needs
    dataset, provider, model, loaders = build(config)
    check_group_metric(config, *loaders[:2])
    identities = provider.identities() if provider else None
    checkpoint, is_main = from_main(_checkpoint_file(config, label, identities)), config["local_rank"] == 0

    def train() -> dict:
        trainer = build_trainer(config, model, str(checkpoint), resume=True)
        trainer.features = identities
        outcome = _train(config, trainer, loaders, label=label, on_epoch=on_epoch if is_main else None)
        tested = evaluate_test(trainer, loaders[2], checkpoint) if test else leave_untested(trainer)
        trainer.finish()
        artefacts = {"checkpoint": str(checkpoint), "user_results": tested.pop("user_results")}
        return {**_coverage(config, dataset, provider), **outcome, **tested, "artefacts": artefacts}

    def add_test(outcome: dict) -> dict | None:
        return evaluate_checkpoint(config, model, loaders, checkpoint, outcome)

    with sole_training(checkpoint) if is_main else nullcontext():
        data = data_fingerprint(*(loader._dataset for loader in loaders if loader is not None))
        outcome = trained_once(checkpoint, data, train, add_test if test else None, is_main=is_main)
        if test and is_main:
            TrainingFiles(checkpoint).forget_random()
        return outcome


def _train(config, trainer, loaders, *, label: str, on_epoch) -> dict:
    train_data, valid_data, _ = loaders
    trainer.prepare_evaluation(*loaders)
    with progress_bar(config["epochs"], f"train {label}", "epoch", show=config["local_rank"] == 0) as bar:

        def evaluated(epoch: int, score: float) -> None:
            bar.update(epoch + 1 - bar.n)
            bar.set_postfix({f"valid {config['valid_metric'].lower()}": f"{score:.4f}"})
            trainer.note_evaluation(epoch, score)
            if on_epoch is not None:
                on_epoch(epoch + 1, plain(trainer.latest_valid), score)

        _, best_valid = trainer.fit(
            train_data, valid_data, show_progress=config["show_progress"], callback_fn=evaluated
        )
    return {
        "valid": plain(best_valid),
        "epochs": len(trainer.train_loss_dict),
        # Each process has the loss of its own part of every batch.
        "curve": from_main(plain(trainer.curve)),
    }


def _coverage(config, dataset, provider: FeatureProvider | None) -> dict:
    """How many items there are, and how many of them lack a modality or had a file refused."""
    return {
        "items": dataset.item_num - 1,  # padding left out
        "missing": {m: int((~provider.present(m)).sum()) for m in config["modalities"]} if provider else {},
        "skipped": provider.skipped_count() if provider else 0,
    }


def build(config: SDAConfig) -> tuple:
    """dataset, provider or None, model with its features, three data loaders; seeded in RecBole's order."""
    dataset = load_dataset(config)
    provider = None
    if config["features"] != "none":
        stored = open_features(config["features"], config["modalities"])
        provider = FeatureProvider(stored, item_tokens(dataset), missing=config["missing_features"])
    config["eval_batch_size"] = eval_batch_size(config, dataset.item_num)
    data = data_preparation(config, dataset)
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    model = config.model_class(config, data[0]._dataset).to(config["device"])
    if provider is not None:
        attach_item_features(model, provider, config)
        if config["cold_share"]:
            hold_out_rows(model, torch.from_numpy(dataset.cold_items))
    return dataset, provider, model, data


def _checkpoint_file(config: SDAConfig, label: str, features: dict | None) -> Path:
    """A name of its own for each configuration, content of features and source of a model of the user's own, so
    that runs leave each other alone."""
    settings = {key: value for key, value in config.final_config_dict.items() if key not in OF_THE_COMMAND}
    run = digest({"config": plain(settings), "features": features, **model_identity(config.model_class)})
    return Path(config["checkpoint_dir"]) / f"{config['model']}-{config['dataset']}-{label}-{run}.pth"


def eval_batch_size(config: SDAConfig, n_items: int) -> int:
    """In full ranking, as many users as ``EVAL_SCORES`` allow, unless somebody chose a size.

    RecBole counts users × items here for all but sequential models, and so scores them one user at a time; for
    sequential ones it counts users, however long the catalogue.
    """
    ranks_all = set(config["eval_args"]["mode"].values()) == {"full"}
    if not ranks_all or config.chosen("eval_batch_size"):
        return config["eval_batch_size"]
    users = min(MAX_EVAL_USERS, max(1, EVAL_SCORES // n_items))
    return users if config["MODEL_TYPE"] == ModelType.SEQUENTIAL else users * n_items
