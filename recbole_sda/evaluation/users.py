"""Every user's own value of each metric: what paired comparisons of two models need."""

import copy

import numpy as np
import pandas as pd
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.evaluator import Evaluator


def user_table(evaluator: Evaluator, collected: DataStruct, dataset) -> pd.DataFrame:
    """One row for each row of the evaluation.

    Args:
        evaluator: RecBole's, which names the metrics.
        collected: what the evaluation collected.
        dataset: RecBole's, for the tokens.

    Returns:
        ``user``: token; ``target``: list of item tokens; then a column such as ``ndcg@10`` for each metric and k
        that is a mean over users. NaN where a group's metric leaves the user out: the mean over the others is the
        metric. Metrics of the whole (coverage, Gini index, AUC) are no mean over users and have no column.
    """
    columns = {
        "user": dataset.field2id_token[dataset.uid_field][collected.get("rec.users").numpy()].astype(str),
        "target": _targets(collected, dataset.field2id_token[dataset.iid_field]),
    }
    for metric in evaluator.metric_class.values():
        for name, values in _values(metric, collected).items():
            columns |= {f"{name}@{k}": values[:, k - 1].astype(float) for k in metric.topk}
    return pd.DataFrame(columns)


def _values(metric, collected: DataStruct) -> dict[str, np.ndarray]:
    """Name → (users, k): what the metric would average."""
    if not hasattr(metric, "topk_result"):
        return {}
    values: dict[str, np.ndarray] = {}
    watched = copy.copy(metric)
    watched.topk_result = lambda name, value: values.setdefault(name, value) is None or {}
    watched.calculate_metric(collected)
    return values


def _targets(collected: DataStruct, tokens: np.ndarray) -> list[list[str]]:
    row, item = collected.get("rec.targets").numpy().T
    ends = np.cumsum(np.bincount(row, minlength=len(collected.get("rec.users"))))
    return [part.tolist() for part in np.split(tokens[item].astype(str), ends[:-1])]
