"""The embeddings of a feature store against the truth of the dataset that they were made of."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from recbole_sda.laboratory.truth import Truth, read_truth


def open_embeddings(store_folder: str | Path, truth_folder: str | Path) -> tuple[dict[str, np.ndarray], Truth]:
    """Embeddings and truth in the store's order of items, as the measures take them.

    An item counts as present where both the world and the store have it: the store may have refused its file.
    Worlds of every seed call their items alike, so a store held against another seed's truth is not noticed, and
    its purity is at chance.

    Raises:
        SDAError: no store, no truth, or items of another world.
    """
    from recbole_sda.features import FeatureStore  # torch comes with it

    store = FeatureStore.open(store_folder)
    truth = read_truth(truth_folder).of(store.tokens)
    embeddings = {modality: store.get(modality, store.tokens) for modality in store.modalities}
    present = {
        modality: flags & store.present(modality) if modality in store.modalities else flags
        for modality, flags in truth.present.items()
    }
    return embeddings, replace(truth, present=present)
