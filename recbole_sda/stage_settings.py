"""What a configuration says of stages 1 and 2: their parts, and what names their artefacts."""

from dataclasses import dataclass
from functools import cached_property

from peft import LoraConfig

from recbole_sda.adapters import MoDAConfig
from recbole_sda.alignment import AlignmentLoss, TeacherAttack
from recbole_sda.alignment.named_losses import find_loss, has_teacher, loss_arguments, loss_identity
from recbole_sda.alignment.settings import AlignmentSettings
from recbole_sda.artefacts import digest
from recbole_sda.catalog import Catalog
from recbole_sda.encoders import Family, Pooling, Prompts, backbone_identity, read_family
from recbole_sda.encoders.loading import resolve_dtype

# Raise when the same settings would give other artefacts, so that old ones are not reused.
ADAPTER_VERSION, FEATURES_VERSION = 3, 2

POOLING_KEYS = {"kind": "pooling", "layer": "pooling_layer", "last_layers": "pooling_last_layers"}
SOURCE_KEYS = ("revision", "local_files_only", "trust_remote_code")
LORA_KEYS = ("lora_r", "lora_alpha", "lora_dropout", "target_modules")
ADAPTER_KEYS = {"lora": LORA_KEYS, "moda": (*LORA_KEYS, "num_experts", "gate_scale")}
# Names of AlignmentSettings' arguments; the configuration's keys carry align_ before them.
LOOP_KEYS = (
    *("batch_size", "steps", "learning_rate", "max_grad_norm", "mixed_precision"),
    *("holdout_share", "holdout_max", "eval_every", "patience"),
)
TEACHER = "teacher"  # in align_corrupt, beside names of modalities
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
        keys += [f"align_{name}" for name in (*loss_arguments(config["alignment"]), *LOOP_KEYS)]
        return {
            "version": ADAPTER_VERSION,
            **self._encoder_settings(self.aligned),
            **{key: config[key] for key in keys},
            **({"align_corrupt": self.corruption} if self.corruption else {}),
            **loss_identity(config["alignment"]),
        }

    @property
    def corruption(self) -> dict[str, float]:
        """name → share of what is wrong in stage 1; nothing that changes nothing, such as InfoNCE's teacher."""
        config = self.config
        shares = {name: float(share) for name, share in (config["align_corrupt"] or {}).items() if share}
        if not has_teacher(config["alignment"]):
            shares.pop(TEACHER, None)
        return shares

    @property
    def content_corruption(self) -> dict[str, float]:
        """The part of it that is wrong in the catalogue."""
        return {name: share for name, share in self.corruption.items() if name != TEACHER}

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
        given = {name: config[f"align_{name}"] for name in (*loss_arguments(config["alignment"]), "chunk_rows")}
        if TEACHER in self.corruption:
            given["attack"] = TeacherAttack(self.corruption[TEACHER], config["seed"])
        return find_loss(config["alignment"])(**given)

    def alignment(self) -> AlignmentSettings:
        given = {name: self.config[f"align_{name}"] for name in (*LOOP_KEYS, *MACHINE_KEYS)}
        return AlignmentSettings(
            **given,
            modalities=self.aligned,
            seed=self.config["seed"],
            read_workers=self.config["read_workers"],
        )
