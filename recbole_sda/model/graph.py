r"""The bipartite graph of the training interactions, and LightGCN's propagation over it.

The adjacency matrix of users and items is :math:`A = \begin{pmatrix} 0 & R \\ R^\top & 0 \end{pmatrix}`. Of
:math:`\hat A = D^{-1/2} A D^{-1/2}` only :math:`\hat R = D_u^{-1/2} R D_i^{-1/2}` has to be kept, and users and
items may carry rows of different widths.

Reference:
    Xiangnan He et al. "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation."
    SIGIR 2020.
"""

import warnings

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# torch says once a process that this layout is in beta; only its products are used here, and they are tested.
with warnings.catch_warnings(action="ignore"):
    torch.sparse_csr_tensor([0, 0], [], [], size=(1, 1))


class BipartiteGraph(nn.Module):
    """Who interacted with what, normalised symmetrically; users and items without any edge have rows of 0.

    Args:
        interactions: (users, items); whatever it holds, a pair is one edge of weight 1.
    """

    def __init__(self, interactions: sp.spmatrix):
        super().__init__()
        matrix = normalised(interactions)
        # A gradient needs the transposed matrix; to transpose anew at every step costs more than the product.
        self.user_item, self.item_user = SparseMatrix(matrix), SparseMatrix(matrix.T)

    def to_users(self, items: Tensor) -> Tensor:
        """(items, width) → (users, width): R̂ times ``items``."""
        return _Product.apply(self.user_item.csr(), self.item_user.csr(), items)

    def to_items(self, users: Tensor) -> Tensor:
        """(users, width) → (items, width): R̂ᵀ times ``users``."""
        return _Product.apply(self.item_user.csr(), self.user_item.csr(), users)

    def propagate(
        self, users: Tensor, items: Tensor, *, n_layers: int, dropout: float = 0.0
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        r"""The mean of layers 0 … L, :math:`\frac{1}{L+1} \sum_l \hat A^l E`, in two parts.

        A row reaches its own side by an even number of steps and the other side by an odd one, so what stems from
        users and what stems from items stay apart. Several item tables, side by side, can therefore share one
        user table, which is propagated once.

        Args:
            users: (users, d).
            items: (items, w).
            n_layers: L, at least 1.
            dropout: share of the values that every layer but the first loses before it goes on.

        Returns:
            For the users, then for the items: the part that stems from ``users``, (n, d), and the part that
            stems from ``items``, (n, w).
        """
        user_layers, item_layers = [users], [items]
        for _ in range(n_layers):
            users, items = self.to_users(items), self.to_items(users)
            users, items = F.dropout(users, dropout), F.dropout(items, dropout)
            user_layers.append(users)
            item_layers.append(items)

        def mean(layers: list[Tensor]) -> Tensor:
            return sum(layers[1:], start=layers[0]) / (n_layers + 1)

        return (
            (mean(user_layers[0::2]), mean(user_layers[1::2])),
            (mean(item_layers[1::2]), mean(item_layers[0::2])),
        )


class SparseMatrix(nn.Module):
    """A constant matrix that follows the model to its device and is in no checkpoint: the dataset has it already.

    Kept in three plain tensors, since torch can neither deep-copy sparse ones of this layout nor broadcast them
    to other processes.
    """

    def __init__(self, matrix: sp.spmatrix):
        super().__init__()
        matrix = sp.csr_matrix(matrix)
        self.shape = matrix.shape
        self.register_buffer("row_starts", torch.from_numpy(matrix.indptr.astype(np.int64)), persistent=False)
        self.register_buffer("columns", torch.from_numpy(matrix.indices.astype(np.int64)), persistent=False)
        self.register_buffer("values", torch.from_numpy(matrix.data), persistent=False)

    def csr(self) -> Tensor:
        """The same memory as a sparse tensor."""
        return torch.sparse_csr_tensor(
            self.row_starts, self.columns, self.values, size=self.shape, check_invariants=False
        )

    def extra_repr(self) -> str:
        rows, columns = self.shape
        return f"{rows}, {columns}, nonzero={len(self.values)}"


def normalised(interactions: sp.spmatrix) -> sp.csr_matrix:
    """R̂ = D_u^-½ R D_i^-½ of the distinct pairs, float32."""
    matrix = sp.coo_matrix(interactions).tocsr()  # sums the duplicates
    matrix.data = np.ones(matrix.nnz)
    users, items = (sp.diags(_inverse_root(matrix.sum(axis=axis))) for axis in (1, 0))
    return (users @ matrix @ items).astype(np.float32)


def _inverse_root(degrees) -> np.ndarray:
    degrees = np.asarray(degrees, dtype=np.float64).ravel()
    return np.divide(1, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)


class _Product(torch.autograd.Function):
    """A sparse matrix times a dense one. The gradient is the transposed matrix's product."""

    @staticmethod
    def forward(ctx, matrix: Tensor, transposed: Tensor, dense: Tensor) -> Tensor:
        ctx.transposed = transposed
        return _multiply(matrix, dense)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return None, None, _multiply(ctx.transposed, gradient)


def _multiply(matrix: Tensor, dense: Tensor) -> Tensor:
    # Sparse products know no half precision, which mixed-precision training would ask of them.
    with torch.autocast(dense.device.type, enabled=False):
        return matrix @ dense.to(matrix.dtype)
