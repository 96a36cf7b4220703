"""Frozen features times learned weights, wherever the features lie and however many they are."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recbole_sda.features import FeatureStore

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh, "none": nn.Identity}
# A processor's chunk stays in its cache: half precision then costs a tenth more time than single.
CHUNK_BYTES, LARGE_CHUNK_BYTES = {"cpu": 2**22}, 2**28


class MappedTable:
    """A prepared table that stays on the disk; reads like a tensor of its rows.

    Args:
        store: of :func:`~recbole_sda.features.reduction.prepare_features`; its row is the item id.
    """

    def __init__(self, store: FeatureStore, modality: str):
        self.store, self.modality = store, modality
        self.shape = (len(store), store.width(modality))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """(n, width): a copy of a slice, or of the rows of some ids."""
        if isinstance(rows, Tensor):
            return torch.from_numpy(self.store.take(self.modality, rows.cpu().numpy()))
        return torch.from_numpy(self.store.values(self.modality)[rows].copy())


class FrozenProduct(torch.autograd.Function):
    """values @ weightᵀ for values that are not learned.

    Both passes read the values in chunks, moved to the weight's device and type, so a table in half precision,
    on the device or on the disk, is never copied whole, and nothing of it is kept for the backward pass.
    """

    @staticmethod
    def forward(ctx, weight: Tensor, values: "Tensor | MappedTable") -> Tensor:
        """weight: (d, width). values: (n, width). Returns: (n, d), in autocast's type where that is on."""
        kind = weight.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        ctx.values, ctx.dtype, ctx.weight_dtype = values, dtype, weight.dtype
        product = torch.empty(len(values), len(weight), dtype=dtype, device=weight.device)
        transposed = weight.to(dtype).T
        for rows, chunk in _chunks(values, weight.device, dtype):
            product[rows] = chunk @ transposed
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        shape = gradient.shape[1], ctx.values.shape[1]
        total = torch.zeros(shape, dtype=ctx.weight_dtype, device=gradient.device)
        for rows, chunk in _chunks(ctx.values, gradient.device, ctx.dtype):
            total += gradient[rows].T @ chunk
        return total, None


def _chunks(values: "Tensor | MappedTable", device: torch.device, dtype: torch.dtype):
    """(slice, its rows on the device and in the type), one after another."""
    ready = isinstance(values, Tensor) and (values.device, values.dtype) == (device, dtype)
    size = CHUNK_BYTES.get(device.type, LARGE_CHUNK_BYTES)
    step = max(len(values), 1) if ready else max(1, size // (values.shape[1] * dtype.itemsize))
    for start in range(0, len(values), step):
        rows = slice(start, min(start + step, len(values)))
        yield rows, values[rows].to(device, dtype)


class ScaledLinear(nn.Module):
    """x → (x Wᵀ) · scale + b with W drawn at ``std``.

    Args:
        scale: 1/√width unless given. For x with unit variance a row then starts at the deviation of W. It is also
            what decides how far one step of Adam, about the learning rate in every entry of W, moves a row: up to
            scale · Σ_j |x_j|, which grows as √width; in a table it is the learning rate.
    """

    def __init__(self, width: int, dim: int, *, std: float, bias: bool = False, scale: float | None = None):
        super().__init__()
        self.scale = 1 / math.sqrt(width) if scale is None else scale
        self.weight = nn.Parameter(torch.randn(dim, width) * std)
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, values: Tensor) -> Tensor:
        return F.linear(values, self.weight * self.scale, self.bias)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, bias={self.bias is not None}"


class FrozenLinear(ScaledLinear):
    """The same of a frozen table, each row divided by its length if lengths are given."""

    def forward(self, values: "Tensor | MappedTable", lengths: Tensor | None = None) -> Tensor:
        """values: (n, width). lengths: (n, 1). Returns: (n, d)."""
        rows = FrozenProduct.apply(self.weight * self.scale, values)
        rows = rows if lengths is None else rows / lengths
        return rows if self.bias is None else rows + self.bias


class FrozenMLP(nn.Module):
    """Linear, activation, linear of a frozen table."""

    def __init__(
        self, width: int, hidden_size: int, dim: int, *, std: float, activation: str, scale: float | None = None
    ):
        super().__init__()
        self.first = FrozenLinear(width, hidden_size, std=1.0, bias=True, scale=scale)
        self.activation = ACTIVATIONS[activation]()
        self.last = ScaledLinear(hidden_size, dim, std=std)

    def forward(self, values: "Tensor | MappedTable", lengths: Tensor | None = None) -> Tensor:
        return self.last(self.activation(self.first(values, lengths)))


def row_lengths(values: "Tensor | MappedTable") -> Tensor:
    """(n, 1) float32: the L2 norm of every row, 1 where the row is 0."""
    device = values.device if isinstance(values, Tensor) else torch.device("cpu")
    lengths = torch.cat([chunk.norm(dim=1, keepdim=True) for _, chunk in _chunks(values, device, torch.float32)])
    return lengths.masked_fill(lengths == 0, 1)
