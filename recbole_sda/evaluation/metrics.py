"""TailHit@k and TailNDCG@k: Hit and NDCG over the users whose target is a tail item.

Only tail items count as right; users without a tail target are left out of the mean. With no such user
at all the value is NaN, not 0.
"""

from recbole.evaluator import register
from recbole.evaluator.metrics import NDCG, Hit


class _TailMetric:
    metric_need = ("rec.items", "rec.tail")

    def used_info(self, dataobject):
        flags = dataobject.get("rec.tail").numpy()  # (users, k + 1): hits by rank, number of tail targets
        flags = flags[flags[:, -1] > 0]
        return flags[:, :-1].astype(bool), flags[:, -1]

    def topk_result(self, metric, value):
        if len(value) == 0:
            return {f"tail{metric}@{k}": float("nan") for k in self.topk}
        return {f"tail{name}": score for name, score in super().topk_result(metric, value).items()}


class TailHit(_TailMetric, Hit):
    """Share of those users who find a tail target among the first k."""


class TailNDCG(_TailMetric, NDCG):
    """NDCG@k of those users, gains for tail targets only."""


def register_metrics() -> None:
    """Enter the metrics in RecBole's tables, which its Config and Evaluator share; safe to repeat."""
    for metric in (TailHit, TailNDCG):
        name = metric.__name__.lower()
        register.metrics_dict[name] = metric
        register.metric_information[name] = metric.metric_need
        register.metric_types[name] = metric.metric_type
