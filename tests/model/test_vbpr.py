"""VBPR against its formula, written out for one user and one item at a time."""

from types import SimpleNamespace

import pytest
import torch
from recbole.data.interaction import Interaction
from torch import nn

from recbole_sda.model import VBPR, FeatureSlot, ItemFeatures

N_USERS, N_ITEMS, WIDTH = 6, 9, 4


def build(*, content=True, use_bias=True):
    config = {
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "NEG_PREFIX": "neg_",
        "embedding_size": WIDTH,
        "use_bias": use_bias,
        "reg_weight": 0.01,
        "device": torch.device("cpu"),
    }
    dataset = SimpleNamespace(num=lambda field: {"user_id": N_USERS, "item_id": N_ITEMS}[field])
    torch.manual_seed(0)
    model = VBPR(config, dataset)
    if content:
        features = {"text": torch.randn(N_ITEMS, 7)}
        features["text"][0] = 0
        present = {"text": torch.arange(N_ITEMS) > 0}
        for slot in ("item_content", "item_content_bias"):
            table = getattr(model, slot)
            replacement = ItemFeatures(
                features,
                present,
                num_embeddings=table.num_embeddings,
                embedding_dim=table.embedding_dim,
                std=table.std,
            )
            setattr(model, slot, replacement)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def plain_score(model, user, item):
    """x̂_ui = β_i + γ_uᵀγ_i + θ_uᵀ(E f_i) + β'ᵀf_i."""
    score = model.user_embedding.weight[user] @ model.item_embedding.weight[item]
    if model.use_bias:
        score = score + model.item_bias.weight[item, 0]
    if isinstance(model.item_content, FeatureSlot):
        return score
    feature = model.item_content.features_text[item] / 7**0.5
    content = model.item_content.projection["text"].weight @ feature + model.item_content.offset
    score = score + model.user_content.weight[user] @ (content * (item != 0))
    if model.use_bias:
        slope, offset = model.item_content_bias.projection["text"].weight, model.item_content_bias.offset
        score = score + ((slope @ feature + offset) * (item != 0)).squeeze()
    return score


CASES = [
    pytest.param({"content": content, "use_bias": bias}, id=f"content={content}, use_bias={bias}")
    for content in (True, False)
    for bias in (True, False)
]


@pytest.mark.parametrize("options", CASES)
def test_scores_equal_the_formula_pair_by_pair(options):
    model = build(**options).eval()
    users = torch.tensor([1, 5, 2])
    full = model.full_sort_predict(Interaction({"user_id": users})).view(3, N_ITEMS)
    for row, user in enumerate(users.tolist()):
        for item in range(N_ITEMS):
            expected = plain_score(model, user, item)
            torch.testing.assert_close(full[row, item], expected)
            pair = Interaction({"user_id": torch.tensor([user]), "item_id": torch.tensor([item])})
            torch.testing.assert_close(model.predict(pair)[0], expected)


@pytest.mark.parametrize("options", CASES)
def test_the_loss_is_bpr_with_the_penalty_of_the_batch(options):
    model = build(**options)
    users, positives, negatives = [1, 2, 5], [3, 4, 8], [5, 1, 2]
    batch = {"user_id": users, "item_id": positives, "neg_item_id": negatives}
    loss = model.calculate_loss(Interaction({name: torch.tensor(ids) for name, ids in batch.items()}))

    expected = torch.zeros(())
    for user, positive, negative in zip(users, positives, negatives, strict=True):
        difference = plain_score(model, user, positive) - plain_score(model, user, negative)
        expected = expected - torch.log(torch.sigmoid(difference)) / 3
    torch.testing.assert_close(loss - _penalty(model, users, positives, negatives), expected, rtol=1e-4, atol=1e-4)


def _penalty(model, users, positives, negatives):
    """Half the squared norm of everything that the batch looked up, a user."""
    total = sum(model.user_embedding.weight[u].square().sum() for u in users)
    content = not isinstance(model.item_content, FeatureSlot)
    if content:
        total = total + sum(model.user_content.weight[u].square().sum() for u in users)
    for item in positives + negatives:
        total = total + model.item_embedding.weight[item].square().sum()
        if content:
            total = total + model.item_content.weight[item].square().sum()
        if model.use_bias:
            bias = model.item_bias.weight[item, 0]
            bias = bias + model.item_content_bias.weight[item, 0] if content else bias
            total = total + bias.square()
    return 0.01 * total / (2 * len(users))


def test_without_biases_it_is_the_product_of_two_concatenations():
    """p_u ∈ R^{2d}, q_i = [id_i; W[t_i; v_i] + b], x̂ = p_u · q_i, for two modalities side by side."""
    model = build(content=False, use_bias=False)
    features = {name: torch.randn(N_ITEMS, width) for name, width in (("text", 7), ("image", 5))}
    for values in features.values():
        values[0] = 0
    present = {name: torch.arange(N_ITEMS) > 0 for name in features}
    table = ItemFeatures(features, present, num_embeddings=N_ITEMS, embedding_dim=WIDTH, std=1.0)
    model.item_content = table
    nn.init.normal_(table.offset)
    W = torch.cat([(projection.weight * projection.scale) for projection in table.projection.values()], dim=1)
    full = model.full_sort_predict(Interaction({"user_id": torch.tensor([2])}))
    for item in range(1, N_ITEMS):
        q = torch.cat([features["text"][item], features["image"][item]])
        q = torch.cat([model.item_embedding.weight[item], W @ q + table.offset])
        p = torch.cat([model.user_embedding.weight[2], model.user_content.weight[2]])
        torch.testing.assert_close(full[item], p @ q)


def test_a_bias_that_is_switched_off_does_not_score():
    model = build(use_bias=False).eval()
    users = Interaction({"user_id": torch.tensor([1])})
    before = model.full_sort_predict(users).detach()
    nn.init.normal_(model.item_bias.weight)
    for parameter in model.item_content_bias.parameters():
        nn.init.normal_(parameter)
    assert torch.equal(model.full_sort_predict(users).detach(), before)


def test_training_projects_only_the_items_of_the_batch():
    model = build()
    seen = []
    model.item_content.projection["text"].register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    batch = {"user_id": [1, 2], "item_id": [3, 4], "neg_item_id": [5, 6]}
    model.calculate_loss(Interaction({name: torch.tensor(ids) for name, ids in batch.items()}))
    assert seen == [4]


def test_the_catalogue_is_projected_once_an_evaluation():
    model = build().eval()
    seen = []
    model.item_content.projection["text"].register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    with torch.no_grad():
        for user in range(1, 5):
            model.full_sort_predict(Interaction({"user_id": torch.tensor([user])}))
    assert seen == [N_ITEMS]
