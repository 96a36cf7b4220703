"""RecBole's collector with the tail mask, and without its crash on values that are not tensors."""

import copy

import torch
from recbole.evaluator import Collector
from recbole.evaluator.collector import DataStruct

from recbole_sda.evaluation.popularity import tail_of


class SDACollector(Collector):
    """Collects ``rec.tail`` beside RecBole's resources.

    ``rec.tail`` is (users, k + 1) int: whether the item at each rank is a tail target, and how many
    tail targets the user has.
    """

    def data_collect(self, train_data):
        super().data_collect(train_data)
        if self.register.need("rec.tail"):
            self.tail = torch.from_numpy(tail_of(self.config, train_data)).to(self.device)

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
        if self.register.need("rec.tail"):
            users = len(scores_tensor)
            ranked = self.data_struct.get("rec.items")[-users:]  # (users, k)
            self.data_struct.update_tensor("rec.tail", self._tail_hits(ranked, positive_u, positive_i))

    def _tail_hits(self, ranked, positive_u, positive_i):
        positive_u, positive_i = positive_u.to(ranked.device), positive_i.to(ranked.device)
        is_tail = self.tail[positive_i]
        user, item = positive_u[is_tail], positive_i[is_tail]
        # A (user, item) pair as one number: no users × items matrix.
        n_items, rows = len(self.tail), torch.arange(len(ranked), device=ranked.device)
        hits = torch.isin(rows.unsqueeze(1) * n_items + ranked, user * n_items + item)
        targets = torch.bincount(user, minlength=len(ranked))
        return torch.cat([hits.int(), targets.int().unsqueeze(1)], dim=1)

    def get_data_struct(self):
        """RecBole's, but counters and numbers (item coverage, Gini, …) are left as they are."""
        returned = DataStruct()
        for name, value in list(self.data_struct._data_dict.items()):
            is_tensor = isinstance(value, torch.Tensor)
            returned.set(name, value.cpu() if is_tensor else copy.deepcopy(value))
            if name.startswith("rec.") or name == "data.label":
                del self.data_struct[name]
        return returned
