"""Slow, plain formulas that the fast code is held against. One function a formula, no cleverness."""

import torch


def moda_loop(
    h, W0, *, A, B, gate_weight, embedding, modality, lora_alpha, bias=None, gate_factor=1.0
) -> torch.Tensor:
    """y = W₀h + b + (α/r)·Σ_i gᵐ_i·B_i A_i h with gᵐ = softmax(W_g·Emb_m): MoDA, one expert at a time.

    Args:
        h: (..., in). W0: (out, in). A: (r, in). B: (out, r).
        gate_weight: (N_e, d). embedding: (M, d). modality: position in the embedding table.
        gate_factor: 1, or N_e under `gate_scale: num_experts`.
    """
    num_experts, r = gate_weight.shape[0], A.shape[0]
    width = r // num_experts
    g = torch.softmax(gate_weight @ embedding[modality], dim=0)
    y = h @ W0.T
    if bias is not None:
        y = y + bias
    for i in range(num_experts):
        A_i = A[i * width : (i + 1) * width]  # (r/N_e, in)
        B_i = B[:, i * width : (i + 1) * width]  # (out, r/N_e)
        y = y + lora_alpha / r * gate_factor * g[i] * (h @ A_i.T @ B_i.T)
    return y


def cosine_rows(rows, *, center) -> list:
    """Unit rows, one at a time, the mean row taken away first when `center`."""
    mean = sum(rows) / len(rows)
    rows = [row - mean if center else row for row in rows]
    return [row / row.square().sum().sqrt() for row in rows]


def softmax_list(logits) -> list:
    powers = [torch.exp(logit) for logit in logits]
    return [power / sum(powers) for power in powers]


def cmsa_loop(
    first,
    second,
    *,
    temperature,
    center,
    teacher="mean",
    teacher_temperature=None,
    stop_gradient=True,
) -> torch.Tensor:
    """L = ½·mean_i [ KL(P_i‖Qᵛ_i) + KL(P_i‖Qᵗ_i) ], S = (X̂X̂ᵀ + ŶŶᵀ)/2, P = softmax_row(S/τ_t): pair by pair.

    Under `per_modality` P is X̂X̂ᵀ's for the first direction and ŶŶᵀ's for the second.
    """
    x, y = cosine_rows(first, center=center), cosine_rows(second, center=center)
    teacher_temperature = temperature if teacher_temperature is None else teacher_temperature
    count, loss = len(x), 0.0
    for i in range(count):
        own_x = [x[i] @ x[j] for j in range(count)]
        own_y = [y[i] @ y[j] for j in range(count)]
        if teacher == "mean":
            own_x = own_y = [(a + b) / 2 for a, b in zip(own_x, own_y, strict=True)]
        students = [x[i] @ y[j] for j in range(count)], [y[i] @ x[j] for j in range(count)]
        for structure, student in zip((own_x, own_y), students, strict=True):
            target = softmax_list([s / teacher_temperature for s in structure])
            guess = softmax_list([s / temperature for s in student])
            for p, q in zip(target, guess, strict=True):
                p = p.detach() if stop_gradient else p
                loss = loss + p * (torch.log(p) - torch.log(q)) / (2 * count)
    return loss


def reference_loop(first, second, temperature) -> torch.Tensor:
    """L = −1/(2B)·Σ_ij [P_ij log softmax(Z)_ij + P_ji log softmax(Zᵀ)_ij], Z = XYᵀ/τ, P = softmax(τ(XXᵀ + YYᵀ)/2).

    The public code's CMSA, pair by pair: no unit rows, no centring, and both the teacher and τ learn.
    """
    count, loss = len(first), 0.0
    teacher = [
        softmax_list(
            [temperature * (first[i] @ first[j] + second[i] @ second[j]) / 2 for j in range(count)]
        )
        for i in range(count)
    ]
    for i in range(count):
        to_second = softmax_list([first[i] @ second[j] / temperature for j in range(count)])
        to_first = softmax_list([second[i] @ first[j] / temperature for j in range(count)])
        for j in range(count):
            loss = loss - teacher[i][j] * torch.log(to_second[j]) / (2 * count)
            loss = loss - teacher[j][i] * torch.log(to_first[j]) / (2 * count)
    return loss


def perplexity_loop(logits) -> torch.Tensor:
    """exp of the entropy of the softmax."""
    return torch.exp(-sum(p * torch.log(p) for p in softmax_list(logits) if p > 0))


def info_nce_loop(first, second, *, temperature, center) -> torch.Tensor:
    """½[CE(X̂Ŷᵀ/τ, I) + CE(ŶX̂ᵀ/τ, I)], pair by pair."""
    x, y = cosine_rows(first, center=center), cosine_rows(second, center=center)
    count, loss = len(x), 0.0
    for i in range(count):
        to_second = softmax_list([x[i] @ y[j] / temperature for j in range(count)])
        to_first = softmax_list([y[i] @ x[j] / temperature for j in range(count)])
        loss = loss - (torch.log(to_second[i]) + torch.log(to_first[i])) / (2 * count)
    return loss


def rank_loop(first, second, *, center) -> list[int]:
    """For every row of `first`, how many rows of `second` are at least as near as its own."""
    x, y = cosine_rows(first, center=center), cosine_rows(second, center=center)
    return [sum(bool(x[i] @ y[j] >= x[i] @ y[i]) for j in range(len(y))) for i in range(len(x))]


def pool_mean_loop(hidden_states, attention_mask) -> torch.Tensor:
    """For every sequence the mean of the states whose mask is 1, token by token."""
    pooled = []
    for states, mask in zip(hidden_states, attention_mask, strict=True):
        kept = [state for state, here in zip(states, mask, strict=True) if here]
        pooled.append(sum(kept) / len(kept))
    return torch.stack(pooled)
