"""Every variant against the baselines of its own model, user by user."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recbole_sda.errors import SDAError
from recbole_sda.evaluation.paired import holm, paired_gain
from recbole_sda.report.summary import METRICS

BASELINES = ("ids", "zero_shot")
KEYS = ["seed", "user", "target"]


def compare(runs: list[dict], *, k: int, resamples: int, seed: int) -> list[dict]:
    """The test gains at k over every baseline, from the users' own results.

    The baselines are ``ids`` and ``zero_shot``, as far as the runs have them, or else the first variant. Two
    baselines are compared once, the second over the first. Holm's correction is over all that is returned.

    Args:
        runs: what :func:`recbole_sda.run` returns as ``runs``; ``artefacts.user_results`` is a parquet file with
            columns ``user``, ``target`` and one a metric, NaN where a user is not in its group.
        resamples, seed: of the bootstrap.

    Returns:
        ``model``, ``variant``, ``over``, ``metric``, what :func:`paired_gain` returns, and ``p_holm``.

    Raises:
        SDAError: two variants of a model were tested on different users or targets, or with different seeds.
    """
    models = {}
    for run in runs:
        if run["artefacts"]["user_results"] is None:  # metrics such as AUC are no means over users
            continue
        models.setdefault(run["model"], {}).setdefault(run["variant"], []).append(run)
    gains = []
    for model, variants in models.items():
        if len(variants) > 1:
            users, scores = _scores(model, variants, k)
            for over, variant in _pairs(list(variants)):
                for metric in scores[over].columns:
                    base, other = scores[over][metric], scores[variant][metric]
                    gain = paired_gain(base, other, users=users, resamples=resamples, seed=seed)
                    gains.append({"model": model, "variant": variant, "over": over, "metric": metric, **gain})
    corrected = holm([gain["p"] for gain in gains])
    return [{**gain, "p_holm": p} for gain, p in zip(gains, corrected, strict=True)]


def _pairs(variants: list[str]) -> Iterator[tuple[str, str]]:
    """(baseline, variant), with no pair a second time the other way round."""
    done = []
    for over in [name for name in BASELINES if name in variants] or variants[:1]:
        done.append(over)
        yield from ((over, variant) for variant in variants if variant not in done)


def _scores(model: str, variants: dict[str, list[dict]], k: int) -> tuple[np.ndarray, dict[str, pd.DataFrame]]:
    """The user of each row, (rows,) int, and each variant's metrics, (rows, metrics), in one order of rows."""
    columns, keys, scores = [f"{metric}@{k}" for metric in METRICS], None, {}
    for variant, runs in variants.items():
        table = pd.concat([_read(run, columns) for run in runs])
        table = table.sort_values(KEYS, kind="stable", ignore_index=True)
        if keys is None:
            first, keys = variant, table[KEYS]
        elif not table[KEYS].equals(keys):
            raise SDAError(
                f"{model}: {variant} and {first} were not tested on the same seeds, users and targets "
                f"({len(table)} and {len(keys)} rows), so they cannot be compared; run them together"
            )
        scores[variant] = table.drop(columns=KEYS)  # the keys are kept once
    return pd.factorize(keys["user"])[0], scores


def _read(run: dict, columns: list[str]) -> pd.DataFrame:
    path = run["artefacts"]["user_results"]
    present = pq.read_schema(path).names
    table = pq.read_table(path, columns=["user", "target", *(name for name in columns if name in present)])
    if pa.types.is_list(table["target"].type):
        table = table.set_column(1, "target", _as_text(table["target"].combine_chunks()))
    # Arrow's strings, since Python's take four times their place.
    frame = table.to_pandas(types_mapper={pa.string(): pd.ArrowDtype(pa.string())}.get)
    return frame.assign(seed=run["seed"])


def _as_text(targets: pa.ListArray) -> pa.StringArray:
    """Each row's tokens as one text, in whatever order they were; no token of RecBole's files has a line break."""
    table = pa.table({"row": pc.list_parent_indices(targets), "token": pc.list_flatten(targets)})
    tokens = table.sort_by([("row", "ascending"), ("token", "ascending")])["token"].combine_chunks()
    return pc.binary_join(pa.ListArray.from_arrays(targets.offsets, tokens), "\n")
