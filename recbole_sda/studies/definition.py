"""What a study is: a YAML file that names arms, seeds, figures and comparisons. ``properties/study/`` holds ours.

::

    question: Does … ?                     what the study asks
    settings: {model: SASRec}              keys for all arms; the user's own go over them
    seeds: [1, 2, 3]                       unless the user says --seeds
    seed_keys: [seed, demo_seed]           what each seed is given to; demo_seed on the demo only
    arms:                                  name → keys of the configuration, on top of everything else
      sda: {adapter: moda, alignment: cmsa}
    figures:                               column → what is measured, or a list whose mean is the figure
      NDCG@10: recommender.ndcg@10
      purity: [structure.purity/image-text/*, structure.purity/text-image/*]
    baseline: zero_shot                    every other arm is compared with it
    compare: [[sda, lora]]                 and the first of each pair with the second
    axis: {label: temperature, values: [0.1, 0.2]}    every arm at each value, which stands for $x in its keys and
                                           in figures; {label: step, key: diagnose_steps} takes a key's values
    control: {image_signal: 0}             on the demo all of it once more with these keys: the signal is absent
    claims:                                to be decided; `beyond` compares two relative gains
      sda_over_lora: {says: SDA is above LoRA, arm: sda, over: lora, figure: NDCG@10}
    least_seeds: 10                        with fewer no claim is decided
    needs: [backbones]                     keys that the user has to give
"""

from dataclasses import dataclass, field

from recbole_sda.evaluation.seeds_paired import LEAST_SEEDS

AXIS_VALUE = "$x"


@dataclass(frozen=True)
class Axis:
    """Values at each of which every arm is measured: its own, or those of a key of the configuration."""

    label: str
    values: tuple = ()
    key: str | None = None


@dataclass(frozen=True)
class Claim:
    """That an arm is above another.

    Attributes:
        says: in words.
        arm, over: names of arms.
        figure: by which.
        beyond: another figure; the claim is then that the relative gain in ``figure`` is above the one in it.
    """

    says: str
    arm: str
    over: str
    figure: str
    beyond: str | None = None


@dataclass(frozen=True)
class Definition:
    """A study as its file says it; see the module."""

    name: str
    question: str
    arms: dict[str, dict]
    figures: dict[str, tuple[str, ...]]
    settings: dict = field(default_factory=dict)
    seeds: tuple[int, ...] = (1, 2, 3)
    seed_keys: tuple[str, ...] = ("seed", "demo_seed")
    pairs: tuple[tuple[str, str], ...] = ()
    axis: Axis | None = None
    control: dict = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    least_seeds: int = LEAST_SEEDS
    needs: tuple[str, ...] = ()
