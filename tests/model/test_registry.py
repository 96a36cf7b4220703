"""A recommender of the user's own, by the command line's path and by registration."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import recbole_sda
from recbole_sda.cli import main
from recbole_sda.config import SDAConfig, find_model
from recbole_sda.errors import SDAError
from recbole_sda.model import SLOTS, ItemFeatures, Slots, register_model
from recbole_sda.model.registry import OWN_MODELS, _defaults, model_identity
from recbole_sda.tuning.settings import read_command

MODULE = '''
from recbole.model.general_recommender import BPR
from recbole.utils import InputType

class Shifted(BPR):
    """BPR whose scores lie higher."""
    defaults = {"shift": 1.0}
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.shift = config["shift"]
    def full_sort_predict(self, interaction):
        return super().full_sort_predict(interaction) + self.shift

class NoModel:
    pass
'''
SHORT = {"demo_items": 40, "demo_users": 40, "epochs": 1, "modalities": "text", "adapter": "none"}


@pytest.fixture
def shifted(tmp_path, monkeypatch):
    """The path of a model in a module of the working folder, forgotten afterwards."""
    (tmp_path / "shop_models.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    for table in (OWN_MODELS, SLOTS, _defaults):
        for name in ("Shifted", "Other"):
            monkeypatch.delitem(table, name, raising=False)
    before, path = {*sys.modules}, [*sys.path]
    tables = [(table, dict(table)) for table in (OWN_MODELS, SLOTS, _defaults)]
    yield "shop_models:Shifted"
    for name in {*sys.modules} - before:
        if name == "shop_models":
            del sys.modules[name]
    sys.path[:] = path
    for table, was in tables:
        table.clear()
        table.update(was)


def test_a_model_named_by_its_path_runs_on_features_and_comes_back_from_its_checkpoint(shifted):
    result = recbole_sda.run(shifted, "demo", {**SHORT, "shift": 2.5})
    assert result["model"] == "Shifted"
    config, model, *_ = recbole_sda.load(result["runs"][0]["artefacts"]["checkpoint"])
    assert isinstance(model.item_embedding, ItemFeatures)
    assert (config["shift"], model.shift) == (2.5, 2.5)


def forget() -> None:
    """As a process that starts anew."""
    for table in (OWN_MODELS, SLOTS, _defaults):
        table.pop("Shifted", None)
    sys.modules.pop("shop_models", None)


def test_the_command_line_takes_its_checkpoint_with_its_path(shifted, capsys):
    checkpoint = recbole_sda.run(shifted, "demo", {**SHORT, "shift": 2.5})["runs"][0]["artefacts"]["checkpoint"]
    forget()
    assert main(["recommend", checkpoint, "--users=all"]) == 2
    said = "is of a model 'Shifted', which is not known here; if it is your own, say model=package.module:Shifted"
    assert said in capsys.readouterr().err
    assert main(["recommend", checkpoint, "--users=all", f"--model={shifted}", "--output=all.jsonl"]) == 0
    assert main(["export", checkpoint, f"--model={shifted}", "--output=out", "--format=npy"]) == 0
    assert main(["recommend", checkpoint, "--users=all", "--model=BPR"]) == 2
    assert "is of a model 'Shifted', and model=BPR is another" in capsys.readouterr().err
    assert recbole_sda.load(checkpoint, model=shifted).model.shift == 2.5


def test_another_process_imports_it_by_its_path(shifted):
    pickled = pickle.dumps(SDAConfig(shifted, "demo"))
    for table in (OWN_MODELS, SLOTS, _defaults):
        del table["Shifted"]
    del sys.modules["shop_models"]  # not by monkeypatch, which would bring it back
    config = pickle.loads(pickled)
    assert config.model_class.__name__ == "Shifted"
    assert config["shift"] == 1.0


def test_an_edited_one_is_another_and_ours_have_no_source_in_their_names(shifted, tmp_path):
    before = model_identity(find_model(shifted))
    assert before == model_identity(find_model(shifted))
    (tmp_path / "shop_models.py").write_text(MODULE + "# another")
    after = model_identity(find_model(shifted))
    assert before["model_source"][0] == after["model_source"][0] == shifted
    assert before != after
    assert model_identity(find_model("SASRec")) == model_identity(find_model("VBPR")) == {}


def test_one_without_a_file_is_refused(shifted):
    with pytest.raises(SDAError, match="model: the source of nowhere:Other cannot be read"):
        model_identity(type("Other", (find_model("BPR"),), {"__module__": "nowhere"}))


def test_its_keys_are_known_and_others_still_are_not(shifted):
    assert SDAConfig(shifted, "demo", argv=["--shift=3"])["shift"] == 3
    with pytest.raises(SDAError, match="'shift' is of other models, BPR does not read it"):
        SDAConfig("BPR", "demo", argv=["--shift=3"])
    with pytest.raises(SDAError, match="'shfit' is unknown; did you mean shift"):
        SDAConfig(shifted, "demo", argv=["--shfit=3"])


def test_registered_it_has_the_slots_that_are_said(shifted):
    bpr = find_model("BPR")
    other = type("Other", (bpr,), {})
    register_model(other, slots=Slots(("user_embedding",)), defaults={"height": 2})
    assert find_model("Other") is other
    assert SLOTS["Other"].tables == ("user_embedding",)
    assert SDAConfig("Other", "demo")["height"] == 2


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("shop_models:Missing", "cannot be imported: module 'shop_models' has no attribute 'Missing'"),
        ("no_such_module:Model", "cannot be imported: No module named 'no_such_module'"),
        (":Model", "cannot be imported"),
        ("shop_models:NoModel", "is no recommender"),
    ],
)
def test_what_is_no_model_is_refused(shifted, path, message):
    with pytest.raises(SDAError, match=message):
        find_model(path)


def test_a_name_that_is_taken_is_refused(shifted):
    with pytest.raises(SDAError, match="model='SASRec' is the name of another model"):
        register_model(type("SASRec", (torch.nn.Module,), {}))


@pytest.mark.parametrize("what", ["a configuration", "the command of a sweep"])
def test_another_process_knows_what_was_registered_here(shifted, what):
    register_model(find_model(shifted), slots=Slots(("user_embedding",)), defaults={"shift": 7})
    sent = SDAConfig("Shifted", "demo")
    if what == "the command of a sweep":
        Path("space.yaml").write_text("learning_rate: {choice: [0.1, 0.01]}")
        sent, *_ = read_command("Shifted", "demo", {"space": "space.yaml"}, None, ())
    there = """if True:
        import pickle, sys
        sent = pickle.load(sys.stdin.buffer)
        config = sent.configure("Shifted", {}) if hasattr(sent, "configure") else sent
        from recbole_sda.model import SLOTS
        print(config.model_class.__name__, config["shift"], SLOTS["Shifted"].tables)
    """
    done = subprocess.run(
        [sys.executable, "-c", there], input=pickle.dumps(sent), stdout=subprocess.PIPE, check=True
    )
    assert done.stdout.decode().splitlines()[-1] == "Shifted 7 ('user_embedding',)"


def test_a_process_that_knew_it_otherwise_learns_it_anew(shifted):
    model_class = find_model(shifted)
    register_model(model_class, defaults={"shift": 7})
    sent = pickle.dumps(SDAConfig("Shifted", "demo"))
    register_model(model_class, slots=Slots(("user_embedding",)), defaults={"height": 2})
    assert pickle.loads(sent)["shift"] == 7
    assert (SLOTS["Shifted"].tables, _defaults["Shifted"]) == (("item_embedding",), {"shift": 7})


def test_a_class_of_the_script_itself_is_refused_where_workers_would_need_it(shifted):
    register_model(type("Other", (find_model("BPR"),), {"__module__": "__main__"}))
    assert SDAConfig("Other", "demo").replace(epochs=3)["epochs"] == 3  # in this process it serves
    Path("space.yaml").write_text("learning_rate: {choice: [0.1, 0.01]}")
    refused = pytest.raises(SDAError, match=r"model=Other is written in the script .* import it")
    for workers in ("align_workers", "embed_workers", "nproc", "study_workers"):
        with refused:
            SDAConfig("Other", "demo", argv=[f"--{workers}=2"])
    with refused:
        read_command("Other", "demo", {"space": "space.yaml"}, None, ())
