import hashlib
import json
import shutil
import threading
import wave
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from recbole_sda.catalog import Catalog, ensure_demo, item_tokens, write_demo
from recbole_sda.catalog import demo as demo_module
from recbole_sda.catalog.atomic import replacing_folder
from recbole_sda.catalog.attributes import ATTRIBUTES
from recbole_sda.catalog.demo_world import KEYS, World
from recbole_sda.catalog.drawing import HUES
from recbole_sda.catalog.sounds import BEATS, PITCHES, RATE, SECONDS
from recbole_sda.catalog.wording import COLOUR_WORDS, PRODUCTS
from recbole_sda.errors import SDAError

FACTORS = list(ATTRIBUTES)[:4]
SMALL = {"items": 40, "users": 30}
# The first digits of the sha256 of the files of SMALL, before there were recordings, noise or more factors.
EARLIER = {
    "demo.inter": "23866138d732b662",
    "demo.item": "8bb19c5619cd4bd5",
    "demo.json": "cff6f9e99be2887f",
    "demo.truth.csv": "b8efe3aca3fcb958",
    "images": "6064827c4055eafd",  # of names and pixels: how PNG packs them is its library's business
}
PROPERTIES = Path(__file__).resolve().parent.parent / "properties" / "dataset" / "demo.yaml"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("data") / "demo")


def read_interactions(folder):
    return pd.read_csv(folder / "demo.inter", sep="\t", names=["user", "item", "time"], header=0)


def read_truth(folder):
    return pd.read_csv(folder / "demo.truth.csv").set_index("item_id")


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def hit_rate(folder, attributes, ranking, at=10):
    """Leave-one-out Hit@10 of popularity, of attribute match with the history, or of both together."""
    truth = read_truth(folder)
    code = {token: index for index, token in enumerate(truth.index)}
    histories = [
        [code[item] for item in items] for items in read_interactions(folder).groupby("user")["item"].agg(list)
    ]
    popularity = np.bincount(np.concatenate([items[:-1] for items in histories]), minlength=len(code)) + 0.5
    values = [pd.factorize(truth[name])[0] for name in attributes]
    hits = []
    for *history, target in histories:
        score = np.zeros(len(code))
        if "popularity" in ranking:
            score += np.log(popularity)
        if "match" in ranking:
            for value in values:
                prior = np.bincount(value, weights=popularity) / popularity.sum()
                counts = np.bincount(value[history], minlength=len(prior)) + 3 * prior
                score += np.log(counts / counts.sum() / prior)[value]
        score[history] = -np.inf
        better, equal = (score > score[target]).sum(), (score == score[target]).sum() - 1
        hits.append(better + equal / 2 < at)
    return np.mean(hits)


def test_attributes_help_to_predict_the_next_item(demo):
    popular = hit_rate(demo, [], "popularity")
    seen = hit_rate(demo, ["colour", "shape", "pattern"], "popularity and match")
    read = hit_rate(demo, ["colour", "shape", "brand"], "popularity and match")
    both = hit_rate(demo, FACTORS, "popularity and match")
    assert popular > 3 * 10 / 300
    assert both > 1.8 * popular
    assert min(seen, read) > 1.4 * popular
    assert both > max(seen, read) + 0.03
    assert hit_rate(demo, FACTORS, "match") > 4 * 10 / 300


def test_without_taste_attributes_tell_nothing(tmp_path):
    folder = write_demo(tmp_path / "demo", taste=0)
    assert hit_rate(folder, FACTORS, "match") < 2 * 10 / 300


def test_interactions_have_the_promised_shape(demo):
    table = read_interactions(demo)
    lengths = table.groupby("user").size()
    assert len(lengths) == 600
    assert lengths.min() >= 5
    assert lengths.max() <= 14
    assert not table.duplicated(["user", "item"]).any()
    assert table.groupby("user")["time"].agg(lambda times: (times.diff().dropna() > 0).all()).all()


def test_popularity_has_a_long_tail(demo):
    counts = read_interactions(demo)["item"].value_counts().reindex(read_truth(demo).index, fill_value=0)
    ordered = counts.sort_values(ascending=False)
    assert ordered[:60].sum() > 0.4 * ordered.sum()  # a fifth of the items
    assert ordered.median() < ordered.mean()
    assert ordered.iloc[0] > 8 * ordered.median()


def test_catalogue_reads_it_and_lacks_what_it_should(demo):
    tokens = item_tokens(demo / "demo.item")
    catalog = Catalog.open(demo, tokens, show_progress=False)
    truth = read_truth(demo).loc[list(tokens)]
    counts = catalog.counts()
    assert (counts["items"], counts["without_image"], counts["without_text"]) == (300, 6, 6)
    assert counts["with_all"] == 288
    assert catalog.skipped == []
    assert catalog.present("image").tolist() == truth["has_picture"].astype(bool).tolist()
    assert catalog.present("text").tolist() == truth["has_text"].astype(bool).tolist()
    assert list(catalog.fields) == ["title", "brand", "description"]


def test_texts_tell_brand_colour_and_shape_but_never_the_pattern(demo):
    truth = read_truth(demo)
    catalog = Catalog.open(demo, truth.index, show_progress=False)
    for index, row in enumerate(truth.itertuples()):
        item = catalog.item(index)
        if not item:
            continue
        assert item["brand"] == row.brand
        assert row.brand in item["title"]
        assert any(word in item["title"].split() for word in COLOUR_WORDS[row.colour])
        assert PRODUCTS[row.shape][0] in item["title"].split()
        words = set(" ".join(item.values()).lower().replace(",", " ").split())
        assert not words & set(ATTRIBUTES["pattern"])


def dominant_hue(path):
    """The hue of the most saturated pixels."""
    hue, saturation, brightness = np.moveaxis(np.asarray(Image.open(path).convert("HSV")).astype(float), -1, 0)
    angle = hue[(saturation > 150) & (brightness > 150)] / 255 * 2 * np.pi
    return np.degrees(np.angle(np.exp(1j * angle).mean())) % 360


def share_with_own_colour(folder):
    names = list(HUES)
    hits = []
    for token, row in read_truth(folder).query("has_picture == 1").iterrows():
        hue = dominant_hue(folder / "images" / f"{token}.png")
        distances = [abs((hue - HUES[name] + 180) % 360 - 180) for name in names]
        hits.append(names[int(np.argmin(distances))] == row.colour)
    return np.mean(hits)


def test_pictures_show_the_colour_and_a_control_run_does_not(demo, tmp_path):
    assert share_with_own_colour(demo) > 0.95
    control = write_demo(tmp_path / "demo", image_signal=0)
    assert share_with_own_colour(control) < 0.25  # chance is 1/8
    half = write_demo(tmp_path / "half", image_signal=0.5)
    assert 0.4 < share_with_own_colour(half) < 0.75

    ours, theirs = digests(demo), digests(control)
    assert ours.keys() == theirs.keys()
    changed = {name for name in ours if ours[name] != theirs[name]}
    assert {"demo.json", "demo.truth.csv"} < changed
    assert all(name.startswith("images/") for name in changed - {"demo.json", "demo.truth.csv"})
    own = read_truth(half).query("picture_own == 1 and has_picture == 1").index
    halves = digests(half)
    assert all(halves[f"images/{token}.png"] == ours[f"images/{token}.png"] for token in own)


@pytest.fixture(scope="module")
def sounding(tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("data") / "demo", audio=True)


def heard(path):
    """Brand and colour of a recording: its loudest frequency, and how many strokes fit its loudness best."""
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(float)
    assert len(samples) == SECONDS * RATE
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), n=1 << 17))
    pitch = np.fft.rfftfreq(1 << 17, 1 / RATE)[np.argmax(spectrum)]
    brand = min(PITCHES, key=lambda name: abs(np.log(pitch / PITCHES[name])))
    loudness = np.convolve(np.abs(samples), np.ones(100) / 100, mode="same")
    phase = np.arange(len(samples)) / len(samples)
    strokes = {name: np.exp(-4 * (phase * beats % 1)) for name, beats in BEATS.items()}
    likeness = {name: np.corrcoef(loudness, stroke)[0, 1] for name, stroke in strokes.items()}
    colour = max(BEATS, key=likeness.get)
    return brand, colour


def shares_heard(folder):
    truth = read_truth(folder).query("has_sound == 1")
    pairs = [(heard(folder / "audio" / f"{token}.wav"), row) for token, row in truth.iterrows()]
    return [np.mean([found[k] == row[name] for found, row in pairs]) for k, name in enumerate(("brand", "colour"))]


def test_recordings_play_brand_and_colour_and_a_control_run_does_not(sounding, tmp_path):
    assert min(shares_heard(sounding)) > 0.95
    control = write_demo(tmp_path / "demo", audio=True, audio_signal=0)
    assert max(shares_heard(control)) < 0.25  # chance is 1/10 and 1/8
    ours, theirs = digests(sounding), digests(control)
    assert {name.split("/")[0] for name in ours if ours[name] != theirs[name]} == {
        "audio",
        "demo.json",
        "demo.truth.csv",
    }


def test_recordings_change_nothing_else(demo, sounding):
    ours, theirs = digests(demo), digests(sounding)
    changed = {name for name in theirs if ours.get(name) != theirs[name]}
    recordings = {name for name in changed if name.startswith("audio/")}
    assert changed - recordings == {"demo.json", "demo.truth.csv"}
    assert len(recordings) == 294
    assert max((sounding / name).stat().st_size for name in recordings) <= 16_384
    assert not (demo / "audio").exists()
    pd.testing.assert_frame_equal(read_truth(sounding)[read_truth(demo).columns], read_truth(demo))


def test_by_default_the_files_are_those_of_earlier_demos(tmp_path):
    folder = write_demo(tmp_path / "demo", **SMALL)
    parts = {name: digests(folder)[name][:16] for name in EARLIER if name != "images"}
    pictures = hashlib.sha256()
    for path in sorted((folder / "images").iterdir()):
        pictures.update(path.name.encode() + np.asarray(Image.open(path)).tobytes())
    assert {**parts, "images": pictures.hexdigest()[:16]} == EARLIER


def test_a_demo_with_recordings_serves_where_none_are_wanted(tmp_path):
    folder = ensure_demo(tmp_path, audio=True, **SMALL)
    (folder / "mark").touch()
    ensure_demo(tmp_path, **SMALL)
    ensure_demo(tmp_path, audio=True, **SMALL)
    assert (folder / "mark").exists()
    ensure_demo(tmp_path, audio=True, audio_signal=0.5, **SMALL)
    assert not (folder / "mark").exists()
    shutil.rmtree(folder / "audio")
    ensure_demo(tmp_path, audio=True, audio_signal=0.5, **SMALL)
    assert (folder / "audio").is_dir()


def test_a_demo_without_recordings_is_made_anew_where_they_are_wanted(tmp_path):
    ensure_demo(tmp_path, **SMALL)
    assert (ensure_demo(tmp_path, audio=True, **SMALL) / "audio").is_dir()


def test_every_colour_has_a_hue():
    assert tuple(HUES) == ATTRIBUTES["colour"]


def test_text_control_changes_texts_only(demo, tmp_path):
    control = write_demo(tmp_path / "demo", text_signal=0)
    ours, theirs = digests(demo), digests(control)
    assert {name for name in ours if ours[name] != theirs[name]} == {
        "demo.item",
        "demo.json",
        "demo.truth.csv",
    }
    truth = read_truth(control)
    brands = Catalog.open(control, truth.index, show_progress=False).fields["brand"]
    assert np.mean(truth["brand"].to_numpy() == np.array(brands)) < 0.2


def test_same_seed_same_bytes(tmp_path):
    one = digests(write_demo(tmp_path / "one", **SMALL))
    assert digests(write_demo(tmp_path / "two", **SMALL)) == one
    other = digests(write_demo(tmp_path / "three", seed=1, **SMALL))
    assert other["demo.inter"] != one["demo.inter"]
    assert other["images/P0000.png"] != one["images/P0000.png"]


def test_ensure_demo_reuses_and_regenerates(tmp_path):
    folder = ensure_demo(tmp_path, **SMALL)
    assert folder == tmp_path / "demo"
    (folder / "index.csv").touch()
    assert ensure_demo(tmp_path, **SMALL) == folder
    assert (folder / "index.csv").exists()
    ensure_demo(tmp_path, image_signal=0, **SMALL)
    assert not (folder / "index.csv").exists()
    assert json.loads((folder / "demo.json").read_text())["image_signal"] == 0
    (folder / "demo.inter").unlink()
    ensure_demo(tmp_path, image_signal=0, **SMALL)
    assert (folder / "demo.inter").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"demo", ".demo.lock"}


def test_a_current_demo_needs_no_lock(tmp_path, monkeypatch):
    """As in a data_path that can only be read, which root, who may run the tests, does not feel."""
    ensure_demo(tmp_path, **SMALL)
    (tmp_path / ".demo.lock").unlink(missing_ok=True)

    def read_only(path):
        raise PermissionError(path)

    monkeypatch.setattr(demo_module, "FileLock", read_only)
    assert ensure_demo(tmp_path, **SMALL) == tmp_path / "demo"
    with pytest.raises(PermissionError):
        ensure_demo(tmp_path, seed=1, **SMALL)


def test_a_folder_of_somebody_else_is_never_touched(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "demo.inter").write_text("mine")
    with pytest.raises(SDAError, match="not made by the demo generator"):
        ensure_demo(tmp_path, **SMALL)
    with pytest.raises(SDAError, match="not empty"):
        write_demo(tmp_path / "demo", **SMALL)
    assert digests(tmp_path / "demo").keys() == {"demo.inter"}
    (tmp_path / "demo" / "demo.item").touch()
    (tmp_path / "demo" / "images").mkdir()
    with pytest.raises(SDAError, match="not made by the demo generator"):
        ensure_demo(tmp_path, **SMALL)


def test_two_callers_at_once_get_one_demo(tmp_path, monkeypatch):
    made, all_asked, is_current = [], threading.Barrier(3), demo_module._is_current

    def writing(folder):
        made.append(folder)
        return replacing_folder(folder)

    def asking(folder, wanted):
        current = is_current(folder, wanted)
        if threading.current_thread() not in asked:  # nobody makes it before all have asked once
            asked.add(threading.current_thread())
            all_asked.wait(timeout=30)
        return current

    asked = set()
    monkeypatch.setattr(demo_module, "replacing_folder", writing)
    monkeypatch.setattr(demo_module, "_is_current", asking)
    threads = [threading.Thread(target=ensure_demo, args=(tmp_path,), kwargs=SMALL) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "demo" / "demo.json").is_file()
    assert len(made) == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"demo", ".demo.lock"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"items": 5}, "demo_items=5"),
        ({"items": 30.5}, "demo_items=30.5"),
        ({"users": 0}, "demo_users=0"),
        ({"seed": -1}, "demo_seed=-1"),
        ({"image_signal": 1.5}, "image_signal=1.5"),
        ({"text_signal": "no"}, "text_signal='no'"),
        ({"image_signal": True}, "image_signal=True"),
        ({"taste": -1}, "demo_taste=-1"),
        ({"tail_exponent": 6}, r"demo_tail_exponent=6 .* 0 \(all items equally popular\) and 5"),
        ({"noise": 1.1}, r"demo_noise=1.1 .* 0 \(none\) and 1"),
        ({"noise": float("nan")}, "demo_noise=nan"),
        ({"factors": 7}, "demo_factors=7 .* 1 to 6"),
        ({"factors": 0}, "demo_factors=0"),
        ({"factors": 4.0}, "demo_factors=4.0"),
        ({"image_factors": ["brand"]}, "demo_image_factors names 'brand', .* choose from colour, shape, pattern$"),
        ({"text_factors": ["size"]}, "demo_text_factors names 'size', .* demo_factors=4.*colour, .*brand$"),
        ({"text_factors": "colour"}, "demo_text_factors='colour' must be names"),
        ({"text_factors": ["colour", "colour"]}, "each once"),
        ({"audio": "yes"}, "audio='yes'"),
        ({"audio_signal": 2}, "audio_signal=2"),
    ],
)
def test_bad_settings_are_named_before_any_work(tmp_path, settings, message):
    with pytest.raises(SDAError, match=message):
        ensure_demo(tmp_path, **settings)
    assert not (tmp_path / "demo").exists()


def test_properties_agree_with_the_generator():
    properties = yaml.safe_load(PROPERTIES.read_text())
    assert {name: properties[key] for name, key in KEYS.items()} == {name: getattr(World(), name) for name in KEYS}
    assert properties["audio_signal"] == World().audio_signal
    assert {key for key in properties if key.startswith("demo_")} < set(KEYS.values())
    assert properties["load_col"] == {"inter": ["user_id", "item_id", "timestamp"]}
    assert properties["MAX_ITEM_LIST_LENGTH"] == 10
