"""SDAConfig: RecBole's Config that finds our YAML, never evaluates text, and checks every key before any work."""

import copy
import difflib
import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from recbole_sda import compat
from recbole_sda.defaults import (
    Loader,
    over_our_defaults,
    properties_folder,
    read_datasets_own,
    read_properties,
    read_yaml,
    recbole_properties_folder,
)
from recbole_sda.errors import SDAError

compat.prepare_recbole()

from recbole.config import Config  # noqa: E402
from recbole.utils import (  # noqa: E402
    ModelType,
    dataset_arguments,
    evaluation_arguments,
    general_arguments,
    get_model,
    training_arguments,
)

from recbole_sda.config_checks import check_metrics, check_values  # noqa: E402
from recbole_sda.evaluation import register_metrics  # noqa: E402
from recbole_sda.key_kinds import typed_value  # noqa: E402
from recbole_sda.model.registry import (  # noqa: E402
    OWN_MODELS,
    import_model,
    make_known,
    own_defaults,
    own_keys,
    registration,
)

# Keys that RecBole reads but that stand in none of its YAML files.
RECBOLE_UNLISTED = (
    "config_files dataset encoding eta feature_num has_residual model norm sim tail_ratio token_num_threshold "
    "use_filter xgb_early_stopping_rounds"
)
# By which RecBole joins processes; here Ray does.
JOINING = ("ip", "local_rank", "offset", "port", "world_size")

_EXAMPLES = {"model": "--model=SASRec", "dataset": "--dataset=demo"}


class SDAConfig(Config):
    """The configuration of a run: RecBole's, ours, the user's, in RecBole's order of priority.

    Args:
        model: name of a RecBole model or of ours.
        dataset: name of a folder under ``data_path``, or ``demo``.
        config_file_list: YAML files.
        config_dict: over the files; strings are read as YAML, never evaluated.
        argv: ``--key=value`` arguments, over everything else. A library call reads no command line.
        one_of_several: other models run beside this one and may be meant by a key that this one does not read.

    Raises:
        SDAError: unknown model, unknown key (with the nearest known one), bad or contradicting values.
    """

    users_gpus = os.environ.get("CUDA_VISIBLE_DEVICES")  # over which RecBole's Config writes its gpu_id

    def __init__(
        self,
        model: str | None = None,
        dataset: str | None = None,
        config_file_list: Sequence[str] | None = None,
        config_dict: dict | None = None,
        *,
        argv: Sequence[str] = (),
        one_of_several: bool = False,
    ):
        self._argv = list(argv)
        self._one_of_several = one_of_several
        register_metrics()
        try:
            super().__init__(model, dataset, config_file_list, config_dict)
        except SDAError:
            raise
        except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
            raise SDAError(f"RecBole refuses this configuration: {error}") from error
        check_values(self)
        if hasattr(self.model_class, "check_config"):
            self.model_class.check_config(self)

    def replace(self, **values) -> "SDAConfig":
        """A copy with other values, for the variants of a comparison."""
        other = copy.deepcopy(self)
        other.final_config_dict.update(values)
        check_values(other)
        return other

    def __getstate__(self) -> dict:
        """For another process, which finds the model by its name: importing it needs the care of `find_model`."""
        return {**self.__dict__, "model_class": None, "_registered": registration(self._model_named)}

    def __setstate__(self, state: dict) -> None:
        register_metrics()
        make_known(state.pop("_registered"))
        self.__dict__ = {**state, "model_class": find_model(state["_model_named"])}

    @property
    def unused_typed_keys(self) -> list[str]:
        return [key for key in self.unused_keys if key in self.cmd_config_dict]

    def chosen(self, key: str) -> bool:
        """Whether the user or a file of the model's or dataset's said it: no mere default."""
        return key in self.external_config_dict or key in self._particular

    def given(self, key: str) -> bool:
        """Whether the user said it: in a file, in a dictionary or on the command line."""
        return key in self.external_config_dict

    # --- what RecBole does by `eval`, `sys.argv` and removed numpy names ---

    def compatibility_settings(self):
        """RecBole's own reads ``np.float_``; ``compat`` has restored what is used."""

    def _build_yaml_loader(self):
        return Loader

    def _load_config_files(self, file_list):
        values = {}
        for file in file_list or ():
            values.update(read_yaml(file))
        return values

    def _convert_config_dict(self, config_dict):
        return {key: typed_value(key, value) for key, value in config_dict.items()}

    def _load_cmd_line(self):
        values = {}
        for argument in self._argv:
            key, equals, value = argument.removeprefix("--").partition("=")
            if not (argument.startswith("--") and equals and key):
                raise SDAError(f"argument {argument!r} is not understood; write --key=value")
            if key in values and values[key] != value:
                raise SDAError(f"--{key} is given twice: {values[key]!r} and {value!r}; keep one")
            values[key] = value
        return self._convert_config_dict(values)

    def _set_default_parameters(self):
        check_metrics(self.final_config_dict)
        super()._set_default_parameters()

    # --- models and YAML of ours ---

    def _get_model_and_dataset(self, model, dataset):
        model = model or self.external_config_dict.get("model")
        dataset = dataset or self.external_config_dict.get("dataset")
        for key, value in (("model", model), ("dataset", dataset)):
            if not value:
                raise SDAError(f"{key} is not given; say --{key}=NAME, for example {_EXAMPLES[key]}")
        self._model_named = str(model)  # "package.module:Class" for one that another process has to import
        model_class = find_model(self._model_named)
        return model_class.__name__, model_class, str(dataset)

    def _load_internal_config_dict(self, model, model_class, dataset):
        super()._load_internal_config_dict(model, model_class, dataset)
        if model in OWN_MODELS:
            self.internal_config_dict.update(_inherited(model_class))
        recbole_keys = set(self.internal_config_dict)
        particular = {
            **read_properties("model", model),
            **own_defaults(model),
            **read_properties("dataset", dataset),
            **self._datasets_own(dataset),
        }
        self._particular = frozenset(particular)
        self.internal_config_dict.update(over_our_defaults(particular, self.external_config_dict))
        check_known(self.external_config_dict, "")
        read = {*recbole_keys, *self.internal_config_dict, *_always_known()}
        self.unused_keys = sorted(set(self.external_config_dict) - read)
        for key in self.unused_typed_keys:
            # A file may serve several models; what is typed for this run must matter to it.
            if not self._one_of_several:
                raise SDAError(f"key {key!r} is of other models, {model} does not read it; {_nearest(key, read)}")
        self._settle_negative_sampling()

    def _datasets_own(self, dataset: str) -> dict:
        """``dataset/<name>/<name>.yaml``."""
        data_path = {**self.internal_config_dict, **self.external_config_dict}["data_path"]
        folder = Path(data_path) / dataset
        values = read_datasets_own(folder)
        check_known(values, f"{folder / dataset}.yaml: ")
        return values

    def _settle_negative_sampling(self):
        """RecBole's default of one negative is refused by its own sequential models with a CE loss."""
        merged = {**self.internal_config_dict, **self.external_config_dict}
        uses_ce = merged["MODEL_TYPE"] == ModelType.SEQUENTIAL and merged.get("loss_type") == "CE"
        if uses_ce and not self.given("train_neg_sample_args"):
            self.internal_config_dict["train_neg_sample_args"] = None


def find_model(name: str) -> type:
    """The model class of that name, or that ``package.module:Class`` names; registered ones first.

    Raises:
        SDAError: no such model, with the nearest names.
    """
    if ":" in name:
        return import_model(name)
    if name in OWN_MODELS:
        return OWN_MODELS[name]
    try:
        with compat.keep_anomaly_mode():
            return get_model(name)
    except (AttributeError, ValueError, ImportError) as error:
        recboles = [file.stem for file in (recbole_properties_folder() / "model").glob("*.yaml")]
        if name in recboles:
            raise SDAError(f"model={name!r} cannot be imported: {error}") from error
        # An ImportError says nothing here: RecBole looks for every unknown name beside LightGBM and XGBoost.
        raise SDAError(f"model={name!r} is unknown; {_nearest(name, [*OWN_MODELS, *recboles])}") from None


def _inherited(model_class: type) -> dict:
    """RecBole's defaults of the models that a class of the user's own builds upon."""
    values = {}
    for base in reversed(model_class.__mro__[1:]):
        file = recbole_properties_folder() / "model" / f"{base.__name__}.yaml"
        values |= read_yaml(file) if file.is_file() else {}
    return values


def known_keys() -> frozenset[str]:
    """Every key that RecBole, any of its models, a registered model, or we read."""
    return _known_keys() | own_keys()


@cache
def _known_keys() -> frozenset[str]:
    files = [f for f in recbole_properties_folder().rglob("*.yaml") if not f.stem.endswith("url")]
    files += [f for f in properties_folder().rglob("*.yaml") if f.parent.name not in ("tune", "study")]
    return _always_known() | {key for file in files for key in read_yaml(file)}


def _always_known() -> set[str]:
    listed = general_arguments + training_arguments + evaluation_arguments + dataset_arguments
    return {*listed, *RECBOLE_UNLISTED.split(), *read_yaml(properties_folder() / "overall.yaml")}


def check_known(values: Iterable[str], where: str) -> None:
    """Raises: SDAError: at the first key that nothing reads, with the nearest one that something does."""
    for key in values:
        if key in JOINING:
            raise SDAError(f"{where}key {key!r} is not needed: Ray joins the processes; say --nproc=N alone")
        if key not in known_keys():
            raise SDAError(f"{where}key {key!r} is unknown; {_nearest(key, known_keys())}")


def _nearest(name: str, names: Iterable[str]) -> str:
    spelled = {known.lower(): known for known in sorted(names)}
    near = difflib.get_close_matches(name.lower(), spelled, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(spelled[n] for n in near)}?" if near else "`--help` lists what is known"
