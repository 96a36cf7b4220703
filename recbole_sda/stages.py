"""Stages 1 and 2 as artefacts: how each is made when it is not there yet."""

import logging
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from accelerate import PartialState

from recbole_sda.adapters import adaptation_summary, checkpoint_routing
from recbole_sda.alignment.checkpoint import KEPT, remove_state
from recbole_sda.alignment.trainer import align
from recbole_sda.artefacts import build_once, clear_folder, digest, read_manifest, write_manifest
from recbole_sda.catalog import Catalog
from recbole_sda.catalog.corrupted import corrupt
from recbole_sda.defaults import read_properties
from recbole_sda.encoders.vectors import save_projectors
from recbole_sda.features import FeatureStore
from recbole_sda.features.append import appended, find_older, is_complete
from recbole_sda.features.embed import embed_catalog
from recbole_sda.features.index import build_index
from recbole_sda.features.ray_embed import RayShardWriter
from recbole_sda.features.shards import EmbedSettings, ShardWriter
from recbole_sda.ray_workers import run_in_workers
from recbole_sda.stage_backbone import adapted_backbone, newly_adapted_backbone
from recbole_sda.stage_checks import check_stages
from recbole_sda.stage_conflict import check_conflict, conflict, conflict_at_steps
from recbole_sda.stage_settings import MACHINE_KEYS, StageSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncoderStages:
    """Adapt and embed one catalogue under one configuration.

    Args:
        config, catalog: see :class:`StageSettings`.
    """

    config: object
    catalog: Catalog

    @cached_property
    def settings(self) -> StageSettings:
        return StageSettings(self.config, self.catalog)

    @cached_property
    def training_catalog(self) -> Catalog:
        """What stage 1 sees: the catalogue, corrupted where a study asks for it."""
        shares = self.settings.content_corruption
        return corrupt(self.catalog, shares, seed=self.config["seed"]) if shares else self.catalog

    def check(self) -> None:
        """Find out, before any work, what cannot work."""
        check_stages(self.settings)
        _ = self.older

    def adapt(self) -> Path | None:
        """Stage 1: the folder of the trained adapter; None for a variant without one."""
        if self.config["adapter"] == "none":
            return None
        if self.older is not None:  # new items go through the adapter that the others went through
            return Path(self.config["checkpoint_dir"]) / "adapters" / self.older.manifest["settings"]["adapter"]
        folder = self._folder("adapters", self.settings.adapter)
        built = build_once(folder, self._train_adapter)
        logger.info("%s adapter %s", "trained" if built else "reused", folder)
        return folder

    def embed(self) -> Path:
        """Stage 2: the folder of the catalogue's feature store; trains the adapter first if need be."""
        folder = self._stored()
        if self.config["index"]:
            self._index(FeatureStore.open(folder))
        return folder

    def _stored(self) -> Path:
        older, features = self.older, self.settings.features
        if older is not None and is_complete(older, features):
            logger.info("nothing to append to %s", older.path)
            return older.path
        features = features if older is None else appended(features, older)
        folder = self._folder("features", features)
        if not folder.is_dir():
            self.adapt()
        built = build_once(folder, partial(self._embed_catalog, features, older))
        logger.info("%s features %s", "embedded" if built else "reused", folder)
        return folder

    def _index(self, store: FeatureStore) -> None:
        for modality in store.modalities:
            if store.present(modality).any() and not (store.path / f"{modality}.faiss.json").is_file():
                logger.info("index %s", build_index(store, modality))

    @cached_property
    def older(self) -> FeatureStore | None:
        """The store that is appended to, if one is."""
        config, settings = self.config, self.settings
        if not config["append"]:
            return None
        adapter = None if config["adapter"] == "none" else settings.adapter
        older = find_older(
            config["append"],
            settings.features,
            adapter,
            dataset=self.catalog.name,
            checkpoint_dir=Path(config["checkpoint_dir"]),
        )
        logger.info("appending to %r", older)
        return older

    def check_conflict(self, steps: Collection[int] = ()) -> None:
        """Find out, before any work, what keeps :meth:`conflict_over_training` from being measured, or, without
        steps, :meth:`conflict` of training batches."""
        check_conflict(self.settings, steps)

    def conflict(self, *, trained: bool, held_out: bool = False) -> list[dict]:
        """Gradient cosines under the trained adapter or the new one that it began as.

        Args:
            held_out: of batches of the held-out items; else of training batches.
        """
        check_conflict(self.settings, held_out=held_out)
        loss = self.settings.loss()
        if trained and loss.learned_temperature is not None:
            manifest = read_manifest(self._folder("adapters", self.settings.adapter))
            loss.learned_temperature.data.fill_(manifest["temperature"])
        if trained:
            backbone = adapted_backbone(self.settings, digest(self.settings.adapter))
        else:
            backbone = newly_adapted_backbone(self.settings)
        return conflict(self, backbone, loss, held_out=held_out)

    def conflict_over_training(self, steps: Collection[int]) -> list[dict]:
        """Gradient cosines at these steps of the training, on training batches and on held-out items.

        The state is that after the step, be it the best one or not. It is kept, and trained once; the adapter that
        comes of the training is that of :meth:`adapt`, which finds it there.

        Args:
            steps: from 0, before the first one, to ``align_steps``. Those after an early end are left out.

        Returns:
            The records of :func:`recbole_sda.alignment.cosines.summarize`, each with ``step`` and ``held_out``.
        """
        check_conflict(self.settings, steps)
        folder = self._training_with_kept(sorted(steps))
        return conflict_at_steps(self, newly_adapted_backbone(self.settings), folder, steps)

    def _training_with_kept(self, steps: list[int]) -> Path:
        """The folder of an adapter and of what it was at these steps."""
        settings = self.settings.adapter
        folder = self._folder("steps", {"adapter": settings, "steps": steps})
        built = build_once(folder, partial(self._train_adapter, keep_steps=steps))
        logger.info("%s %s, with what it was at %d steps", "trained" if built else "reused", folder, len(steps))

        def copy(adapter: Path) -> None:
            clear_folder(adapter)
            shutil.copytree(folder, adapter, dirs_exist_ok=True, ignore=shutil.ignore_patterns(KEPT))

        build_once(self._folder("adapters", settings), copy)
        return folder

    def _folder(self, kind: str, settings: dict) -> Path:
        return Path(self.config["checkpoint_dir"]) / kind / digest(settings)

    def _train_adapter(self, folder: Path, *, keep_steps: Collection[int] = ()) -> None:
        if self.config["align_workers"] == 1:
            self.train_adapter_here(folder, keep_steps=keep_steps)
        else:
            here = self._for_workers().train_adapter_here
            run_in_workers(
                partial(here, folder.resolve(), keep_steps=keep_steps),
                key="align_workers",
                workers=self.config["align_workers"],
                use_gpu=torch.device(self.config["device"]).type == "cuda",
                address=self.config["ray_address"],
                name=digest(self.settings.adapter),
                storage=Path(self.config["checkpoint_dir"]).resolve() / "ray",
            )
        remove_state(folder)

    def _for_workers(self) -> "EncoderStages":
        """The same with plain values for a configuration, which a worker reads without RecBole."""
        keys = (*read_properties("overall"), "seed", "device", "checkpoint_dir")
        return type(self)({key: self.config[key] for key in keys}, self.catalog)

    def train_adapter_here(
        self, folder: Path, device: torch.device | None = None, *, keep_steps: Collection[int] = ()
    ) -> None:
        """Stage 1 in this process, one of several perhaps; the main one writes the adapter into ``folder``."""
        started = time.monotonic()
        backbone = newly_adapted_backbone(self.settings, device)
        logger.info("%s", adaptation_summary(backbone.model))
        if self.config["align_gradient_checkpointing"]:
            backbone.model.get_base_model().gradient_checkpointing_enable(
                {"use_reentrant": False, "context_fn": checkpoint_routing}
            )
        settings, loss = self.settings, self.settings.loss()
        alignment, catalog = settings.alignment(), self.training_catalog
        records = align(backbone, catalog, loss, alignment, folder=folder, keep_steps=keep_steps)
        if not PartialState().is_main_process:
            return
        backbone.model.save_pretrained(folder)
        if backbone.projectors:
            save_projectors(backbone.projectors, folder)
        write_manifest(
            folder,
            {
                "settings": settings.adapter,
                "machine": {key: self.config[f"align_{key}"] for key in (*MACHINE_KEYS, "workers")},
                "adapted_layers": len(backbone.model.targeted_module_names),
                "trainable_parameters": backbone.model.get_nb_trainable_parameters()[0],
                "temperature": loss.current_temperature,
                "held_out": records,
                "seconds": round(time.monotonic() - started, 1),
            },
        )

    def _embed_catalog(self, features: dict, older: FeatureStore | None, folder: Path) -> None:
        config = self.config
        settings = EmbedSettings(
            **{name: config[f"embed_{name}"] for name in ("batch_tokens", "shard_items")},
            read_workers=config["read_workers"],
            dtype=config["feature_dtype"],
        )
        if config["embed_workers"] == 1:
            backbone = adapted_backbone(self.settings, features["adapter"])
            write_shards = ShardWriter(backbone, self.catalog, settings)
        else:
            write_shards = RayShardWriter(
                partial(adapted_backbone, self._for_workers().settings, features["adapter"]),
                self.catalog,
                settings,
                workers=config["embed_workers"],
                use_gpu=torch.device(config["device"]).type == "cuda",
                address=config["ray_address"],
            )
        embed_catalog(
            folder,
            self.catalog,
            write_shards,
            prompts=self.settings.prompts,
            settings=settings,
            identity=features,
            older=older,
        )
