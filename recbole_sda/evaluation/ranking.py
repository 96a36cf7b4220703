"""The evaluating side of a trainer: the same candidates for every model, one result from all processes."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pandas as pd
import pyarrow as pa

from recbole_sda.errors import SDAError
from recbole_sda.evaluation.candidates import Restriction, restricted_by, restrictions
from recbole_sda.evaluation.users import user_frame, user_tables, write_users

PREPARE = "call trainer.prepare_evaluation(train_data, valid_data, test_data) first"


class RankingMixin:
    """Goes over any RecBole trainer whose collector is an ``SDACollector``."""

    _restrictions: Mapping[object, Restriction] = MappingProxyType({})
    _evaluated = None

    def prepare_evaluation(self, train_data, valid_data=None, test_data=None) -> None:
        """Learn from the splits what evaluation needs: popularity, histories, candidates.

        Before ``fit``, and for a loaded model before ``evaluate``. RecBole's trainer learns in ``fit`` alone, and
        from the training data alone.
        """
        self.eval_collector.data_collect(train_data)
        self._restrictions = restrictions(self.config, train_data, valid_data, test_data)

    def check_prepared(self, eval_data) -> None:
        """Raises: SDAError: the candidates of this data depend on splits that are not known yet."""
        asked = restricted_by(self.config)
        if eval_data and asked and eval_data not in self._restrictions:
            raise SDAError(f"{asked} needs the splits that this data is one of; {PREPARE}")

    def evaluate(self, eval_data, *args, **kwargs):
        """RecBole's; under several processes each gets the result of all.

        Raises:
            SDAError: the metrics or the candidates need ``prepare_evaluation``.
        """
        self.check_prepared(eval_data)
        if eval_data:
            if missing := self.eval_collector.missing():
                raise SDAError(f"the metrics need {', '.join(missing)} of the training data; {PREPARE}")
            self._evaluated = eval_data
            self.eval_collector.begin(None if self.config["single_spec"] else eval_data.sample_size)
        return super().evaluate(eval_data, *args, **kwargs)

    def user_results(self) -> pd.DataFrame:
        """Every user's values in the latest evaluation; see ``user_tables``.

        Raises:
            SDAError: there was none, or its metrics rank no items.
        """
        return user_frame(self._user_tables())

    def write_user_results(self, path: str | Path) -> None:
        """The same as a parquet file, without having all of it in memory."""
        write_users(self._user_tables(), Path(path))

    def _user_tables(self) -> Iterator[pa.Table]:
        collected = self.eval_collector.last
        if collected is None or "rec.users" not in collected:
            raise SDAError("user_results() needs an evaluate() before it, with a metric of a ranking such as NDCG")
        return user_tables(self.evaluator, collected, self._evaluated._dataset)

    def _full_sort_batch_eval(self, batched_data):
        interaction, history, positive_u, positive_i = batched_data
        if self.config["history_mask"] != "recbole" or restricted_by(self.config):
            history = None
        interaction, scores, positive_u, positive_i = super()._full_sort_batch_eval(
            (interaction, history, positive_u, positive_i)
        )
        if restrict := self._restrictions.get(self._evaluated):
            positive_u, positive_i = positive_u.to(scores.device), positive_i.to(scores.device)
            restrict(scores, interaction[self.config["USER_ID_FIELD"]], positive_u, positive_i)
        return interaction, scores, positive_u, positive_i

    def _map_reduce(self, result, num_sample):
        """Nothing is left to average: the collector has gathered the rows of all processes."""
        return result
