"""A well-known dataset that is not there: one message with the exact command, and no download behind the back."""

import importlib
import shlex
import sys
from pathlib import Path

import pytest
import recbole.data.dataset.dataset
from recbole.data.dataset import Dataset

import recbole_sda
from recbole_sda import recommend
from recbole_sda.catalog.known import COMMANDS, how_to_make
from recbole_sda.config import SDAConfig
from recbole_sda.defaults import properties_folder, read_properties, read_yaml
from recbole_sda.errors import SDAError

SCRIPTS = Path(__file__).resolve().parents[2] / "dataset_scripts"
sys.path.insert(0, str(SCRIPTS))  # as Python itself does for a script

OURS = sorted(path.stem for path in (properties_folder() / "dataset").glob("*.yaml") if path.stem != "demo")


@pytest.fixture
def no_loading(monkeypatch):
    def reached(*_, **__):
        raise AssertionError("RecBole was asked for a dataset that is not there")

    monkeypatch.setattr(recommend, "create_dataset", reached)
    monkeypatch.setattr(Dataset, "_download", reached)
    monkeypatch.setattr(recbole.data.dataset.dataset, "download_url", reached)


@pytest.mark.usefixtures("no_loading")
@pytest.mark.parametrize("verb", ["run", "embed", "adapt"])
@pytest.mark.parametrize("empty_folder", [False, True])
def test_the_message_names_the_command_and_nothing_is_downloaded(tmp_path, verb, empty_folder):
    keys = {"data_path": str(tmp_path), "backbone": "tiny"}
    if empty_folder:
        (tmp_path / "amazon-beauty").mkdir()
    arguments = ["SASRec"] if verb == "run" else []
    command = "python dataset_scripts/amazon.py --year 2014 --category Beauty .*--output .*/amazon-beauty`"
    with pytest.raises(
        SDAError, match=rf"dataset='amazon-beauty' is not there: .* Make it with `{command}, or use"
    ):
        getattr(recbole_sda, verb)(*arguments, "amazon-beauty", keys)
    assert [path.name for path in tmp_path.iterdir()] == ["amazon-beauty"] * empty_folder


def test_an_unknown_name_gets_the_script_for_any_catalogue_and_a_near_one_the_known():
    assert how_to_make("my-shop", Path("d/my-shop")) == "Make it with dataset_scripts/from_csv.py"
    assert how_to_make("amazon-sport-outdoors", Path("d")).startswith("Did you mean amazon-sports-outdoors? ")


def test_a_folder_with_blanks_is_quoted():
    assert "--output 'my data/ml-1m'`" in how_to_make("ml-1m", Path("my data/ml-1m"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_understood_by_its_script(name, tmp_path):
    script, *options = shlex.split(COMMANDS[name])
    module = importlib.import_module(script.removesuffix(".py"))
    parsed = module.parse_options([*options, f"--output={tmp_path / name}"])
    if script == "amazon.py":
        module.check_options(parsed)


def test_recbole_knows_amazons_and_movielens_names_as_well():
    listed = read_recboles_urls()
    ours_alone = {"ml-25m", "ml-32m", "ml-latest", "ml-latest-small", "microlens-50k", "microlens-100k"}
    assert set(COMMANDS) - set(listed) == ours_alone


def read_recboles_urls():
    return read_yaml(Path(recbole.__file__).parent / "properties" / "dataset" / "url.yaml")


@pytest.mark.parametrize("name", OURS)
def test_the_property_file_stands_behind_a_dataset_of_its_name(name, tmp_path):
    assert name in COMMANDS
    config = SDAConfig("BPR", name, config_dict={"data_path": str(tmp_path)})
    assert config["eval_args"]["split"] == {"LS": "valid_and_test"}
    assert config["eval_args"]["order"] == "TO"
    assert set(config["eval_args"]["mode"].values()) == {"full"}
    assert config["user_inter_num_interval"] == config["item_inter_num_interval"] == "[5,inf)"
    assert config["prompt_domain"] == read_properties("dataset", name)["prompt_domain"]
    assert "timestamp" in config["load_col"]["inter"]


def test_the_datasets_own_file_wins(tmp_path):
    folder = tmp_path / "amazon-beauty"
    folder.mkdir()
    (folder / "amazon-beauty.yaml").write_text('text_fields: [title]\nuser_inter_num_interval: "[0,inf)"\n')
    config = SDAConfig("BPR", "amazon-beauty", config_dict={"data_path": str(tmp_path)})
    assert config["text_fields"] == ["title"]
    assert config["user_inter_num_interval"] == "[0,inf)"
    assert config["item_inter_num_interval"] == "[5,inf)"
