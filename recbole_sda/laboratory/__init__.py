"""The planted truth of the built-in catalogue, and how much of it embeddings show."""

from pathlib import Path

from recbole_sda.laboratory.measures import measure_structure
from recbole_sda.laboratory.stores import open_embeddings
from recbole_sda.laboratory.tail import measure_links
from recbole_sda.laboratory.truth import Truth, read_truth

__all__ = ["Truth", "measure", "measure_links", "measure_structure", "open_embeddings", "read_truth"]


def measure(store_folder: str | Path, truth_folder: str | Path, *, neighbours: int = 10) -> dict[str, float]:
    """:func:`measure_structure` and :func:`measure_links` of a feature store.

    Args:
        store_folder: what `embed` wrote.
        truth_folder: the demo dataset that it was made of.
    """
    embeddings, truth = open_embeddings(store_folder, truth_folder)
    return {**measure_structure(embeddings, truth, neighbours=neighbours), **measure_links(embeddings, truth)}
