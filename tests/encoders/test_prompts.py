"""What the model is told about an item."""

import pytest
from conftest import LOADING, PROMPTS

from recbole_sda.encoders import Prompts, load_backbone
from recbole_sda.errors import SDAError


def changed(**values) -> Prompts:
    return Prompts(**{**PROMPTS, **values})


def text(prompts: Prompts, fields) -> str:
    return prompts.line("text", "text", fields)


def test_wording_of_the_passes(tiny):
    fields = {"title": "Cup", "brand": "Norvik"}
    assert tiny.collator.prompt("text", fields) == (
        "<|im_start|>user The product item has the following attributes: title is Cup; brand is Norvik;<|im_end|>"
    )
    assert tiny.collator.prompt("image", fields) == (
        "<|im_start|>user The product item has the image:<|vision_start|><|image_pad|><|vision_end|><|im_end|>"
    )
    assert text(tiny.prompts, {}).endswith("attributes: ")


def test_each_kind_has_its_line():
    prompts = changed(domain="film", audio="a {domain}'s {modality}:", vectors="{modality} of a {domain}:")
    assert prompts.line("audio", "trailer", {}) == "a film's trailer:"
    assert prompts.line("vectors", "motion", {"title": "x"}) == "motion of a film:"
    assert prompts.line("image", "poster", {}) == "The film item has the image:"


def test_an_instruction_comes_before_every_pass():
    prompts = changed(instruction="Describe the {domain} by its {modality}.")
    for kind in ("text", "image", "audio", "vectors"):
        line = prompts.line(kind, "front", {"title": "Cup"})
        assert line == f"Describe the product by its front.\n{changed().line(kind, 'front', {'title': 'Cup'})}"


def test_modalities_of_one_kind_share_a_template_and_keep_their_names():
    prompts = changed(image="The {domain}'s {modality}:")
    kinds = {"front": "image", "back": "image", "text": "text"}
    backbone = load_backbone("tiny", **{**LOADING, "prompts": prompts, "kinds": kinds})
    assert backbone.text_line("front", {}) == "The product's front:"
    assert backbone.text_line("back", {}) == "The product's back:"
    assert backbone.kinds == kinds


def test_missing_fields_are_left_out_of_an_items_prompt(catalog, prompts):
    row = next(row for row in range(len(catalog)) if len(catalog.item(row)) == 3)
    whole = text(prompts, catalog.item(row))
    assert all(f"{name} is " in whole for name in ("title", "brand", "description"))
    assert "brand" not in text(prompts, {"title": "Cup"})


def test_values_are_cut():
    fields = {"title": "abcdefgh", "brand": "xyxyxy", "price": "12345"}
    cut = changed(value_chars=4, field_chars={"brand": 2, "price": 100})
    assert text(cut, fields).endswith(": title is abcd; brand is xy; price is 12345;")


def test_fields_may_have_templates_of_their_own():
    prompts = changed(field_templates={"price": "costs {value} dollars;", "brand": "{name}={value};"})
    assert text(prompts, {"title": "Cup", "price": "5", "brand": "N"}).endswith(
        ": title is Cup; costs 5 dollars; brand=N;"
    )


def test_signs_of_formatting_in_values_stay_as_they_are(prompts):
    assert text(prompts, {"title": "{domain} {0} %s {{}}"}).endswith("title is {domain} {0} %s {{}};")


def test_settings_are_what_a_pass_depends_on(prompts):
    of = {kind: prompts.settings(kind) for kind in ("text", "image", "audio", "vectors")}
    for key, value in {
        "domain": "film",
        "instruction": "x",
        "image": "x",
        "text": "x {fields}",
        "audio": "x",
        "vectors": "x",
        "field": "{value}",
        "field_templates": {"title": "{value}"},
        "value_chars": 3,
        "field_chars": {"title": 2},
    }.items():
        other = changed(**{key: value})
        moved = {kind for kind in of if other.settings(kind) != of[kind]}
        lines = {
            kind
            for kind in of
            if other.line(kind, "m", {"title": "long title"}) != prompts.line(kind, "m", {"title": "long title"})
        }
        assert moved == lines


@pytest.mark.parametrize(
    ("key", "template"),
    [
        ("image", "the {thing}:"),
        ("image", "the {fields}:"),
        ("image", "{domain.nothing}"),
        ("image", "{domain[x]}"),
        ("audio", "{value}"),
        ("vectors", "{"),
        ("instruction", "{fields}"),
        ("text", "{domain} {fields"),
        ("text", "{}"),
        ("field", "{name} is {fields}"),
        ("field", "{value:d}"),
    ],
)
def test_bad_templates_are_refused(key, template):
    with pytest.raises(SDAError, match=f"prompt_{key}=.* cannot be filled in .* it may use {{") as error:
        changed(**{key: template})
    assert template in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"value_chars": 0}, "prompt_value_chars=0 .* 1 or more"),
        ({"value_chars": -1}, "prompt_value_chars=-1 .* 1 or more"),
        ({"value_chars": "9"}, "prompt_value_chars='9' is no whole number"),
        ({"field_chars": {"title": 0}}, r"prompt_field_chars\['title'\]=0 would cut everything"),
        ({"field_chars": {"title": None}}, r"prompt_field_chars\['title'\]=None is no whole number"),
        ({"field_chars": [1]}, r"prompt_field_chars=\[1\] does not map names of fields .*description: 400"),
        ({"field_chars": {3: 1}}, r"prompt_field_chars=\{3: 1\} does not map names"),
        ({"field_templates": "x"}, "prompt_field_templates='x' does not map names of fields"),
        ({"field_templates": {"a": "{domain}"}}, r"prompt_field_templates\['a'\]='{domain}' cannot be filled in"),
        ({"field_templates": {"a": 3}}, r"prompt_field_templates\['a'\]=3 cannot be filled in"),
        ({"image": None}, "prompt_image=None cannot be filled in"),
    ],
)
def test_other_bad_values_are_refused(values, message):
    with pytest.raises(SDAError, match=message):
        changed(**values)
