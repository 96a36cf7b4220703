"""Hit@k and NDCG@k over the users whose target is in a group of items: TailHit, HeadNDCG, ColdHit, …

Only the group's items count as right; users without a target in the group are left out of the mean. With no
such user at all the value is NaN, not 0.
"""

import numpy as np
from recbole.evaluator import register
from recbole.evaluator.base_metric import TopkMetric
from recbole.evaluator.metrics import NDCG, Hit

from recbole_sda.evaluation.groups import GROUPS


class GroupMetric(TopkMetric):
    """The part that these metrics share.

    Attributes:
        group: one of ``GROUPS``.
        name: the metric's in results, without ``@k``.
    """

    group: str
    name: str

    def used_info(self, dataobject):
        """Hits with the group's items, (users, k) bool, and each user's targets in the group, (users,) int."""
        hits, _ = super().used_info(dataobject)
        members = dataobject.get(f"data.{self.group}")
        row, target = dataobject.get("rec.targets").numpy().T
        targets = np.bincount(row[members[target]], minlength=len(hits))
        return hits & members[dataobject.get("rec.items").numpy()], targets

    def calculate_metric(self, dataobject):
        hits, targets = self.used_info(dataobject)
        measured = targets > 0
        values = np.full(hits.shape, np.nan)
        values[measured] = self.user_values(hits[measured], targets[measured])
        return self.topk_result(self.name, values)

    def topk_result(self, metric, value):
        measured = value[~np.isnan(value).any(axis=1)]
        if len(measured) == 0:
            return {f"{metric}@{k}": float("nan") for k in self.topk}
        return super().topk_result(metric, measured)


class GroupHit(GroupMetric, Hit):
    """Share of those users who find a target of the group among the first k."""

    def user_values(self, hits, targets):
        return self.metric_info(hits)


class GroupNDCG(GroupMetric, NDCG):
    """NDCG@k of those users, gains for targets of the group only."""

    def user_values(self, hits, targets):
        return self.metric_info(hits, targets)


def _of_group(base: type, group: str) -> type:
    title = f"{group.title()}{base.__name__.removeprefix('Group')}"
    needs = ("rec.items", "rec.topk", "rec.targets", f"data.{group}")
    return type(title, (base,), {"group": group, "name": title.lower(), "metric_need": needs})


GROUP_METRICS = {
    metric.name: metric
    for metric in (_of_group(base, group) for group in GROUPS for base in (GroupHit, GroupNDCG))
}


def register_metrics() -> None:
    """Enter the metrics in RecBole's tables, which its Config and Evaluator share; safe to repeat."""
    for name, metric in GROUP_METRICS.items():
        register.metrics_dict[name] = metric
        register.metric_information[name] = metric.metric_need
        register.metric_types[name] = metric.metric_type


def known_metrics() -> tuple[str, ...]:
    """The names of all metrics, RecBole's and ours, as they are written in ``metrics``."""
    return tuple(metric.__name__ for metric in {**register.metrics_dict, **GROUP_METRICS}.values())
