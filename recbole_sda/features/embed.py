"""Embed a catalogue: every item once a modality, in batches of similar length."""

from pathlib import Path

import numpy as np
import torch

from recbole_sda.catalog import Catalog
from recbole_sda.encoders import Backbone
from recbole_sda.encoders.batching import batches_by_tokens, collate_items, token_counts
from recbole_sda.errors import SDAError
from recbole_sda.features.store import write_store
from recbole_sda.progress import progress_bar


def embed_catalog(
    folder: Path,
    catalog: Catalog,
    backbone: Backbone,
    *,
    modalities: list[str],
    batch_tokens: int,
    dtype: str,
    settings: dict,
    show_progress: bool = True,
) -> None:
    """Write the catalogue's feature store into the empty ``folder``.

    Args:
        batch_tokens: tokens that go through the model together, padding included.
        dtype: numpy dtype of what is stored.
        settings: kept in the manifest.
    """
    backbone.eval()
    for modality in modalities:
        rows = np.lib.format.open_memmap(
            Path(folder) / f"{modality}.npy", "w+", dtype=dtype, shape=(len(catalog), backbone.hidden_size)
        )
        present = np.flatnonzero(catalog.present(modality))
        with progress_bar(len(present), f"embed {modality}", "item", show=show_progress) as bar:
            counts = token_counts(catalog, backbone, modality, present)
            for batch in batches_by_tokens(counts, batch_tokens):
                embedded = _embed(catalog, backbone, modality, present[batch])
                if not (np.abs(embedded) <= np.finfo(dtype).max).all():
                    raise SDAError(f"{modality} embeddings are not finite in feature_dtype={dtype}; use float32")
                rows[present[batch]] = embedded
                bar.update(len(batch))
        rows.flush()
    write_store(
        folder,
        catalog.tokens,
        {m: catalog.present(m) for m in modalities},
        settings=settings,
        dataset=catalog.name,
    )


def _embed(catalog: Catalog, backbone: Backbone, modality: str, rows: np.ndarray) -> np.ndarray:
    inputs = collate_items(catalog, backbone, modality, rows)
    with torch.inference_mode():
        return backbone(modality, inputs).cpu().numpy()
