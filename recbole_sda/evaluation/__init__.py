"""Evaluation: metrics of groups of items, candidates, and the collector that feeds both."""

from recbole_sda import compat

compat.prepare_recbole()

from recbole_sda.evaluation.collector import SDACollector  # noqa: E402
from recbole_sda.evaluation.metrics import known_metrics, register_metrics  # noqa: E402
from recbole_sda.evaluation.popularity import tail_items, training_popularity  # noqa: E402
from recbole_sda.evaluation.ranking import RankingMixin  # noqa: E402

__all__ = [
    "RankingMixin",
    "SDACollector",
    "known_metrics",
    "register_metrics",
    "tail_items",
    "training_popularity",
]
