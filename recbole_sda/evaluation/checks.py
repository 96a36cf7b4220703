"""Checks of the evaluation that need the data: each error names the key, what was found, and the remedy."""

import logging

from recbole.utils import ModelType

from recbole_sda.errors import SDAError
from recbole_sda.evaluation.groups import GROUPS, KEYS, group_items

logger = logging.getLogger(__name__)

LEAVE_ONE_OUT = "{split: {LS: valid_and_test}, order: TO, group_by: user, mode: full}"
# By the mode of LS, how many of a user's interactions are not trained on.
LEFT_OUT = {"valid_and_test": 2, "valid_only": 1, "test_only": 1}


def check_dataset(config, dataset) -> None:
    """What RecBole would fail at later and in other words; says how many users are not tested.

    Args:
        dataset: RecBole's, unsplit.

    Raises:
        SDAError: times that are not there, too few interactions, a ranking longer than the catalogue.
    """
    _check_time(config, dataset)
    longest, items = max(config["topk"]), dataset.item_num - 1
    if longest > items:
        raise SDAError(f"topk={longest} is longer than the catalogue of {items} items; lower topk")
    (kind, mode), *_ = config["eval_args"]["split"].items()
    if kind == "LS":
        _check_leave_one_out(config, dataset, mode)


def _check_time(config, dataset) -> None:
    time, loaded, order = config["TIME_FIELD"], list(dataset.inter_feat.columns), config["eval_args"]["order"]
    if _is_sequential(config) and order != "TO":
        raise SDAError(
            f"eval_args order {order}: {config['model']} reads interactions in the order of time; use order TO"
        )
    if order != "TO" or time in loaded:
        return
    remedy = "if the .inter file has it, add it to load_col; if it has another name there, say --TIME_FIELD=NAME"
    if not _is_sequential(config):
        remedy += "; if there is no time, split at random: --eval_args='{order: RO}'"
    raise SDAError(f"eval_args order TO: interactions have no field {time!r} but {', '.join(loaded)}; {remedy}")


def _check_leave_one_out(config, dataset, mode: str) -> None:
    interactions = dataset.inter_feat[dataset.uid_field].value_counts()
    # The first one is to train on; a sequential model needs one before it.
    before = 1 + _is_sequential(config)
    needed = before + LEFT_OUT[mode]
    if interactions.max() < needed:
        raise SDAError(
            f"eval_args split LS: {mode} needs users with {needed} interactions or more for {config['model']}, "
            f"and no user has more than {interactions.max()}; add interactions, or lower user_inter_num_interval"
        )
    if left := int((interactions <= before).sum()):
        logger.info("%d of %d users have too few interactions to be tested", left, len(interactions))


def metric_group(metric: str) -> str | None:
    """The group of items that a metric such as ``TailHit@10`` is of."""
    names = (group for group in GROUPS if metric.lower().startswith((f"{group}hit@", f"{group}ndcg@")))
    return next(names, None)


def check_group_metric(config, train_data, valid_data) -> None:
    """Raises: SDAError: ``valid_metric`` is of a group of items that no validation target is in."""
    _check_group(config, train_data._dataset, valid_data._dataset)


def check_group_split(config, dataset) -> None:
    """The same before anything is made of the data, and no more of it than the split.

    Args:
        dataset: RecBole's, just loaded, since a random split is drawn from the state that loading leaves; it is
            split by this and of no further use.
    """
    train, valid, _ = dataset.build()
    _check_group(config, train, valid)


def _check_group(config, train_dataset, valid_dataset) -> None:
    group = metric_group(config["valid_metric"])
    if group is None:
        return
    members = group_items(group, config, train_dataset)
    targets = valid_dataset.inter_feat[valid_dataset.iid_field].numpy()
    if not members[targets].any():
        raise SDAError(
            f"valid_metric={config['valid_metric']} is undefined: no validation target is a {group} item; "
            f"change {KEYS[group]}, or validate by NDCG@10"
        )


def _is_sequential(config) -> bool:
    return config["MODEL_TYPE"] == ModelType.SEQUENTIAL
