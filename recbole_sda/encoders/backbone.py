"""A model as an encoder: items of one modality in, one vector an item out."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from recbole_sda.adapters import routing
from recbole_sda.encoders.collator import Collator
from recbole_sda.encoders.families import Family
from recbole_sda.encoders.hidden_states import pooled_embedding
from recbole_sda.encoders.pooling import Pooling
from recbole_sda.encoders.prompts import Prompts
from recbole_sda.encoders.vectors import new_projectors, projector_name, soft_tokens


class Backbone(nn.Module):
    """A model with its processor, bare or inside a PEFT adapter.

    Args:
        model: the transformers model, or a ``PeftModel`` around it.
        collator: from items to the model's inputs.
        pooling: from hidden states to an embedding.

    Attributes:
        projectors: modality → :class:`VectorProjector`, of modalities of vectors that are adapted.
        hidden_size: width of the hidden states, of a dual encoder in the space that its towers share.
        embedding_size: width of what :meth:`forward` gives.
    """

    def __init__(self, model: nn.Module, collator: Collator, pooling: Pooling):
        super().__init__()
        self.model, self.collator = model, collator
        self.projectors = self._first_projectors = nn.ModuleDict()
        family = collator.family
        self.pooling = pooling.resolve(family)
        self.hidden_size = family.width
        self.embedding_size = pooling.dimension or family.width

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def family(self) -> Family:
        return self.collator.family

    @property
    def processor(self):
        return self.collator.processor

    @property
    def prompts(self) -> Prompts:
        return self.collator.prompts

    @property
    def kinds(self) -> dict[str, str]:
        """modality name → kind"""
        return self.collator.kinds

    @property
    def texts_cut(self) -> int:
        """How many texts were longer than the model's limit since this was made."""
        return self.collator.texts_cut

    def text_line(self, modality: str, fields: Mapping[str, str]) -> str:
        """See :meth:`Collator.text_line`."""
        return self.collator.text_line(modality, fields)

    def encode_texts(self, modality: str, fields: Sequence[Mapping[str, str]]) -> list[list[int]]:
        """See :meth:`Collator.encode_texts`."""
        return self.collator.encode_texts(modality, fields)

    def pad(self, ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """See :meth:`Collator.pad`."""
        return self.collator.pad(ids)

    def count_tokens(self, modality: str, sizes: np.ndarray) -> np.ndarray:
        """See :meth:`Collator.count_tokens`."""
        return self.collator.count_tokens(modality, sizes)

    def collate(
        self, modality: str, fields: Sequence[Mapping[str, str]], files: Sequence = ()
    ) -> dict[str, Tensor]:
        """See :meth:`Collator.collate`."""
        return self.collator.collate(modality, fields, files)

    def forward(self, modality: str, inputs: Mapping[str, Tensor]) -> Tensor:
        """Embed a batch.

        Args:
            inputs: from :meth:`collate`.

        Returns:
            (B, embedding_size) float32; vectors without a projector as they are, (B, d).
        """
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        kind = self.kinds[modality]
        if kind == "vectors":
            return self._embed_vectors(modality, inputs)
        with routing(modality):
            pooled = pooled_embedding(self._bare(), self.family, kind, inputs, self.pooling)
        return pooled[:, : self.embedding_size]

    def add_projectors(self, widths: Mapping[str, int]) -> None:
        """Give modalities of vectors a trainable projector each; args: widths: modality → d."""
        scale = 1.0
        if self.family.shared:  # that of the tokens among which theirs will stand
            scale = float(self._bare().get_input_embeddings().weight.float().square().mean().sqrt())
        self.projectors = new_projectors(widths, self.hidden_size, scale).to(self.device)
        self._first_projectors = deepcopy(self.projectors).requires_grad_(False)

    @contextmanager
    def before_adaptation(self) -> Iterator[None]:
        """Within it, the backbone is as it was: no adapter, and the projectors as they began."""
        trained = self.projectors
        self.projectors = self._first_projectors
        try:
            with self.model.disable_adapter():
                yield
        finally:
            self.projectors = trained

    def _embed_vectors(self, modality: str, inputs: dict[str, Tensor]) -> Tensor:
        vectors, positions = inputs.pop("vectors"), inputs.pop("vector_positions", None)
        name = projector_name(modality)
        if name not in self.projectors:
            return vectors.float()
        projected = self.projectors[name](vectors)
        if self.family.shared:
            with routing(modality), soft_tokens(self._bare(), positions, projected):
                projected = pooled_embedding(self._bare(), self.family, "text", inputs, self.pooling)
        return projected[:, : self.embedding_size]

    def _bare(self) -> nn.Module:
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
