"""SLMRec's formulas, slowly: from node to node, from pair to pair."""

import math

import torch


def lightgcn_loop(edges, users, items, n_layers, masks=None):
    """The mean of layers 0 … L, one node and one neighbour at a time.

    Args:
        edges: distinct (user, item).
        users, items: (n, d).
        masks: for each layer the factors of users and of items after it, (n, d) each.
    """
    of_user = {u: [i for user, i in edges if user == u] for u in range(len(users))}
    of_item = {i: [u for u, item in edges if item == i] for i in range(len(items))}
    layers = [(users, items)]
    for layer in range(n_layers):
        users, items = layers[-1]
        next_users = [
            sum((items[i] / math.sqrt(len(of_user[u]) * len(of_item[i])) for i in of_user[u]), 0 * users[u])
            for u in range(len(users))
        ]
        next_items = [
            sum((users[u] / math.sqrt(len(of_user[u]) * len(of_item[i])) for u in of_item[i]), 0 * items[i])
            for i in range(len(items))
        ]
        next_users, next_items = torch.stack(next_users), torch.stack(next_items)
        if masks is not None:
            next_users, next_items = next_users * masks[layer][0], next_items * masks[layer][1]
        layers.append((next_users, next_items))
    return tuple(sum(side) / (n_layers + 1) for side in zip(*layers, strict=True))


def cross_entropy_loop(first, second, temperature):
    """−mean_i log softmax_j(first_i · second_j / τ)_i."""
    loss = 0
    for i in range(len(first)):
        powers = [torch.exp(first[i] @ second[j] / temperature) for j in range(len(second))]
        loss = loss - torch.log(powers[i] / sum(powers)) / len(first)
    return loss


def cosine_cross_entropy_loop(first, second, temperature):
    first, second = ([row / row.square().sum().sqrt() for row in rows] for rows in (first, second))
    return cross_entropy_loop(first, second, temperature)


def fuse_loop(channels, fusion):
    """F [c_0; c_1; …] + bias for each node. channels: one (n, d) each. fusion: a linear layer."""
    return torch.stack([fusion.weight @ torch.cat(rows) + fusion.bias for rows in zip(*channels, strict=True)])


def fac_loop(channels, heads, temperature):
    """x = G₁i_id, L₁ = CE(x(G₂i_1)ᵀ/τ, I); x'' = G₄G₃x, L_m = CE(x''(G_{m+3} i_m)ᵀ/τ, I): their sum.

    Args:
        channels: the items' channels after propagation, IDs first, (n, d) each.
        heads: the model's.
    """
    item_id, first, *others = channels
    x = torch.stack([heads.item_id.weight @ row for row in item_id])
    loss = cross_entropy_loop(x, torch.stack([heads.first.weight @ row for row in first]), temperature)
    if not others:
        return loss
    reduce_first, reduce_second = heads.reduction
    reduced = torch.stack([reduce_second.weight @ (reduce_first.weight @ row) for row in x])
    for head, other in zip(heads.others, others, strict=True):
        loss = loss + cross_entropy_loop(reduced, torch.stack([head.weight @ r for r in other]), temperature)
    return loss
