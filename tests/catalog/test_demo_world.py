"""Every setting of the built-in world does what it says, and nothing else."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from recbole_sda.catalog import write_demo
from recbole_sda.catalog.attributes import ATTRIBUTES, CAN_TELL, INEVITABLE, LIKED, TELLS
from recbole_sda.catalog.demo_plan import make_plan
from recbole_sda.catalog.demo_users import draw_interactions
from recbole_sda.catalog.demo_world import World
from recbole_sda.catalog.drawing import GROUNDS, HUES, RADII
from recbole_sda.catalog.wording import COLOUR_WORDS, PATTERNS, PRODUCTS, SIZES, vocabulary
from recbole_sda.config import SDAConfig
from recbole_sda.errors import SDAError
from recbole_sda.prepare import prepare_dataset

ITEMS = 160


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    def write(**settings):
        return write_demo(tmp_path_factory.mktemp("world") / "demo", items=ITEMS, users=20, **settings)

    return write


@pytest.fixture(scope="module")
def usual(world):
    return world()


@pytest.fixture(scope="module")
def rich(world):
    return world(factors=6, text_factors=list(ATTRIBUTES))


def truth_of(folder):
    with open(folder / "demo.truth.csv", newline="") as file:
        return list(csv.DictReader(file))


def texts_of(folder):
    """Item → its fields, of the items that have a text."""
    rows = [line.split("\t") for line in (folder / "demo.item").read_text().splitlines()[1:]]
    return {item: fields for item, *fields in rows if any(fields)}


def pixels(folder, item):
    return np.asarray(Image.open(folder / "images" / f"{item}.png"))


def settings_of(folder):
    return json.loads((folder / "demo.json").read_text())


def picks(**settings):
    """Every user's items, as numbers, in a world without pictures."""
    world = World(**{"items": ITEMS, **settings})
    users = {}
    for user, item, _ in draw_interactions(make_plan(world), world):
        users.setdefault(user, []).append(int(item[1:]))
    return list(users.values())


def seen_colour(picture):
    """Of the hue of the most saturated pixels."""
    channels = np.asarray(Image.fromarray(picture).convert("HSV")).astype(float)
    hue, saturation, brightness = channels.transpose(2, 0, 1)
    strong = np.exp(1j * hue[(saturation > 150) & (brightness > 150)] / 255 * 2 * np.pi)
    angle = np.degrees(np.angle(strong.mean())) % 360
    return min(HUES, key=lambda name: abs((angle - HUES[name] + 180) % 360 - 180))


def share_of_own_colour(folder):
    return np.mean(
        [
            seen_colour(pixels(folder, row["item_id"])) == row["colour"]
            for row in truth_of(folder)
            if row["has_picture"] == "1"
        ]
    )


def share_read(folder, factor, words):
    """The share of texts with one of the words for their item's value."""
    texts = texts_of(folder)
    rows = [row for row in truth_of(folder) if row["item_id"] in texts]
    hits = [any(word in " ".join(texts[row["item_id"]]) for word in words(row[factor])) for row in rows]
    return np.mean(hits)


def same_files(one, other):
    names = ("demo.inter", "demo.item")
    return {name for name in names if (one / name).read_bytes() == (other / name).read_bytes()}


class TestTail:
    def test_exponent_0_makes_all_items_equally_popular(self, world):
        assert {row["popularity"] for row in truth_of(world(tail_exponent=0))} == {"1"}
        counts, tailed = (
            np.bincount(np.concatenate(picks(users=600, tail_exponent=exponent, taste=0)), minlength=ITEMS)
            for exponent in (0, 0.8)
        )
        mean = counts.mean()  # each count is nearly Poisson's
        assert counts.var() / mean == pytest.approx(1, abs=5 * np.sqrt(2 / ITEMS))
        assert tailed.var() / tailed.mean() > 10

    def test_a_steeper_tail_is_steeper(self, world):
        def head(exponent):
            counts = np.bincount(np.concatenate(picks(users=200, tail_exponent=exponent)), minlength=ITEMS)
            return np.sort(counts)[-ITEMS // 5 :].sum() / counts.sum()

        assert head(0) + 0.1 < head(0.8) < head(1.5) - 0.1
        popularity = np.array([float(row["popularity"]) for row in truth_of(world(tail_exponent=1.5))])
        np.testing.assert_allclose(np.sort(popularity)[::-1], np.arange(1, ITEMS + 1) ** -1.5, rtol=1e-5)


class TestFactorsTold:
    def test_pictures_without_colour_show_a_colour_that_means_nothing(self, world, usual):
        folder = world(image_factors=["shape", "pattern"])
        assert share_of_own_colour(usual) > 0.95
        assert share_of_own_colour(folder) < 0.25  # chance is 1/8
        assert same_files(folder, usual) == {"demo.inter", "demo.item"}
        assert settings_of(folder)["image_factors"] == ["shape", "pattern"]

    def test_texts_without_brand_name_brands_that_mean_nothing(self, world, usual):
        folder = world(text_factors=["colour", "shape"])
        brand = lambda value: [value]  # noqa: E731
        assert share_read(usual, "brand", brand) == 1
        assert share_read(folder, "brand", brand) < 0.25  # chance is 1/10
        assert share_read(folder, "colour", COLOUR_WORDS.get) == 1
        assert same_files(folder, usual) == {"demo.inter"}
        assert all((pixels(folder, i) == pixels(usual, i)).all() for i in ("P0000", "P0100", "P0159"))

    def test_texts_tell_the_pattern_when_asked(self, world, usual):
        folder = world(text_factors=["colour", "shape", "pattern", "brand"])
        phrase = lambda value: [PATTERNS[value]]  # noqa: E731
        assert share_read(folder, "pattern", phrase) == 1
        assert share_read(usual, "pattern", phrase) == 0

    @pytest.mark.parametrize("modality", ["image", "text", "audio"])
    @pytest.mark.parametrize("factors", range(1, 7))
    def test_values_are_own_where_told_and_independent_elsewhere(self, modality, factors):
        known = list(ATTRIBUTES)[:factors]
        told = [name for name in known if name in CAN_TELL[modality]]
        settings = {}
        if modality != "audio":  # whose factors cannot be chosen
            told = told[::2]
            settings[f"{modality}_factors"] = told
        plan = make_plan(World(items=4000, factors=factors, **settings))
        values = plan.views[modality].values
        assert set(values) >= set(INEVITABLE[modality]) | (set(known) & set(TELLS[modality]))
        for name, shown in values.items():
            if name in known:
                chance = 1 / len(ATTRIBUTES[name])
                agree = (shown == plan.attributes[name]).mean()
                assert agree == 1 if name in told else abs(agree - chance) < 5 * np.sqrt(chance / 4000)

    def test_nothing_told_is_no_signal(self, world):
        assert share_of_own_colour(world(image_factors=[])) < 0.25

    def test_what_is_usual_is_not_recorded(self, usual, world):
        told = world(image_factors=["pattern", "colour", "shape"], text_factors=("brand", "shape", "colour"))
        assert settings_of(told) == settings_of(usual)
        assert set(settings_of(usual)) == {
            *("generator", "items", "users", "seed", "image_signal", "text_signal", "taste"),
        }


class TestNoise:
    def test_its_share_of_pixels_and_words_is_replaced(self, world, usual):
        folder = world(noise=0.3)
        shown = [row["item_id"] for row in truth_of(usual) if row["has_picture"] == "1"]
        changed = [(pixels(folder, item) != pixels(usual, item)).any(axis=-1).mean() for item in shown]
        assert np.mean(changed) == pytest.approx(0.3, abs=0.005)
        before, after = texts_of(usual), texts_of(folder)
        words = [
            (old, new)
            for item in before
            for one, other in zip(before[item], after[item], strict=True)
            for old, new in zip(one.split(" "), other.split(" "), strict=True)
        ]
        assert np.mean([old != new for old, new in words]) == pytest.approx(0.3, abs=0.04)
        assert {new for old, new in words if old != new} <= set(vocabulary())
        assert same_files(folder, usual) == {"demo.inter"}

    def test_at_1_nothing_is_told(self, world):
        folder = world(noise=1)
        assert share_of_own_colour(folder) < 0.25
        for factor, words in (("brand", lambda value: [value]), ("colour", COLOUR_WORDS.get)):
            own = share_read(folder, factor, words)
            strange = [share_read_of_another(folder, factor, words, step) for step in (1, 2, 3)]
            assert own == pytest.approx(np.mean(strange), abs=0.15)

    def test_what_it_leaves_stays_with_more_of_it(self, world, usual):
        """Noise draws the same pixels first: more of it replaces more."""
        less, more = pixels(world(noise=0.1), "P0007"), pixels(world(noise=0.4), "P0007")
        kept = (more == pixels(usual, "P0007")).all(axis=-1)
        assert (less == pixels(usual, "P0007")).all(axis=-1)[kept].all()


def share_read_of_another(folder, factor, words, step):
    """As `share_read`, each text held against the value of another item."""
    texts, rows = texts_of(folder), truth_of(folder)
    values = [row[factor] for row in rows]
    pairs = [(rows[i]["item_id"], values[(i + step) % len(rows)]) for i in range(len(rows))]
    return np.mean(
        [any(word in " ".join(texts[item]) for word in words(value)) for item, value in pairs if item in texts]
    )


class TestMoreFactors:
    def test_pictures_show_size_and_ground(self, rich):
        reach = {name: [] for name in RADII}
        hits = []
        for row in truth_of(rich):
            if row["has_picture"] == "1":
                picture = pixels(rich, row["item_id"]).astype(float)
                hits.append(seen_ground(picture[0, 0]) == row["ground"])
                reach[row["size"]].append(extent(picture))
        assert np.mean(hits) > 0.97
        small, medium, large = (reach[name] for name in ("small", "medium", "large"))
        assert max(small) < np.median(medium) < max(medium) < np.median(large)

    def test_texts_tell_size_ground_and_pattern(self, rich):
        texts = texts_of(rich)
        assert share_read(rich, "size", SIZES.get) == 1
        assert share_read(rich, "ground", lambda value: [f"on {value}"]) == 1
        assert share_read(rich, "pattern", lambda value: [PATTERNS[value]]) == 1
        assert max(len(field) for fields in texts.values() for field in fields) <= 100  # prompts cut there
        words = " ".join(field for fields in texts.values() for field in fields).translate({44: None, 46: None})
        assert set(words.split()) <= set(vocabulary())

    def test_first_factors_and_popularity_stay(self, rich, usual):
        for more, fewer in zip(truth_of(rich), truth_of(usual), strict=True):
            assert {name: more[name] for name in fewer} == fewer

    @pytest.mark.parametrize(("name", "place"), [("size", 5), ("ground", 6)])
    def test_users_like_sizes_and_grounds(self, name, place):
        values = make_plan(World(items=ITEMS, factors=6)).attributes[name]

        def favoured(factors):
            """The mean share of the values that each user picks most, as many as users like."""
            settings = {"users": 300, "taste": 6, "tail_exponent": 0, "factors": factors}
            counts = [np.sort(np.bincount(values[items], minlength=6))[::-1] for items in picks(**settings)]
            return np.mean([of[: LIKED[name]].sum() / of.sum() for of in counts])

        assert favoured(place) > favoured(place - 1) + 0.1

    def test_fewer_factors_leave_the_rest_to_chance(self, world):
        folder = world(factors=2)
        assert list(truth_of(folder)[0])[:4] == ["item_id", "colour", "shape", "popularity"]
        assert share_of_own_colour(folder) > 0.95
        assert share_read(folder, "shape", lambda value: [PRODUCTS[value][0]]) == 1
        assert {fields[1] for fields in texts_of(folder).values()} == set(ATTRIBUTES["brand"])


def seen_ground(colour):
    """The kind of ground whose middle is nearest to a pixel."""
    middles = {
        name: np.array(Image.new("HSV", (1, 1), middle(bounds)).convert("RGB").getpixel((0, 0)))
        for name, bounds in GROUNDS.items()
    }
    return min(middles, key=lambda name: np.abs(colour - middles[name]).sum())


def middle(bounds):
    hue, saturation, brightness = (sum(pair) / 2 for pair in bounds)
    return round(hue / 360 * 255), round(255 * saturation), round(255 * brightness)


def extent(picture):
    """Half of the larger side of what is not ground, as a share of the picture."""
    drawn = np.abs(picture - picture[0, 0]).sum(axis=-1) > 60
    return max(np.ptp(np.flatnonzero(drawn.any(axis=axis))) for axis in (0, 1)) / 2 / len(picture)


def test_every_value_can_be_shown():
    assert tuple(SIZES) == tuple(RADII) == ATTRIBUTES["size"]
    assert tuple(GROUNDS) == ATTRIBUTES["ground"]
    assert tuple(PATTERNS) == ATTRIBUTES["pattern"]
    assert set(LIKED) == set(ATTRIBUTES)
    words = [word for group in (*COLOUR_WORDS.values(), *SIZES.values()) for word in group]
    assert len(set(words)) == len(words)


class TestKeys:
    def prepare(self, folder, *argv):
        small = [f"--data_path={folder}", "--demo_items=20", "--demo_users=5"]
        prepare_dataset(SDAConfig("SASRec", "demo", argv=[*small, *argv]))
        return settings_of(folder / "demo")

    def test_they_reach_the_world(self, tmp_path):
        keys = ("--demo_factors=5", "--demo_image_factors=size,colour", "--demo_text_factors=[brand]")
        keys += ("--demo_noise=0.1", "--demo_taste=1", "--demo_tail_exponent=1.2")
        found = self.prepare(tmp_path, *keys)
        assert found.pop("generator") == 1
        assert found == {
            **{"items": 20, "users": 5, "seed": 2020, "image_signal": 1.0, "text_signal": 1.0, "taste": 1.0},
            **{"tail_exponent": 1.2, "factors": 5, "noise": 0.1},
            **{"image_factors": ["colour", "size"], "text_factors": ["brand"]},
        }

    def test_another_value_makes_the_world_anew_and_the_same_does_not(self, tmp_path):
        self.prepare(tmp_path)
        (tmp_path / "demo" / "mark").touch()
        self.prepare(tmp_path, "--demo_tail_exponent=0.8", "--demo_image_factors=colour,shape,pattern")
        assert (tmp_path / "demo" / "mark").exists()
        self.prepare(tmp_path, "--demo_noise=0.5")
        assert not (tmp_path / "demo" / "mark").exists()

    @pytest.mark.parametrize(
        ("typed", "message"),
        [
            ("--demo_image_factors=brand", "demo_image_factors names 'brand', which no picture shows"),
            ("--demo_text_factors=3", "demo_text_factors=3 must be names with commas"),
            ("--demo_noise=much", "demo_noise='much' is not a number between 0"),
            ("--demo_factors=9", "demo_factors=9"),
        ],
    )
    def test_bad_values_are_named(self, tmp_path, typed, message):
        with pytest.raises(SDAError, match=message):
            self.prepare(tmp_path, typed)
        assert not (tmp_path / "demo").exists()
