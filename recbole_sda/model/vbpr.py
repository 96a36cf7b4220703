r"""VBPR: matrix factorisation that also scores what an item looks like and says.

Reference:
    Ruining He and Julian McAuley. "VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback."
    AAAI 2016.
"""

from typing import ClassVar

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.model.init import xavier_normal_initialization
from recbole.model.loss import BPRLoss
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_sda.model.attach import FeatureSlot


class VBPR(GeneralRecommender):
    r"""The score of item i for user u is

    .. math::
        \hat x_{ui} = \beta_i + \gamma_u^\top \gamma_i + \theta_u^\top (E f_i) + \beta'^\top f_i

    trained by BPR with an L2 penalty on the embeddings of the batch. ``item_content`` is E f and
    ``item_content_bias`` is β'ᵀf; both are slots that features fill. Without features the content terms
    are left out, and with ``use_bias: False`` the bias terms: then users and items are
    :math:`p_u = [\gamma_u; \theta_u]` and :math:`q_i = [\gamma_i; E f_i]` and the score is
    :math:`p_u^\top q_i`. A training step projects the features of its items alone, an evaluation those of the
    catalogue once.
    """

    input_type = InputType.PAIRWISE
    idle_keys: ClassVar = {"use_item_id": "keeps item IDs apart from features"}

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        width = config["embedding_size"]
        self.use_bias = config["use_bias"]
        self.reg_weight = config["reg_weight"]

        self.user_embedding = nn.Embedding(self.n_users, width)  # γ_u
        self.item_embedding = nn.Embedding(self.n_items, width)  # γ_i
        self.item_bias = nn.Embedding(self.n_items, 1)  # β_i
        self.user_content = nn.Embedding(self.n_users, width)  # θ_u
        self.item_content = FeatureSlot(self.n_items, width, _xavier_std(self.n_items, width))  # E f_i
        self.item_content_bias = FeatureSlot(self.n_items, 1, _xavier_std(self.n_items, 1))  # β'ᵀ f_i
        self.loss = BPRLoss()
        self.apply(xavier_normal_initialization)
        nn.init.zeros_(self.item_bias.weight)

    @property
    def has_content(self) -> bool:
        return not isinstance(self.item_content, FeatureSlot)

    def user_factors(self, user: Tensor) -> Tensor:
        """(B,) → (B, F): γ_u, and θ_u where there is content."""
        factors = self.user_embedding(user)
        return torch.cat([factors, self.user_content(user)], dim=1) if self.has_content else factors

    def item_factors(self, item: Tensor) -> Tensor:
        """(B,) → (B, F): γ_i, and E f_i where there is content; of those items alone."""
        factors = self.item_embedding(item)
        return torch.cat([factors, self.item_content(item)], dim=1) if self.has_content else factors

    def biases(self, item: Tensor | None) -> Tensor:
        """β_i + β'ᵀf_i of those items, (B,), or of the catalogue if None; a 0 without ``use_bias``."""
        tables = [self.item_bias] if self.use_bias else []
        tables += [self.item_content_bias] if self.use_bias and self.has_content else []
        rows = (table.weight if item is None else table(item) for table in tables)
        return sum((row.squeeze(1) for row in rows), start=self.item_bias.weight.new_zeros(()))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Scores of pairs, (B,)."""
        return (self.user_factors(user) * self.item_factors(item)).sum(dim=1) + self.biases(item)

    def calculate_loss(self, interaction):
        user = self.user_factors(interaction[self.USER_ID])
        item = torch.cat([interaction[self.ITEM_ID], interaction[self.NEG_ITEM_ID]])  # one projection for both
        factors, bias = self.item_factors(item), self.biases(item)
        positive, negative = ((user.repeat(2, 1) * factors).sum(dim=1) + bias).chunk(2)
        penalty = sum(looked_up.square().sum() for looked_up in (user, factors, bias)) / (2 * len(user))
        return self.loss(positive, negative) + self.reg_weight * penalty

    def predict(self, interaction):
        return self.forward(interaction[self.USER_ID], interaction[self.ITEM_ID])

    def full_sort_predict(self, interaction):
        user = interaction[self.USER_ID]
        # One product after the other, since to concatenate would copy the catalogue for every batch of users.
        scores = torch.addmm(self.biases(None), self.user_embedding(user), self.item_embedding.weight.T)
        if self.has_content:
            scores.addmm_(self.user_content(user), self.item_content.weight.T)
        return scores.view(-1)


def _xavier_std(rows: int, columns: int) -> float:
    return (2 / (rows + columns)) ** 0.5
