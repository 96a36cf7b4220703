"""CMSA: each modality's own neighbourhood teaches the comparison across modalities.

1. Within each modality, the cosines of the B items say which items resemble each other.
2. Their softmax is a soft target: the items that item i should find, itself first.
3. The cross-modal softmax of item i, image to text and text to image, is pulled towards it.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_sda.alignment.attack import TeacherAttack
from recbole_sda.alignment.similarity import AlignmentLoss

TEACHERS = ("mean", "per_modality", "base")
BISECTIONS = 60
USUAL = {"stop_gradient": True, "scale_teacher": "divide", "divergence": "kl", "transpose_target": False}


class CMSALoss(AlignmentLoss):
    r"""Cross-Modal Structural Alignment (arXiv 2512.06883).

    With X̂ and Ŷ the unit rows of both modalities, τ the temperature and τ_t the teacher's::

        S  = (X̂X̂ᵀ + ŶŶᵀ) / 2
        P  = stopgrad softmax_row(S / τ_t)
        Qᵛ = softmax_row(X̂Ŷᵀ / τ),   Qᵗ = softmax_row(ŶX̂ᵀ / τ)
        L  = ½ mean_i [ KL(P_i ‖ Qᵛ_i) + KL(P_i ‖ Qᵗ_i) ]

    Centring is our addition and on by default: without it the loss is 0 when all embeddings fall
    together, and training goes there. More than two modalities are compared by pairs.

    Args:
        temperature: τ of the students.
        teacher: whose structure is S. ``"mean"`` averages both modalities'; ``"per_modality"`` lets the
            image structure teach image→text and the text structure text→image; ``"base"`` averages both
            modalities' as the frozen base model sees them, which the caller gives as ``base``.
        teacher_temperature: τ_t; what ``temperature`` was at the start when None.
        teacher_perplexity: instead of τ_t: each row of P has its own temperature, with which exp(entropy) is
            this number of neighbours, the item itself among them; greater than 1.
        stop_gradient: the teacher carries no gradient.
        scale_teacher: ``"divide"`` S by τ_t, or ``"multiply"`` it by τ (the public code).
        divergence: ``"kl"``, or ``"cross_entropy"``, whose gradient in the students is the same.
        transpose_target: second→first learns from Pᵀ, which is not normalised again (the public code).
        attack: what makes S wrong about some pairs of items, which then have to be given as ``items``.
        center, normalize, learn_temperature, chunk_rows: see :class:`AlignmentLoss`.
    """

    def __init__(
        self,
        temperature: float = 0.05,
        *,
        teacher: str = "mean",
        teacher_temperature: float | None = None,
        teacher_perplexity: float | None = None,
        stop_gradient: bool = True,
        scale_teacher: str = "divide",
        divergence: str = "kl",
        transpose_target: bool = False,
        attack: TeacherAttack | None = None,
        **shared,
    ):
        super().__init__(temperature, **shared)
        _check_choice("teacher", teacher, TEACHERS)
        _check_choice("scale_teacher", scale_teacher, ("divide", "multiply"))
        _check_choice("divergence", divergence, ("kl", "cross_entropy"))
        if teacher_temperature is not None and not teacher_temperature > 0:
            raise ValueError(f"teacher_temperature={teacher_temperature} must be greater than 0")
        if teacher_perplexity is not None and not teacher_perplexity > 1:
            raise ValueError(f"teacher_perplexity={teacher_perplexity} must be greater than 1, the item alone")
        multiply = "multiply" if scale_teacher == "multiply" else None
        softness = {"teacher_temperature": teacher_temperature, "teacher_perplexity": teacher_perplexity}
        _check_at_most_one(softness | {"scale_teacher": multiply})
        # The temperature of a row with a given perplexity is searched for, so nothing flows back through it,
        # and every row has another, so S scaled by it is not symmetric.
        _check_at_most_one({"teacher_perplexity": teacher_perplexity, "stop_gradient=False": not stop_gradient})
        _check_at_most_one({"teacher_perplexity": teacher_perplexity, "transpose_target=True": transpose_target})
        self.teacher = teacher
        self.teacher_temperature = teacher_temperature or self.start_temperature
        self.teacher_perplexity = teacher_perplexity
        self.stop_gradient = stop_gradient
        self.scale_teacher = scale_teacher
        self.divergence = divergence
        self.transpose_target = transpose_target
        self.attack = attack

    @classmethod
    def reference(cls, **shared) -> "CMSALoss":
        """The authors' public code, formula for formula, with Z = XYᵀ/τ and a learned τ that starts at 3::

        P = softmax_row(τ (XXᵀ + YYᵀ) / 2)
        L = −1/(2B) Σ_ij [ P_ij log softmax_row(Z)_ij + P_ji log softmax_row(Zᵀ)_ij ]
        """
        return cls(
            3.0,
            center=False,
            normalize=False,
            learn_temperature=True,
            scale_teacher="multiply",
            stop_gradient=False,
            divergence="cross_entropy",
            transpose_target=True,
            **shared,
        )

    @property
    def min_pair_rows(self) -> int:
        # a rare modality comes in small companies, which cannot be as soft as a teacher of the whole batch
        return max(self.min_rows, 1 + int(self.teacher_perplexity or 0))

    @property
    def needs_base(self) -> bool:
        return self.teacher == "base"

    @property
    def needs_items(self) -> bool:
        return self.attack is not None

    def teacher_views(
        self, views: list[Tensor], present: Sequence[Tensor], base: Sequence[Tensor] | None
    ) -> list[Tensor]:
        if not self.needs_base:
            return views
        if base is None or len(base) != len(views):
            raise ValueError(
                f"teacher='base' needs base=[…], the frozen model's embeddings of all {len(views)} modalities; "
                f"found {None if base is None else len(base)}"
            )
        return [self._view(rows.detach(), mask) for rows, mask in zip(base, present, strict=True)]

    def compare(
        self, pair: Sequence[Tensor], teachers: Sequence[Tensor], items: Tensor | None = None
    ) -> Tensor:
        normalisers = self._row_normalisers(teachers, items) if self.transpose_target else None
        compare_rows = partial(self._compare_rows, pair, teachers, items, normalisers)
        return sum(self.map_chunks(compare_rows, len(pair[0])))

    def log_targets(
        self,
        teachers: Sequence[Tensor],
        rows: slice,
        normalisers: Tensor | None = None,
        *,
        items: Tensor | None = None,
    ) -> list[Tensor]:
        """log P of first→second and of second→first for some rows, (rows, B) each."""
        scaled = [self._scale(structure) for structure in self._structures(teachers, items, rows)]
        targets = [F.log_softmax(logits, dim=-1) for logits in scaled]
        if normalisers is not None:
            targets[1] = scaled[1] - normalisers  # (Pᵀ)_ij = P_ji, and S is symmetric
        return targets

    def _compare_rows(
        self,
        pair: Sequence[Tensor],
        teachers: Sequence[Tensor],
        items: Tensor | None,
        normalisers: Tensor | None,
        rows: slice,
    ) -> Tensor:
        with self._teaching():
            targets = self.log_targets(teachers, rows, normalisers, items=items)
        students = [queries[rows] @ keys.T / self.temperature for queries, keys in (pair, pair[::-1])]
        return torch.stack([self._measure(*both) for both in zip(students, targets, strict=True)])

    def _measure(self, logits: Tensor, log_target: Tensor) -> Tensor:
        """Divergence and the teacher's entropy, both summed over the rows, (2,)."""
        target, log_student = log_target.exp(), F.log_softmax(logits, dim=-1)
        compared_with = log_target if self.divergence == "kl" else torch.zeros_like(log_target)
        return torch.stack([(target * (compared_with - log_student)).sum(), -(target * log_target).sum()])

    def _structures(self, teachers: Sequence[Tensor], items: Tensor | None, rows: slice) -> list[Tensor]:
        """What teaches first→second and second→first, (rows, B) each."""
        structures = self._taught([views[rows] @ views.T for views in teachers])
        if self.attack is not None:
            others = self._taught(self.attack.sample(teachers))
            structures = [self.attack(*both, items, rows) for both in zip(structures, others, strict=True)]
        return structures if len(structures) == 2 else structures * 2

    def _taught(self, own: Sequence[Tensor]) -> list[Tensor]:
        """Both modalities' similarities, or what both have in common where it teaches both directions."""
        return list(own) if self.teacher == "per_modality" else [(own[0] + own[1]) / 2]

    def _scale(self, structure: Tensor) -> Tensor:
        if self.scale_teacher == "multiply":
            return structure * self.temperature
        if self.teacher_perplexity is not None:
            return structure / temperature_of_perplexity(structure, self.teacher_perplexity)
        return structure / self.teacher_temperature

    def _row_normalisers(self, teachers: Sequence[Tensor], items: Tensor | None) -> Tensor:
        """log Σ_j exp(logits) of every row of second→first's teacher, (B,)."""

        def normalise(rows: slice) -> Tensor:
            return self._scale(self._structures(teachers, items, rows)[1]).logsumexp(dim=-1)

        with self._teaching():
            return torch.cat(self.map_chunks(normalise, len(teachers[0])))

    def _teaching(self) -> AbstractContextManager:
        return torch.no_grad() if self.stop_gradient else nullcontext()

    def extra_repr(self) -> str:
        softness = "teacher_temperature" if self.teacher_perplexity is None else "teacher_perplexity"
        told = [super().extra_repr(), f"teacher={self.teacher}", f"{softness}={getattr(self, softness)}"]
        told += [] if self.attack is None else [f"attack={self.attack}"]
        told += [f"{name}={getattr(self, name)}" for name, usual in USUAL.items() if getattr(self, name) != usual]
        return ", ".join(told)


@torch.no_grad()
def temperature_of_perplexity(similarity: Tensor, perplexity: float) -> Tensor:
    """For every row the temperature whose softmax has this perplexity, by bisection, (R, B) → (R, 1).

    A row whose nearest items tie may be unable to be that sharp; it comes as near as it can.
    """
    count = similarity.shape[-1]
    if perplexity >= count:
        raise ValueError(
            f"teacher_perplexity={perplexity} cannot be reached with {count} items to compare; "
            "choose less, or a larger batch"
        )
    spread = similarity.amax(dim=-1, keepdim=True) - similarity.amin(dim=-1, keepdim=True)
    spread = spread.clamp(min=torch.finfo(similarity.dtype).tiny ** 0.5)
    low, high = (torch.full_like(spread, bound) for bound in (-12.0, 12.0))  # log τ, in units of the spread
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        probability = (similarity / (middle.exp() * spread)).softmax(dim=-1)
        too_soft = torch.special.entr(probability).sum(dim=-1, keepdim=True).exp() > perplexity
        low, high = torch.where(too_soft, low, middle), torch.where(too_soft, middle, high)
    return ((low + high) / 2).exp() * spread


def _check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{key}={value!r} is unknown; choose one of {', '.join(choices)}")


def _check_at_most_one(options: dict[str, object]) -> None:
    given = [key if value is True else f"{key}={value!r}" for key, value in options.items() if value]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} contradict each other; leave one of them out")
