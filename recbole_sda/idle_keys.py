"""Keys that are typed for a run and would change nothing in it, from a table of what each key needs.

A file may serve several runs; what is typed for this one must matter to it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from recbole_sda.alignment.named_losses import TEACHER_ARGUMENTS, has_teacher
from recbole_sda.defaults import read_properties
from recbole_sda.errors import SDAError
from recbole_sda.stage_settings import ADAPTER_KEYS
from recbole_sda.variants import is_own, variants_of


class Run:
    """What a configuration asks for, as the table's conditions read it.

    Attributes:
        variants: their keys.
        features: of all of them.
        adapters, alignments: of those that train an adapter.
    """

    def __init__(self, values: Mapping):
        self.values = values
        self.variants = [*variants_of(values).values()]
        self.features = {keys["features"] for keys in self.variants}
        adapting = [k for k in self.variants if k["features"] == "auto" and k["adapter"] != "none"]
        self.adapters = {keys["adapter"] for keys in adapting}
        self.alignments = {keys["alignment"] for keys in adapting}

    def __getitem__(self, key: str):
        return self.values[key]

    @property
    def embeds(self) -> bool:
        return "auto" in self.features

    @property
    def owns(self) -> bool:
        return any(map(is_own, self.features))

    def measures(self, *groups: str) -> bool:
        return any(name.lower().startswith(groups) for name in self["metrics"])

    @property
    def draws(self) -> bool:
        """Whether anything is drawn by ``protocol_seed``."""
        return bool(self["cold_share"]) or self["protocol"] == "uni100" or len(self.variants) > 1


class Row(NamedTuple):
    """When keys do nothing.

    Attributes:
        keys: their names, with blanks between them; * stands for any end.
        idle: whether they do nothing.
        reason, remedy: for the user; the reason may quote values.
    """

    keys: str
    idle: Callable[[Run], bool]
    reason: str
    remedy: str

    def names(self, key: str) -> bool:
        return any(fnmatchcase(key, name) for name in self.keys.split())


FEATURES = "fusion use_item_id missing_features modalities feature_*"
EMBEDDING = (
    "adapter modality_kinds backbone* prompt_* pooling* embed* min_pixels max_pixels text_fields image_folder "
    "max_image_pixels max_audio_seconds read_workers all_items strict feature_dtype append index"
)
STAGE_1 = "align* lora_* target_modules num_experts gate_scale"
OF_MODA = " ".join(sorted({*ADAPTER_KEYS["moda"]} - {*ADAPTER_KEYS["lora"]}))
OF_CMSA = " ".join(f"align_{name}" for name in TEACHER_ARGUMENTS)
WORKERS = ("align_workers", "embed_workers", "nproc")
TAIL_METRICS = ("tailhit", "tailndcg", "headhit", "headndcg")

TABLE = (
    Row(FEATURES, lambda run: run.features == {"none"}, "no variant uses features", "ask for features"),
    Row(
        EMBEDDING,
        lambda run: not run.embeds,
        "no variant embeds the catalogue",
        "compare with one that does, as in --compare=ids,zero_shot,sda",
    ),
    Row(STAGE_1, lambda run: not run.adapters, "no variant trains an adapter", "say --adapter=moda"),
    Row(OF_MODA, lambda run: "moda" not in run.adapters, "only MoDA has experts", "say --adapter=moda"),
    Row(
        OF_CMSA,
        lambda run: not any(map(has_teacher, run.alignments)),
        "only CMSA has a teacher",
        "say --alignment=cmsa",
    ),
    Row("missing_features", lambda run: not run.owns, "only features of your own can lack items", "name some"),
    Row(
        "fusion",
        lambda run: not run.owns and len(run["modalities"]) == 1,
        "modalities={modalities[0]} leaves nothing to fuse",
        "name several",
    ),
    Row(
        "feature_dimension",
        lambda run: run["feature_reduction"] == "none",
        "feature_reduction=none keeps all dimensions",
        "say --feature_reduction=pca",
    ),
    Row(
        "feature_activation",
        lambda run: run["feature_hidden_size"] is None,
        "the projection has no hidden layer",
        "say --feature_hidden_size=WIDTH",
    ),
    Row(
        "feature_device_gib",
        lambda run: run["feature_placement"] != "auto",
        "feature_placement={feature_placement} says where the features lie",
        "say --feature_placement=auto",
    ),
    Row(
        "tail_*",
        lambda run: not run.measures(*TAIL_METRICS),
        "no metric is of the tail or the head",
        "add TailHit to metrics",
    ),
    Row(
        "tail_head_share",
        lambda run: run["tail_max_popularity"] is not None,
        "tail_max_popularity={tail_max_popularity} says what the tail is",
        "leave that one out",
    ),
    Row("bootstrap_samples", lambda run: len(run.variants) < 2, "nothing is compared", "say --compare=VARIANTS"),
    Row(
        "protocol_seed",
        lambda run: not run.draws,
        "without cold_share, protocol=uni100 and compare nothing is drawn by it",
        "add one of them",
    ),
    Row("diagnose_*", lambda run: True, "nothing is diagnosed in a run", "say `diagnose conflict`"),
    Row("study_* backbones", lambda run: True, "this is no study", "say `study NAME`"),
    Row("space tune_* resume", lambda run: True, "nothing is swept in a run", "say `tune`"),
    Row(
        "cpus gpus",
        lambda run: True,
        "a run is no sweep and no study, whose parts run side by side",
        "say `tune` or `study NAME`",
    ),
    Row(
        "ray_address",
        lambda run: not any(run[key] > 1 for key in WORKERS),
        "everything runs in this process",
        f"say one of {', '.join(f'--{key}=2' for key in WORKERS)}",
    ),
)


def check_idle(configs: Sequence, *, read: Sequence[str] = ()) -> None:
    """Refuse a typed key that would do nothing, to none of the models.

    Args:
        configs: one a model. A model class may have ``idle_keys``: key → what the model does instead.
        read: names or patterns, as in the table, of keys that the command reads beside its runs.

    Raises:
        SDAError: it names the key, the reason and the remedy.
    """
    found = [idle_in(config, config.cmd_config_dict) for config in configs]
    for key, why in found[0].items():
        if any(fnmatchcase(key, name) for name in read):
            continue
        if all(key in others for others in found):
            raise SDAError(f"{key}={configs[0].cmd_config_dict[key]} would do nothing: {why}")


def idle_in(config, keys: Iterable[str]) -> dict[str, str]:
    """Those of our keys among ``keys`` that would do nothing in this configuration → why."""
    return dict(_idle(config, keys))


def _idle(config, keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    run, of_the_model = Run(config), getattr(config.model_class, "idle_keys", {})
    ours = read_properties("overall")  # RecBole has keys that begin like ours
    for key in filter(ours.__contains__, keys):
        row = next((row for row in TABLE if row.names(key) and row.idle(run)), None)
        if row is not None:
            yield key, f"{row.reason.format_map(config.final_config_dict)}; leave it out, or {row.remedy}"
        elif key in of_the_model:
            yield key, f"{config['model']} {of_the_model[key]}; leave it out, or choose another model"
