"""The same shards on several GPUs or machines: Ray Data maps them over actors, each with a backbone of its own.

An actor writes its shards where all machines see them and hands back what the journal needs. Ray starts an actor
again that dies, and its shard with it.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from recbole_sda.catalog import Catalog
from recbole_sda.encoders import Backbone
from recbole_sda.errors import SDAError
from recbole_sda.features.shards import EmbedSettings, Report, ShardWriter
from recbole_sda.ray_cluster import start_ray


@dataclass(frozen=True)
class RayShardWriter:
    """Like :class:`ShardWriter`, over ``workers`` actors.

    Args:
        load_backbone: what an actor calls once, with its own device; pickled, so its package must be installed
            on every machine.
        workers: how many actors.
        use_gpu: a GPU each.
        address: of a running cluster.

    Raises:
        SDAError: Ray is not installed or has too little room, or an actor raised one.
    """

    load_backbone: Callable[[], Backbone]
    catalog: Catalog
    settings: EmbedSettings
    workers: int
    use_gpu: bool
    address: str | None = None

    def __call__(
        self, modality: str, rows: np.ndarray, shards: Sequence[int], folder: Path, report: Report
    ) -> Iterator[dict]:
        if not shards:
            return
        start_ray("embed_workers", self.workers, use_gpu=self.use_gpu, address=self.address)
        import ray

        ray.data.DataContext.get_current().enable_progress_bars = False  # ours counts items
        work = {
            "writer": ray.put((self.load_backbone, self.catalog, self.settings)),
            "rows": ray.put(rows),
            "modality": modality,
            "folder": Path(folder).resolve(),
            "working_folder": os.getcwd(),
        }
        results = ray.data.from_items([{"shard": s} for s in shards], override_num_blocks=len(shards)).map_batches(
            _ShardActor,
            fn_constructor_kwargs=work,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=self.workers),
            num_gpus=1 if self.use_gpu else 0,
        )
        for entry in results.iter_rows():
            if entry["refusal"]:
                raise SDAError(entry["refusal"])
            report(entry["rows"], entry["tokens"])
            yield {name: entry[name] for name in ("shard", "rows", "width", "bytes", "sha256")}


class _ShardActor:
    def __init__(self, *, writer, rows, modality: str, folder: Path, working_folder: str):
        import ray

        sys.argv = sys.argv[:1]  # RecBole's Config reads the command line, and a worker's is Ray's
        os.chdir(working_folder)  # relative paths are those of the process that asked for the actors
        logging.getLogger("recbole_sda").setLevel(logging.WARNING)
        self.parts, self.rows = ray.get([writer, rows])
        self.modality, self.folder = modality, folder

    @cached_property
    def write(self) -> ShardWriter:
        load_backbone, catalog, settings = self.parts
        return ShardWriter(load_backbone(), catalog, settings)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list]:
        tokens = []
        try:
            (entry,) = self.write(
                self.modality,
                self.rows,
                [int(shard) for shard in batch["shard"]],
                self.folder,
                lambda items, count: tokens.append(count),
            )
        except SDAError as error:  # a mistake in the input, which trying again does not mend
            entry = dict.fromkeys(("shard", "rows", "width", "bytes"), 0) | {"sha256": "", "refusal": str(error)}
        entry = {"refusal": "", "tokens": sum(tokens), **entry}
        return {name: [value] for name, value in entry.items()}
