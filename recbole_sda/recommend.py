"""Stage 3: RecBole trains and evaluates a recommender, on features or on item IDs."""

import logging
from contextlib import nullcontext
from pathlib import Path

import torch

from recbole_sda import compat

compat.prepare_recbole()

from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.utils import ModelType, init_seed  # noqa: E402

from recbole_sda.artefacts import digest, written_whole  # noqa: E402
from recbole_sda.cold_items import hold_out_items, hold_out_rows  # noqa: E402
from recbole_sda.config import SDAConfig  # noqa: E402
from recbole_sda.distributed import from_main  # noqa: E402
from recbole_sda.evaluation.checks import check_dataset, check_group_metric  # noqa: E402
from recbole_sda.evaluation.collector import RANKING  # noqa: E402
from recbole_sda.features import FeatureProvider  # noqa: E402
from recbole_sda.features.sources import open_features  # noqa: E402
from recbole_sda.model import attach_item_features  # noqa: E402
from recbole_sda.outcome import trained_once  # noqa: E402
from recbole_sda.pickles import refuse_pickles  # noqa: E402
from recbole_sda.progress import progress_bar  # noqa: E402
from recbole_sda.resume import data_fingerprint, sole_training  # noqa: E402
from recbole_sda.trainer import build_trainer, plain  # noqa: E402

logger = logging.getLogger(__name__)

# Scores held at once in full ranking: 256 MB in float32.
EVAL_SCORES = 64_000_000
# What else the command runs or says: a training is the same without.
OF_THE_COMMAND = {"compare", "seeds", "result_file", "bootstrap_samples", "config_files"}
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


def recommend(config: SDAConfig, features: str | Path | None, *, label: str) -> dict:
    """Train, choose by validation, test once.

    The order of seeding is RecBole's, so that without features the numbers are stock RecBole's.

    Args:
        features: a feature store's folder, or several as ``open_features`` reads them; None runs on item IDs.
        label: names the run in the progress bar and in the checkpoint's file name.

    Returns:
        ``items`` and ``missing`` (modality → items without it); ``valid`` and ``test``: metric → value, in
        RecBole's lower case; ``epochs``; ``seconds``; ``artefacts``: the ``checkpoint`` and ``user_results``, a
        parquet file of every user's test metrics. A training that finished before is not repeated.
    """
    config["features"] = str(features) if features else "none"  # the checkpoint says what it needs
    dataset, provider, model, loaders = build(config)
    check_group_metric(config, *loaders[:2])
    identities = provider.identities() if provider else None
    checkpoint, is_main = from_main(_checkpoint_file(config, label, identities)), config["local_rank"] == 0

    def train() -> dict:
        outcome = _train(config, model, loaders, checkpoint, identities, label=label)
        return {**_coverage(config, dataset, provider), **outcome}

    with sole_training(checkpoint) if is_main else nullcontext():
        data = data_fingerprint(*(loader._dataset for loader in loaders if loader is not None))
        return trained_once(checkpoint, data, train, is_main=is_main)


def _train(config, model, loaders, checkpoint: Path, identities: dict | None, *, label: str) -> dict:
    train_data, valid_data, test_data = loaders
    is_main = config["local_rank"] == 0
    trainer = build_trainer(config, model, str(checkpoint), resume=True)
    trainer.features = identities
    trainer.prepare_evaluation(*loaders)
    with progress_bar(config["epochs"], f"train {label}", "epoch", show=is_main) as bar:

        def show(epoch: int, score: float) -> None:
            bar.update(epoch + 1 - bar.n)
            bar.set_postfix({f"valid {config['valid_metric'].lower()}": f"{score:.4f}"})

        _, best_valid = trainer.fit(
            train_data, valid_data, show_progress=config["show_progress"], callback_fn=show
        )
    test = trainer.evaluate(test_data, show_progress=config["show_progress"])
    users = from_main(_write_users(trainer, checkpoint) if is_main else None)
    trainer.finish()
    return {
        "valid": plain(best_valid),
        "test": plain(test),
        "epochs": len(trainer.train_loss_dict),
        "artefacts": {"checkpoint": str(checkpoint), "user_results": users and str(users)},
    }


def _coverage(config, dataset, provider: FeatureProvider | None) -> dict:
    """How many items there are, and how many of them lack a modality or had a file refused."""
    return {
        "items": dataset.item_num - 1,  # padding left out
        "missing": {m: int((~provider.present(m)).sum()) for m in config["modalities"]} if provider else {},
        "skipped": provider.skipped_count() if provider else 0,
    }


def _write_users(trainer, checkpoint: Path) -> Path | None:
    """Every user's test metrics beside the checkpoint; None where the metrics are no means over users."""
    if not trainer.eval_collector.needs.intersection(RANKING):
        return None
    path = checkpoint.with_suffix(".users.parquet")
    with written_whole(path) as unfinished:
        trainer.write_user_results(unfinished)
    return path


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
    """A name of its own for each configuration and content of features, so that runs leave each other alone."""
    settings = {key: value for key, value in config.final_config_dict.items() if key not in OF_THE_COMMAND}
    run = digest({"config": plain(settings), "features": features})
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
