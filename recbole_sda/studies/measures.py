"""What can be measured of one arm with one seed, from a table: one row a measure."""

import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

import recbole_sda
from recbole_sda.alignment.cosines import EACH
from recbole_sda.alignment.health import effective_rank, mean_pairwise_cosine, retrieval_by_pairs
from recbole_sda.alignment.sampling import split_items
from recbole_sda.artefacts import read_manifest
from recbole_sda.catalog.demo_world import AUDIO, KEYS
from recbole_sda.config_checks import METRICS_WITHOUT_K
from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureStore
from recbole_sda.fingerprints import files_identity, interactions_identity
from recbole_sda.idle_keys import EMBEDDING, STAGE_1
from recbole_sda.laboratory import measure as measure_truth
from recbole_sda.laboratory import measure_structure, open_embeddings
from recbole_sda.laboratory.truth import SETTINGS, TRUTH
from recbole_sda.model.registry import model_identity
from recbole_sda.outcome import VERSION
from recbole_sda.prepare import DEMO
from recbole_sda.recommend import OF_THE_COMMAND
from recbole_sda.run_plan import run_plan
from recbole_sda.studies.bench import Bench
from recbole_sda.trainer import plain

# Keys that a recommender trained on given features and interactions does not feel; names or patterns.
NOT_OF_THE_RECOMMENDER = (
    *(*OF_THE_COMMAND, "data_path", "checkpoint_dir", "alignment", "diagnose_*"),
    *(*EMBEDDING.split(), *STAGE_1.split(), *KEYS.values(), AUDIO),
    *("study_*", "cpus", "gpus"),
)
# Of records that do not say which: they were the first.
FIRST_TRAINING = (2, "0.1.0")
HELD_OUT_NEIGHBOURS = 5  # of the few held-out items; ten would be a third of the demo's
# Of the cosines of gradients: expert and projection of `alignment.cosines.summarize`'s records.
READINGS = {"all together": (None, None), "gates aside": (EACH, EACH)}


class Measure(NamedTuple):
    """One kind of look at an arm.

    Attributes:
        figures: name → number.
        depends_on: what these depend on, in JSON values.
        applies: whether the arm has it.
        check: raises SDAError, before any work, where it could not be measured.
        needs_model, needs_truth: a recommender; the planted truth of the demo.
    """

    figures: Callable[[Bench], Mapping[str, float]]
    depends_on: Callable[[Bench], dict]
    applies: Callable[[Bench], bool]
    check: Callable[[Bench], None] = lambda bench: None
    needs_model: bool = False
    needs_truth: bool = False


# --- alignment: do the held-out items find themselves in another modality? ---


def _alignment(bench: Bench) -> dict[str, float]:
    """From the stored features of any arm, of an unadapted backbone, too; the rows are those that no arm of this
    seed trains on."""
    settings, store = bench.stages.settings.alignment(), FeatureStore.open(bench.stages.embed())
    tokens = _held_out_tokens(bench)
    views = {name: torch.from_numpy(store.get(name, tokens)) for name in settings.modalities}
    present = {name: torch.from_numpy(store.present(name)[store.rows(tokens)]) for name in settings.modalities}
    own = {name: values[present[name]] for name, values in views.items()}
    return {
        **retrieval_by_pairs(views, present, center=True),
        **{f"effective_rank/{name}": effective_rank(values) for name, values in own.items()},
        **{f"mean_cosine/{name}": mean_pairwise_cosine(values) for name, values in own.items()},
    }


def _held_out_tokens(bench: Bench) -> list[str]:
    return [bench.stages.catalog.tokens[row] for row in _held_out_rows(bench)]


def _held_out_rows(bench: Bench) -> np.ndarray:
    return split_items(bench.stages.catalog, bench.stages.settings.alignment())[1]


def _alignment_depends_on(bench: Bench) -> dict:
    keys = ("seed", "align_holdout_share", "align_holdout_max")
    return {"features": bench.features, **{key: bench.config[key] for key in keys}}


def _has_pairs(bench: Bench) -> bool:
    return bench.stages is not None and len(bench.config["modalities"]) > 1


# --- training: what did stage 1 say of itself when it ended? ---


def _training(bench: Bench) -> dict[str, float]:
    """The numbers of the last look at the held-out items, the loss and the teacher's entropy among them."""
    last = read_manifest(bench.stages.adapt())["held_out"][-1]
    return {name: value for name, value in last.items() if isinstance(value, int | float)}


def _training_depends_on(bench: Bench) -> dict:
    return {"adapter": bench.stages.settings.adapter}


# --- structure: do the embeddings show what the demo's generator planted? ---


def _structure(bench: Bench) -> dict[str, float]:
    return measure_truth(bench.stages.embed(), bench.data_folder)


def _structure_held_out(bench: Bench) -> dict[str, float]:
    """Among the held-out items alone: pairs that were trained on can be learned by heart, even in the control."""
    embeddings, truth = open_embeddings(bench.stages.embed(), bench.data_folder)
    row_of = {token: row for row, token in enumerate(truth.tokens)}
    tokens = _held_out_tokens(bench)
    rows = [row_of[token] for token in tokens]
    held_out = {modality: values[rows] for modality, values in embeddings.items()}
    return measure_structure(held_out, truth.of(tokens), neighbours=HELD_OUT_NEIGHBOURS)


def _check_held_out(bench: Bench) -> None:
    rows, modalities = _held_out_rows(bench), bench.config["modalities"]
    whole = np.logical_and.reduce([bench.stages.catalog.present(name)[rows] for name in modalities]).sum()
    if whole <= HELD_OUT_NEIGHBOURS:
        raise SDAError(
            f"align_holdout_share={bench.config['align_holdout_share']}: {whole} items with "
            f"{', '.join(modalities)} are held out, and structure_held_out needs {HELD_OUT_NEIGHBOURS + 1}; hold "
            "out more, or take a larger world (demo_items)"
        )


def _structure_held_out_depends_on(bench: Bench) -> dict:
    return {**_structure_depends_on(bench), **_alignment_depends_on(bench), "neighbours": HELD_OUT_NEIGHBOURS}


def _structure_depends_on(bench: Bench) -> dict:
    return {"features": bench.features, "truth": files_identity(bench.data_folder, (TRUTH, SETTINGS))}


# --- conflict: do the passes of two modalities pull the adapter the same way? ---


def _conflict(bench: Bench, *, trained: bool = True, held_out: bool = False) -> dict[str, float]:
    if trained:
        bench.stages.adapt()
    return _readings(bench.stages.conflict(trained=trained, held_out=held_out))


def _conflict_steps(bench: Bench) -> dict[str, float]:
    """``<step>/training/<reading>`` and ``<step>/held out/<reading>``."""
    records = bench.stages.conflict_over_training(bench.config["diagnose_steps"])
    found = {}
    for step, held_out in dict.fromkeys((record["step"], record["held_out"]) for record in records):
        part = [record for record in records if (record["step"], record["held_out"]) == (step, held_out)]
        place = f"{step}/{'held out' if held_out else 'training'}"
        found |= {f"{place}/{reading}": cosine for reading, cosine in _readings(part).items()}
    return found


def _readings(records: list[dict]) -> dict[str, float]:
    """Each reading's mean over the pairs of modalities."""
    found = {}
    for name, (expert, projection) in READINGS.items():
        cosines = [r["mean"] for r in records if (r["expert"], r["projection"]) == (expert, projection)]
        found[name] = math.nan if None in cosines else sum(cosines) / len(cosines)
    return found


def _conflict_depends_on(bench: Bench) -> dict:
    keys = ("diagnose_batches", "num_experts")
    return {"adapter": bench.stages.settings.adapter, **{key: bench.config[key] for key in keys}}


def _conflict_steps_depends_on(bench: Bench) -> dict:
    return {**_conflict_depends_on(bench), "steps": sorted(bench.config["diagnose_steps"])}


def _check_conflict_steps(bench: Bench) -> None:
    if not bench.config["diagnose_steps"]:
        raise SDAError("diagnose_steps is empty, and the conflict over training is asked for; say 0,50,100")
    bench.stages.check_conflict(bench.config["diagnose_steps"])


# --- recommender: what does it bring to those who are recommended to? ---


def _recommender(bench: Bench) -> dict[str, float]:
    return run_plan(bench.plan)["test"]


def _recommender_depends_on(bench: Bench) -> dict:
    """The configuration as far as it is of the recommender, the features, the interactions themselves, the source
    of a model of the user's own, and which training it is."""
    config = {
        key: plain(value)
        for key, value in bench.config.final_config_dict.items()
        if not any(fnmatchcase(key, name) for name in NOT_OF_THE_RECOMMENDER)
    }
    training = (VERSION, recbole_sda.__version__)
    return {
        "config": config,
        "features": bench.features,
        "data": interactions_identity(bench.config),
        **model_identity(bench.config.model_class),
        **({} if training == FIRST_TRAINING else {"training": training}),
    }


def metric_names(config) -> set[str]:
    """What a recommender's metrics are called in its results."""
    named = {name.lower() for name in config["metrics"]}
    at_k = {f"{name}@{k}" for name in named - {*METRICS_WITHOUT_K} for k in config["topk"]}
    return at_k | named.intersection(METRICS_WITHOUT_K)


def _adapts(bench: Bench) -> bool:
    return bench.adapts


def _of_conflict(**state) -> Measure:
    return Measure(
        partial(_conflict, **state),
        _conflict_depends_on,
        _adapts,
        lambda bench: bench.stages.check_conflict(),
    )


MEASURES = {
    "alignment": Measure(_alignment, _alignment_depends_on, _has_pairs),
    "training": Measure(_training, _training_depends_on, _adapts),
    "structure": Measure(
        _structure,
        _structure_depends_on,
        lambda bench: bench.stages is not None and bench.config["dataset"] == DEMO,
        needs_truth=True,
    ),
    "structure_held_out": Measure(
        _structure_held_out,
        _structure_held_out_depends_on,
        lambda bench: _has_pairs(bench) and bench.config["dataset"] == DEMO,
        _check_held_out,
        needs_truth=True,
    ),
    "conflict": _of_conflict(trained=True),
    "conflict_start": _of_conflict(trained=False),
    "conflict_held_out": _of_conflict(trained=True, held_out=True),
    "conflict_steps": Measure(_conflict_steps, _conflict_steps_depends_on, _adapts, _check_conflict_steps),
    "recommender": Measure(_recommender, _recommender_depends_on, lambda bench: True, needs_model=True),
}


def known(name: str) -> str:
    """Raises: SDAError: no such measure."""
    if name not in MEASURES:
        raise SDAError(f"measure {name!r} is unknown; choose {', '.join(MEASURES)}")
    return name


def needs_model(names: Sequence[str]) -> bool:
    return any(MEASURES[name].needs_model for name in names)
