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
        """(B,) → (B, F): γ_u, and θ_u where there is content."""
        factors = self.user_embedding(user)
        return torch.cat([factors, self.user_content(user)], dim=1) if self.has_content else factors

    def item_factors(self, item: Tensor | None) -> tuple[Tensor, Tensor]:
        """γ_i and E f_i, (B, F), and the bias, (B,), of those items alone; None gives the whole catalogue."""

        def rows(table: nn.Module) -> Tensor:
            return table.weight if item is None else table(item)

        factors, bias = rows(self.item_embedding), torch.zeros((), device=self.item_bias.weight.device)
        if self.use_bias:
            bias = rows(self.item_bias).squeeze(1)
        if self.has_content:
            factors = torch.cat([factors, rows(self.item_content)], dim=1)
            bias = bias + rows(self.item_content_bias).squeeze(1) if self.use_bias else bias
        return factors, bias.expand(len(factors))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Scores of pairs, (B,)."""
        factors, bias = self.item_factors(item)
        return (self.user_factors(user) * factors).sum(dim=1) + bias

    def calculate_loss(self, interaction):
        user = self.user_factors(interaction[self.USER_ID])
        positive, positive_bias = self.item_factors(interaction[self.ITEM_ID])
        negative, negative_bias = self.item_factors(interaction[self.NEG_ITEM_ID])
        loss = self.loss(
            (user * positive).sum(dim=1) + positive_bias, (user * negative).sum(dim=1) + negative_bias
        )
        looked_up = (user, positive, negative, positive_bias, negative_bias)
        penalty = sum(values.square().sum() for values in looked_up) / (2 * len(user))
        return loss + self.reg_weight * penalty

    def predict(self, interaction):
        return self.forward(interaction[self.USER_ID], interaction[self.ITEM_ID])

    def full_sort_predict(self, interaction):
        factors, bias = self.item_factors(None)
        return (self.user_factors(interaction[self.USER_ID]) @ factors.T + bias).view(-1)


def _xavier_std(rows: int, columns: int) -> float:
    return (2 / (rows + columns)) ** 0.5
