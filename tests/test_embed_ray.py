"""The embedding on Ray actors, two on this machine's CPU, against the one in this process."""

import os
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_stages import PlainConfig

from recbole_sda.errors import SDAError
from recbole_sda.features import shards
from recbole_sda.features.ray_embed import RayShardWriter
from recbole_sda.features.shards import EmbedSettings
from recbole_sda.stages import EncoderStages

SETTINGS = {"adapter": "none", "embed_shard_items": 8, "read_workers": 0}


def stages(catalog, folder, **values) -> EncoderStages:
    return EncoderStages(PlainConfig(**{**SETTINGS, "checkpoint_dir": str(folder), **values}), catalog)


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def dies_once(load, folder: Path):
    """The actor that writes the third shard is killed, as by a machine that goes away; what starts again lives."""
    write_part = shards.write_part

    def dying(parts, shard, values):
        if shard == 2 and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return write_part(parts, shard, values)

    shards.write_part = dying
    return load()


def refuses():
    raise SDAError("backbone=tiny is not there on this machine")


@pytest.mark.slow
def test_two_actors_write_the_bytes_of_one_process_though_one_dies(catalog, tmp_path, ray_cluster, monkeypatch):
    alone = stages(catalog, tmp_path / "alone").embed()
    on_ray = stages(catalog, tmp_path / "ray", embed_workers=2)
    (tmp_path / "ray").mkdir()
    monkeypatch.setattr("recbole_sda.stages.RayShardWriter", partial(_dying_writer, folder=tmp_path / "ray"))
    assert files(on_ray.embed()) == files(alone)
    assert (tmp_path / "ray" / "died").exists()


def _dying_writer(load_backbone, *args, folder, **kwargs):
    return RayShardWriter(partial(dies_once, load_backbone, folder), *args, **kwargs)


@pytest.mark.slow
def test_an_embedding_begun_here_goes_on_under_ray(catalog, tmp_path, ray_cluster, monkeypatch):
    alone = stages(catalog, tmp_path / "alone").embed()
    write_part, written = shards.write_part, []

    def stopping(parts, shard, values):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(shard)
        return write_part(parts, shard, values)

    monkeypatch.setattr(shards, "write_part", stopping)
    with pytest.raises(KeyboardInterrupt):
        stages(catalog, tmp_path / "ray").embed()
    monkeypatch.setattr(shards, "write_part", write_part)
    begun = {path: path.stat().st_mtime_ns for path in (tmp_path / "ray").rglob("shard-*.npy")}
    assert len(begun) == 3
    unfinished = next(iter(begun)).parents[2]
    kept = {}

    def look(folder, **_):
        kept.update({path: path.stat().st_mtime_ns for path in begun})

    monkeypatch.setattr("recbole_sda.features.embed.shutil", SimpleNamespace(rmtree=look))
    store = stages(catalog, tmp_path / "ray", embed_workers=2).embed()
    assert kept == begun  # not written again
    assert unfinished.with_suffix("") == store
    for name, content in files(alone).items():
        assert (store / name).read_bytes() == content


@pytest.mark.slow
def test_a_mistake_reaches_the_caller_and_too_few_cpus_are_named(catalog, tmp_path, ray_cluster):
    settings = EmbedSettings(batch_tokens=512, shard_items=8, read_workers=0, dtype="float32")
    rows = catalog.present("text").nonzero()[0]

    def entries(load, workers):
        writer = RayShardWriter(load, catalog, settings, workers=workers, use_gpu=False)
        return list(writer("text", rows, [0, 1], tmp_path, lambda items, tokens: None))

    with pytest.raises(SDAError, match="is not there on this machine"):
        entries(refuses, 1)
    with pytest.raises(SDAError, match="embed_workers=99 takes a CPU each, and Ray has 4; lower embed_workers"):
        entries(refuses, 99)

