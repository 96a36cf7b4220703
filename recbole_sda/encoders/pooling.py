"""From hidden states to one vector."""

from torch import Tensor


def pool_mean(hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over all tokens that are not padding.

    Args:
        hidden_states: (B, T, H), the last layer's.
        attention_mask: (B, T), 1 for a token and 0 for padding.

    Returns:
        (B, H) float32.
    """
    mask = attention_mask.unsqueeze(-1).float()  # (B, T, 1)
    return (hidden_states.float() * mask).sum(dim=1) / mask.sum(dim=1)
