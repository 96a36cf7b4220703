"""What a configuration says of stages 1 and 2: their parts, what names their artefacts, what cannot work."""

import os
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec

from peft import LoraConfig

from recbole_sda.adapters import MoDAConfig
from recbole_sda.alignment import AlignmentLoss, CMSALoss, InfoNCELoss
from recbole_sda.alignment.sampling import split_items
from recbole_sda.alignment.settings import AlignmentSettings
from recbole_sda.artefacts import digest
from recbole_sda.catalog import Catalog
from recbole_sda.encoders import Family, Pooling, Prompts, backbone_identity, check_loading, read_family
from recbole_sda.encoders.loading import resolve_dtype
from recbole_sda.errors import SDAError

# Raise when the same settings would give other artefacts, so that old ones are not reused.
ADAPTER_VERSION, FEATURES_VERSION = 3, 2

KIND_IN_WORDS = {
    "image": "a readable picture",
    "text": "a text",
    "audio": "a readable recording",
    "vectors": "a vector",
}
MIN_VECTOR_WIDTH = 3
POOLING_KEYS = {"kind": "pooling", "layer": "pooling_layer", "last_layers": "pooling_last_layers"}
SOURCE_KEYS = ("revision", "local_files_only", "trust_remote_code")
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
class StageSettings:
    """Read from a configuration for one catalogue.

    Args:
        config: an :class:`~recbole_sda.config.SDAConfig`, or a mapping; only keys of ours, ``seed``, ``device``
            and ``checkpoint_dir`` are read.
        catalog: the items.
    """

    config: object
    catalog: Catalog

    def check(self) -> None:
        """Find out, before any work, whether the backbone can be had and the catalogue can be aligned."""
        config = self.config
        _ = self.identity, self.features
        check_loading(
            config["backbone"],
            self.family,
            **{name: config[f"backbone_{name}"] for name in ("attn_implementation", "quantization", "device_map")},
        )
        self.pooling.resolve(self.family)
        self._check_kinds()
        self._check_presence()
        self._check_vectors()
        if config["index"] and find_spec("faiss") is None:
            raise SDAError("index=True needs faiss; pip install 'recbole_sda[index]'")
        if (processes := int(os.environ.get("WORLD_SIZE", 1))) > 1:
            raise SDAError(
                f"WORLD_SIZE={processes}: a launcher started several processes, which would wait for each other's "
                f"artefacts; start one and say --align_workers={processes}"
            )
        for key in ("align_workers", "embed_workers"):
            if self.config[key] > 1 and find_spec("ray") is None:
                raise SDAError(f"{key}={self.config[key]} needs Ray; pip install 'recbole_sda[tune]'")
        if self.config["adapter"] != "none":
            self._check_adapter()
            self._check_batch_size()

    @cached_property
    def identity(self) -> str:
        return backbone_identity(self.config["backbone"], **self.source)

    @cached_property
    def family(self) -> Family:
        return read_family(self.config["backbone"], **self.source)

    @property
    def source(self) -> dict:
        """Where the backbone's files may come from."""
        return {name: self.config[f"backbone_{name}"] for name in SOURCE_KEYS}

    @cached_property
    def prompts(self) -> Prompts:
        names = ("domain", "image", "text", "audio", "vectors", "field", "value_chars")
        optional = {"instruction": "", "field_templates": {}, "field_chars": {}}
        return Prompts(
            **{name: self.config[f"prompt_{name}"] for name in names},
            **{name: self.config[f"prompt_{name}"] or empty for name, empty in optional.items()},
        )

    @cached_property
    def pooling(self) -> Pooling:
        given = {name: self.config[key] for name, key in POOLING_KEYS.items()}
        return Pooling(**given, dimension=self.config["embedding_dimension"])

    @property
    def aligned(self) -> tuple[str, ...]:
        """The modalities that stage 1 aligns: all of them, in an order that does not depend on the user's."""
        return tuple(sorted(self.config["modalities"]))

    @property
    def vector_widths(self) -> dict[str, int]:
        """modality → d, of modalities of vectors."""
        vectors = [modality for modality, kind in self.catalog.kinds.items() if kind == "vectors"]
        return {modality: int(self.catalog.sizes(modality)[:, 1].max()) for modality in vectors}

    @cached_property
    def adapter(self) -> dict:
        """What the adapter depends on, and nothing else."""
        config = self.config
        keys = ["adapter", *ADAPTER_KEYS[config["adapter"]], "alignment", "seed"]
        keys += [f"align_{name}" for name in (*LOSS_KEYS[config["alignment"]], *LOOP_KEYS)]
        return {
            "version": ADAPTER_VERSION,
            **self._encoder_settings(self.aligned),
            **{key: config[key] for key in keys},
        }

    @cached_property
    def features(self) -> dict:
        adapted = self.config["adapter"] != "none"
        return {
            "version": FEATURES_VERSION,
            **self._encoder_settings(self.config["modalities"]),
            "feature_dtype": self.config["feature_dtype"],
            "adapter": digest(self.adapter) if adapted else "none",
        }

    def _encoder_settings(self, modalities) -> dict:
        config, kinds = self.config, {modality: self.catalog.kinds[modality] for modality in modalities}
        pixels = [key for key in ("min_pixels", "max_pixels") if "image" in kinds.values()]
        return {
            "catalog": {modality: self.catalog.fingerprint(modality) for modality in modalities},
            "kinds": kinds,
            "vector_widths": {name: width for name, width in self.vector_widths.items() if name in kinds},
            "backbone": self.identity,
            "prompts": {modality: self.prompts.settings(kind) for modality, kind in kinds.items()},
            # Resolved: `auto` on a GPU and `auto` on a CPU give different numbers.
            "backbone_dtype": str(resolve_dtype(config["backbone_dtype"], config["device"])),
            **{key: config[key] for key in ("backbone_quantization", "embedding_dimension", *pixels)},
            **{key: config[key] for key in POOLING_KEYS.values()},
        }

    def _check_kinds(self) -> None:
        readable = (*self.family.kinds, "vectors")  # vectors need a projector and no reader
        for modality, kind in self.catalog.kinds.items():
            if kind not in readable:
                others = ",".join(name for name, other in self.catalog.kinds.items() if other in readable)
                raise SDAError(
                    f"backbone={self.config['backbone']!r} reads {' and '.join(self.family.kinds)}, and "
                    f"{modality} is {kind}; use another backbone, --modalities={others}, or vectors: "
                    f"{modality}.npy with {modality}.items.txt in the dataset's folder"
                )

    def _check_vectors(self) -> None:
        for modality, width in self.vector_widths.items():
            if width < MIN_VECTOR_WIDTH and self.config["adapter"] != "none":
                raise SDAError(
                    f"{modality}: vectors of {width} numbers have no direction once their mean is taken away; "
                    f"{MIN_VECTOR_WIDTH} at least are needed, for example by one-hot intervals of a number"
                )

    def _check_presence(self) -> None:
        present = {m: bool(self.catalog.present(m).any()) for m in self.config["modalities"]}
        for modality in (m for m, any_item in present.items() if not any_item):
            others = ",".join(m for m, any_item in present.items() if any_item)
            remedy = f"--modalities={others}" if others else "--features=none"
            lacking = KIND_IN_WORDS[self.catalog.kinds[modality]]
            raise SDAError(f"no item of {self.catalog.name!r} has {lacking}; use {remedy}")

    def _check_adapter(self) -> None:
        for what, build in (("adapter", self.peft_config), ("alignment", self.loss)):
            try:
                build()
            except (ValueError, TypeError) as error:
                prefix = ", whose keys carry align_" if what == "alignment" else ""
                raise SDAError(f"the {what}'s configuration{prefix}: {error}") from error

    def _check_batch_size(self) -> None:
        config, least = self.config, self.loss().min_rows
        size, perplexity = config["align_batch_size"], config["align_teacher_perplexity"]
        if size < least:
            raise SDAError(
                f"align_batch_size={size} leaves nothing to compare with; "
                f"align_center={config['align_center']} needs at least {least}"
            )
        train, held = split_items(self.catalog, self.alignment())
        compared, workers = min(size, len(train), len(held)), config["align_workers"]
        if workers > compared:
            raise SDAError(
                f"align_workers={workers} leaves some without one of the {compared} items that are compared at "
                f"once (align_batch_size={size}, {len(train)} to train on, {len(held)} held out); lower it"
            )
        if config["alignment"] == "cmsa" and perplexity is not None and perplexity >= compared:
            raise SDAError(
                f"align_teacher_perplexity={perplexity} is not below the {compared} items that are compared at "
                f"once (align_batch_size={size}, {len(train)} to train on, {len(held)} held out); lower it"
            )

    def peft_config(self) -> MoDAConfig | LoraConfig:
        config = self.config
        shared = {
            "r": config["lora_r"],
            "lora_alpha": config["lora_alpha"],
            "lora_dropout": config["lora_dropout"],
            "target_modules": config["target_modules"] or self.family.targets(),
        }
        if config["adapter"] == "lora":
            return LoraConfig(**shared)
        return MoDAConfig(
            **shared,
            num_experts=config["num_experts"],
            gate_scale=config["gate_scale"],
            modalities=self.aligned,
        )

    def loss(self) -> AlignmentLoss:
        config = self.config
        given = {name: config[f"align_{name}"] for name in (*LOSS_KEYS[config["alignment"]], "chunk_rows")}
        return LOSSES[config["alignment"]](**given)

    def alignment(self) -> AlignmentSettings:
        given = {name: self.config[f"align_{name}"] for name in (*LOOP_KEYS, *MACHINE_KEYS)}
        return AlignmentSettings(
            **given,
            modalities=self.aligned,
            seed=self.config["seed"],
            read_workers=self.config["read_workers"],
        )
