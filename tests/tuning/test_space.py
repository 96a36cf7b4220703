"""What a space file may say, how it is drawn from, and what of RecBole's params files it means."""

import math
from pathlib import Path

import numpy as np
import pytest

from recbole_sda.defaults import properties_folder
from recbole_sda.errors import SDAError
from recbole_sda.tuning.space import (
    Choice,
    LogUniform,
    QUniform,
    Uniform,
    combinations,
    corner_combinations,
    draws,
    read_space,
)


def space_of(tmp_path, text: str, name="space.yaml") -> dict:
    file = tmp_path / name
    file.write_text(text)
    return read_space(file)


def test_every_kind_is_read_in_the_files_order(tmp_path):
    text = "c: {choice: [1, 0.5, a, [2, 3]]}\nu: {uniform: [0, 1]}\n"
    text += "l:\n  loguniform: [1e-4, 0.1]\nq: {quniform: [2, 8, 2]}\n"
    found = space_of(tmp_path, text)
    assert list(found) == ["c", "u", "l", "q"]
    assert found["c"] == Choice((1, 0.5, "a", [2, 3]))
    assert found["u"] == Uniform(0, 1)
    assert found["l"] == LogUniform(1e-4, 0.1)
    assert found["q"] == QUniform(2, 8, 2)


def test_the_spaces_that_come_along_are_read():
    files = list((properties_folder() / "tune").glob("*.yaml"))
    assert files
    for file in files:
        assert read_space(file)


def test_recboles_params_files_mean_what_they_mean_there(tmp_path):
    text = "learning_rate choice [0.01,0.005]\n\n# a comment\ndropout uniform 0,1\n"
    text += "reg loguniform -8, 0\nsize quniform 100,500,1\n"
    found = space_of(tmp_path, text, "hyper.test")
    assert found["learning_rate"] == Choice((0.01, 0.005))
    assert found["dropout"] == Uniform(0, 1)
    assert found["reg"] == LogUniform(math.exp(-8), 1.0)  # hyperopt's bounds are exponents
    assert found["size"] == QUniform(100, 500, 1)
    assert space_of(tmp_path, "layers choice ['[64]', '[64,32]']", "one.test")["layers"].values == (
        "[64]",
        "[64,32]",
    )


def test_all_combinations_the_last_key_fastest():
    space = {"a": Choice((1, 2)), "b": Choice(("x", "y"))}
    assert combinations(space) == [{"a": a, "b": b} for a in (1, 2) for b in ("x", "y")]


def test_corners_are_combined_as_long_as_they_are_few():
    space = {"a": Choice((1, 2)), "u": Uniform(3, 4)}
    assert corner_combinations(space, 4) == [{"a": a, "u": u} for a in (1, 2) for u in (3.0, 4.0)]
    alone = [{"a": 1, "u": 3.0}, {"a": 2, "u": 3.0}, {"a": 1, "u": 3.0}, {"a": 1, "u": 4.0}]
    assert corner_combinations(space, 3) == alone


@pytest.mark.parametrize("entry", [Uniform(1, 8), LogUniform(1, 8), QUniform(1, 8, 1), QUniform(1, 8, 0.5)])
def test_the_ends_of_a_range_are_of_the_kind_of_what_is_drawn(entry):
    (drawn,) = draws({"x": entry}, 1, seed=1)
    assert [type(corner) for corner in entry.corners] == [type(drawn["x"])] * 2


def test_draws_stay_inside_are_repeatable_and_cover(tmp_path):
    space = {"c": Choice((1, 2)), "u": Uniform(2, 3), "l": LogUniform(1e-4, 1), "q": QUniform(3, 10, 2)}
    found = draws(space, 400, seed=1)
    assert found == draws(space, 400, seed=1)
    assert found != draws(space, 400, seed=2)
    columns = {key: [entry[key] for entry in found] for key in space}
    assert {*columns["c"]} == {1, 2}
    assert all(2 <= value <= 3 for value in columns["u"])
    assert {*columns["q"]} == {4, 6, 8, 10}  # multiples of 2 between the bounds
    assert all(type(value) is int for value in columns["q"])
    assert np.median(np.log10(columns["l"])) == pytest.approx(-2, abs=0.3)


def test_a_step_that_is_no_whole_number_gives_numbers():
    assert QUniform(0, 1, 0.1).value(0.34) == 0.3
    assert QUniform(0, 1, 0.1).corners == (0, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty; name keys and their values"),
        ("# nothing\n", "is empty"),
        ("seed: [1, 2]\n", "is no entry of a space; use choice, uniform"),
        ("seed: {pick: [1]}\n", "kind 'pick' is unknown; choose one of choice"),
        ("seed: {choice: []}\n", "choice takes a list of values"),
        ("seed: {choice: 3}\n", "choice takes a list of values"),
        ("seed: {choice: [1, 1]}\n", "names a value twice"),
        ("x: {uniform: [1]}\n", r"uniform takes numbers \[low, high\]"),
        ("x: {uniform: [a, b]}\n", r"uniform takes numbers \[low, high\]"),
        ("x: {uniform: [0, .inf]}\n", r"uniform takes numbers \[low, high\]"),
        ("x: {uniform: [2, 1]}\n", "begins at or above its end"),
        ("x: {loguniform: [0, 1]}\n", "must lie above 0; use uniform"),
        ("x: {quniform: [0, 1]}\n", r"quniform takes numbers \[low, high, step\]"),
        ("x: {quniform: [0, 1, 2]}\n", "the step must lie above 0"),
        ("x: {choice: [1], uniform: [0, 1]}\n", "is no entry of a space"),
        ("- a\n", "holds a list"),
        ("x choice [1]\ny: {choice: [1]}\n", "line 2: .* is not understood"),
        ("x choice [1]\nx choice [2]\n", "line 2: x is there twice"),
        ("x normal 0,1\n", "kind 'normal' is unknown"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path, text, said):
    with pytest.raises(SDAError, match=said):
        space_of(tmp_path, text)


def test_a_space_that_is_not_there():
    with pytest.raises(SDAError, match="cannot be read: No such file"):
        read_space(Path("nowhere.yaml"))
