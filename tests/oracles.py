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
