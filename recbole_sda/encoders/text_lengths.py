"""How many tokens items' texts take, counted with a tokenizer alone: no weights, no pictures."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from transformers import AutoTokenizer

from recbole_sda.catalog import Catalog
from recbole_sda.catalog.check import lengths
from recbole_sda.encoders.source import TINY, read_family, resolve_name
from recbole_sda.encoders.tiny import HashingTokenizer
from recbole_sda.errors import SDAError
from recbole_sda.stage_settings import SOURCE_KEYS, StageSettings

_BATCH = 4096
_NO_LIMIT = 1_000_000_000  # transformers writes a greater number where it knows none


@dataclass(frozen=True)
class TextLengths:
    """Counts the tokens of a text pass's line as the prompt settings make it, without the chat template's few.

    Attributes:
        name: a folder, a name on the model hub, or ``tiny``.
        limit: the longest text that the model takes, None where nothing says it.
        settings: a run's; only the prompt's keys are read.
    """

    name: str
    tokenizer: object
    limit: int | None
    settings: Mapping

    @classmethod
    def open(cls, name: str, settings: Mapping) -> "TextLengths":
        """Raises: SDAError: there is no such tokenizer."""
        source = {key: settings[f"backbone_{key}"] for key in SOURCE_KEYS}
        if name == TINY:
            tokenizer = HashingTokenizer()
        else:
            try:
                tokenizer = AutoTokenizer.from_pretrained(resolve_name(name), **source)
            except (OSError, ValueError, ImportError) as error:
                reason = str(error).strip().splitlines()[0]
                raise SDAError(f"--tokenizer={name} cannot be had: {reason} Give a folder, or tiny") from error
        return cls(name, tokenizer, _limit(name, tokenizer, source), settings)

    def __call__(self, catalog: Catalog, rows: np.ndarray) -> dict:
        """Figures of the items in `rows` for the report of a check."""
        modality = next(name for name, kind in catalog.kinds.items() if kind == "text")
        prompts = StageSettings(self.settings, catalog).prompts
        counts = np.zeros(len(rows), dtype=np.int64)
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            lines = [prompts.line("text", modality, catalog.item(row)) for row in batch]
            counts[start : start + len(batch)] = list(map(len, self.tokenizer(lines, verbose=False)["input_ids"]))
        over = int((counts > self.limit).sum()) if self.limit else 0
        figures = lengths(counts) or {"median": 0.0, "p95": 0.0, "max": 0}
        return {"tokenizer": self.name, **figures, "limit": self.limit, "over_limit": over}


def _limit(name: str, tokenizer, source: Mapping) -> int | None:
    try:
        return read_family(name, **source).max_text_tokens
    except SDAError:  # a tokenizer alone
        return tokenizer.model_max_length if tokenizer.model_max_length < _NO_LIMIT else None
