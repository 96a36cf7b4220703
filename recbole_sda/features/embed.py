"""Embed a catalogue: every distinct content once a modality, shard by shard, so that nothing is lost for long.

What an interrupted embedding left in the folder is gone on from, and the store ends with the same bytes.
"""

import shutil
from dataclasses import asdict
from pathlib import Path

from recbole_sda.catalog import Catalog
from recbole_sda.encoders import Prompts
from recbole_sda.features.assemble import assemble
from recbole_sda.features.layout import Layout, Sources
from recbole_sda.features.parts import Parts
from recbole_sda.features.shards import EmbedSettings, ShardWriter
from recbole_sda.features.store import FeatureStore, write_store
from recbole_sda.features.units import content_digests, distinct_units
from recbole_sda.progress import progress_bar

PARTS = "parts"
# what a shard's bytes do not depend on
UNPLANNED = ("read_workers",)



def embed_catalog(
    folder: Path,
    catalog: Catalog,
    write_shards: ShardWriter,
    *,
    prompts: Prompts,
    settings: EmbedSettings,
    identity: dict,
    older: FeatureStore | None = None,
    show_progress: bool = True,
) -> None:
    """Write the catalogue's feature store into ``folder``, which an interrupted call may have begun.

    Args:
        write_shards: does the work, here (:class:`ShardWriter`) or elsewhere (``RayShardWriter``).
        prompts: what the model is told; items of which it is told the same share their embedding.
        identity: what makes the embeddings; kept in the manifest.
        older: a store of the same making to append to; what it has is not embedded again.
    """
    folder = Path(folder)
    if not (folder / "manifest.json").is_file():
        layout, presents, contents = Layout.of(catalog, older), {}, {}
        for modality in catalog.kinds:
            units = distinct_units(content_digests(catalog, prompts, modality), catalog.present(modality))
            sources = Sources.of(units, modality, older)
            plan = {name: value for name, value in asdict(settings).items() if name not in UNPLANNED}
            parts = Parts(folder / PARTS / modality, {**plan, "units": len(sources.new), "identity": identity})
            _write_missing(parts, modality, sources, settings, write_shards, show_progress)
            presents[modality], contents[modality] = assemble(
                folder / f"{modality}.npy",
                modality,
                layout=layout,
                sources=sources,
                parts=parts,
                settings=settings,
            )
        write_store(
            folder,
            layout.tokens,
            presents,
            settings=identity,
            dataset=catalog.name,
            contents=contents,
            skipped=catalog.skipped,
        )
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def _write_missing(
    parts: Parts, modality: str, sources: Sources, settings: EmbedSettings, write_shards: ShardWriter, show: bool
) -> None:
    rows, finished = sources.rows, parts.finished()
    todo = [shard for shard in range(settings.count_shards(len(rows))) if shard not in finished]
    done = len(rows) - sum(len(rows[settings.shard(shard)]) for shard in todo)
    with progress_bar(len(rows), f"embed {modality}", "item", show=show, initial=done) as bar:
        report = _Report(bar)
        for entry in write_shards(modality, rows, todo, parts.folder, report):
            parts.record(entry)


class _Report:
    """Items and tokens a second on a progress bar, counted from now on."""

    def __init__(self, bar):
        self.bar, self.tokens = bar, 0

    def __call__(self, items: int, tokens: int) -> None:
        self.tokens += tokens
        elapsed = self.bar.format_dict["elapsed"]
        if elapsed:
            self.bar.set_postfix_str(f"{self.tokens / elapsed:,.0f} tokens/s", refresh=False)
        self.bar.update(items)
