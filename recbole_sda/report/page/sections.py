"""The page's sections: what each shows, or what is missing and which command would make it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from recbole_sda.errors import SDAError
from recbole_sda.report.conflict import conflict_notes
from recbole_sda.report.page.adapter_charts import adapter_chart, cosine_chart, gates_chart, kept_record
from recbole_sda.report.page.charts import head_tail_chart, recommender_chart
from recbole_sda.report.page.embedding_map import EmbeddingMap, map_items, sample_rows
from recbole_sda.report.page.gather import MissingError, Run
from recbole_sda.report.page.items import ShownItems
from recbole_sda.report.page.look import Chart
from recbole_sda.report.page.map_charts import map_charts
from recbole_sda.report.page.neighbours import choose_queries, find_neighbours
from recbole_sda.report.page.recommenders import Recommenders
from recbole_sda.report.page.spaces import Space
from recbole_sda.report.page.users import rank_first_batch, tell_users

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
        self._recommenders = Recommenders(run, options.data_path)

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

    @cached_property
    def dataset_folder(self) -> Path:
        """Where the dataset is: as told, as the checkpoint says, or at RecBole's default."""
        name = self.run.result["dataset"]
        if self.options.data_path:
            return Path(self.options.data_path) / name
        try:
            return Path(self._recommenders.shown.config["data_path"])
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
        adapters, left_out = self.run.adapters()
        kept = {name: kept_record(manifest["held_out"])["step"] for name, manifest in adapters.items()}
        warnings = [
            f"{name}, step {record['step']}: {warning}"
            for name, manifest in adapters.items()
            for record in manifest["held_out"]
            for warning in record.get("warnings", [])
        ]
        return {"charts": [adapter_chart(adapters)], "kept": kept, "left_out": left_out, "warnings": warnings}

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
            "embedded": found.embedded,
            "examined": len(spaces[-1].tokens),
            "all": self._all_items,
            "only": self._why_alone(),
        }

    def _neighbours(self) -> dict:
        known = self._recommenders.popularity
        tail = known.tail(self._spaces[-1].tokens) if known else None
        queries = choose_queries(self._spaces, tail, seed=self.options.seed)
        found = find_neighbours(self._spaces, queries, k=NEIGHBOURS)
        for query in found:
            self.items.number(query.token)
            for labels in query.nearest.values():
                for neighbours in labels.values():
                    self.items.numbers(neighbour.token for neighbour in neighbours)
        examined = len(self._spaces[-1].tokens)
        return {"queries": found, "examined": examined, "all": self._all_items, "only": self._why_alone()}

    def _users(self) -> dict:
        shown, ranked, left_out, k = self.run.shown, {}, {}, self.run.result["k"]
        last = rank_first_batch(self._recommenders.shown, k)
        for run in self.run.compared[:-1]:
            try:
                other = rank_first_batch(self._recommenders.load(run), k)
            except SDAError as missing:
                left_out[run["variant"]] = str(missing)
                continue
            if np.array_equal(other.users, last.users):
                ranked[run["variant"]] = other
            else:
                left_out[run["variant"]] = "the first batch of its test has other users"
        ranked[shown["variant"]] = last
        users = tell_users(ranked, self._recommenders.shown, count=self.options.users, seed=self.options.seed)
        for user in users:
            self.items.numbers([*user.had, *user.targets])
            for recommended in user.recommended.values():
                self.items.numbers(recommended)
        return {"users": users, "variant": shown["variant"], "model": shown["model"], "left_out": left_out}

    def tell_popularity(self) -> None:
        """Of every item on the page; then the recommender is given up."""
        if known := self._recommenders.popularity:
            tail = known.tail(self.items.tokens)
            for token in self.items.tokens:
                if (count := known.count(token)) is not None:
                    said = " (long tail)" if token in tail else ""
                    self.items.tell(token, f"{count:,} training interactions{said}")
        _ = self.dataset_folder  # a checkpoint says it
        self._recommenders.forget()

    def read_items(self) -> tuple[list[dict], str]:
        """See :meth:`recbole_sda.report.page.items.ShownItems.read`."""
        try:
            embedded = self.run.sides()[-1].features
        except SDAError:
            embedded = {}
        return self.items.read(self.dataset_folder, self.said, embedded)

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
