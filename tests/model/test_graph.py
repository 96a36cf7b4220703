"""Propagation over the interactions' graph against a walk from node to node."""

import copy

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from model.walks import lightgcn_loop

from recbole_sda.model import graph as graph_module
from recbole_sda.model.graph import BipartiteGraph, normalised

N_USERS, N_ITEMS = 5, 6
# User 4 and items 0 and 5 have no edge; two pairs stand there twice, one of them with another value.
PAIRS = [(0, 1), (0, 2), (1, 2), (1, 3), (1, 3), (2, 4), (3, 1), (3, 2), (3, 4), (0, 2)]
EDGES = sorted(set(PAIRS))
CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # the graph's weights are float32


def interactions():
    users, items = zip(*PAIRS, strict=True)
    values = np.ones(len(PAIRS))
    values[4] = 7
    return sp.coo_matrix((values, (users, items)), shape=(N_USERS, N_ITEMS))


def rows(count, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=torch.float64, requires_grad=True)


def test_a_pair_is_one_edge_and_its_weight_is_one_over_the_root_of_both_degrees():
    matrix = normalised(interactions()).toarray()
    assert {tuple(pair) for pair in np.argwhere(matrix)} == set(EDGES)
    for user, item in EDGES:
        degrees = sum(u == user for u, _ in EDGES) * sum(i == item for _, i in EDGES)
        assert matrix[user, item] == pytest.approx(degrees**-0.5)


@pytest.mark.parametrize("n_layers", [1, 2, 3, 4])
def test_propagation_equals_the_walk_for_several_item_tables_with_one_user_table(n_layers):
    graph, d = BipartiteGraph(interactions()).double(), 3
    users, items = rows(N_USERS, d), rows(N_ITEMS, 2 * d, seed=1)
    (user_own, user_other), (item_other, item_own) = graph.propagate(users, items, n_layers=n_layers)
    loss, expected_loss = 0, 0
    for table in (slice(0, d), slice(d, None)):
        expected_users, expected_items = lightgcn_loop(EDGES, users, items[:, table], n_layers)
        got = user_own + user_other[:, table], item_other + item_own[:, table]
        torch.testing.assert_close(got[0], expected_users, **CLOSE)
        torch.testing.assert_close(got[1], expected_items, **CLOSE)
        loss = loss + got[0].square().sum() + (got[1] ** 3).sum()
        expected_loss = expected_loss + expected_users.square().sum() + (expected_items**3).sum()
    gradients = torch.autograd.grad(loss, (users, items))
    for gradient, expected in zip(gradients, torch.autograd.grad(expected_loss, (users, items)), strict=True):
        torch.testing.assert_close(gradient, expected, **CLOSE)


def test_dropout_comes_after_each_layer_and_reaches_the_next(monkeypatch):
    masks = []

    def drop(values, probability):
        assert probability == 0.25
        generator = torch.Generator().manual_seed(len(masks))
        masks.append((torch.rand(values.shape, generator=generator) > 0.25).double() / 0.75)
        return values * masks[-1]

    monkeypatch.setattr(graph_module.F, "dropout", drop)
    graph, users, items = BipartiteGraph(interactions()).double(), rows(N_USERS, 3), rows(N_ITEMS, 3, seed=1)
    (user_own, user_other), (item_other, item_own) = graph.propagate(users, items, n_layers=3, dropout=0.25)
    assert len(masks) == 6
    expected = lightgcn_loop(EDGES, users, items, 3, masks=list(zip(masks[0::2], masks[1::2], strict=True)))
    torch.testing.assert_close(user_own + user_other, expected[0], **CLOSE)
    torch.testing.assert_close(item_other + item_own, expected[1], **CLOSE)


def test_nodes_without_an_edge_keep_their_own_first_layer_alone():
    graph, users, items = BipartiteGraph(interactions()).double(), rows(N_USERS, 2), rows(N_ITEMS, 2)
    (user_own, user_other), (item_other, item_own) = graph.propagate(users, items, n_layers=3)
    torch.testing.assert_close(user_own[4], users[4] / 4)
    torch.testing.assert_close(item_own[5], items[5] / 4)
    assert not user_other[4].any()
    assert not item_other[5].any()


def test_a_graph_without_any_edge_is_a_graph():
    graph = BipartiteGraph(sp.coo_matrix((N_USERS, N_ITEMS)))
    assert torch.equal(graph.to_users(torch.ones(N_ITEMS, 2)), torch.zeros(N_USERS, 2))


def test_it_is_in_no_checkpoint_and_can_be_copied_and_cast():
    graph = BipartiteGraph(interactions())
    assert not graph.state_dict()
    other = copy.deepcopy(graph).double()
    items = rows(N_ITEMS, 2)
    torch.testing.assert_close(other.to_users(items).float(), graph.to_users(items.float()))


def test_mixed_precision_multiplies_in_full():
    graph, items = BipartiteGraph(interactions()), rows(N_ITEMS, 2).float().detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = items.bfloat16().requires_grad_()
        users = graph.to_users(half)
    assert users.dtype == torch.float32
    users.sum().backward()
    assert half.grad.dtype == torch.bfloat16
    torch.testing.assert_close(users, graph.to_users(half.float()))
