"""RecBole's collector with one ranking for all metrics, and without its crash on values that are not tensors."""

import logging

import torch
from recbole.evaluator import Collector, register
from recbole.evaluator.collector import DataStruct
from torch import Tensor

from recbole_sda.evaluation.gather import gather_rows
from recbole_sda.evaluation.groups import GROUPS, KEYS, group_items
from recbole_sda.evaluation.popularity import training_popularity

logger = logging.getLogger(__name__)

RANKING = ("rec.items", "rec.topk")


class SDACollector(Collector):
    """Collects each user's ranking and targets once a batch, and joins the batches once an evaluation.

    RecBole's own ranks once for each kind of need, writes the targets into a matrix of the scores' size, and
    copies all earlier batches at every batch.

    Attributes:
        needs: what the metrics of the configuration read, by RecBole's names.
        last: what the latest evaluation collected; None before the first.
        sample_size: rows of the evaluation in all processes together; None if this process is alone.
    """

    def __init__(self, config):
        super().__init__(config)
        self.needs = {need for name in self.register.metrics for need in register.metric_information[name]}
        for name in RANKING:
            setattr(self.register, name, False)  # collected here, so not by RecBole as well
        self.last: DataStruct | None = None
        self.sample_size: int | None = None
        self._batches: list[dict[str, Tensor]] = []

    def data_collect(self, train_data):
        """RecBole's, with popularity as ``training_popularity`` counts it, and the groups' items."""
        super().data_collect(train_data)
        if "data.count_items" in self.needs:
            popularity = training_popularity(train_data._dataset)
            self.data_struct.set("data.count_items", {i: n for i, n in enumerate(popularity.tolist()) if n})
        for group in GROUPS:
            if f"data.{group}" in self.needs:
                items = group_items(group, self.config, train_data._dataset)
                if not items.any():
                    logger.warning("no item is %s, so its metrics are NaN; %s decides it", group, KEYS[group])
                self.data_struct.set(f"data.{group}", items)

    def missing(self) -> list[str]:
        """What the metrics need of the training data and ``data_collect`` has not brought yet."""
        return sorted(
            n for n in self.needs if n.startswith("data.") and n != "data.label" and n not in self.data_struct
        )

    def begin(self, sample_size: int | None) -> None:
        """Start an evaluation; what an interrupted one has left is dropped."""
        self.sample_size, self._batches = sample_size, []

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        """RecBole's; scores of (rows, items), one row for each user or, in sequential data, for each target."""
        super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
        if self.needs.intersection(RANKING):
            device = scores_tensor.device
            batch = rank(scores_tensor, positive_u.to(device), positive_i.to(device), max(self.topk))
            users = interaction[self.config["USER_ID_FIELD"]]
            # With sampled candidates an interaction has a line for each of them, a user's lines together.
            batch["rec.users"] = users if len(users) == len(scores_tensor) else users.unique_consecutive()
            self._batches.append({name: values.cpu() for name, values in batch.items()})

    def get_data_struct(self):
        """What was collected, in main memory, from all processes; the next evaluation starts from nothing."""
        collected = {**self.data_struct._data_dict, **join(self._batches)}
        rows = {name: collected.pop(name).cpu() for name in list(collected) if _is_of_rows(name)}
        for name in rows.keys() & self.data_struct._data_dict.keys():
            del self.data_struct[name]
        self._batches = []
        if self.sample_size is not None:
            rows = gather_rows(rows, self.sample_size)
        self.last = DataStruct()
        self.last._data_dict = {**collected, **rows}
        return self.last


def rank(scores: Tensor, positive_u: Tensor, positive_i: Tensor, k: int) -> dict[str, Tensor]:
    """The first k items of each row, and which of them are its targets.

    Args:
        scores: (rows, items).
        positive_u, positive_i: (targets,) row and item of each target.

    Returns:
        ``rec.items`` (rows, k), by falling score; ``rec.topk`` (rows, k + 1): whether each is a target, then the
        number of targets; ``rec.targets`` (targets, 2): row and item, by row. All int32.
    """
    rows, n_items = scores.shape
    items = torch.topk(scores, k, dim=-1).indices
    # A (row, item) pair as one number: no rows × items matrix.
    pairs = torch.unique(positive_u * n_items + positive_i)
    numbers = torch.arange(rows, device=scores.device).unsqueeze(1) * n_items + items
    row = pairs.div(n_items, rounding_mode="floor")
    hits = torch.isin(numbers, pairs).int()
    targets = torch.bincount(row, minlength=rows).int().unsqueeze(1)
    return {
        "rec.items": items.int(),
        "rec.topk": torch.cat([hits, targets], dim=1),
        "rec.targets": torch.stack([row, pairs % n_items], dim=1).int(),
    }


def join(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One batch of all, its rows numbered on; takes the parts out of the batches."""
    rows, names = 0, list(batches[0]) if batches else []
    for batch in batches:
        batch["rec.targets"][:, 0] += rows
        rows += len(batch["rec.items"])
    return {name: torch.cat([batch.pop(name) for batch in batches]) for name in names}


def _is_of_rows(name: str) -> bool:
    return name.startswith("rec.") or name == "data.label"
