"""Tail metrics beside RecBole's own, and the collector that feeds them."""

from recbole_sda import compat

compat.prepare_recbole()

from recbole_sda.evaluation.collector import SDACollector  # noqa: E402
from recbole_sda.evaluation.metrics import register_metrics  # noqa: E402
from recbole_sda.evaluation.popularity import tail_items, tail_of, training_popularity  # noqa: E402

__all__ = ["SDACollector", "register_metrics", "tail_items", "tail_of", "training_popularity"]
