"""The YAML reader, the files in ``properties/`` and the help that they give."""

import math
import re

import pytest
import yaml

from recbole_sda import defaults, switches
from recbole_sda.defaults import help_text, parse_value, properties_folder, read_properties, read_yaml
from recbole_sda.errors import SDAError

OWN_FILES = ("overall.yaml", "model/SLMRec.yaml", "model/VBPR.yaml", "dataset/demo.yaml", "backbone/tiny.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("+3", 3),
        ("0", 0),
        ("0x1F", 31),
        ("10_000", 10000),
        ("1e-3", 1e-3),
        ("1E-3", 1e-3),
        ("2e5", 2e5),
        ("1.5e-3", 1.5e-3),
        ("-0.5", -0.5),
        (".5", 0.5),
        ("5.", 5.0),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("True", True),
        ("true", True),
        ("False", False),
        ("false", False),
        ("None", None),
        ("null", None),
        ("~", None),
        ("", None),
        ("[1, 2]", [1, 2]),
        ("[image,text]", ["image", "text"]),
        ("['a', 1e-3, None]", ["a", 1e-3, None]),
        ("{'LS': 'valid_and_test'}", {"LS": "valid_and_test"}),
        ("{'RS': [0.8, 0.1, 0.1]}", {"RS": [0.8, 0.1, 0.1]}),
        ("{mode: full}", {"mode": "full"}),
        ("SASRec", "SASRec"),
        ("'5'", "5"),
        ('"None"', "None"),
        ("image,text", "image,text"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"),
        # not YAML, or YAML that nobody means
        ("[5,inf)", "[5,inf)"),
        ("(5,10]", "(5,10]"),
        ("[5,", "[5,"),
        ("a: b: c", "a: b: c"),
        ("@home", "@home"),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("2020-01-01", "2020-01-01"),
        ("2020-01-01 10:00:00", "2020-01-01 10:00:00"),
        ("007", "007"),
        ("1.2.3", "1.2.3"),
        ("NoneSuch", "NoneSuch"),
        ("e5", "e5"),
        ("_1", "_1"),
    ],
)
def test_a_value_reads_as_its_writer_meant(text, value):
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)  # True == 1, and 5. == 5


def test_not_a_number_is_a_float():
    assert math.isnan(parse_value(".nan"))


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch pwned')",
        "[__import__('os').system('touch pwned')]",
        "{'a': open('pwned', 'w')}",
        "!!python/object/apply:os.system ['touch pwned']",
        "!!python/object/new:os.system ['touch pwned']",
        "!!python/name:os.system",
    ],
)
def test_code_is_never_executed(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parsed = parse_value(text)
    assert not callable(parsed)
    assert list(tmp_path.iterdir()) == []


def test_a_file_and_the_command_line_read_alike(tmp_path):
    texts = ("1e-3", "None", "1:30", "2020-01-01", "[5, 1e-2]", "True", "image")
    path = tmp_path / "a.yaml"
    path.write_text("".join(f"key{i}: {text}\n" for i, text in enumerate(texts)))
    assert list(read_yaml(path).values()) == [parse_value(text) for text in texts]


def test_yamls_own_loader_is_left_as_it_is():
    assert yaml.safe_load("1e-3") == "1e-3"
    assert yaml.safe_load("None") == "None"


@pytest.mark.parametrize("content", ["", "# nothing but a comment\n", "~\n"])
def test_an_empty_file_has_no_keys(content, tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text(content)
    assert read_yaml(path) == {}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("epochs: [1, 2\n", "is not YAML"),
        ("epochs: 1\n  seed: 2\n", "is not YAML"),
        ("!!python/object/apply:os.system ['touch pwned']\n", "is not YAML"),
        ("- epochs\n- seed\n", "holds a list"),
        ("epochs\n", "holds a str"),
        ("5\n", "holds a int"),
    ],
)
def test_a_broken_file_is_named(content, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(SDAError, match=re.escape(told)) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SDAError, match=r"none\.yaml cannot be read: No such file"):
        read_yaml(tmp_path / "none.yaml")


def test_the_properties_of_a_clone_stand_beside_the_package():
    folder = properties_folder()
    package = folder.parent / "recbole_sda"
    assert folder.name == "properties"
    assert folder.parent == package or (package / "defaults.py").is_file()
    assert [path for path in OWN_FILES if not (folder / path).is_file()] == []


def test_properties_inside_the_package_win(tmp_path, monkeypatch):
    package = tmp_path / "recbole_sda"
    for folder in (package / "properties", tmp_path / "properties"):
        folder.mkdir(parents=True)
        (folder / "overall.yaml").touch()
    monkeypatch.setattr(defaults, "__file__", str(package / "defaults.py"))
    assert properties_folder() == package / "properties"
    (package / "properties" / "overall.yaml").unlink()
    assert properties_folder() == tmp_path / "properties"
    (tmp_path / "properties" / "overall.yaml").unlink()
    with pytest.raises(FileNotFoundError, match="install again"):
        properties_folder()


def test_properties_are_found_by_kind_and_name_and_are_empty_where_we_have_none():
    folder = properties_folder()
    assert read_properties("overall") == read_yaml(folder / "overall.yaml")
    assert read_properties("model", "VBPR") == read_yaml(folder / "model" / "VBPR.yaml")
    assert read_properties("model", "SASRec") == {}
    assert read_properties("backbone", "Qwen/Qwen2.5-VL-7B-Instruct") == {}


def test_a_folder_is_no_name_of_properties(tmp_path):
    (tmp_path / "mine.yaml").write_text("temperature: 9")
    assert read_properties("backbone", str(tmp_path / "mine")) == {}


@pytest.mark.parametrize("file", OWN_FILES)
def test_help_explains_every_key_with_its_default(file):
    path = properties_folder() / file
    lines = path.read_text(encoding="utf-8").splitlines()
    keys = read_yaml(path)
    assert keys
    text = _help_of(file)
    for key in keys:
        (line,) = [line for line in lines if line.startswith(f"{key}:")]
        value, _, comment = line.partition(" # ")
        default = value.removeprefix(f"{key}:").strip()
        explained = r"\((str|int|ints|float|bool|list|dict)\) \w.*\.$"
        assert re.match(explained, comment.strip()), f"{key} is not explained"
        assert f"  --{key}={default}\n        {comment.strip()}" in text
        if default:  # a dictionary's entries stand on the lines below its key
            assert parse_value(default) == keys[key]


def test_help_lists_no_key_that_does_not_exist():
    files = {f: set(read_yaml(properties_folder() / f)) for f in OWN_FILES}
    known = set().union(*files.values())
    listed = re.findall(r"^  --(\w+)=", help_text(), re.M)
    assert set(listed) == known
    assert len(listed) == sum(map(len, files.values()))


def test_help_has_the_sections_of_the_yaml():
    for title in ("Backbone", "Adapter", "With --model=VBPR", "With --dataset=demo"):
        assert f"\n{title}\n" in help_text()


def _help_of(file: str) -> str:
    """The part of the help that comes from one file."""
    overall, *others = re.split(r"\nWith --", help_text())
    if file == "overall.yaml":
        return overall
    kind, name = file.removesuffix(".yaml").split("/")
    (part,) = [part for part in others if part.startswith(f"{kind}={name}\n")]
    return part


def test_the_page_of_switches_is_of_today():
    page_file = properties_folder().parent / "docs" / "switches.md"
    if not page_file.is_file():
        pytest.skip("installed without its docs")
    assert page_file.read_text(encoding="utf-8") == switches.page()
