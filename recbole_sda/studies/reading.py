"""A study read from its YAML file, and every mistake that the file alone can show."""

from collections.abc import Mapping
from pathlib import Path

from recbole_sda.defaults import properties_folder, read_yaml
from recbole_sda.errors import SDAError
from recbole_sda.evaluation.seeds_paired import LEAST_SEEDS
from recbole_sda.studies.definition import AXIS_VALUE, Axis, Claim, Definition

# What a study rules itself; a key of an arm must not be one of them.
OF_THE_STUDY = ("seed", "seeds", "data_path", "checkpoint_dir", "dataset", "model", "compare", "result_file")
KEYS = (
    *("question", "settings", "seeds", "seed_keys", "arms", "figures", "baseline", "compare", "axis", "control"),
    *("claims", "least_seeds", "needs"),
)


def presets() -> dict[str, Path]:
    """Name → file of every study that comes with the package."""
    return {file.stem: file for file in sorted((properties_folder() / "study").glob("*.yaml"))}


def read_definition(name: str) -> Definition:
    """The preset of that name, or the study in that file.

    Raises:
        SDAError: no such preset or file, or one that is no study; it names the file and the key.
    """
    file = Path(name) if Path(name).suffix in (".yaml", ".yml") else presets().get(name)
    if file is None:
        raise SDAError(f"study {name!r} is unknown; choose {', '.join(presets())}, or name a file: my_study.yaml")
    content = read_yaml(file)
    try:
        return _definition(file.stem, content)
    except SDAError as error:
        raise SDAError(f"study {file}: {error}") from None


def _definition(name: str, content: dict) -> Definition:
    if unknown := [key for key in content if key not in KEYS]:
        raise SDAError(f"key {unknown[0]!r} is unknown; a study has {', '.join(KEYS)}")
    question = content.get("question")
    if not isinstance(question, str) or not question:
        raise SDAError("question is missing; say in a sentence what the study asks")
    arms = _arms(content)
    said = _mapping(content, "figures", needed=True)
    figures = {column: _patterns(column, patterns) for column, patterns in said.items()}
    return Definition(
        name=name,
        question=question.strip(),
        arms=arms,
        figures=figures,
        settings=_mapping(content, "settings"),
        seeds=_seeds(content.get("seeds", [1, 2, 3])),
        seed_keys=_names(content, "seed_keys", ("seed", "demo_seed")),
        pairs=_pairs(content, arms),
        axis=_axis(content.get("axis"), arms, figures),
        control=_control(content),
        claims={key: _claim(key, said, arms, figures) for key, said in _mapping(content, "claims").items()},
        least_seeds=_least_seeds(content),
        needs=_names(content, "needs", ()),
    )


def _mapping(content: Mapping, key: str, *, needed: bool = False) -> dict:
    found = content.get(key)
    if found is None and not needed:
        return {}
    if not isinstance(found, dict) or not found:
        raise SDAError(f"{key}={found!r} must be a mapping with at least one entry")
    return found


def _names(content: Mapping, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    found = content.get(key, default)
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        raise SDAError(f"{key}={found!r} must be a list of keys, such as [seed, demo_seed]")
    return tuple(found)


def _arms(content: Mapping) -> dict[str, dict]:
    arms = {str(name): keys or {} for name, keys in _mapping(content, "arms", needed=True).items()}
    for name, keys in arms.items():
        if not isinstance(keys, dict):
            raise SDAError(f"arm {name!r}: {keys!r} must be a mapping of keys, such as {{adapter: lora}}")
        if ruled := [key for key in keys if key in OF_THE_STUDY]:
            raise SDAError(f"arm {name!r} sets {ruled[0]}, which the study itself does; leave it out")
    return arms


def _patterns(column: str, said) -> tuple[str, ...]:
    patterns = [said] if isinstance(said, str) else said
    if not isinstance(patterns, list) or not patterns or not all(isinstance(one, str) for one in patterns):
        raise SDAError(f"figure {column!r}: {said!r} must be measure.name, such as recommender.ndcg@10, or a list")
    for pattern in patterns:
        measure, dot, name = pattern.partition(".")
        if not (measure and dot and name):
            raise SDAError(f"figure {column!r}: {pattern!r} must be measure.name, such as recommender.ndcg@10")
    return tuple(patterns)


def _seeds(seeds) -> tuple[int, ...]:
    whole = isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or len(set(seeds)) < len(seeds):
        raise SDAError(f"seeds={seeds!r} must be a list of whole numbers, each once, such as [1, 2, 3]")
    return tuple(seeds)


def _least_seeds(content: Mapping) -> int:
    least = content.get("least_seeds", LEAST_SEEDS)
    if type(least) is not int or least < 1:
        raise SDAError(f"least_seeds={least!r} must be a whole number above 0, such as {LEAST_SEEDS}")
    return least


def _control(content: Mapping) -> dict:
    keys = _mapping(content, "control")
    if ruled := [key for key in keys if key in OF_THE_STUDY]:
        raise SDAError(f"control sets {ruled[0]}, which the study itself does; leave it out")
    return keys


def _pairs(content: Mapping, arms: Mapping) -> tuple[tuple[str, str], ...]:
    baseline, said = content.get("baseline"), content.get("compare") or []
    if not isinstance(said, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in said):
        raise SDAError(f"compare={said!r} must be a list of pairs of arms, such as [[sda, lora]]")
    pairs = [(_known(pair[0], arms), _known(pair[1], arms)) for pair in said]
    if baseline is not None:
        pairs += [(arm, _known(baseline, arms)) for arm in arms if arm != baseline]
    # The other way round a pair says the same, and would make the correction harsher.
    distinct = {}
    for pair in pairs:
        distinct.setdefault(frozenset(pair), pair)
    return tuple(distinct.values())


def _axis(said, arms: Mapping, figures: Mapping) -> Axis | None:
    varying = [f"arm {arm!r}" for arm, keys in arms.items() if AXIS_VALUE in str(keys)]
    varying += [f"figure {figure!r}" for figure, patterns in figures.items() if AXIS_VALUE in str(patterns)]
    if said is None:
        if varying:
            raise SDAError(f"{varying[0]} has {AXIS_VALUE}, and there is no axis that gives it values")
        return None
    if not varying:
        raise SDAError(f"axis={said!r}, and no arm or figure has {AXIS_VALUE}, for which its values stand")
    if not isinstance(said, dict) or set(said) not in ({"label", "values"}, {"label", "key"}):
        raise SDAError(
            f"axis={said!r} must be such as {{label: temperature, values: [0.1, 0.2]}}, or "
            "{label: step, key: diagnose_steps}"
        )
    if "key" in said:
        return Axis(str(said["label"]), key=str(said["key"]))
    values = said["values"]
    if not isinstance(values, list) or not values or len(set(map(str, values))) < len(values):
        raise SDAError(f"axis: values={values!r} must be a list of at least one, each once")
    return Axis(str(said["label"]), tuple(values))


def _claim(key: str, said, arms: Mapping, figures: Mapping) -> Claim:
    parts = ("says", "arm", "over", "figure")
    if not isinstance(said, dict) or not {*parts} <= set(said) <= {*parts, "beyond"}:
        raise SDAError(f"claim {key!r} must have {', '.join(parts)}, and may have beyond; found {said!r}")
    for name in filter(None, (said["figure"], said.get("beyond"))):
        if name not in figures:
            raise SDAError(f"claim {key!r}: figure {name!r} is not among {', '.join(figures)}")
    return Claim(**{**said, "arm": _known(said["arm"], arms), "over": _known(said["over"], arms)})


def _known(arm, arms: Mapping) -> str:
    if str(arm) not in arms:
        raise SDAError(f"arm {arm!r} is unknown; there are {', '.join(arms)}")
    return str(arm)
