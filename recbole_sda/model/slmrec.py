r"""SLMRec: a graph recommender with a channel for each modality, and self-supervision between the channels.

Reference:
    Zhulin Tao et al. "Self-supervised Learning for Multimedia Recommendation." IEEE Transactions on Multimedia
    2022.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.model.init import xavier_uniform_initialization
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_sda.errors import SDAError
from recbole_sda.model.attach import FeatureSlot
from recbole_sda.model.graph import BipartiteGraph

SSL_TASKS = ("FAC", "FD", "FM", "FD+FM", "none")


class SLMRec(GeneralRecommender):
    r"""SLMRec propagates users and items over the graph of the training interactions, once for each channel.

    The channels are the item IDs and one for each modality that features bring. All share the user table;
    a channel's item side is the ID table, or a linear layer over the L2-normalised features. Propagation is
    LightGCN's, the mean of layers 0 … L. The channels of a user (of an item) are concatenated and fused:

    .. math::
        u = F_u [u_{id}; u_1; \dots; u_M], \quad i = F_i [i_{id}; i_1; \dots; i_M], \quad \hat x_{ui} = u^\top i

    The main loss is the cross entropy of :math:`\cos(u, i) / \tau` within the batch: the pair's item among the
    items of all pairs. ``ssl_task`` adds, with weight ``ssl_alpha`` and temperature :math:`\tau_s` (``ssl_temp``),
    a loss on the distinct users and items of the batch:

    * ``FAC``: an item's channels find each other. With the channels after propagation, modalities in the order of
      ``modalities``, and matrices :math:`G`,

      .. math::
          x = G_1 i_{id}, \quad L_1 = CE(x (G_2 i_1)^\top / \tau_s, I), \qquad
          x'' = G_4 G_3 x \in R^{d/2}, \quad L_m = CE(x'' (G_{m+3} i_m)^\top / \tau_s, I) \text{ for } m \ge 2

      and the loss is their sum: for image and text the paper's two terms, for one modality the first alone, for
      more one on the reduced space each.
    * ``FD``: two views, each propagated with dropout (``ssl_dropout``) after every layer and fused; InfoNCE of
      their cosines, of users and of items.
    * ``FM``: two views, each without the item side of one channel, drawn anew at every step and never the same
      in both; the same InfoNCE.
    * ``FD+FM``: two views with both.

    Without features the ID channel is alone: ``FAC`` and ``FM``, which compare channels, are left out.
    """

    # Negatives come from the batch, so none are drawn. Should somebody have them drawn nevertheless, they are
    # to stand beside the positives; POINTWISE would mix them in.
    input_type = InputType.PAIRWISE
    idle_keys: ClassVar = {
        "use_item_id": "keeps item IDs apart from features",
        "fusion": "has a channel for each modality",
    }

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.check_config(config)
        self.width = config["embedding_size"]
        self.n_layers = config["n_layers"]
        self.temperature = config["temperature"]
        self.ssl_task = config["ssl_task"]
        self.ssl_alpha = config["ssl_alpha"]
        self.ssl_temp = config["ssl_temp"]
        self.ssl_dropout = config["ssl_dropout"]

        self.graph = BipartiteGraph(dataset.inter_matrix(form="coo"))
        # The same in every process: DistributedDataParallel need not send it at every step.
        self._ddp_params_and_buffers_to_ignore = [f"graph.{name}" for name, _ in self.graph.named_buffers()]
        self.user_embedding = nn.Embedding(self.n_users, self.width)
        self.item_embedding = nn.Embedding(self.n_items, self.width)
        self.apply(xavier_uniform_initialization)
        self.restore_user_e = self.restore_item_e = self._restored_state = None
        std = float(self.item_embedding.weight.detach().std())
        self.item_content = FeatureSlot(self.n_items, self.width, std, by_modality=True, normalize=True)

    @staticmethod
    def check_config(config) -> None:
        """Raises: SDAError: a setting of the model is out of bounds."""
        if config["ssl_task"] not in SSL_TASKS:
            raise SDAError(f"ssl_task={config['ssl_task']!r} is unknown; choose {', '.join(SSL_TASKS)}")
        for key, least in (("embedding_size", 2), ("n_layers", 1)):
            if type(config[key]) is not int or config[key] < least:
                raise SDAError(f"{key}={config[key]!r} must be a whole number of at least {least}")
        for key, inside, bounds in (
            ("temperature", lambda value: value > 0, "greater than 0"),
            ("ssl_temp", lambda value: value > 0, "greater than 0"),
            ("ssl_alpha", lambda value: value >= 0, "of at least 0"),
            ("ssl_dropout", lambda value: 0 <= value < 1, "in [0, 1)"),
        ):
            if type(config[key]) not in (int, float) or not inside(config[key]):
                raise SDAError(f"{key}={config[key]!r} must be a number {bounds}")

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "item_content":
            # Features come after the model is built, and how many channels they bring shapes what follows.
            self._build_heads(() if isinstance(value, FeatureSlot) else tuple(value))

    def _build_heads(self, modalities: tuple[str, ...]) -> None:
        self.modalities = modalities
        channels = 1 + len(modalities)
        heads = {name: nn.Linear(channels * self.width, self.width) for name in ("user_fusion", "item_fusion")}
        heads["fac"] = FACHeads(self.width, len(modalities)) if "FAC" in self.tasks else None
        for name, head in heads.items():
            device = self.user_embedding.weight.device
            setattr(self, name, head and head.to(device).apply(xavier_uniform_initialization))

    @property
    def tasks(self) -> set[str]:
        """The self-supervised tasks that there are channels for."""
        chosen = set(self.ssl_task.split("+"))
        return chosen & ({"FAC", "FD", "FM"} if self.modalities else {"FD"})

    def forward(self) -> tuple[Tensor, Tensor]:
        """Every user, (n_users, d), and every item, (n_items, d), fused."""
        return self._fuse(self._propagate())

    def calculate_loss(self, interaction):
        self._forget()
        user, item = interaction[self.USER_ID], interaction[self.ITEM_ID]
        sides = self._propagate()
        loss = info_nce(*self._fuse(sides, user, item), self.temperature)
        return loss + self.ssl_alpha * self._ssl_loss(sides, user, item) if self.tasks else loss

    def predict(self, interaction):
        users, items = self._all_embeddings()
        return (users[interaction[self.USER_ID]] * items[interaction[self.ITEM_ID]]).sum(dim=1)

    def full_sort_predict(self, interaction):
        users, items = self._all_embeddings()
        return (users[interaction[self.USER_ID]] @ items.T).view(-1)

    def train(self, mode: bool = True):
        self._forget()
        return super().train(mode)

    def _all_embeddings(self) -> tuple[Tensor, Tensor]:
        """What ``forward`` returns; in evaluation computed once for each state of the parameters."""
        if torch.is_grad_enabled():
            return self.forward()
        # RecBole loads the best checkpoint into a model that is in evaluation mode already.
        state = tuple(parameter._version for parameter in self.parameters())
        if self._restored_state != state:
            self.restore_user_e, self.restore_item_e = self.forward()
            self._restored_state = state
        return self.restore_user_e, self.restore_item_e

    def _forget(self) -> None:
        self.restore_user_e = self.restore_item_e = self._restored_state = None

    def _apply(self, function, recurse=True):
        self._forget()
        return super()._apply(function, recurse)

    def _propagate(self, dropout: float = 0.0):
        """Users' and items' parts after propagation, as :meth:`BipartiteGraph.propagate` gives them."""
        item_sides = [self.item_embedding.weight]
        item_sides += [self.item_content[modality].weight for modality in self.modalities]
        users = self.user_embedding.weight
        if dropout:  # in each channel a user loses other values
            users = users.repeat(1, len(item_sides))
        return self.graph.propagate(users, torch.cat(item_sides, dim=1), n_layers=self.n_layers, dropout=dropout)

    def _channels(self, side, ids: Tensor | None = None, without: int | None = None) -> Tensor:
        """(n, channels, d): rows of one of the two sides that :meth:`_propagate` returns.

        Args:
            ids: which rows; all if None.
            without: a channel whose item side is taken for 0. Propagation is linear, so it may be done here.
        """
        from_users, from_items = (part if ids is None else part[ids] for part in side)
        from_items = from_items.unflatten(1, (-1, self.width))  # (n, channels, d)
        if without is not None:
            kept = torch.arange(from_items.shape[1], device=from_items.device) != without
            from_items = from_items * kept.unsqueeze(1)
        return from_users.unflatten(1, (-1, self.width)) + from_items

    def _fuse(self, sides, user: Tensor | None = None, item: Tensor | None = None, without: int | None = None):
        """Users, (n, d), and items, (n, d)."""
        users, items = self._channels(sides[0], user, without), self._channels(sides[1], item, without)
        return self.user_fusion(users.flatten(1)), self.item_fusion(items.flatten(1))

    def _ssl_loss(self, sides, user: Tensor, item: Tensor) -> Tensor:
        user, item = user.unique(), item.unique()
        if "FAC" in self.tasks:
            return self.fac(self._channels(sides[1], item), self.ssl_temp)
        left_out = torch.randperm(1 + len(self.modalities))[:2].tolist() if "FM" in self.tasks else (None, None)
        views = []
        for channel in left_out:
            view = self._propagate(self.ssl_dropout) if "FD" in self.tasks else sides
            views.append(self._fuse(view, user, item, without=channel))
        return sum(info_nce(first, second, self.ssl_temp) for first, second in zip(*views, strict=True))


class FACHeads(nn.Module):
    """FAC's matrices and its loss: see :class:`SLMRec`.

    Args:
        width: d.
        modalities: how many, at least 1.
    """

    def __init__(self, width: int, modalities: int):
        super().__init__()
        reduced = width // 2
        self.item_id = nn.Linear(width, width, bias=False)  # G₁
        self.first = nn.Linear(width, width, bias=False)  # G₂
        self.reduction = nn.Sequential()
        self.others = nn.ModuleList()
        if modalities > 1:
            self.reduction.append(nn.Linear(width, width, bias=False))  # G₃
            self.reduction.append(nn.Linear(width, reduced, bias=False))  # G₄
            self.others.extend(nn.Linear(width, reduced, bias=False) for _ in range(modalities - 1))  # G₅ …

    def forward(self, channels: Tensor, temperature: float) -> Tensor:
        """channels: (items, 1 + modalities, d), IDs first. Returns: a scalar."""
        item_id, first, *others = channels.unbind(dim=1)
        x = self.item_id(item_id)
        loss = matching_loss(x, self.first(first), temperature)
        reduced = self.reduction(x)
        for head, other in zip(self.others, others, strict=True):
            loss = loss + matching_loss(reduced, head(other), temperature)
        return loss


def matching_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """CE(first · secondᵀ / τ, I): each row of ``first`` has to find its own among those of ``second``."""
    logits = (first / temperature) @ second.T
    return F.cross_entropy(logits, torch.arange(len(first), device=first.device))


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """:func:`matching_loss` of the cosines."""
    return matching_loss(F.normalize(first, dim=1), F.normalize(second, dim=1), temperature)
