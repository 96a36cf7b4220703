"""A modality of precomputed vectors: a small trained projector makes one token of each, which the decoder reads.

    soft token = W · norm(vector) + b                    norm: zero mean and unit variance over its values
    prompt     = … <line> <soft token> <end of the turn>

The token takes its place among the decoder's input embeddings, whatever the family, so that its pass goes
through the adapter like any other. A dual encoder has no common decoder: there the projector is the modality's
tower. Without a projector, as in an embedding without adaptation, vectors are their own embeddings.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recbole_sda.errors import SDAError

FILE = "projectors.safetensors"


class VectorProjector(nn.Module):
    """(B, d) → (B, H), at the scale of the tokens' embeddings.

    Args:
        width: d. hidden_size: H.
        scale: root mean square of what comes out at the start.
    """

    def __init__(self, width: int, hidden_size: int, scale: float):
        super().__init__()
        self.linear = nn.Linear(width, hidden_size)
        nn.init.normal_(self.linear.weight, std=scale * width**-0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.linear(F.layer_norm(vectors.float(), vectors.shape[-1:]))


def new_projectors(widths: Mapping[str, int], hidden_size: int, scale: float) -> nn.ModuleDict:
    """One a modality, at random; args: widths: modality → d."""
    return nn.ModuleDict(
        {projector_name(name): VectorProjector(width, hidden_size, scale) for name, width in widths.items()}
    )


def projector_name(modality: str) -> str:
    """A modality may be called ``items`` or ``values``, a module's attribute not."""
    return f"{modality}_projector"


def save_projectors(projectors: nn.ModuleDict, folder: Path) -> None:
    """Beside the adapter that they were trained with."""
    save_file({name: tensor.contiguous() for name, tensor in projectors.state_dict().items()}, folder / FILE)


def load_projectors(projectors: nn.ModuleDict, folder: Path) -> None:
    """Raises: SDAError: they are not there, or of vectors of another width."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise SDAError(f"{path} does not exist, but {', '.join(projectors)} needs its projector; adapt again")
    try:
        projectors.load_state_dict(load_file(path))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise SDAError(f"{path} does not fit the vectors of {', '.join(projectors)}: {reason}") from error


@contextmanager
def soft_tokens(model: nn.Module, positions: Tensor, tokens: Tensor) -> Iterator[None]:
    """Within it, ``model`` sees ``tokens`` (B, H) at ``positions`` (B,) of its input, not what stands there."""

    def place(module, arguments, embeddings: Tensor) -> Tensor:  # (B, T, H)
        rows = torch.arange(len(positions), device=positions.device)
        return embeddings.index_put((rows, positions), tokens.to(embeddings.dtype))

    handle = model.get_input_embeddings().register_forward_hook(place)
    try:
        yield
    finally:
        handle.remove()
