"""What is on the page, without a browser."""

import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from recbole_sda.catalog.demo import write_demo
from recbole_sda.cli import main
from recbole_sda.report.page.gather import Run
from recbole_sda.report.page.render import as_json
from recbole_sda.report.page.write import pictures_of, write_report

SECTIONS = ["results", "head-tail", "training", "adapter", "gates", "gradients", "map", "neighbours", "users",
            "configuration"]  # fmt: skip


class Parsed(HTMLParser):
    """Which elements there are, and the sections that say that they are missing."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.missing, self.section, self.headings = [], {}, None, []
        self.data, self._in_data = "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.elements.append((tag, attrs))
        if tag == "section":
            self.section = attrs["id"]
        if self.section and "missing" in (attrs.get("class") or "").split():
            self.missing[self.section] = ""
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self._in_data = attrs.get("id") == "data"

    def handle_endtag(self, tag):
        self._in_data = False

    def handle_data(self, data):
        if self.section in self.missing:
            self.missing[self.section] += data
        if self._in_data:
            self.data += data


def parsed(page):
    return Parsed(page.read_text(encoding="utf-8"))


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished command that may be damaged; its result names the copy's artefacts."""
    shutil.copytree(finished, tmp_path / "run")
    file = tmp_path / "run" / "result.json"
    file.write_text(file.read_text().replace(str(finished), str(tmp_path / "run")))
    return tmp_path / "run"


def change_result(folder, **values):
    file = folder / "result.json"
    result = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({key: value for key, value in result.items() if value is not None}))
    return result


def write(folder, **options):
    options = {"items": 10, "users": 2, "data_path": folder / "data", **options}
    return parsed(write_report(folder / "result.json", folder / "page", **options))


@pytest.fixture(autouse=True)
def no_pictures_of_charts(monkeypatch, request):
    """They start a browser; a test of them asks for it."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr("recbole_sda.report.page.write.write_pictures", lambda figures: [])


@pytest.fixture
def pictures():
    return None


def test_every_section_is_there_and_headings_are_in_order(hostile_page):
    page = parsed(hostile_page)
    assert [attrs["id"] for tag, attrs in page.elements if tag == "section"] == SECTIONS
    assert set(page.missing) == {"results"}
    assert "another picture or text now than when their features were made" in page.missing["results"]
    assert page.headings[0] == 1
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    pictures = [attrs for tag, attrs in page.elements if tag == "img" and attrs.get("id") != "card-picture"]
    assert all(attrs["alt"].startswith("Picture of ") for attrs in pictures)
    assert hostile_page.stat().st_size < 8 * 2**20


def test_nothing_on_the_page_comes_from_elsewhere(hostile_page):
    page = parsed(hostile_page)
    for tag, attrs in page.elements:
        assert tag not in ("iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "srcset", "data"):
            assert not (attrs.get(name) or "").strip("#").startswith(("http", "//", "javascript")), (tag, attrs)
    (policy,) = (a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'unsafe-inline';")
    assert sum(attrs.get("id") == "plotly" for _, attrs in page.elements) == 1


def test_user_text_makes_no_element(hostile_page):
    page = parsed(hostile_page)
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]
    assert not [attrs for tag, attrs in page.elements if tag == "b"]
    scripts = [attrs for tag, attrs in page.elements if tag == "script"]
    assert [attrs.get("id") for attrs in scripts] == ["data", "plotly", None]


def test_a_picture_is_on_the_page_once_and_a_refused_one_says_why(hostile_page):
    text = hostile_page.read_text(encoding="utf-8")
    items = json.loads(parsed(hostile_page).data)["items"]
    pictures = [item["picture"] for item in items if item["picture"]]
    assert len(pictures) > 30
    assert all(text.count(picture) == 1 for picture in set(pictures))
    why = [item["why"] for item in items if not item["picture"]]
    assert any(reason.startswith("refused: cannot be decoded") for reason in why)
    assert "no picture" in why


@pytest.mark.parametrize("text", ["</script><script>", "<!--", "\u2028 & '", "]]>"])
def test_json_in_a_script_cannot_end_it(text):
    written = as_json({"title": text, "none": float("nan"), "many": [float("inf"), 1.5]})
    assert not re.search("[<>&'\u2028]", written)
    assert json.loads(written) == {"title": text, "none": None, "many": [None, 1.5]}


def test_the_command_says_where_the_page_is(copied, capsys, pictures):
    """With pictures of the charts, where there is a browser to draw them."""
    options = ["--items=10", "--users=2", f"--data_path={copied / 'data'}"]
    assert main(["report", str(copied / "result.json"), *options]) == 0
    page = copied / "result-report" / "report.html"
    assert f"{page} (" in capsys.readouterr().out
    assert page.is_file()
    if shutil.which("chromium"):
        found = sorted(path.name for path in page.parent.glob("*.png"))
        assert found == ["adapter-curves.png", "gates.png", "head-tail.png", "map-after.png", "map-before.png",
                         "recommender-curves.png"]  # fmt: skip
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in page.parent.glob("*.png"))


def test_what_is_sampled_is_said(copied):
    write(copied, items=10)
    text = (copied / "page" / "report.html").read_text()
    assert "A random sample of 10 of 40 items that have a feature" in text
    assert "the 4 most conflicting" in text


def test_a_killed_command_has_a_page_of_what_there_is(copied):
    result = change_result(copied, summary=None, gains=None)
    change_result(copied, runs=[{**result["runs"][0], "curve": None}])
    page = write(copied)
    assert "had not finished" in page.missing["results"]
    assert "no training curves" in page.missing["training"]
    for name in ("adapter", "gates", "gradients"):
        assert "python run_recbole_sda.py" in page.missing[name]
    assert "the run had no features" in page.missing["map"]
    assert "users" not in page.missing


def test_everything_gone_but_the_result(copied):
    shutil.rmtree(copied / "saved")
    shutil.rmtree(copied / "data")
    page = write(copied)
    assert set(page.missing) == set(SECTIONS) - {"results", "head-tail", "training", "configuration"}
    assert "cannot be read" in page.missing["map"]
    assert "does not exist" in page.missing["users"]


def test_a_demo_of_another_seed_is_told(copied):
    assert "results" not in write(copied, items=6).missing
    shutil.rmtree(copied / "data" / "demo")
    write_demo(copied / "data" / "demo", items=40, users=60, seed=7)
    page = write(copied, items=6)
    assert re.search(r"[1-9]\d* of the \d+ items on this page have another picture", page.missing["results"])
    result = json.loads((copied / "result.json").read_text())
    change_result(copied, runs=result["runs"][:1])  # of ids: no features know what they were made of
    page = write(copied)
    assert "was made anew with demo_seed=7 since this run" in page.missing["results"]


def test_adapters_that_are_not_drawn_are_named(copied, monkeypatch):
    monkeypatch.setattr("recbole_sda.report.page.gather.MOST_ADAPTERS", 1)
    *runs, sda = json.loads((copied / "result.json").read_text())["runs"]
    others = [{**sda, "variant": "lora"}, {**sda, "variant": "info_nce"}]
    others[1]["artefacts"] = {**sda["artefacts"], "adapter": "gone"}
    change_result(copied, runs=[*runs, sda, *others])
    adapters, left_out = Run(json.loads((copied / "result.json").read_text())).adapters()
    assert list(adapters) == ["sda"]
    assert left_out[0].startswith("adapter gone cannot be read")
    assert left_out[1] == "1 of 2 adapters: 1 are drawn at most"
    write(copied)
    assert "Not drawn: adapter gone cannot be read" in (copied / "page" / "report.html").read_text()


def test_a_variant_that_cannot_be_loaded_is_named(copied):
    ids = json.loads((copied / "result.json").read_text())["runs"][0]
    Path(ids["artefacts"]["checkpoint"]).unlink()
    page = write(copied)
    assert "ids is not compared: checkpoint" in page.missing["users"]


def test_pictures_of_an_earlier_page_go_and_those_of_others_stay(copied, capsys):
    page = copied / "page"
    page.mkdir()
    for name in ("map-before", "mine"):
        (page / f"{name}.png").write_bytes(b"old")
    write(copied)
    assert [path.name for path in page.glob("*.png")] == ["mine.png"]
    assert pictures_of(page / "report.html") == []


def test_a_name_of_a_file_that_is_no_text_is_no_obstacle(copied, capsys):
    file = Path(os.fsdecode(os.fsencode(copied) + b"/result-\xff.json"))
    (copied / "result.json").rename(file)
    assert main(["report", str(file), "--items=6", "--users=1", f"--data_path={copied / 'data'}"]) == 0
    assert "result-?.json" in capsys.readouterr().out


def test_damaged_files_are_told_in_their_place(copied):
    result = json.loads((copied / "result.json").read_text())
    artefacts = result["runs"][-1]["artefacts"]
    checkpoint, store = (Path(artefacts[name]) for name in ("checkpoint", "features"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    (store / "image.npy").write_bytes(b"short")
    manifest = Path(artefacts["adapter"]) / "manifest.json"
    manifest.write_text(manifest.read_text()[:300])
    page = write(copied)
    assert "is no checkpoint" in page.missing["users"]
    assert "bytes" in page.missing["map"]
    assert "cannot be read" in page.missing["adapter"]


def test_without_zero_shot_features_the_adapted_stand_alone_and_the_command_is_said(copied):
    result = json.loads((copied / "result.json").read_text())
    zero_shot = result["runs"][1]["artefacts"]["features"]
    change_result(copied, runs=[result["runs"][0], result["runs"][2]])
    page = write(copied)
    assert "map" not in page.missing  # found beside the adapted ones
    shutil.rmtree(zero_shot)
    page = write(copied)
    for name in ("map", "neighbours"):
        assert "Only the adapted features are shown" in page.missing[name]
        assert "embed --dataset=demo" in page.missing[name]
        assert "--adapter=none" in page.missing[name]


def test_without_the_dataset_items_have_their_ids(copied, monkeypatch):
    monkeypatch.chdir(copied)
    for checkpoint in (copied / "saved").glob("*.pth"):  # they would say where it is
        checkpoint.unlink()
    page = write(copied, data_path=None)
    items = json.loads(page.data)["items"]
    assert items
    assert all(item["title"] == item["id"] for item in items)
    assert all("--data_path=FOLDER" in item["why"] for item in items)
