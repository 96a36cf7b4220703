"""Stages 1 and 2 as artefacts: what goes into each, its digest, and how it is made when it is not there yet."""

import logging
import os
import time
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from accelerate import PartialState
from peft import LoraConfig, PeftModel, get_peft_model

from recbole_sda.adapters import LANGUAGE_MODEL_TARGETS, MoDAConfig, checkpoint_routing
from recbole_sda.alignment import AlignmentLoss, CMSALoss, InfoNCELoss
from recbole_sda.alignment.checkpoint import remove_state
from recbole_sda.alignment.conflict import measure_conflict
from recbole_sda.alignment.ray_train import run_in_workers
from recbole_sda.alignment.sampling import split_items
from recbole_sda.alignment.settings import AlignmentSettings
from recbole_sda.alignment.trainer import align
from recbole_sda.artefacts import build_once, clear_folder, digest, write_manifest
from recbole_sda.catalog import Catalog
from recbole_sda.defaults import read_properties
from recbole_sda.encoders import Backbone, Prompts, backbone_identity, load_backbone
from recbole_sda.encoders.loading import resolve_dtype
from recbole_sda.errors import SDAError
from recbole_sda.features.embed import embed_catalog

logger = logging.getLogger(__name__)

# Raise when the same settings would give other artefacts, so that old ones are not reused.
ADAPTER_VERSION, FEATURES_VERSION = 2, 1

MODALITY_NAMES = {"image": "a readable picture", "text": "a text"}
LORA_KEYS = ("lora_r", "lora_alpha", "lora_dropout", "target_modules")
ADAPTER_KEYS = {"lora": LORA_KEYS, "moda": (*LORA_KEYS, "num_experts", "gate_scale")}
LOSSES = {"cmsa": CMSALoss, "info_nce": InfoNCELoss}
# Names of the losses' and of AlignmentSettings' arguments; the configuration's keys carry align_ before them.
SHARED_LOSS_KEYS = ("temperature", "learn_temperature", "center", "normalize")
TEACHER_KEYS = ("teacher", "teacher_temperature", "teacher_perplexity", "stop_gradient", "scale_teacher")
LOSS_KEYS = {
    "cmsa": (*SHARED_LOSS_KEYS, *TEACHER_KEYS, "divergence", "transpose_target"),
    "info_nce": SHARED_LOSS_KEYS,
}
LOOP_KEYS = (
    *("batch_size", "steps", "learning_rate", "max_grad_norm", "mixed_precision"),
    *("holdout_share", "holdout_max", "eval_every", "patience"),
)
# These decide how much memory and time the same result takes, and so name no artefact.
MACHINE_KEYS = ("micro_batch", "checkpoint_every", "trackers")


@dataclass(frozen=True)
class EncoderStages:
    """Adapt and embed one catalogue under one configuration.

    Args:
        config: an :class:`~recbole_sda.config.SDAConfig`; only keys of ours, ``seed``, ``device`` and
            ``checkpoint_dir`` are read.
        catalog: the items.
    """

    config: object
    catalog: Catalog

    def check(self) -> None:
        """Find out, before any work, whether the backbone can be had and the catalogue can be aligned."""
        _ = self.identity, self.feature_settings
        self._check_presence()
        if (processes := int(os.environ.get("WORLD_SIZE", 1))) > 1:
            raise SDAError(
                f"WORLD_SIZE={processes}: a launcher started several processes, which would wait for each other's "
                f"artefacts; start one and say --align_workers={processes}"
            )
        if self.config["adapter"] != "none":
            self._check_adapter()
            self._check_batch_size()

    def adapt(self) -> Path | None:
        """Stage 1: the folder of the trained adapter; None for a variant without one."""
        if self.config["adapter"] == "none":
            return None
        folder = self._folder("adapters", self.adapter_settings)
        built = build_once(folder, self._train_adapter)
        logger.info("%s adapter %s", "trained" if built else "reused", folder)
        return folder

    def embed(self) -> Path:
        """Stage 2: the folder of the catalogue's feature store; trains the adapter first if need be."""
        folder = self._folder("features", self.feature_settings)
        if not folder.is_dir():
            self.adapt()
        built = build_once(folder, self._embed_catalog)
        logger.info("%s features %s", "embedded" if built else "reused", folder)
        return folder

    def conflict(self, *, trained: bool) -> list[dict]:
        """Gradient cosines of training batches, under the trained adapter or the new one that it began as."""
        settings = self._alignment_settings()
        return measure_conflict(
            self._adapted_backbone() if trained else self._new_adapter_backbone(),
            self.catalog,
            self._loss(),
            rows=split_items(self.catalog, settings)[0],
            batches=self.config["diagnose_batches"],
            batch_size=settings.batch_size,
            micro_batch=settings.micro_batch,
            num_experts=self.config["num_experts"],
            seed=settings.seed,
            modalities=settings.modalities,
        )

    @cached_property
    def identity(self) -> str:
        return backbone_identity(self.config["backbone"], self.config["backbone_revision"])

    @cached_property
    def prompts(self) -> Prompts:
        names = ("domain", "image", "text", "field", "value_chars")
        return Prompts(**{name: self.config[f"prompt_{name}"] for name in names})

    @cached_property
    def adapter_settings(self) -> dict:
        """What the adapter depends on, and nothing else."""
        config = self.config
        keys = ["adapter", *ADAPTER_KEYS[config["adapter"]], "alignment", "seed"]
        keys += [f"align_{name}" for name in (*LOSS_KEYS[config["alignment"]], *LOOP_KEYS)]
        return {
            "version": ADAPTER_VERSION,
            **self._encoder_settings(("image", "text")),
            **{key: config[key] for key in keys},
        }

    @cached_property
    def feature_settings(self) -> dict:
        adapted = self.config["adapter"] != "none"
        return {
            "version": FEATURES_VERSION,
            **self._encoder_settings(self.config["modalities"]),
            "feature_dtype": self.config["feature_dtype"],
            "adapter": digest(self.adapter_settings) if adapted else "none",
        }

    def _encoder_settings(self, modalities) -> dict:
        config = self.config
        pixels = {key: config[key] for key in ("min_pixels", "max_pixels")} if "image" in modalities else {}
        return {
            "catalog": {modality: self.catalog.fingerprint(modality) for modality in modalities},
            "backbone": self.identity,
            "prompts": {modality: self.prompts.settings(modality) for modality in modalities},
            # Resolved: `auto` on a GPU and `auto` on a CPU give different numbers.
            "backbone_dtype": str(resolve_dtype(config["backbone_dtype"], config["device"])),
            **pixels,
        }

    def _check_presence(self) -> None:
        present = {m: bool(self.catalog.present(m).any()) for m in self.config["modalities"]}
        for modality in (m for m, any_item in present.items() if not any_item):
            others = ",".join(m for m, any_item in present.items() if any_item)
            remedy = f"--modalities={others}" if others else "--features=none"
            raise SDAError(f"no item of {self.catalog.name!r} has {MODALITY_NAMES[modality]}; use {remedy}")

    def _check_adapter(self) -> None:
        for what, build in (("adapter", self._peft_config), ("alignment", self._loss)):
            try:
                build()
            except (ValueError, TypeError) as error:
                raise SDAError(f"the {what}'s configuration: {error}") from error

    def _check_batch_size(self) -> None:
        config, least = self.config, self._loss().min_rows
        size, perplexity = config["align_batch_size"], config["align_teacher_perplexity"]
        if size < least:
            raise SDAError(
                f"align_batch_size={size} leaves nothing to compare with; "
                f"align_center={config['align_center']} needs at least {least}"
            )
        train, held = split_items(self.catalog, self._alignment_settings())
        compared = min(size, len(train), len(held))
        if config["alignment"] == "cmsa" and perplexity is not None and perplexity >= compared:
            raise SDAError(
                f"align_teacher_perplexity={perplexity} is not below the {compared} items that are compared at "
                f"once (align_batch_size={size}, {len(train)} to train on, {len(held)} held out); lower it"
            )

    def _folder(self, kind: str, settings: dict) -> Path:
        return Path(self.config["checkpoint_dir"]) / kind / digest(settings)

    def _load_backbone(self, device: torch.device | None = None) -> Backbone:
        config = self.config
        return load_backbone(
            config["backbone"],
            prompts=self.prompts,
            min_pixels=config["min_pixels"],
            max_pixels=config["max_pixels"],
            revision=config["backbone_revision"],
            dtype=config["backbone_dtype"],
            device=device or config["device"],
        )

    def _new_adapter_backbone(self, device: torch.device | None = None) -> Backbone:
        torch.manual_seed(self.config["seed"])
        backbone = self._load_backbone(device)
        backbone.model = get_peft_model(backbone.model, self._peft_config())
        return backbone

    def _adapted_backbone(self) -> Backbone:
        backbone = self._load_backbone()
        backbone.model = PeftModel.from_pretrained(backbone.model, self._folder("adapters", self.adapter_settings))
        return backbone

    def _train_adapter(self, folder: Path) -> None:
        if self.config["align_workers"] == 1:
            self.train_adapter_here(folder)
            return
        run_in_workers(
            partial(self._for_workers().train_adapter_here, folder.resolve()),
            workers=self.config["align_workers"],
            use_gpu=torch.device(self.config["device"]).type == "cuda",
            name=digest(self.adapter_settings),
            storage=Path(self.config["checkpoint_dir"]).resolve() / "ray",
        )

    def _for_workers(self) -> "EncoderStages":
        """The same with plain values for a configuration, which a worker reads without RecBole."""
        keys = (*read_properties("overall"), "seed", "device", "checkpoint_dir")
        return type(self)({key: self.config[key] for key in keys}, self.catalog)

    def train_adapter_here(self, folder: Path, device: torch.device | None = None) -> None:
        """Stage 1 in this process, one of several perhaps; the main one writes the adapter into ``folder``."""
        started = time.monotonic()
        backbone = self._new_adapter_backbone(device)
        trainable, total = backbone.model.get_nb_trainable_parameters()
        adapted = len(backbone.model.targeted_module_names)
        logger.info("%d linear layers adapted, %s of %s parameters train", adapted, f"{trainable:,}", f"{total:,}")
        if self.config["align_gradient_checkpointing"]:
            backbone.model.get_base_model().gradient_checkpointing_enable(
                {"use_reentrant": False, "context_fn": checkpoint_routing}
            )
        records = align(backbone, self.catalog, self._loss(), self._alignment_settings(), folder=folder)
        if not PartialState().is_main_process:
            return
        backbone.model.save_pretrained(folder)
        write_manifest(
            folder,
            {
                "settings": self.adapter_settings,
                "machine": {key: self.config[f"align_{key}"] for key in (*MACHINE_KEYS, "workers")},
                "adapted_layers": adapted,
                "trainable_parameters": trainable,
                "held_out": records,
                "seconds": round(time.monotonic() - started, 1),
            },
        )
        remove_state(folder)

    def _embed_catalog(self, folder: Path) -> None:
        clear_folder(folder)
        adapted = self.config["adapter"] != "none"
        backbone = self._adapted_backbone() if adapted else self._load_backbone()
        embed_catalog(
            folder,
            self.catalog,
            backbone,
            modalities=self.config["modalities"],
            batch_tokens=self.config["embed_batch_tokens"],
            dtype=self.config["feature_dtype"],
            settings=self.feature_settings,
        )

    def _peft_config(self) -> MoDAConfig | LoraConfig:
        config = self.config
        shared = {
            "r": config["lora_r"],
            "lora_alpha": config["lora_alpha"],
            "lora_dropout": config["lora_dropout"],
            "target_modules": config["target_modules"] or LANGUAGE_MODEL_TARGETS,
        }
        if config["adapter"] == "lora":
            return LoraConfig(**shared)
        return MoDAConfig(**shared, num_experts=config["num_experts"], gate_scale=config["gate_scale"])

    def _loss(self) -> AlignmentLoss:
        config = self.config
        given = {name: config[f"align_{name}"] for name in (*LOSS_KEYS[config["alignment"]], "chunk_rows")}
        return LOSSES[config["alignment"]](**given)

    def _alignment_settings(self) -> AlignmentSettings:
        given = {name: self.config[f"align_{name}"] for name in (*LOOP_KEYS, *MACHINE_KEYS)}
        return AlignmentSettings(**given, seed=self.config["seed"])
