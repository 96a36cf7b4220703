"""Truths and embeddings whose measures are known."""

import numpy as np

from recbole_sda.laboratory import Truth

VALUES = {"colour": 8, "shape": 6, "pattern": 5, "brand": 10}


def drawn_truth(items: int, *, seed: int = 0, missing: int = 0, values=VALUES) -> Truth:
    """Independent factors; the first `missing` items have no picture, the next ones no text."""
    rng = np.random.default_rng(seed)
    everywhere = np.ones(items, dtype=bool)
    present = {"image": everywhere.copy(), "text": everywhere.copy()}
    present["image"][:missing] = False
    present["text"][missing : 2 * missing] = False
    return Truth(
        tokens=tuple(f"P{index:04d}" for index in range(items)),
        factors={name: rng.integers(count, size=items) for name, count in values.items()},
        popularity=(1.0 + rng.permutation(items)) ** -0.8,
        shown={modality: dict.fromkeys(values, everywhere) for modality in present},
        present=present,
    )


def one_hot(truth: Truth, *names: str) -> np.ndarray:
    """(N, values) float: one column for each value of these factors."""
    columns = [np.eye(truth.factors[name].max() + 1)[truth.factors[name]] for name in names]
    return np.concatenate(columns, axis=1)
