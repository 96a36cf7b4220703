"""From items to a model's inputs: prompts, tokens, pixels and sound. Needs no model, and no GPU."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from recbole_sda.encoders.audio import check_lengths, resample
from recbole_sda.encoders.chat import prompt_format
from recbole_sda.encoders.families import Family
from recbole_sda.encoders.prompts import Prompts
from recbole_sda.encoders.special_tokens import SpecialTokens, control_tokens
from recbole_sda.errors import SDAError


class Collator:
    """Turns items into the inputs of one model.

    Args:
        processor: transformers', of a class from `processor_class`.
        family: of the model.
        prompts: what an item is turned into.
        kinds: modality name → kind.

    Attributes:
        texts_cut: how many texts were longer than the model's limit since this was made.
    """

    def __init__(self, processor, family: Family, prompts: Prompts, kinds: Mapping[str, str]):
        self.processor, self.family, self.prompts, self.kinds = processor, family, prompts, dict(kinds)
        self.tokenizer = processor.tokenizer
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token  # masked: any token will do
        self.texts_cut = 0
        self._format = prompt_format(processor, family)
        rendered = [self._format("text", line) for line in "ab"]
        # What transformers' processors do: where the template writes the first token, none is added.
        first = self.tokenizer.bos_token
        self._add_special_tokens = not (family.shared and first and rendered[0].startswith(first))
        self._end_length = _common_end(*self._encode(rendered))
        rendered += [self._format(kind, "") for kind in family.kinds]
        self._clean = SpecialTokens(control_tokens(self.tokenizer, processor, "".join(rendered)))

    def text_line(self, modality: str, fields: Mapping[str, str]) -> str:
        """An item's line before the chat template: with equal lines, items have equal embeddings."""
        return self.prompts.line(self.kinds[modality], modality, fields, self._clean)

    def prompt(self, modality: str, fields: Mapping[str, str]) -> str:
        """The whole prompt, with one placeholder for a file."""
        return self._format(self.kinds[modality], self.text_line(modality, fields))

    def encode_texts(self, modality: str, fields: Sequence[Mapping[str, str]]) -> list[list[int]]:
        """Token ids of each item's text prompt, cut to the model's limit.

        The item's end goes, not the prompt's. Where the model reads its padding, it is there.
        """
        limit, end = self.family.max_text_tokens, self._end_length
        ids = self._encode([self.prompt(modality, item) for item in fields])
        long = [row for row, own in enumerate(ids) if len(own) > limit]
        for row in long:
            ids[row] = ids[row][: limit - end] + ids[row][len(ids[row]) - end :]
        self.texts_cut += len(long)
        if self.family.traits.pads_texts:
            ids = self.tokenizer.pad({"input_ids": ids}, "max_length", limit)["input_ids"]
        return ids

    def pad(self, ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """The model's inputs of a text batch."""
        rows = [torch.tensor(row) for row in ids]
        inputs = {
            "input_ids": pad_sequence(rows, True, self.tokenizer.pad_token_id),  # (B, T)
            "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], True),  # (B, T)
        }
        if self.processor.return_mm_token_type_ids:
            inputs["mm_token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        return inputs

    def count_tokens(self, modality: str, sizes: np.ndarray) -> np.ndarray:
        """How many tokens each file takes with its prompt.

        Args:
            sizes: (n, 2): (height, width) of pictures, (samples, rate) of recordings.

        Returns:
            (n,) int64.
        """
        kind = self._check_kind(modality)
        if kind == "vectors":
            return np.full(len(sizes), len(self._vector_prompt(modality)[0]) if self.family.shared else 1)
        distinct, which = np.unique(np.asarray(sizes), axis=0, return_inverse=True)
        counts = self._count(kind, distinct.tolist())
        if self.family.shared:
            counts += len(self._encode([self.prompt(modality, {})])[0]) - 1  # all but the placeholder
        return counts[which.reshape(-1)]

    def check_sizes(self, modality: str, sizes: np.ndarray) -> None:
        """Whether the model takes files of these sizes, (n, 2) as for :meth:`count_tokens`.

        Raises:
            SDAError: a recording is too long.
        """
        if check := SIZE_CHECKS.get(self.kinds[modality]):
            check(self.processor, sizes)

    def collate(
        self, modality: str, fields: Sequence[Mapping[str, str]], files: Sequence = ()
    ) -> dict[str, Tensor]:
        """The model's inputs of B items in one modality.

        Args:
            fields: each item's non-empty fields.
            files: each item's picture (PIL, RGB), recording (with ``samples`` and ``rate``) or vector (d,).

        Returns:
            Among them ``attention_mask`` (B, T), of a dual encoder's pictures too; of vectors ``vectors`` (B, d)
            and ``vector_positions`` (B,), where among the tokens each has its place.

        Raises:
            SDAError: the family does not read this kind; a recording is too long.
        """
        kind = self._check_kind(modality)
        if kind == "text":
            return self.pad(self.encode_texts(modality, fields))
        if kind == "vectors":
            return self._collate_vectors(modality, files)
        given = READERS[kind](self.processor, files)
        if not self.family.shared:
            mask = torch.ones(len(files), self._count(kind, [(1, 1)])[0], dtype=torch.long)
            return {**self.processor(**given, return_tensors="pt"), "attention_mask": mask}
        return dict(
            self.processor(
                **given,
                text=[self.prompt(modality, item) for item in fields],
                text_kwargs={
                    "padding": True,
                    "padding_side": "right",
                    "add_special_tokens": self._add_special_tokens,
                },
                return_tensors="pt",
            )
        )

    def _collate_vectors(self, modality: str, files: Sequence[np.ndarray]) -> dict[str, Tensor]:
        vectors = torch.from_numpy(np.stack(files))  # (B, d)
        if not self.family.shared:
            return {"vectors": vectors, "attention_mask": torch.ones(len(files), 1, dtype=torch.long)}
        ids, position = self._vector_prompt(modality)
        positions = torch.full((len(files),), position)
        return {**self.pad([ids] * len(files)), "vectors": vectors, "vector_positions": positions}

    def _vector_prompt(self, modality: str) -> tuple[list[int], int]:
        """Token ids with a place for the vector after the line, and where it is."""
        (ids,) = self._encode([self._format("text", self.text_line(modality, {}))])
        position = len(ids) - self._end_length
        return [*ids[:position], self.tokenizer.pad_token_id, *ids[position:]], position

    def _encode(self, prompts: list[str]) -> list[list[int]]:
        if not prompts:
            return []
        return self.tokenizer(prompts, add_special_tokens=self._add_special_tokens, verbose=False)["input_ids"]

    def _count(self, kind: str, sizes: list) -> np.ndarray:
        count = self.family.traits.count_tokens[kind]
        return np.array(count(self.family.config, self.processor, sizes), dtype=np.int64)

    def _check_kind(self, modality: str) -> str:
        kind = self.kinds[modality]
        if kind not in (*self.family.kinds, "vectors"):
            raise SDAError(
                f"modality {modality!r} is {kind}, and a {self.family.model_type} model reads "
                f"{' and '.join(self.family.kinds)} only; use another backbone or leave it out of modalities"
            )
        return kind


def _pictures(processor, files: Sequence) -> dict:
    return {"images": [[picture] for picture in files]}


def _recordings(processor, files: Sequence) -> dict:
    extractor = processor.feature_extractor
    return {
        "audio": [resample(file.samples, file.rate, extractor) for file in files],
        "sampling_rate": extractor.sampling_rate,
    }


READERS = {"image": _pictures, "audio": _recordings}
SIZE_CHECKS = {"audio": lambda processor, sizes: check_lengths(sizes, processor.feature_extractor)}


def _common_end(one: Sequence[int], other: Sequence[int]) -> int:
    """How many last tokens two sequences share."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((count for count, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
