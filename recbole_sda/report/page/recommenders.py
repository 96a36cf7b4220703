"""The run's trained recommenders, of which one at a time is in memory, and what their dataset says of items."""

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from recbole_sda.errors import SDAError
from recbole_sda.evaluation.groups import group_items
from recbole_sda.evaluation.popularity import training_popularity
from recbole_sda.loading import Loaded, load
from recbole_sda.report.page.gather import MissingError, Run
from recbole_sda.report.page.result import as_variant


class Popularity:
    """Of items in training, looked up as they are asked for.

    Args:
        loaded: what :func:`recbole_sda.load` returned.

    Attributes:
        counts: (items + 1,) training interactions, by id.
        is_tail: (items + 1,) bool, the long tail as the test groups them.
    """

    def __init__(self, loaded: Loaded):
        train, dataset = loaded.train_data._dataset, loaded.dataset
        self.counts = np.asarray(training_popularity(train))
        self.is_tail = np.asarray(group_items("tail", loaded.config, train), dtype=bool)
        self._ids = dataset.field2token_id[dataset.iid_field]

    def count(self, token: str) -> int | None:
        """None of an item that the dataset lacks."""
        return int(self.counts[self._ids[token]]) if token in self._ids else None

    def tail(self, tokens: Iterable[str]) -> set[str]:
        """Those of the long tail."""
        return {token for token in tokens if token in self._ids and self.is_tail[self._ids[token]]}


class Recommenders:
    """Those of a run.

    Args:
        data_path: the folder that holds the dataset's folder now, if it was moved since.
    """

    def __init__(self, run: Run, data_path: str | None):
        self.run, self.data_path = run, data_path

    @property
    def shown(self) -> Loaded:
        """The shown run's.

        Raises:
            MissingError: see :meth:`load`.
        """
        if isinstance(self._shown, MissingError):
            raise self._shown
        return self._shown

    @cached_property
    def popularity(self) -> Popularity | None:
        return None if isinstance(self._shown, MissingError) else Popularity(self._shown)

    def forget(self) -> None:
        """Give the memory back: model, dataset and splits."""
        for name in ("_shown", "popularity"):
            self.__dict__.pop(name, None)

    def load(self, run: dict) -> Loaded:
        """A run's recommender.

        Raises:
            MissingError: its checkpoint, its features or its dataset are not there.
        """
        named, features = (run["artefacts"].get(key) for key in ("checkpoint", "features"))
        again = self.run.command("run", run, **as_variant(run))
        if not named:
            raise MissingError(f"{run['variant']} left no checkpoint", again)
        moved = str(self.run.path(features)) if features and not _is_several(features) else features
        try:
            moved = None if moved == features else moved  # where the checkpoint says
            return load(self.run.path(named), features=moved, data_path=self.data_path)
        except SDAError as error:
            raise MissingError(str(error), again) from error
        except Exception as error:  # a damaged file raises almost any kind
            raise MissingError(f"{named} cannot be loaded ({type(error).__name__}: {error})", again) from error

    @cached_property
    def _shown(self) -> Loaded | MissingError:
        try:
            return self.load(self.run.shown)
        except MissingError as missing:
            return missing


def _is_several(features: str) -> bool:
    return "," in features or "=" in features
