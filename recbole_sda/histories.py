"""All that is known of each user, as a model's input: the data after RecBole's filters, before any split."""

import torch
from torch import Tensor

from recbole_sda import compat

compat.prepare_recbole()

from recbole.data import create_dataset  # noqa: E402
from recbole.data.dataset import Dataset  # noqa: E402
from recbole.data.interaction import Interaction  # noqa: E402
from recbole.utils import ModelType  # noqa: E402

from recbole_sda.errors import SDAError  # noqa: E402
from recbole_sda.pickles import refuse_pickles  # noqa: E402


class Histories:
    """Every user's interactions, oldest first.

    RecBole's sequential dataset unrolls each history into as many rows as it has items, and forgets users with
    one. Here every interaction is there once, and a batch's sequences are cut out when they are needed.

    Attributes:
        dataset: the unsplit dataset; ids as in training.
        counts: (users + 1,) int64, interactions of each.
    """

    def __init__(self, config):
        self.config = config
        self.is_sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        if self.is_sequential and config["benchmark_filename"] is not None:
            raise SDAError(
                "benchmark_filename: these files hold sequences cut for an evaluation, and no histories; "
                "recommend from a model of the plain interactions"
            )
        refuse_pickles(config)
        dataset = create_dataset(config)
        Dataset._change_feat_format(dataset)
        self.dataset, self._rows = dataset, dataset.inter_feat
        has_time = dataset.time_field in self._rows.interaction
        dataset.sort(by=[dataset.uid_field, *([dataset.time_field] if has_time else [])])  # stable, as in training
        self.counts = torch.bincount(self._rows[dataset.uid_field], minlength=dataset.user_num)
        self._stops = self.counts.cumsum(0)

    def inputs(self, users: Tensor) -> Interaction:
        """What ``full_sort_predict`` reads: the users, and for sequential models their newest interactions.

        Args:
            users: (B,) ids.
        """
        columns = {self.dataset.uid_field: users}
        if self.is_sequential:
            columns |= self._sequences(users)
        return self.dataset.join(Interaction(columns))

    def items(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Row of ``users`` and item of every interaction of theirs, (n,) each."""
        counts = self.counts[users]
        rows = torch.arange(len(users)).repeat_interleave(counts)
        within = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
        start = self._stops[users] - counts
        return rows, self._rows[self.dataset.iid_field][start[rows] + within]

    def _sequences(self, users: Tensor) -> dict[str, Tensor]:
        """``<field>_list`` (B, L, …), padded by 0 at the end, and the length (B,)."""
        longest, suffix = self.config["MAX_ITEM_LIST_LENGTH"], self.config["LIST_SUFFIX"]
        length = self.counts[users].clamp(max=longest)
        place = torch.arange(longest)
        filled = place < length.unsqueeze(1)  # (B, L)
        index = torch.where(filled, (self._stops[users] - length).unsqueeze(1) + place, 0)
        columns = {self.config["ITEM_LIST_LENGTH_FIELD"]: length}
        for field, values in self._rows.interaction.items():
            if field != self.dataset.uid_field:
                mask = filled.view(*filled.shape, *[1] * (values.dim() - 1))
                columns[field + suffix] = torch.where(mask, values[index], torch.zeros((), dtype=values.dtype))
        return columns
