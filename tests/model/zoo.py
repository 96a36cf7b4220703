"""Any model that can use features, small, on a small dataset with one item that nobody trains on."""

import copy
import random
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import init_seed

from recbole_sda.catalog.demo import write_demo
from recbole_sda.config import SDAConfig
from recbole_sda.features import FeatureProvider, FeatureStore, write_store
from recbole_sda.model import ItemFeatures
from recbole_sda.model.slots import SLOTS

ITEMS = 36  # with padding 37, with a mask token 38: no layer is so wide, so what is can only be a row an item
COLD = "P0020"
_ITEM_FIELDS = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "brand"]}

# What a user would have to say, too: item fields of the dataset at hand, sizes that fit a small catalogue.
SETTINGS = {
    "GRU4RecF": {"load_col": _ITEM_FIELDS, "selected_features": ["brand"]},
    "SASRecF": {"load_col": _ITEM_FIELDS, "selected_features": ["brand"]},
    "FDSA": {"load_col": _ITEM_FIELDS, "selected_features": ["brand"]},
    "S3Rec": {"load_col": _ITEM_FIELDS, "item_attribute": "brand"},
    "GRU4RecCPR": {"reranker_CAN_NUM": 10},
    "SASRecCPR": {"reranker_CAN_NUM": 10},
    "NCL": {"num_clusters": 5},
}


def write_dataset(folder: Path) -> None:
    """The demo, but for one item's history: one user bought it, last of all that was bought."""
    write_demo(folder / "demo", items=ITEMS, users=40)
    file = folder / "demo" / "demo.inter"
    rows = pd.read_csv(file, sep="\t", dtype=str)
    _, item, time = rows.columns
    rows = rows[rows[item] != COLD]
    last = rows.iloc[[0]].assign(**{item: COLD, time: str(rows[time].astype(float).max() + 1)})
    pd.concat([rows, last]).to_csv(file, sep="\t", index=False)


class World:
    """One model's configuration, data and a built model."""

    def __init__(self, name: str, data_path: Path, **values):
        defaults = {
            "data_path": str(data_path),
            "epochs": 1,
            "pretrain_epochs": 1,
            "use_gpu": False,
            "train_batch_size": 64,
        }
        wanted = {"metrics": ["Hit", "NDCG", "TailHit", "TailNDCG"], "topk": [10]}
        self.name, self.slots = name, SLOTS[name]
        self.config = SDAConfig(
            name, "demo", config_dict={**defaults, **wanted, **SETTINGS.get(name, {}), **values}
        )
        init_seed(1, reproducibility=True)
        self.dataset = create_dataset(self.config)
        self.train, self.valid, self.test = data_preparation(self.config, self.dataset)
        self.n_items = self.dataset.item_num
        self.cold_item = self.dataset.token2id(self.dataset.iid_field, COLD)
        self.batch, self.scored = next(iter(self.train)), next(iter(self.test))[0]

    def build(self):
        init_seed(1, reproducibility=True)
        return self.config.model_class(self.config, self.train._dataset)

    def build_large(self):
        """With embeddings that matter to loss and scores, and padding at 0: features give it no row of its own."""
        model = self.build()
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                torch.nn.init.normal_(module.weight)
        with torch.no_grad():
            for table in tables_of(model, self.slots):
                table.weight[0] = 0
        return model

    def provider(self, folder: Path, *, missing=(), width=6, modalities=("image", "text")) -> FeatureProvider:
        """Random features in a store of their own."""
        tokens = tuple(self.dataset.field2id_token[self.dataset.iid_field][1:])
        generator = np.random.default_rng(0)
        present = np.ones(len(tokens), dtype=bool)
        present[list(missing)] = False
        folder.mkdir()
        for modality in modalities:
            values = generator.normal(size=(len(tokens), width)) * present[:, None]
            np.save(folder / f"{modality}.npy", values.astype(np.float32))
        write_store(folder, tokens, dict.fromkeys(modalities, present), settings={})
        return FeatureProvider(FeatureStore.open(folder), tokens)

    def learn(self, model) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of the first batch, and gradients by name, with all that is drawn drawn the same."""
        _seed()
        if self.name == "NCL":
            model.e_step()  # as its trainer does before every epoch
        parts = model.train().calculate_loss(self.batch)
        loss = sum(parts) if isinstance(parts, tuple) else parts
        loss.sum().backward()
        return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    @torch.no_grad()
    def score(self, model) -> torch.Tensor:
        """(users, items) of the first test batch, the way RecBole's evaluation takes."""
        model.eval()
        try:
            return model.full_sort_predict(self.scored).view(-1, self.n_items)
        except NotImplementedError:
            pairs = self.scored.repeat_interleave(self.n_items)
            items = torch.arange(self.n_items).repeat(len(self.scored))
            pairs.update(Interaction({self.config["ITEM_ID_FIELD"]: items}))
            return model.predict(pairs).view(-1, self.n_items)

    def score_cold_item(self, stock) -> tuple[torch.Tensor, torch.Tensor]:
        """The users' scores of the item in no history, and with other features of that item."""

        def changed(_, rows):
            other = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(5))
            return rows.index_copy(0, torch.tensor([self.cold_item]), other.unsqueeze(0))

        before, after = with_features(stock, self.slots), with_features(stock, self.slots, changed)
        return self.score(before)[:, self.cold_item], self.score(after)[:, self.cold_item]


def tables_of(model, slots) -> dict[torch.nn.Module, list[str]]:
    """Table → its names."""
    names = {}
    for attribute in slots.tables:
        names.setdefault(getattr(model, attribute), []).append(attribute)
    return names


def with_features(model, slots, changed=lambda name, rows: rows):
    """A copy with ItemFeatures of the same rows as its tables, or of what ``changed`` makes of (name, rows)."""
    model = copy.deepcopy(model)
    for table, names in tables_of(model, slots).items():
        replacement = holding(changed(names[0], table.weight.detach().clone()))
        for name in names:
            setattr(model, name, replacement)
    return model


def holding(rows: torch.Tensor) -> ItemFeatures:
    """An ItemFeatures of the given rows, (rows, d): they are its features, and its projection changes nothing.

    Those beyond the items are its learned rows.
    """
    n_items, dim = ITEMS + 1, rows.shape[1]
    features = rows[:n_items].clone()
    features[0] = 0
    present = torch.arange(n_items) > 0
    table = ItemFeatures(
        {"text": features}, {"text": present}, num_embeddings=len(rows), embedding_dim=dim, std=1.0
    )
    with torch.no_grad():
        table.projection["text"].weight.copy_(torch.eye(dim) * dim**0.5)
        table.extra.copy_(rows[n_items:])
    return table


def _seed() -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
