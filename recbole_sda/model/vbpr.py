r"""VBPR: matrix factorisation that also scores what an item looks like and says.

Reference:
    Ruining He and Julian McAuley. "VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback."
    AAAI 2016.
"""

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.model.init import xavier_normal_initialization
from recbole.model.loss import BPRLoss
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_sda.model.slots import FeatureSlot


class VBPR(GeneralRecommender):
    r"""The score of item i for user u is

    .. math::
        \hat x_{ui} = \beta_i + \gamma_u^\top \gamma_i + \theta_u^\top (E f_i) + \beta'^\top f_i

    trained by BPR with an L2 penalty on the embeddings of the batch. ``item_content`` is E f and
    ``item_content_bias`` is β'ᵀf; both are slots that features fill. Without features the content terms
    are left out, and with ``use_bias: False`` the bias terms.
    """

    input_type = InputType.PAIRWISE

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
        """(B,) → (B, F): what a user's score multiplies; pairs with :meth:`item_factors`."""
        factors = [self.user_embedding(user)]
        if self.has_content:
            factors.append(self.user_content(user))
        if self.use_bias:
            ones = torch.ones(len(user), 1, device=user.device)
            factors += [ones, ones] if self.has_content else [ones]
        return torch.cat(factors, dim=1)

    def item_factors(self, item: Tensor | None) -> Tensor:
        """(B,) → (B, F), for those items alone; None gives the whole catalogue."""
        parts = [self.item_embedding]
        if self.has_content:
            parts.append(self.item_content)
        if self.use_bias:
            parts.append(self.item_bias)
            if self.has_content:
                parts.append(self.item_content_bias)
        return torch.cat([part.weight if item is None else part(item) for part in parts], dim=1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Scores of pairs, (B,)."""
        return (self.user_factors(user) * self.item_factors(item)).sum(dim=1)

    def calculate_loss(self, interaction):
        user = self.user_factors(interaction[self.USER_ID])
        positive = self.item_factors(interaction[self.ITEM_ID])
        negative = self.item_factors(interaction[self.NEG_ITEM_ID])
        loss = self.loss((user * positive).sum(dim=1), (user * negative).sum(dim=1))
        penalty = sum(factors.square().sum() for factors in (user, positive, negative)) / (2 * len(user))
        return loss + self.reg_weight * penalty

    def predict(self, interaction):
        return self.forward(interaction[self.USER_ID], interaction[self.ITEM_ID])

    def full_sort_predict(self, interaction):
        return (self.user_factors(interaction[self.USER_ID]) @ self.item_factors(None).T).view(-1)


def _xavier_std(rows: int, columns: int) -> float:
    return (2 / (rows + columns)) ** 0.5
