import numpy as np
import pytest
from test_spaces import make_space

from recbole_sda.errors import SDAError
from recbole_sda.report.page.embedding_map import FEWEST_POINTS, map_items, project, sample_rows
from recbole_sda.report.page.map_charts import map_charts


def clusters(count, seed=0):
    """Unit vectors in two far apart groups, and which group each is of."""
    generator = np.random.default_rng(seed)
    group = np.arange(count) % 2
    centres = generator.normal(size=(2, 8)) * 5
    values = centres[group] + generator.normal(size=(count, 8)) * 0.1
    return values / np.linalg.norm(values, axis=1, keepdims=True), group


def test_near_vectors_are_near_in_the_plane():
    vectors, group = clusters(60)
    placed = project(vectors, projection="tsne", seed=0)
    distances = np.linalg.norm(placed[:, None] - placed[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (group[distances.argmin(axis=1)] == group).mean() == 1
    assert np.array_equal(placed, project(vectors, projection="tsne", seed=0))


@pytest.mark.parametrize("count", [FEWEST_POINTS, 7, 20])
@pytest.mark.parametrize("kind", ["drawn", "equal", "line"])
def test_few_equal_and_flat_points_have_a_place(count, kind):
    vectors = {
        "drawn": np.random.default_rng(1).normal(size=(count, 5)),
        "equal": np.ones((count, 5)),
        "line": np.arange(count)[:, None] * np.ones((1, 5)),
    }[kind]
    placed = project(vectors, projection="tsne", seed=0)
    assert placed.shape == (count, 2)
    assert np.isfinite(placed).all()


def test_too_few_points_are_said():
    with pytest.raises(SDAError, match="5 points are too few"):
        project(np.eye(5), projection="tsne", seed=0)


def test_modalities_of_different_widths_have_no_plane_in_common(tmp_path):
    generator = np.random.default_rng(0)
    space = make_space(tmp_path, {"image": generator.normal(size=(9, 4)), "text": generator.normal(size=(9, 5))})
    with pytest.raises(SDAError, match="different widths"):
        map_items([space], items=5, seed=0)


def test_the_most_conflicting_are_those_that_were_planted(tmp_path):
    """Image and text agree but for four items, whose text is turned around; the mean hardly moves."""
    generator = np.random.default_rng(2)
    image = generator.normal(size=(40, 8))
    text = image.copy()
    planted = [3, 11, 20, 39]
    text[planted] *= -1
    spaces = [
        make_space(tmp_path / name, {"image": image, "text": text}, label=name) for name in ("before", "sda")
    ]
    found = map_items(spaces, items=10, seed=0)
    assert set(found.conflicting) == {f"i{row}" for row in planted}  # a tenth of 40
    assert found.sampled == 10
    assert set(found.conflicting) <= set(found.tokens)
    assert len(set(found.tokens)) == len(found.tokens) <= 14
    cosines = found.cosines["sda"]
    worst = cosines[[found.tokens.index(token) for token in found.conflicting]]
    assert (worst < -0.5).all()
    assert np.array_equal(worst, np.sort(worst))
    charts = map_charts(found, list(range(len(found.tokens))))
    assert [chart.name for chart in charts] == ["map-before", "map-after"]


def test_a_hundred_thousand_items_are_sampled(tmp_path):
    generator = np.random.default_rng(4)
    vectors = {m: generator.normal(size=(100_000, 4)).astype(np.float32) for m in ("image", "text")}
    found = map_items([make_space(tmp_path, vectors)], items=30, seed=0)
    assert found.sampled == 30
    assert len(found.conflicting) == 100
    assert len(found.tokens) <= 130
    assert found.points["sda"]["image"].shape == (len(found.tokens), 2)


def test_an_item_without_a_modality_has_one_point_and_no_line(tmp_path):
    generator = np.random.default_rng(5)
    vectors = {m: generator.normal(size=(12, 4)) for m in ("image", "text")}
    present = {m: np.ones(12, bool) for m in vectors}
    present["text"][0] = False
    found = map_items([make_space(tmp_path, vectors, present)], items=12, seed=0)
    (chart,) = map_charts(found, list(range(100, 112)))
    line, image, text = chart.figure.data
    assert 100 in image.customdata
    assert 100 not in text.customdata
    assert 100 not in line.customdata
    assert set(line.customdata) == set(range(101, 112))


def test_samples_are_rising_without_repetition_and_repeatable():
    rows = np.arange(50) * 3
    sample = sample_rows(rows, 10, 7)
    assert np.array_equal(sample, sample_rows(rows, 10, 7))
    assert len(set(sample)) == 10
    assert np.array_equal(sample, np.sort(sample))
    assert np.array_equal(sample_rows(rows, 50, 7), rows)
