"""Means, comparisons and claims from records whose right answer was planted."""

import numpy as np
import pytest

from recbole_sda.errors import SDAError
from recbole_sda.studies import findings
from recbole_sda.studies.arms import Arm, Cell, Configs, arms_of, backbones_own
from recbole_sda.studies.definition import Axis, Claim, Definition
from recbole_sda.studies.tables import notes, study_tables

SEEDS = range(1, 11)
FIGURES = {"all": ("recommender.ndcg@10",), "tail": ("recommender.tailndcg@10",)}
CLAIMS = {
    "above": Claim("sda above base", "sda", "base", "all"),
    "below": Claim("base above sda", "base", "sda", "all"),
    "null": Claim("twin above base", "twin", "base", "all"),
    "tail": Claim("sda gains more on the tail", "sda", "base", "tail", beyond="all"),
}
DEFINITION = Definition(
    name="planted",
    question="Is it found?",
    arms={"base": {}, "twin": {}, "sda": {}},
    figures=FIGURES,
    pairs=(("sda", "base"), ("twin", "base")),
    control={"image_signal": 0.0},
    claims=CLAIMS,
    least_seeds=10,
)


def record(**values) -> dict:
    figures = {name.replace("_at_", "@"): value for name, value in values.items()}
    return {"recommender": {"figures": figures, "seconds": 1.0}}


def planted(seeds=SEEDS) -> findings.Values:
    """`sda` gains 0.2 on 1 and 0.4 on the tail's 1, in the signal alone; `twin` differs from `base` by noise."""
    rng, cells, records = np.random.default_rng(3), [], []
    for seed in seeds:
        for control in (False, True):
            world = rng.normal(1, 0.3)
            for name in DEFINITION.arms:
                gain = 0.0 if control or name != "sda" else 0.2
                noise = rng.normal(0, 0.02, size=2)
                cells.append(Cell(Arm(name, {}), seed, control, None))
                ndcg, tail = world * (1 + gain + noise[0]), world * (1 + 2 * gain + noise[1])
                records.append(record(ndcg_at_10=ndcg, tailndcg_at_10=tail))
    return findings.Values(cells, records, FIGURES)


def test_planted_claims_come_out_and_none_in_the_control():
    found = dict(zip(CLAIMS, findings.claims(DEFINITION, planted()), strict=True))
    verdicts = {key: claim["signal"]["verdict"] for key, claim in found.items()}
    assert verdicts == {
        "above": "holds",
        "below": "does not hold",
        "null": "not decided",
        "tail": "holds",
    }
    assert {claim["control"]["verdict"] for claim in found.values()} == {"not decided"}
    assert found["tail"]["signal"]["difference"] == pytest.approx(20, abs=3)  # percentage points


def test_nine_seeds_decide_none_of_them():
    found = findings.claims(DEFINITION, planted(range(1, 10)))
    assert {claim["signal"]["verdict"] for claim in found} == {"not decided"}
    assert found[0]["signal"]["p_holm"] < 0.05


def test_p_is_corrected_over_the_claims_of_each_state():
    found = findings.claims(DEFINITION, planted())
    smallest = min(claim["signal"]["p"] for claim in found)
    assert min(claim["signal"]["p_holm"] for claim in found) == pytest.approx(len(CLAIMS) * smallest)


def test_a_difference_is_between_the_arms_in_the_same_world():
    rows = findings.comparisons(DEFINITION, planted())
    (gain,) = (r for r in rows if (r["arm"], r["figure"], r["control"]) == ("sda", "all", False))
    low, high = gain["interval"]
    assert low < 0.2 < high
    assert high - low < 0.2  # the worlds alone spread by 0.3
    assert gain["difference"] == pytest.approx(gain["arm_mean"] - gain["over_mean"])


def test_a_figure_is_the_mean_of_what_its_patterns_name():
    figures = {"mean": ("recommender.hit@*",), "undefined": ("recommender.*",), "absent": ("structure.*",)}
    cell = Cell(Arm("a", {}), 1, False, None)
    values = findings.Values([cell], [record(hit_at_1=0.2, hit_at_5=0.4, x=None)], figures)
    found = {row["figure"]: row["mean"] for row in findings.summary(values)}
    assert found == {"mean": pytest.approx(0.3), "undefined": None, "absent": None}


def test_arms_are_compared_at_the_same_place_of_the_axis_on_the_same_backbone():
    definition = Definition(
        name="axis",
        question="?",
        arms={"a": {"align_temperature": "$x"}, "b": {"align_corrupt": {"text": "$x"}}},
        figures={"found": ("recommender.at $x",)},
        pairs=(("a", "b"),),
        axis=Axis("x", (0.1, 0.2)),
    )
    arms = arms_of(definition, {"backbones": ["folder/one", "folder/two"]})
    assert [arm.label for arm in arms[:2]] == ["a on one, 0.1", "a on one, 0.2"]
    assert arms[1].keys == {"align_temperature": 0.2, "backbone": "folder/one"}
    assert arms[-1].keys == {"align_corrupt": {"text": 0.2}, "backbone": "folder/two"}
    cells = [Cell(arm, 1, False, None) for arm in arms]
    records = [{"recommender": {"figures": {"at 0.1": 1.0, "at 0.2": 2.0}, "seconds": 0.0}} for _ in cells]
    values = findings.Values(cells, records, definition.figures)
    rows = findings.comparisons(definition, values)
    assert [(row["arm"], row["over"]) for row in rows] == [
        (f"a on {folder}, {x}", f"b on {folder}, {x}") for folder in ("one", "two") for x in (0.1, 0.2)
    ]
    assert [row["mean"] for row in findings.summary(values)[:2]] == [1.0, 2.0]


def test_two_arms_that_are_one_at_a_place_are_compared_once_there():
    """At a share of 0 noisy texts and noisy pictures are the same arm: one test, not two."""
    arms = {name: {"align_corrupt": {name[-1]: "$x"}} for name in ("a t", "b t", "a i", "b i")}
    definition = Definition(
        name="noise",
        question="?",
        arms=arms,
        figures={"found": ("recommender.found",)},
        pairs=(("a t", "b t"), ("a i", "b i")),
        axis=Axis("share", (0.0, 0.5)),
    )
    cells = [Cell(arm, seed, False, None) for arm in arms_of(definition, {"backbones": None}) for seed in range(3)]
    records = []
    for number, cell in enumerate(cells):
        kind = cell.arm.name[0] if cell.arm.x == 0 else cell.arm.name
        depends_on = {"kind": kind, "x": cell.arm.x, "seed": cell.seed}
        figures = {"found": len(kind) + cell.seed + (number if cell.arm.x else 0)}
        records.append({"recommender": {"figures": figures, "seconds": 1.0, "depends_on": depends_on}})
    values = findings.Values(cells, records, definition.figures)
    rows = findings.comparisons(definition, values)
    assert [(row["arm"], row["over"]) for row in rows] == [
        *[("a t, 0.0", "b t, 0.0"), ("a t, 0.5", "b t, 0.5")],
        ("a i, 0.5", "b i, 0.5"),
    ]
    assert findings.seconds(records) == 18.0  # of 24 records six are others'


def test_a_gain_over_nothing_is_undefined():
    cells = [Cell(Arm(name, {}), 1, False, None) for name in DEFINITION.arms]
    records = [record(ndcg_at_10=value, tailndcg_at_10=value) for value in (0.0, 0.0, 0.1)]
    values = findings.Values(cells, records, FIGURES)
    *_, tail = findings.claims(DEFINITION, values)
    assert (tail["signal"]["seeds"], tail["signal"]["difference"]) == (0, None)
    assert tail["signal"]["verdict"] == "not decided"


def test_backbones_that_end_the_same_are_told_apart_and_no_two_arms_are_called_the_same():
    definition = Definition("mine", "?", arms={"a": {}}, figures=FIGURES)
    arms = arms_of(definition, {"backbones": ["one/base", "two/base", "three/large"]})
    assert [arm.label for arm in arms] == ["a on one/base", "a on two/base", "a on large"]
    double = Definition("mine", "?", arms={"a": {}, "a on base": {}}, figures=FIGURES)
    assert len(arms_of(double, {"backbones": ["base"]})) == 2
    axis = Definition("mine", "?", arms={"a": {}, "a, 1": {}}, figures=FIGURES, axis=Axis("x", (1, "1, 1")))
    with pytest.raises(SDAError, match="two arms would be called 'a, 1, 1'; rename one of them"):
        arms_of(axis, {"backbones": []})


def test_what_differs_beside_the_backbones_is_said_unless_the_user_or_an_arm_says_it():
    definition = Definition("mine", "?", arms={"a": {"lora_r": 4}, "b": {"lora_r": 8}}, figures=FIGURES)

    def told(*typed: str, backbones: str = "tiny,somewhere/large") -> list[str]:
        configs = Configs(definition, "demo", {}, None, [f"--backbones={backbones}", *typed])
        return backbones_own([(arm, configs.of(arm)) for arm in arms_of(definition, configs.base)])

    (line,) = told()
    assert "align_steps 150 on tiny, 4000 on large; " in line
    assert "lora_r" not in line
    assert "backbone " not in line
    (line,) = told("--align_steps=150")
    assert "align_steps 1" not in line
    assert "align_batch_size 64 on tiny, " in line
    assert told(backbones="somewhere/one,somewhere/large") == []


def test_between_arms_that_come_to_the_same_nothing_is_tested():
    cells = [Cell(Arm(name, {}), 1, False, None) for name in DEFINITION.arms]
    records = [record(ndcg_at_10=1.0, tailndcg_at_10=1.0) for _ in cells]
    for each, features in zip(records, ("same", "same", "other"), strict=True):
        each["recommender"]["depends_on"] = {"features": features}
    rows = findings.comparisons(DEFINITION, findings.Values(cells, records, FIGURES))
    assert {(row["arm"], row["over"]) for row in rows} == {("sda", "base")}


def test_a_figure_of_the_axis_that_is_nowhere_is_refused():
    figures = {"found": ("recommender.at $x",)}
    values = findings.Values([Cell(Arm("a", {}, x=1), 1, False, None)], [record(ndcg_at_10=1.0)], figures)
    with pytest.raises(SDAError, match=r"figure 'found': nothing that was measured is called recommender.at \$x"):
        findings.check_found(figures, values)


def result_of(values: findings.Values) -> dict:
    return {
        "seeds": values.seeds,
        "figures": {column: list(patterns) for column, patterns in FIGURES.items()},
        "control": DEFINITION.control,
        "least_seeds": 10,
        "worlds": True,
        "model": None,
        "failed": [],
        "summary": findings.summary(values),
        "comparisons": findings.comparisons(DEFINITION, values),
        "claims": findings.claims(DEFINITION, values),
    }


def test_a_mean_of_fewer_seeds_is_starred_and_told():
    values = planted(range(1, 8))
    result = result_of(values)
    result["summary"][0]["seeds"] -= 1
    scores, *_ = study_tables(result)
    assert [row[1].endswith("*") for row in scores.rows] == [True, *[False] * (len(scores.rows) - 1)]
    assert "*: of fewer seeds" in "\n".join(notes(result))
    assert "*" not in "\n".join(notes(result_of(values)))


def test_the_tables_show_every_arm_comparison_and_claim_with_its_verdict():
    scores, differences, claims = study_tables(result_of(planted()))
    assert [row[0] for row in scores.rows] == [
        *("base", "twin", "sda"),
        *("base (control)", "twin (control)", "sda (control)"),
    ]
    assert len(differences.rows) == 2 * 2 * 2
    assert [row[4] for row in claims.rows] == ["holds", "does not hold", "not decided", "holds"]
    assert "control" in claims.text()


def test_the_notes_say_when_there_are_too_few_seeds():
    lines = "\n".join(notes(result_of(planted(range(1, 4)))))
    assert "with 3 seeds p cannot be below 0.25" in lines
    assert "claims need 10 seeds; with 3 none is decided" in lines
    assert "0.25" not in "\n".join(notes(result_of(planted())))


def test_the_notes_say_when_so_many_claims_are_out_of_reach():
    lines = "\n".join(notes(result_of(planted(range(1, 8)))))
    assert "with 4 claims at once and 7 seeds the corrected p cannot be below 0.0625" in lines
    assert "corrected p" not in "\n".join(notes(result_of(planted())))


def test_a_claim_says_how_many_seeds_it_stands_on_where_some_have_no_gain():
    values = planted()
    values._found["base", False, 1, "all"] = 0.0
    *_, claims = study_tables(result_of(values))
    assert [row[4].partition("\n")[2] for row in claims.rows] == ["", "", "", "(9 of 10 seeds)"]
    assert "in pp" in claims.header[2]
