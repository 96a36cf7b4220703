"""What a run left on disk, found again: adapters, features before and after, checkpoints, a diagnosis.

Any of it may be gone, half written or of another version. Each finder says so by :class:`MissingError`, which
names the command that would make it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from recbole_sda.artefacts import read_manifest
from recbole_sda.errors import SDAError
from recbole_sda.features.provider import StoredModality
from recbole_sda.features.sources import open_features
from recbole_sda.loading import read_checkpoint
from recbole_sda.report.page.result import as_variant, command
from recbole_sda.report.summary import named_runs
from recbole_sda.variants import VARIANTS

PREFERRED = ("sda", "info_nce", "lora")  # of the adapted variants, the one that the page looks into
MOST_ADAPTERS = 12  # whose curves are drawn
WITH_ADAPTER = "ids,zero_shot,sda"


class MissingError(SDAError):
    """A part of the page that cannot be made.

    Args:
        command: what would make it, as a command line; None where no command can.
    """

    def __init__(self, reason: str, command: str | None = None):
        super().__init__(reason)
        self.command = command


class Side(NamedTuple):
    """Features of the catalogue under one variant."""

    label: str
    features: Mapping[str, StoredModality]
    path: str


@dataclass(frozen=True)
class Run:
    """A result, and where its artefacts are.

    Args:
        result: see :func:`recbole_sda.report.page.result.read_result`.
        file: its file; artefacts of a folder that was moved as a whole are found from it.
        data_path: the folder that holds the dataset's folder; None where only a checkpoint says it.
    """

    result: dict
    file: Path | None = None
    data_path: str | None = None

    @cached_property
    def runs(self) -> list[dict]:
        return named_runs(self.result)

    @cached_property
    def shown(self) -> dict:
        """The run that the page looks into: an adapted one, or the last of the first model and seed."""
        for variant in PREFERRED:
            for run in self.runs:
                if run["variant"] == variant:
                    return run
        with_adapter = [run for run in self.runs if run["artefacts"].get("adapter")]
        return (with_adapter or self._beside(self.runs[0]))[-1]

    @cached_property
    def compared(self) -> list[dict]:
        """The shown run and, before it, the first other variant of its model and seed."""
        others = [run for run in self._beside(self.shown) if run["variant"] != self.shown["variant"]]
        return [*others[:1], self.shown]

    def path(self, named: str) -> Path:
        """Where an artefact is: as it was named, or in the moved folder that the result lies in."""
        path = Path(named)
        if path.exists() or self.file is None:
            return path
        for folder in list(self.file.resolve().parents)[:3]:
            for parts in (2, 1):
                moved = folder.joinpath(*path.parts[-parts:])
                if moved.exists():
                    return moved
        return path

    def command(self, verb: str, run: dict | None = None, **keys) -> str:
        """What would make something of ``run``, the shown one if not said, in the same folders."""
        return command(verb, self.result, run or self.shown, **{**self._places, **keys})

    def adapters(self) -> tuple[dict[str, dict], list[str]]:
        """Label → manifest, of the first adapters that are there; and what of the others.

        Raises:
            MissingError: there is none.
        """
        found, reasons = {}, []
        for run in self.runs:
            if not run["artefacts"].get("adapter"):
                continue
            label = run["variant"] + (f", seed {run['seed']}" if self._has_seeds else "")
            try:
                found.setdefault(label, read_manifest(self.path(run["artefacts"]["adapter"])))
            except (OSError, ValueError) as error:
                reasons.append(f"adapter {run['artefacts']['adapter']} cannot be read: {error}")
        if not found:
            raise self._no_adapter(reasons)
        if len(found) > MOST_ADAPTERS:
            more = len(found) - MOST_ADAPTERS
            reasons.append(f"{more} of {len(found)} adapters: {MOST_ADAPTERS} are drawn at most")
        return dict(list(found.items())[:MOST_ADAPTERS]), reasons

    def adapter(self) -> dict:
        """The manifest of the shown run's adapter."""
        named = self.shown["artefacts"].get("adapter")
        if not named:
            raise self._no_adapter([])
        try:
            return read_manifest(self.path(named))
        except (OSError, ValueError) as error:
            raise self._no_adapter([f"adapter {named} cannot be read: {error}"]) from error

    def sides(self) -> list[Side]:
        """Features before adaptation, if they are there, and after it; or the only ones that there are.

        Raises:
            MissingError: the run had no features, or they are gone.
        """
        named = self.shown["artefacts"].get("features")
        if not named:
            raise MissingError("the run had no features", self.command("run", compare=WITH_ADAPTER))
        after = self._side(self.shown["variant"], named)
        if not self.shown["artefacts"].get("adapter"):
            return [after]
        before = self._before(after)
        return [before, after] if before else [after]

    def zero_shot_command(self) -> str:
        return self.command("embed", adapter="none", features=None)

    def conflict(self) -> dict:
        """What `diagnose conflict` measured of this run's adapters, best of the shown one.

        Raises:
            MissingError: it was not asked.
        """
        measured = self._conflicts()
        for run in (self.shown, *self.runs):
            adapter = Path(run["artefacts"].get("adapter") or "").name
            if adapter in measured:
                return measured[adapter]
        # It compares adapters itself, under the loss of the shown one.
        keys = {"alignment": VARIANTS.get(self.shown["variant"], {}).get("alignment"), "adapter": None}
        again = self.command("diagnose conflict", features=None, **keys)
        raise MissingError("no gradients of these adapters were measured", again)

    def _conflicts(self) -> dict[str, dict]:
        """Adapter → what was measured of it."""
        found = {}
        for folder in self.checkpoint_folders():
            for file in sorted(folder.glob("diagnose/conflict-*/conflict.json")):
                try:
                    result = json.loads(file.read_bytes())
                    for adapter in result["adapters"].values():
                        found.setdefault(adapter, result)
                except (OSError, ValueError, LookupError, TypeError, AttributeError):
                    continue
        return found

    def checkpoint_folders(self) -> list[Path]:
        """The folders that the run's artefacts lie in."""
        named = [run["artefacts"].get("checkpoint") for run in self.runs]
        adapters = [run["artefacts"].get("adapter") for run in self.runs]
        folders = [self.path(name).parent for name in named if name]
        folders += [self.path(name).parent.parent for name in adapters if name]
        return list(dict.fromkeys(folders))

    @cached_property
    def _has_seeds(self) -> bool:
        return len({run["seed"] for run in self.runs}) > 1

    def _beside(self, run: dict) -> list[dict]:
        return [other for other in self.runs if all(other[key] == run[key] for key in ("model", "seed"))]

    @cached_property
    def _places(self) -> dict:
        """Keys of the folders that are not where a run looks by itself."""
        folders = [str(folder) for folder in self.checkpoint_folders()]
        places = {"data_path": self.data_path or self._trained_on(), "checkpoint_dir": next(iter(folders), None)}
        usual = {"data_path": "dataset", "checkpoint_dir": "saved"}
        return {key: place for key, place in places.items() if place not in (None, usual[key])}

    def _trained_on(self) -> str | None:
        """Where the dataset's folder lay, as a checkpoint says."""
        for run in (self.shown, *self.runs):
            try:
                checkpoint = read_checkpoint(self.path(run["artefacts"]["checkpoint"]))
                return str(Path(checkpoint["config"]["data_path"]).parent)
            except (SDAError, LookupError, TypeError):
                continue
        return None

    def _no_adapter(self, reasons: list[str]) -> MissingError:
        reason = "; ".join(reasons) or "no adapter was trained in this run"
        return MissingError(reason, self.command("run", self.runs[0], compare=WITH_ADAPTER))

    def _side(self, label: str, named: str) -> Side:
        # Of several stores each was named; a store that moved is one.
        path = named if "," in named or "=" in named else str(self.path(named))
        try:
            return Side(label, open_features(path), path)
        except SDAError as error:
            again = self.command("run", **as_variant(self.shown))
            raise MissingError(f"the features of {label} cannot be read: {error}", again) from error

    def _before(self, after: Side) -> Side | None:
        for run in self._beside(self.shown):
            if run["variant"] == "zero_shot" and run["artefacts"].get("features"):
                try:
                    return self._side("zero_shot", run["artefacts"]["features"])
                except MissingError:
                    break
        (store, *others) = {stored.store.path: stored.store for stored in after.features.values()}.values()
        if others:
            return None
        wanted = {**store.manifest["settings"], "adapter": "none"}
        for manifest in _manifests(store.path.parent):
            try:
                if read_manifest(manifest.parent)["settings"] == wanted:
                    return self._side("zero_shot", str(manifest.parent))
            except (OSError, ValueError, LookupError, TypeError, MissingError):
                continue
        return None


def _manifests(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.glob("*/manifest.json")))
