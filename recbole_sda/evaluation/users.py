"""Every user's own value of each metric: what paired comparisons of two models need."""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.evaluator import Evaluator

# Metrics make several (rows, k) arrays on their way; of ten million rows each would fill gigabytes.
ROWS = 100_000
RANKED = ("rec.users", "rec.items", "rec.topk")


def user_tables(evaluator: Evaluator, collected: DataStruct, dataset) -> Iterator[pa.Table]:
    """One row for each row of the evaluation, ``ROWS`` at a time.

    Args:
        evaluator: RecBole's, which names the metrics.
        collected: what the evaluation collected.
        dataset: RecBole's, for the tokens.

    Yields:
        ``user``: token; ``target``: list of item tokens; then a column such as ``ndcg@10`` for each metric and k
        that is a mean over users. NaN where a group's metric leaves the user out: the mean over the others is the
        metric. Metrics of the whole (coverage, Gini index, AUC) are no mean over users and have no column.
    """
    users, items = (dataset.field2id_token[field] for field in (dataset.uid_field, dataset.iid_field))
    for first in range(0, len(collected.get("rec.users")), ROWS):
        part = _rows(collected, first, first + ROWS)
        columns = {
            "user": pa.array(users[part.get("rec.users").numpy()].astype(str)),
            "target": _targets(part, items),
        }
        for metric in evaluator.metric_class.values():
            for name, values in _values(metric, part).items():
                columns |= {f"{name}@{k}": values[:, k - 1].astype(float) for k in metric.topk}
        yield pa.table(columns)


def user_frame(tables: Iterator[pa.Table]) -> pd.DataFrame:
    """All rows in memory."""
    table = pa.concat_tables(tables)
    return table.to_pandas().assign(target=table["target"].to_pylist())


def write_users(tables: Iterator[pa.Table], path: Path) -> None:
    """A parquet file of all rows, of which never more than one table is in memory."""
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _rows(collected: DataStruct, first: int, stop: int) -> DataStruct:
    part = DataStruct()
    part._data_dict = {**collected._data_dict, **{name: collected.get(name)[first:stop] for name in RANKED}}
    targets = collected.get("rec.targets")  # by row
    begin, end = torch.searchsorted(targets[:, 0].contiguous(), torch.tensor([first, stop], dtype=targets.dtype))
    part.set("rec.targets", targets[begin:end] - torch.tensor([first, 0], dtype=targets.dtype))
    return part


def _values(metric, collected: DataStruct) -> dict[str, np.ndarray]:
    """Name → (users, k): what the metric would average."""
    if not hasattr(metric, "topk_result"):
        return {}
    values: dict[str, np.ndarray] = {}
    watched = copy.copy(metric)
    watched.topk_result = lambda name, value: values.setdefault(name, value) is None or {}
    watched.calculate_metric(collected)
    return values


def _targets(collected: DataStruct, tokens: np.ndarray) -> pa.ListArray:
    row, item = collected.get("rec.targets").numpy().T
    counts = np.bincount(row, minlength=len(collected.get("rec.users")))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(tokens[item].astype(str)))
