"""A study's file: the presets are sound, and every mistake in one names the file, the key and the remedy."""

import pytest
import yaml

from recbole_sda.errors import SDAError
from recbole_sda.studies.reading import presets, read_definition

STUDY = {
    "question": "Is b above a?",
    "arms": {"a": {"adapter": "none"}, "b": {"adapter": "lora"}},
    "figures": {"NDCG@10": "recommender.ndcg@10", "purity": ["structure.purity/*", "structure.chance/*"]},
}
AXIS = {"label": "temperature", "values": [0.1, 0.2]}
VARYING = {"arms": {"a": {"adapter": "none"}, "b": {"align_temperature": "$x"}}}


def read(folder, **values):
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump({**STUDY, **values}), encoding="utf-8")
    return read_definition(str(file))


@pytest.mark.parametrize("name", presets())
def test_presets_can_be_read_and_ask_something(name):
    definition = read_definition(name)
    assert definition.name == name
    assert definition.question.endswith("?")
    assert len(definition.arms) > 1


def test_the_presets_are_those_that_the_readme_names():
    wanted = {"ablation", "temperature", "experts", "noise", "longtail", "conflict", "backbone", "claims"}
    assert set(presets()) == wanted


def test_claims_has_ten_seeds_and_needs_them():
    definition = read_definition("claims")
    assert (len(definition.seeds), definition.least_seeds) == (10, 10)
    assert definition.control == {"image_signal": 0.0}


def test_a_study_of_ones_own(tmp_path):
    definition = read(tmp_path, baseline="a", compare=[["b", "a"]], seeds=[5])
    assert definition.name == "mine"
    assert definition.pairs == (("b", "a"),)
    assert definition.seeds == (5,)
    assert definition.figures["NDCG@10"] == ("recommender.ndcg@10",)
    assert read(tmp_path).seeds == (1, 2, 3)


def test_a_pair_and_its_mirror_are_one(tmp_path):
    definition = read(tmp_path, baseline="a", compare=[["a", "b"]])
    assert definition.pairs == (("a", "b"),)


def test_an_axis_may_be_values_or_a_key(tmp_path):
    assert read(tmp_path, axis=AXIS, **VARYING).axis.values == (0.1, 0.2)
    by_key = read(tmp_path, axis={"label": "step", "key": "diagnose_steps"}, **VARYING)
    assert by_key.axis.key == "diagnose_steps"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"arm": {}}, r"key 'arm' is unknown; a study has question"),
        ({"question": None}, r"question is missing"),
        ({"arms": {}}, r"arms=\{\} must be a mapping with at least one entry"),
        ({"arms": None}, r"arms=None must be a mapping"),
        ({"arms": ["a"]}, r"arms=\['a'\] must be a mapping"),
        ({"arms": {"a": "lora"}}, r"arm 'a': 'lora' must be a mapping of keys"),
        ({"arms": {"a": {"seed": 1}}}, r"arm 'a' sets seed, which the study itself does"),
        ({"figures": {}}, r"figures=\{\} must be a mapping"),
        ({"figures": {"x": "ndcg@10"}}, r"figure 'x': 'ndcg@10' must be measure.name"),
        ({"figures": {"x": 3}}, r"figure 'x': 3 must be measure.name"),
        ({"settings": []}, r"settings=\[\] must be a mapping"),
        ({"seeds": [1, 1]}, r"seeds=\[1, 1\] must be a list of whole numbers, each once"),
        ({"seeds": []}, r"seeds=\[\] must be"),
        ({"seed_keys": "seed"}, r"seed_keys='seed' must be a list of keys"),
        ({"baseline": "c"}, r"arm 'c' is unknown; there are a, b"),
        ({"compare": ["a", "b"]}, r"compare=\['a', 'b'\] must be a list of pairs"),
        ({"compare": [["a", "c"]]}, r"arm 'c' is unknown"),
        ({"control": {}}, r"control=\{\} must be a mapping with at least one entry"),
        ({"claims": {"c": {"arm": "a"}}}, r"claim 'c' must have says, arm, over, figure"),
        (
            {"claims": {"c": {"says": "x", "arm": "b", "over": "a", "figure": "Hit"}}},
            r"claim 'c': figure 'Hit' is not among NDCG@10, purity",
        ),
        ({"axis": AXIS}, r"axis=.*no arm or figure has \$x"),
        (VARYING, r"arm 'b' has \$x, and there is no axis"),
        ({**VARYING, "axis": {"label": "t"}}, r"axis=\{'label': 't'\} must be such as"),
        ({**VARYING, "axis": {"label": "t", "values": []}}, r"axis: values=\[\] must be a list of at least one"),
        ({"needs": "backbones"}, r"needs='backbones' must be a list"),
        ({"least_seeds": "ten"}, r"least_seeds='ten' must be a whole number above 0"),
        ({"control": {"seed": 1}}, r"control sets seed, which the study itself does"),
    ],
)
def test_a_mistake_names_the_file_what_was_found_and_the_remedy(tmp_path, values, message):
    with pytest.raises(SDAError, match=rf"study .*mine\.yaml: {message}"):
        read(tmp_path, **values)


def test_a_study_that_is_not_there(tmp_path):
    with pytest.raises(SDAError, match=r"study 'ablatoin' is unknown; choose ablation.*or name a file"):
        read_definition("ablatoin")
    with pytest.raises(SDAError, match=r"none\.yaml cannot be read"):
        read_definition(str(tmp_path / "none.yaml"))
