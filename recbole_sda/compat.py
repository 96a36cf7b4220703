"""What RecBole 1.2.1 needs on today's numpy, scipy and pandas: each cure small, each with its reason.

The other cures stand where RecBole offers a place for them: the command line and CE losses in
``config.py``, the checkpoints in ``trainer.py``, value metrics in ``evaluation/collector.py``.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

INSTALL_RECBOLE = "pip install --no-deps recbole==1.2.1"


def prepare_recbole() -> None:
    """Make RecBole importable and usable, or say what is missing; what imports RecBole calls it first.

    Raises:
        ImportError: RecBole is missing, or pandas is too new for it.
    """
    if importlib.util.find_spec("recbole") is None:
        raise ImportError(
            f"RecBole is not installed. Run: {INSTALL_RECBOLE}\n"
            "(without its dependencies: its pin on an old Ray cannot be met; recbole_sda brings the others)"
        )
    refuse_pandas_3()
    restore_numpy_aliases()
    restore_dok_update()


def refuse_pandas_3() -> None:
    """RecBole fills missing values by ``df[field].fillna(inplace=True)``; pandas 3 ignores that silently."""
    import pandas

    if int(pandas.__version__.split(".")[0]) >= 3:
        raise ImportError(
            f"pandas {pandas.__version__} silently leaves missing values in RecBole's data. "
            "Run: pip install 'pandas<3'"
        )


def restore_numpy_aliases() -> None:
    """RecBole's metrics use np.float and its like, which numpy 1.24 removed; its own cure fails on numpy 2."""
    import numpy

    aliases = {"float": float, "int": int, "object": object, "complex": complex, "str": str}
    for name, builtin in aliases.items():
        # `hasattr` would trip numpy's warning about removed names.
        if name not in vars(numpy):
            setattr(numpy, name, builtin)


def restore_dok_update() -> None:
    """LightGCN and others fill a dok_matrix through ``_update``, which scipy 1.13 removed."""
    from scipy.sparse import dok_matrix

    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = lambda self, entries: self._dict.update(entries)


@contextmanager
def keep_anomaly_mode() -> Iterator[None]:
    """Importing any of RecBole's sequential models imports SINE, which switches on autograd's anomaly
    detection for the whole process and slows every training step."""
    import torch

    before = torch.is_anomaly_enabled()
    try:
        yield
    finally:
        torch.autograd.set_detect_anomaly(before)
