"""Recommendations to a file, a batch of users at a time, so that their number does not matter."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from tabulate import tabulate

from recbole_sda.artefacts import written_whole
from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureStore, write_store
from recbole_sda.features.arrays import npy_bytes, write_atomically
from recbole_sda.features.exchange import export_store
from recbole_sda.loading import load
from recbole_sda.serving import Recommendations, as_table, item_embeddings

ROW_GROUP = 1 << 17  # rows, at least


def check_output(path: str | Path) -> Path:
    """Raises: SDAError: no format of ours, or no folder."""
    path = Path(path)
    if path.suffix not in WRITERS:
        raise SDAError(f"output={path}: its end chooses the format; use {', '.join(WRITERS)}")
    if not path.resolve().parent.is_dir():
        raise SDAError(f"output={path}: its folder does not exist; make it first")
    return path


def write_recommendations(parts: Iterable[Recommendations], path: str | Path) -> None:
    """Write the file in the format of its suffix; it appears when it is whole, in place of an older one.

    ``.json`` is ``{user: [{"item", "score"}, …]}``, ``.jsonl`` a line ``{"user", "items"}`` each, ``.parquet`` the
    columns user, item, rank, score.
    """
    path = check_output(path)
    with written_whole(path) as unfinished:
        WRITERS[path.suffix](parts, unfinished)


def as_text(parts: Iterable[Recommendations]) -> str:
    """A table for the terminal."""
    rows = (row for part in parts for row in as_table(part).itertuples(index=False))
    return tabulate(rows, ["user", "item", "rank", "score"], floatfmt=".4f", disable_numparse=[0, 1])


def export_item_embeddings(
    checkpoint: str | Path, output: str | Path, *, format: str, model: str | None = None
) -> list[str]:
    """A trained recommender's item embeddings as a feature store is exported, with its tables for modalities.

    Args: model: as :func:`recbole_sda.loading.load`.

    Returns: the tables' names.

    Raises:
        SDAError: as :func:`recbole_sda.features.exchange.export_store`; no item table.
    """
    with TemporaryDirectory() as folder:
        tokens, tables = item_embeddings(load(checkpoint, model=model))
        for name, values in tables.items():
            write_atomically(Path(folder) / f"{name}.npy", npy_bytes(values))
        everywhere = np.ones(len(tokens), dtype=bool)
        settings = {"checkpoint": Path(checkpoint).name}
        write_store(Path(folder), tokens, dict.fromkeys(tables, everywhere), settings=settings)
        export_store(FeatureStore.open(folder), output, format=format)
    return list(tables)


def _write_json(parts: Iterable[Recommendations], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("{")
        for number, (user, items) in enumerate(_by_user(parts)):
            file.write(f"{',' if number else ''}\n{_dump(user)}: {_dump(items)}")
        file.write("\n}\n")


def _write_json_lines(parts: Iterable[Recommendations], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(_dump({"user": user, "items": items}) + "\n" for user, items in _by_user(parts))


def _write_parquet(parts: Iterable[Recommendations], path: Path) -> None:
    types = {"user": pa.string(), "item": pa.string(), "rank": pa.int32(), "score": pa.float32()}
    schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in types.items()])
    with parquet.ParquetWriter(path, schema) as writer:
        waiting = []
        for part in parts:
            waiting.append(pa.Table.from_pandas(as_table(part), schema=schema, preserve_index=False))
            if sum(map(len, waiting)) >= ROW_GROUP:
                writer.write_table(pa.concat_tables(waiting).combine_chunks())
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())


WRITERS: dict[str, Callable[[Iterable[Recommendations], Path], None]] = {
    ".json": _write_json,
    ".jsonl": _write_json_lines,
    ".parquet": _write_parquet,
}


def _by_user(parts: Iterable[Recommendations]) -> Iterator[tuple[str, list[dict]]]:
    for part in parts:
        for user, items, scores in zip(part.users, part.items, part.scores.tolist(), strict=True):
            yield str(user), [{"item": str(i), "score": s} for i, s in zip(items, scores, strict=True)]


def _dump(value) -> str:
    return json.dumps(value, ensure_ascii=False)
