"""The YAML is found from a clone, an editable install and a wheel, and the wheel holds everything."""

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import recbole_sda

CLONE = Path(recbole_sda.__file__).resolve().parent.parent
CODE = """import importlib, json, sys
import recbole_sda
from recbole_sda.defaults import help_text, properties_folder
for name in sys.argv[1:]:
    importlib.import_module(name)
keys = help_text().count("  --")
print(json.dumps([recbole_sda.__file__, str(properties_folder()), keys, recbole_sda.__version__]))
"""

pytestmark = pytest.mark.skipif(
    not (CLONE / "setup.cfg").is_file(), reason="these tests look at the clone, and the package is not in one"
)


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(CLONE / "setup.cfg", encoding="utf-8")
    return parser


def listed_packages() -> list[str]:
    return setup_cfg()["options"]["packages"].split()


def packages_of_python() -> list[str]:
    """Every folder that holds an __init__.py."""
    found = (CLONE / "recbole_sda").rglob("__init__.py")
    return sorted(".".join(path.parent.relative_to(CLONE).parts) for path in found)


def yaml_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml"))


def import_from(where: Path, cwd: Path, *modules: str, code: str = CODE):
    """What a fresh process, in another folder, sees of the package that stands in ``where``."""
    done = subprocess.run(
        [sys.executable, "-c", code, *modules],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(where)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_package_is_listed():
    properties = CLONE / "properties"
    of_yaml = {"recbole_sda.properties"}
    of_yaml |= {f"recbole_sda.properties.{Path(file).parent}" for file in yaml_files(properties) if "/" in file}
    listed = listed_packages()
    assert len(set(listed)) == len(listed)
    assert sorted(listed) == sorted({*packages_of_python(), *of_yaml})
    assert {key for key in setup_cfg()["options.package_data"] if key in of_yaml} == of_yaml


def test_no_module_stands_in_a_folder_that_is_no_package():
    for path in (CLONE / "recbole_sda").rglob("*.py"):
        assert (path.parent / "__init__.py").is_file(), path


def test_dependencies_agree_with_the_tested_versions():
    """constraints.txt pins nothing that setup.cfg forbids, and covers what it asks for."""
    requirements = pytest.importorskip("packaging.requirements")
    pinned = {}
    for line in (CLONE / "constraints.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, version = line.split("==")
            pinned[name.lower()] = version
    config = setup_cfg()
    lines = config["options"]["install_requires"]
    lines += "\n".join(value for value in config["options.extras_require"].values())
    asked = [requirements.Requirement(line) for line in lines.splitlines() if line and not line.startswith("#")]
    assert len(asked) > 15
    for requirement in asked:
        if requirement.name in pinned:
            assert requirement.specifier.contains(pinned[requirement.name]), requirement
    names = {requirement.name for requirement in asked}
    assert "recbole" not in names  # its own pins cannot be met: it comes by --no-deps
    assert pinned["recbole"] == "1.2.1"
    assert {"torch", "transformers", "peft", "numpy", "pandas", "scipy"} <= names & set(pinned)


def test_the_version_stands_once():
    config = setup_cfg()
    assert config["metadata"]["version"] == "attr: recbole_sda.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+", recbole_sda.__version__)
    assert config["options.entry_points"]["console_scripts"].strip() == "recbole-sda = recbole_sda.cli:main"
    assert (CLONE / config["metadata"]["license_files"].strip()).is_file()


def test_the_yaml_is_found_from_a_clone(tmp_path):
    """Also what an editable install amounts to: the clone on the path, from any folder."""
    file, properties, keys, version = import_from(CLONE, tmp_path)
    assert Path(file).parent == CLONE / "recbole_sda"
    assert Path(properties) == CLONE / "properties"
    assert keys > 40
    assert version == recbole_sda.__version__


# --- the real things, which take a while ---


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of what git would give, where a build may leave its folders."""
    pytest.importorskip("setuptools", minversion="77", reason="torch brings it")
    copy = tmp_path_factory.mktemp("copy") / "recbole_sda"
    copy.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("recbole_sda", "properties"):
        shutil.copytree(CLONE / folder, copy / folder, ignore=ignored)
    for file in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md", "run_recbole_sda.py"):
        if (CLONE / file).is_file():
            shutil.copy(CLONE / file, copy)
    return copy


def pip(*arguments, cwd):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "PIP_NO_INDEX": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(copied, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, copied, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_all_that_the_package_does_and_all_yaml_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))).decode()
    files = (path for path in (CLONE / "recbole_sda").rglob("*") if path.is_file() and path.suffix != ".pyc")
    package = {path.relative_to(CLONE).as_posix() for path in files}
    assert names == package | {f"recbole_sda/properties/{file}" for file in yaml_files(CLONE / "properties")}
    assert f"Version: {recbole_sda.__version__}\n" in metadata
    assert "Requires-Dist: pandas<3" in metadata
    assert not re.search(r"^Requires-Dist: recbole", metadata, re.M)


@pytest.mark.slow
def test_the_yaml_is_found_from_a_wheel(wheel, tmp_path):
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip("install", "--no-deps", "--target", target, wheel, cwd=elsewhere)
    packages = packages_of_python()
    file, properties, keys, version = import_from(target, elsewhere, *packages, "recbole_sda.cli")
    assert Path(file).parent == target / "recbole_sda"
    assert Path(properties) == target / "recbole_sda" / "properties"
    assert yaml_files(Path(properties)) == yaml_files(CLONE / "properties")
    assert (keys, version) == tuple(import_from(CLONE, elsewhere)[2:])
    assert (target / "bin" / "recbole-sda").is_file()
    assert list(elsewhere.iterdir()) == []


@pytest.mark.slow
def test_the_yaml_is_found_from_an_editable_install(copied, tmp_path):
    target = tmp_path / "site"
    pip("install", "--no-deps", "--no-build-isolation", "--target", target, "--editable", copied, cwd=tmp_path)
    # A folder given by --target is no site folder: its .pth files, by which an editable install works, are read
    # only when it is made one. The environment may hold an editable install of its own, which must not answer.
    code = f"""import site, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
for name in [name for name in sys.modules if name.startswith("__editable__")]:
    del sys.modules[name]
sys.path.insert(0, {str(target)!r})
site.addsitedir({str(target)!r})
{CODE}"""
    file, properties, _, _ = import_from(tmp_path, tmp_path, "recbole_sda.cli", code=code)
    assert Path(file).parent == copied / "recbole_sda"
    assert Path(properties) == copied / "properties"


def test_the_readme_has_its_two_commands_and_nothing_left_to_fill_in():
    readme = (CLONE / "README.md").read_text(encoding="utf-8")
    assert "@@" not in readme
    (tests,) = re.findall(r"^python3 -m venv .* && pytest$", readme, re.M)  # what .ci/run runs
    (demo,) = re.findall(r"^python3 -m venv .* --dataset=demo --compare=ids,zero_shot,sda$", readme, re.M)
    for command in (tests, demo):
        assert "-c constraints.txt" in command
        assert "pip install --no-deps recbole==1.2.1" in command
