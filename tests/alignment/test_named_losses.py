"""Losses by name: ours, and one of the user's own from a module in the working folder."""

import json
import sys

import pytest

import recbole_sda
from recbole_sda.alignment.cmsa import CMSALoss
from recbole_sda.alignment.info_nce import InfoNCELoss
from recbole_sda.alignment.named_losses import find_loss, has_teacher, loss_arguments, loss_identity
from recbole_sda.config import SDAConfig
from recbole_sda.errors import SDAError
from recbole_sda.plans import model_configs
from recbole_sda.variants import variant_name

MODULE = """
from recbole_sda.alignment import CMSALoss, InfoNCELoss

class Doubled(InfoNCELoss):
    def compare(self, pair, teachers):
        return FACTOR * super().compare(pair, teachers)

class Taught(CMSALoss):
    pass

FACTOR = 2.0
"""
PATH = "shop_losses:Doubled"


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "shop_losses.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path / "shop_losses.py"
    sys.modules.pop("shop_losses", None)


def test_ours_are_found_and_add_nothing_to_a_digest():
    assert (find_loss("cmsa"), find_loss("info_nce")) == (CMSALoss, InfoNCELoss)
    assert loss_identity("cmsa") == loss_identity("info_nce") == {}


def test_a_loss_of_the_users_own_takes_the_keys_of_what_it_builds_upon(module):
    assert not has_teacher(PATH)
    assert loss_arguments(PATH) == loss_arguments("info_nce")
    assert has_teacher("shop_losses:Taught")
    assert loss_arguments("shop_losses:Taught") == loss_arguments("cmsa")
    assert variant_name("auto", "moda", PATH) == "moda+Doubled"
    with pytest.raises(SDAError, match="align_teacher=base would do nothing: only CMSA has a teacher"):
        model_configs("BPR", "demo", None, None, [f"--alignment={PATH}", "--align_teacher=base"])


def test_its_source_is_in_the_adapters_name(module):
    before = loss_identity(PATH)
    del sys.modules["shop_losses"]
    module.write_text(MODULE.replace("FACTOR * super", "3 * super"))
    sys.path_importer_cache.clear()
    assert loss_identity(PATH) != before


def test_what_it_builds_upon_is_in_the_name_too(module):
    base = module.with_name("shop_base.py")
    base.write_text("from recbole_sda.alignment import InfoNCELoss\nclass Base(InfoNCELoss): pass\n")
    module.write_text("from shop_base import Base\nclass Doubled(Base): pass\n")
    try:
        before = loss_identity(PATH)
        base.write_text(base.read_text() + "SHIFT = 1\n")
        assert loss_identity(PATH) != before
    finally:
        sys.modules.pop("shop_base", None)


def test_an_adapter_is_trained_with_it(module):
    short = {"demo_items": 40, "demo_users": 20, "align_steps": 2, "align_batch_size": 8, "align_eval_every": 2}
    folders = [recbole_sda.adapt("demo", {**short, "alignment": name}) for name in (PATH, "info_nce")]
    losses = [_training_loss(folder) for folder in folders]
    assert losses[0] == pytest.approx(2 * losses[1], rel=0.02)  # the second step starts from other weights


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cmas", "alignment='cmas' is unknown; choose cmsa, info_nce"),
        ("shop_losses:Missing", "cannot be imported"),
        ("pathlib:Path", "is no loss"),
    ],
)
def test_what_is_no_loss_is_refused(module, name, message):
    with pytest.raises(SDAError, match=message):
        SDAConfig("BPR", "demo", config_dict={"alignment": name})


def _training_loss(folder) -> float:
    return json.loads((folder / "manifest.json").read_text())["held_out"][-1]["loss"]
