"""Dataset folders appear whole, say what is in them, and lose nobody's work."""

import csv
import hashlib
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from recbole_sda.catalog.atomic import read_atomic
from recbole_sda.defaults import read_yaml
from recbole_sda.errors import SDAError

SCRIPTS = Path(__file__).resolve().parents[2] / "dataset_scripts"
sys.path.insert(0, str(SCRIPTS))  # as Python itself does for a script
import dataset_pictures  # noqa: E402
import dataset_readme  # noqa: E402
import folder as folders  # noqa: E402

PROVENANCE = dataset_readme.Provenance("Shop", ["https://example.org/shop"], "research only", "A. Author. 2020.")


def write(output, **changes):
    arguments = {
        "inter_fields": ["user_id:token", "item_id:token", "timestamp:float"],
        "interactions": iter([("u", "a", "1"), ("u", "b", "2")]),
        "item_fields": ["item_id:token", "title:token"],
        "items": iter([("a", 'x "quoted"'), ("b", "two\nlines")]),
        "settings": {"text_fields": ["title"], "prompt_domain": "thing: small", "k_core": 5},
        "readme": "hello\n",
    }
    folders.write_dataset(output, **{**arguments, **changes})


def contents(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_everything_is_written_and_reads_back(tmp_path):
    write(tmp_path / "shop", image_urls=[("a", "https://x/1.jpg"), ("a", "https://x/2,3.jpg")])
    out = tmp_path / "shop"
    assert sorted(contents(out)) == ["README.md", "image_urls.csv", "shop.inter", "shop.item", "shop.yaml"]
    assert [row for _, row in read_atomic(out / "shop.item")][1:] == [["a", 'x "quoted"'], ["b", "two lines"]]
    with open(out / "image_urls.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [["item_id", "url"], ["a", "https://x/1.jpg"], ["a", "https://x/2,3.jpg"]]
    settings = read_yaml(out / "shop.yaml")
    assert settings["text_fields"] == ["title"]
    assert settings["prompt_domain"] == "thing: small"
    assert settings["load_col"] == {"inter": ["user_id", "item_id", "timestamp"]}
    assert settings["user_inter_num_interval"] == settings["item_inter_num_interval"] == "[5,inf)"
    assert settings["eval_args"]["split"] == {"LS": "valid_and_test"}


def test_without_a_core_the_dataset_says_so_over_a_property_file_of_its_name(tmp_path):
    write(tmp_path / "shop", settings={"text_fields": []})
    assert read_yaml(tmp_path / "shop/shop.yaml")["user_inter_num_interval"] == "[0,inf)"


def picture(target):
    (target / "a.jpg").write_bytes(b"p")


@pytest.mark.parametrize(
    ("changes", "modalities"),
    [
        ({}, ["text"]),
        ({"image_urls": [("a", "https://x/1.jpg")]}, None),
        ({"place_pictures": picture}, None),
        ({"image_urls": [], "settings": {"text_fields": ["title"], "modalities": ["text"]}}, ["text"]),
    ],
)
def test_a_dataset_without_pictures_says_so_in_its_yaml(tmp_path, changes, modalities):
    write(tmp_path / "shop", **changes)
    text = (tmp_path / "shop/shop.yaml").read_text()
    assert yaml.safe_load(text).get("modalities") == modalities
    assert ("no pictures" in text) == (modalities is not None)


def test_an_unknown_setting_is_refused(tmp_path):
    with pytest.raises(TypeError, match="colour"):
        write(tmp_path / "shop", settings={"text_fields": [], "colour": "red"})
    assert not (tmp_path / "shop").exists()


def failing():
    yield ("u", "a", "1")
    raise SDAError("the source broke")


def full_disk():
    yield ("u", "a", "1")
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("rows", "message"), [(failing, "source broke"), (full_disk, "--output .* No space left")]
)
def test_after_an_error_the_old_dataset_is_untouched(tmp_path, rows, message):
    out = tmp_path / "shop"
    write(out, place_pictures=picture)
    before = contents(tmp_path)
    with pytest.raises(SDAError, match=message):
        write(out, interactions=rows())
    assert contents(tmp_path) == before


def test_the_readme_may_count_what_was_streamed(tmp_path):
    count = 0

    def rows():
        nonlocal count
        for item in "ab":
            count += 1
            yield (item, "title")

    write(tmp_path / "shop", items=rows(), readme=lambda: f"{count} items")
    assert (tmp_path / "shop/README.md").read_text() == "2 items"


@pytest.mark.parametrize("names", [("a.jpg", "deep/b.jpg", "manifest.csv"), ("a.jpg", "deep/b.jpg")])
def test_pictures_outlive_a_rewrite_whoever_put_them_there(tmp_path, names):
    out = tmp_path / "shop"
    write(out, image_urls=[("a", "https://x/1.jpg")])
    (out / "images/deep").mkdir(parents=True)
    for name in names:
        (out / "images" / name).write_text(name)
    (out / "images/link.jpg").symlink_to("a.jpg")
    write(out)
    for name in names:
        assert (out / "images" / name).read_text() == name
    assert (out / "images/link.jpg").is_symlink()
    assert "modalities" not in read_yaml(out / "shop.yaml")
    assert "were kept" in dataset_pictures.no_pictures_note(out)


def test_placed_pictures_take_nobody_elses_away(tmp_path):
    out = tmp_path / "shop"
    write(out, place_pictures=picture)
    write(out, place_pictures=picture)  # the same names again
    (out / "images/mine.jpg").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(SDAError, match=r"images holds 1 files .* would delete: mine\.jpg; move them out"):
        write(out, place_pictures=picture)
    assert contents(tmp_path) == before


def test_an_output_whose_parent_cannot_be_made_is_refused_and_a_possible_one_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SDAError, match=r"--output .*file/a/shop: .*file/a cannot be written: "):
        folders.check_output(tmp_path / "file/a/shop", overwrite=False, inputs={})
    folders.check_output(tmp_path / "a/b/shop", overwrite=False, inputs={})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_pictures_that_the_catalogue_would_refuse_are_named(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_text("<html>not found</html>")
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes()[:-30])
    names = {"a": "a.png", "b": "b.jpg", "c": "c.png"}
    unreadable = dataset_pictures.unreadable_pictures(tmp_path, names)
    assert list(unreadable) == ["b", "c"]
    assert unreadable["b"] == "b.jpg: not a JPEG, PNG or WebP picture"


def test_check_output(tmp_path):
    out = tmp_path / "shop"

    def check(overwrite=True, **inputs):
        return folders.check_output(out, overwrite=overwrite, inputs=inputs)

    assert check(overwrite=False) == out
    out.mkdir()
    assert check(overwrite=False) == out  # an empty folder
    write(out)
    text = dataset_readme.readme(None, command="x")
    (out / "README.md").write_text(text)
    assert check() == out
    with pytest.raises(SDAError, match="add --overwrite"):
        check(overwrite=False)
    with pytest.raises(SDAError, match=r"--items .*shop\.item lies in --output"):
        check(**{"--items": out / "shop.item", "--images": None})
    for name, content in (("README.md", "my own notes"), ("notes.md", ""), ("other.inter", "")):
        (out / name).write_text(content)
        with pytest.raises(SDAError, match=rf"did not write .*: {name}; move it out"):
            check()
        (out / name).unlink()
    (out / "shop.inter").unlink()
    with pytest.raises(SDAError, match="no dataset to overwrite"):
        check()


@pytest.mark.parametrize("name", ["ml-100k", "demo"])
def test_names_that_mean_other_data_are_refused(tmp_path, name):
    with pytest.raises(SDAError, match=f"--dataset={name} means a dataset that comes with .* choose another name"):
        folders.check_output(tmp_path / name, overwrite=False, inputs={})


def test_recbole_does_look_for_ml_100k_in_its_own_package(tmp_path):
    from recbole_sda.config import SDAConfig

    config = SDAConfig("BPR", "ml-100k", config_dict={"data_path": str(tmp_path)})
    assert "dataset_example" in config["data_path"]


def test_the_readme_names_source_terms_command_checksums_and_counts(tmp_path):
    raw = tmp_path / "raw.json"
    raw.write_bytes(b"12345")
    files = [dataset_readme.FileRecord.of(raw)]
    text = dataset_readme.readme(
        PROVENANCE, command="script.py --x", files=files, funnel="| step |", notes=["n1"]
    )
    assert text.startswith(dataset_readme.README_MARK)
    for part in (
        "# Shop",
        "<https://example.org/shop>",
        "research only",
        "A. Author. 2020.",
        "script.py --x",
        f"| raw.json | 5 | `{hashlib.sha256(b'12345').hexdigest()}` |",
        "| step |",
        "- n1",
    ):
        assert part in text
    assert str(tmp_path) not in text


def test_a_file_that_cannot_be_read_has_no_record(tmp_path):
    with pytest.raises(SDAError, match=r"none\.json cannot be read: No such file"):
        dataset_readme.FileRecord.of(tmp_path / "none.json")
