"""The trials of a sweep: every combination that is a training of its own, in an order that seldom waits."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from recbole_sda.alignment.named_losses import loss_arguments
from recbole_sda.artefacts import digest
from recbole_sda.config import SDAConfig
from recbole_sda.errors import SDAError
from recbole_sda.idle_keys import EMBEDDING, check_idle, idle_in
from recbole_sda.stage_settings import ADAPTER_KEYS, LOOP_KEYS
from recbole_sda.trainer import plain
from recbole_sda.tuning.command_checks import PROCESSES
from recbole_sda.tuning.settings import Command, Settings, class_name
from recbole_sda.tuning.space import combinations, corner_combinations, draws

logger = logging.getLogger(__name__)

# What else an adapter may depend on, and which of these keys change none.
OF_THE_CATALOGUE = f"{EMBEDDING} modalities align_corrupt"
OF_STAGE_2 = "embed* read_workers feature_dtype append index"
MOST_CORNERS = 64  # combinations that are configured for a check, a tenth of a second each


@dataclass(frozen=True)
class Trial:
    """One training.

    Attributes:
        model: as it was named; one of the user's own by ``package.module:Class``, for other processes import it.
        values: the swept keys that it depends on.
    """

    model: str
    values: dict

    @property
    def name(self) -> str:
        """For files and tables: the model and a digest of the values."""
        return f"{self.model_name}-{digest(plain(self.values))[:8]}"

    @property
    def model_name(self) -> str:
        """The class's own."""
        return class_name(self.model)

    def __str__(self) -> str:
        said = (f"{key}={value}" for key, value in self.values.items())
        return f"{self.model_name} {' '.join(said)}".strip()


@dataclass(frozen=True)
class Planned:
    """Trials with their configurations. Attributes: adapters: how many distinct ones they need."""

    trials: tuple[Trial, ...]
    configs: tuple[SDAConfig, ...]
    adapters: int


def plan(command: Command, settings: Settings) -> Planned:
    """Every combination or draw of every model, doubles left out, the first of each adapter before any second.

    Trials that share an adapter wait for each other while it trains; in this order those that begin together
    seldom do.

    Raises:
        SDAError: values that are wrong, contradict each other, or change nothing for any model.
    """
    if settings.search == "grid":
        tried = combinations(settings.space)
    else:
        tried = draws(settings.space, settings.samples, settings.seed)
    whole = [(model, values, _configured(command, model, values)) for model in settings.models for values in tried]
    check_idle([config for *_, config in whole])
    _check_read(settings, [config for *_, config in whole])
    found = {}
    for model, values, config in whole:
        trial = Trial(model, read_values(config, values))
        if trial.name not in found:
            found[trial.name] = trial, config
    if len(found) < len(whole):
        doubles = len(whole) - len(found)
        logger.info("%d of %d combinations come to trainings of others and are not run again", doubles, len(whole))
    return _ordered(list(found.values()), settings)


def check_corners(command: Command, settings: Settings) -> Planned:
    """For a search that draws as it goes: each value of a choice, and both ends of each range, must be valid.

    So must be their combinations where they are few. Where they are many, those that are drawn and contradict
    themselves are trials that fail.

    Raises:
        SDAError: as :func:`plan`.
    """
    tried = corner_combinations(settings.space, MOST_CORNERS)
    whole = [(model, values, _configured(command, model, values)) for model in settings.models for values in tried]
    configs = [config for *_, config in whole]
    check_idle(configs)
    _check_read(settings, configs)
    return _ordered([(Trial(model, values), config) for model, values, config in whole], settings)


def read_values(config: SDAConfig, values: Mapping) -> dict:
    """Those of the values that change anything in this configuration."""
    without = {*config.unused_keys, *idle_in(config, values)}
    return {key: value for key, value in values.items() if key not in without}


def adapter_of(config: SDAConfig, swept: Iterable[str]) -> str | None:
    """What names the adapter of this configuration among those of its sweep; None without one."""
    if config["features"] != "auto" or config["adapter"] == "none":
        return None
    of_the_loss = (*loss_arguments(config["alignment"]), *LOOP_KEYS)
    keys = {"adapter", "alignment", "seed", *ADAPTER_KEYS[config["adapter"]], *(f"align_{k}" for k in of_the_loss)}
    keys |= {key for key in swept if _is_of(key, OF_THE_CATALOGUE) and not _is_of(key, OF_STAGE_2)}
    return digest({key: plain(config[key]) for key in keys})


def _is_of(key: str, patterns: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns.split())


def _configured(command: Command, model: str, values: Mapping) -> SDAConfig:
    try:
        config = command.configure(model, values)
    except SDAError as error:
        tried = ", ".join(f"{key}={value}" for key, value in values.items())
        raise SDAError(f"space: {model} with {tried}: {error}") from error
    for key in PROCESSES:
        if config[key] > 1:
            raise SDAError(f"{key}={config[key]} in {model}'s configuration: a trial is one process; set it to 1")
    return config


def _check_read(settings: Settings, configs: Sequence[SDAConfig]) -> None:
    """Refuse a swept key that no trial reads; say which models do without which."""
    for key in settings.space:
        ignored, why = {}, ""
        for config in configs:
            idle = idle_in(config, [key])
            if key in config.unused_keys or idle:
                why = idle.get(key, f"{config['model']} does not read it")
                ignored[config["model"]] = ignored.get(config["model"], 0) + 1
        trials = Counter(config["model"] for config in configs)
        if sum(ignored.values()) == len(configs):
            raise SDAError(f"space: {key} would change nothing in any trial: {why}")
        for model, number in ignored.items():
            which = "its trials" if number == trials[model] else f"{number} of its trials"
            logger.info("%s: %s changes nothing in %s and is left out of them", model, key, which)


def _ordered(found: Sequence[tuple[Trial, SDAConfig]], settings: Settings) -> Planned:
    seen, ranked = Counter(), []
    for trial, config in found:
        adapter = adapter_of(config, settings.space)
        ranked.append((seen[adapter] if adapter else 0, trial, config))
        seen[adapter] += 1
    ranked.sort(key=lambda entry: entry[0])  # stable: the combinations' own order within
    _, trials, configs = zip(*ranked, strict=True)
    return Planned(trials, configs, adapters=len(seen.keys() - {None}))
