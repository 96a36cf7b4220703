"""The page's sections: what each shows, or what is missing and which command would make it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from recbole_sda.errors import SDAError
from recbole_sda.loading import Loaded, load
from recbole_sda.report.conflict import conflict_notes
from recbole_sda.report.page.adapter_charts import adapter_chart, cosine_chart, gates_chart, kept_record
from recbole_sda.report.page.charts import head_tail_chart, recommender_chart
from recbole_sda.report.page.embedding_map import EmbeddingMap, map_items, sample_rows
from recbole_sda.report.page.gather import MissingError, Run
from recbole_sda.report.page.items import ShownItems
from recbole_sda.report.page.look import Chart
from recbole_sda.report.page.map_charts import map_charts
from recbole_sda.report.page.neighbours import choose_queries, find_neighbours
from recbole_sda.report.page.result import command
from recbole_sda.report.page.spaces import Space
from recbole_sda.report.page.users import Popularity, popularity, tell_users

logger = logging.getLogger(__name__)

MOST_EXAMINED = 200_000  # items that are searched for conflict and for neighbours
NEIGHBOURS = 6


@dataclass
class Section:
    """A part of the page, or why it is not there."""

    name: str
    title: str
    content: dict = field(default_factory=dict)
    missing: str = ""
    command: str | None = None

    @property
    def charts(self) -> list[Chart]:
        return self.content.get("charts", [])


@dataclass(frozen=True)
class Options:
    """What of the run is shown; see :func:`recbole_sda.report.page.write.write_report`."""

    items: int
    users: int
    seed: int
    projection: str
    data_path: str | None


class Sections:
    """Makes the sections of one run.

    Attributes:
        items: those that the sections show, for whoever renders the page.
    """

    def __init__(self, run: Run, options: Options):
        self.run, self.options, self.items = run, options, ShownItems()

    @property
    def builders(self) -> dict[tuple[str, str], Callable[[], dict]]:
        """Name and title → what makes the content, in the page's order."""
        return {
            ("head-tail", "Head and tail"): self._head_tail,
            ("training", "Training the recommender"): self._training,
            ("adapter", "Training the adapter"): self._adapter,
            ("gates", "Gates"): self._gates,
            ("gradients", "Gradient cosine"): self._gradients,
            ("map", "Map of the embeddings"): self._map,
            ("neighbours", "Nearest neighbours"): self._neighbours,
            ("users", "Users"): self._users,
        }

    def build(self, name: str, title: str) -> Section:
        """Whatever stops one section is told in its place: the page is for looking at what there is."""
        try:
            return Section(name, title, self.builders[name, title]())
        except MissingError as missing:
            return Section(name, title, missing=str(missing), command=missing.command)
        except SDAError as error:
            return Section(name, title, missing=str(error))
        except Exception as error:  # half-written files of a killed command raise almost any kind
            logger.warning("report: %s left out: %r", title, error)
            reason = f"what it would show cannot be read ({type(error).__name__}: {error})"
            return Section(name, title, missing=reason)

    @property
    def dataset_folder(self) -> Path:
        """Where the dataset is: as told, as the checkpoint says, or at RecBole's default."""
        name = self.run.result["dataset"]
        if self.options.data_path:
            return Path(self.options.data_path) / name
        try:
            return Path(self._recommender.config["data_path"])
        except SDAError:
            return Path("dataset") / name

    @property
    def said(self) -> dict:
        """What the run was told of its catalogue."""
        return self.run.result["config"].get(self.run.shown["model"], {})

    def _head_tail(self) -> dict:
        return {"charts": [head_tail_chart(self.run.result)]}

    def _training(self) -> dict:
        return {"charts": [recommender_chart(self.run.runs)]}

    def _adapter(self) -> dict:
        adapters = self.run.adapters()
        kept = {name: kept_record(manifest["held_out"])["step"] for name, manifest in adapters.items()}
        warnings = [
            f"{name}, step {record['step']}: {warning}"
            for name, manifest in adapters.items()
            for record in manifest["held_out"]
            for warning in record.get("warnings", [])
        ]
        return {"charts": [adapter_chart(adapters)], "kept": kept, "warnings": warnings}

    def _gates(self) -> dict:
        manifest = self.run.adapter()
        chart = gates_chart(manifest)
        return {"charts": [chart], "variant": self.run.shown["variant"]}

    def _gradients(self) -> dict:
        conflict = self.run.conflict()
        return {"charts": [cosine_chart(conflict)], "notes": list(conflict_notes(conflict))}

    def _map(self) -> dict:
        found = map_items(
            self._spaces, items=self.options.items, seed=self.options.seed, projection=self.options.projection
        )
        numbers = self.items.numbers(found.tokens)
        for label, cosines in found.cosines.items():
            for token, cosine in zip(found.tokens, cosines, strict=True):
                if not np.isnan(cosine):
                    self.items.tell(token, f"{label}: cosine of {' and '.join(found.pair)} {cosine:+.3f}")
        return {
            "charts": map_charts(found, numbers),
            "numbers": numbers,
            "conflicting": self.items.numbers(found.conflicting),
            **self._said_of_map(found),
        }

    def _said_of_map(self, found: EmbeddingMap) -> dict:
        spaces = self._spaces
        return {
            "labels": list(found.points),
            "pair": found.pair,
            "projection": {"tsne": "t-SNE", "umap": "UMAP"}[self.options.projection],
            "sampled": found.sampled,
            "examined": len(spaces[-1].tokens),
            "all": self._all_items,
            "only": self._why_alone(),
        }

    def _neighbours(self) -> dict:
        known = self._popularity
        queries = choose_queries(self._spaces, known.tail if known else None, seed=self.options.seed)
        found = find_neighbours(self._spaces, queries, k=NEIGHBOURS)
        for query in found:
            self.items.number(query.token)
            for labels in query.nearest.values():
                for neighbours in labels.values():
                    self.items.numbers(neighbour.token for neighbour in neighbours)
        examined = len(self._spaces[-1].tokens)
        return {"queries": found, "examined": examined, "all": self._all_items, "only": self._why_alone()}

    def _users(self) -> dict:
        last = self._recommender
        recommenders = {}
        for run in self.run.compared[:-1]:
            try:
                recommenders[run["variant"]] = self._load(run)
            except MissingError as missing:
                logger.info("report: %s is not compared: %s", run["variant"], missing)
        recommenders[self.run.shown["variant"]] = last
        users = tell_users(recommenders, k=self.run.result["k"], count=self.options.users, seed=self.options.seed)
        for user in users:
            self.items.numbers([*user.had, *user.targets])
            for recommended in user.recommended.values():
                self.items.numbers(recommended)
        return {"users": users, "variant": self.run.shown["variant"], "model": self.run.shown["model"]}

    def tell_popularity(self) -> None:
        if known := self._popularity:
            for token in list(self.items.tokens):
                if token in known.counts:
                    tail = " (long tail)" if token in known.tail else ""
                    self.items.tell(token, f"{known.counts[token]:,} training interactions{tail}")

    @cached_property
    def _spaces(self) -> list[Space]:
        sides = self.run.sides()
        store = next(iter(sides[-1].features.values())).store
        self._all_items = len(store)
        rows = sample_rows(np.arange(len(store)), MOST_EXAMINED, self.options.seed)
        tokens = tuple(store.tokens[row] for row in rows)
        return [Space(side.label, side.features, tokens) for side in sides]

    def _why_alone(self) -> dict | None:
        """Why there is no zero-shot side, and what would make it."""
        adapted = self.run.shown["artefacts"].get("adapter")
        if len(self._spaces) > 1 or not adapted:
            return None
        reason = "no zero-shot features of this catalogue were found"
        return {"reason": reason, "command": self.run.zero_shot_command()}

    @cached_property
    def _loaded(self) -> Loaded | MissingError:
        try:
            return self._load(self.run.shown)
        except MissingError as missing:
            return missing

    @property
    def _recommender(self) -> Loaded:
        if isinstance(self._loaded, MissingError):
            raise self._loaded
        return self._loaded

    @cached_property
    def _popularity(self) -> Popularity | None:
        return None if isinstance(self._loaded, MissingError) else popularity(self._loaded)

    def _load(self, run: dict) -> Loaded:
        """The run's recommender.

        Raises:
            MissingError: its checkpoint, its features or its dataset are not there.
        """
        named, features = (run["artefacts"].get(key) for key in ("checkpoint", "features"))
        again = command("run", self.run.result, run["model"], compare=run["variant"])
        if not named:
            raise MissingError(f"{run['variant']} left no checkpoint", again)
        moved = str(self.run.path(features)) if features and not _is_several(features) else features
        try:
            moved = None if moved == features else moved  # where the checkpoint says
            return load(self.run.path(named), features=moved, data_path=self.options.data_path)
        except SDAError as error:
            raise MissingError(str(error), again) from error
        except Exception as error:  # a damaged file raises almost any kind
            raise MissingError(f"{named} cannot be loaded ({type(error).__name__}: {error})", again) from error


def _is_several(features: str) -> bool:
    return "," in features or "=" in features
