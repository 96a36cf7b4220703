"""`align_corrupt` from the key to the adapter: what it names, what it changes, and what it leaves alone."""

import json
import logging

import numpy as np
import pytest
import torch
from conftest import adapted_tiny, alignment_settings, open_demo
from safetensors.torch import load_file
from test_stages import PlainConfig

from recbole_sda import stages as stages_module
from recbole_sda.alignment import CMSALoss, TeacherAttack, held_out, trainer
from recbole_sda.alignment.trainer import align
from recbole_sda.artefacts import digest
from recbole_sda.catalog.corrupted import corrupt, corrupted_rows
from recbole_sda.catalog.demo import write_demo
from recbole_sda.encoders.batching import collate_items
from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureStore
from recbole_sda.stage_backbone import adapted_backbone
from recbole_sda.stages import EncoderStages

WEIGHTS = "adapter_model.safetensors"


def stages_of(catalog, folder="saved", **values):
    return EncoderStages(PlainConfig(checkpoint_dir=str(folder), **values), catalog)


def names(catalog, **values) -> tuple[str, str]:
    settings = stages_of(catalog, **values).settings
    return digest(settings.adapter), digest(settings.features)


# names


@pytest.mark.parametrize("corruption", [{"text": 0.3}, {"image": 0.3}, {"pairs": 0.3}, {"teacher": 0.3}])
def test_a_corruption_names_the_adapter_and_its_features(catalog, corruption):
    found = {names(catalog), names(catalog, align_corrupt=corruption)}
    (name,) = corruption
    found |= {names(catalog, align_corrupt={name: 0.4}), names(catalog, align_corrupt={**corruption, "text": 0.2})}
    assert len(found) == 4
    assert len({features for _, features in found}) == 4
    zero_shot = [stages_of(catalog, adapter="none", align_corrupt=c).settings.features for c in (None, corruption)]
    assert zero_shot[0] == zero_shot[1]


@pytest.mark.parametrize("nothing", [None, {}, {"text": 0}, {"text": 0.0, "teacher": 0}])
def test_a_corruption_of_nothing_is_the_clean_training(catalog, nothing):
    stages = stages_of(catalog, align_corrupt=nothing)
    assert names(catalog, align_corrupt=nothing) == names(catalog)
    assert "align_corrupt" not in stages.settings.adapter
    assert stages.training_catalog is catalog
    assert repr(stages.settings.loss()) == repr(stages_of(catalog).settings.loss())


def test_an_attacked_teacher_is_no_matter_of_info_nce(catalog):
    info_nce = {"alignment": "info_nce"}
    assert names(catalog, align_corrupt={"teacher": 0.3}, **info_nce) == names(catalog, **info_nce)
    both, text = ({"teacher": 0.3, "text": 0.2}, {"text": 0.2})
    assert names(catalog, align_corrupt=both, **info_nce) == names(catalog, align_corrupt=text, **info_nce)
    assert names(catalog, align_corrupt=both) != names(catalog, align_corrupt=text)
    assert repr(stages_of(catalog, align_corrupt=both, **info_nce).settings.loss()).startswith("InfoNCELoss(")


# what is trained and embedded


def test_stage_1_sees_the_corrupted_catalogue_and_stage_2_the_clean_one(catalog, tmp_path, monkeypatch, caplog):
    seen = []

    def watched(backbone, catalog, loss, *args, **kwargs):
        seen.append((catalog, loss))
        return align(backbone, catalog, loss, *args, **kwargs)

    monkeypatch.setattr(stages_module, "align", watched)
    corruption = {"text": 0.3, "pairs": 0.2, "teacher": 0.4}
    stages = stages_of(catalog, tmp_path, align_corrupt=corruption)
    stages.check()
    with caplog.at_level(logging.INFO, logger="recbole_sda.catalog.corrupted"):
        features = stages.embed()
    ((corrupted, loss),) = seen
    expected = corrupt(catalog, {"text": 0.3, "pairs": 0.2}, seed=2020)
    assert corrupted.fingerprint("text") == expected.fingerprint("text") != catalog.fingerprint("text")
    assert corrupted.fingerprint("image") == catalog.fingerprint("image")
    assert loss.attack == TeacherAttack(0.4, 2020)
    assert any(message.startswith("corrupted: text of") for message in caplog.messages)
    adapter = json.loads((stages.adapt() / "manifest.json").read_text())
    assert adapter["settings"]["align_corrupt"] == corruption

    store = json.loads((features / "manifest.json").read_text())["settings"]
    assert store["catalog"]["text"] == catalog.fingerprint("text")
    backbone, rows = adapted_backbone(stages.settings, digest(stages.settings.adapter)), [3, 5]
    with torch.no_grad():
        expected = backbone("text", collate_items(catalog, backbone, "text", rows)).numpy()
    np.testing.assert_allclose(FeatureStore.open(features).values("text")[rows], expected, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("corruption", [{"image": 0.5}, {"pairs": 0.5}, {"teacher": 0.5}])
def test_each_corruption_reaches_the_weights_and_a_killed_training_goes_on(
    catalog, tmp_path, monkeypatch, corruption
):
    keys = {"align_corrupt": corruption, "align_checkpoint_every": 1, "align_temperature": 0.5, "read_workers": 0}
    clean = stages_of(catalog, tmp_path, **{**keys, "align_corrupt": None}).adapt()
    whole = stages_of(catalog, tmp_path, **keys).adapt()
    weights = load_file(whole / WEIGHTS)
    before = load_file(clean / WEIGHTS)
    assert any(not torch.equal(weights[name], before[name]) for name in weights)

    step = trainer._Training._step

    def dying(training):
        if training.progress.step == 1:
            raise KeyboardInterrupt
        return step(training)

    # another process may read the files: what it reads is corrupted alike
    killed = stages_of(catalog, tmp_path / "killed", **{**keys, "read_workers": 1})
    with monkeypatch.context() as patch:
        patch.setattr(trainer._Training, "_step", dying)
        with pytest.raises(KeyboardInterrupt):
            killed.adapt()
    again = stages_of(catalog, tmp_path / "killed", **keys).adapt()
    assert again.name == whole.name
    assert (again / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_the_attack_knows_the_items_of_every_comparison(catalog, monkeypatch):
    seen = []

    class Watching(TeacherAttack):
        def __call__(self, structure, others, items, rows):
            seen.append(items.tolist())
            return super().__call__(structure, others, items, rows)

    settings = alignment_settings(steps=2)
    align(adapted_tiny(), catalog, CMSALoss(0.3, attack=Watching(0.5, 1)), settings, show_progress=False)
    train, held = trainer.split_items(catalog, settings)
    sampler = trainer.BatchSampler(train, settings.batch_size, settings.seed)
    held = held.tolist()
    assert seen == [held, sampler.batch(1).tolist(), sampler.batch(2).tolist(), held]
    assert held_out.BEST_BY == "mrr"  # which no teacher decides


@pytest.mark.slow
@pytest.mark.parametrize("name", ["image", "pairs"])
def test_what_is_learned_of_bad_data_is_less(tmp_path, name):
    """The planted pairs of clean items, found after training on clean items and on corrupted ones."""
    from recbole_sda.alignment.health import retrieval

    catalog = open_demo(write_demo(tmp_path / "demo", items=180, users=20))
    settings = alignment_settings(batch_size=56, steps=24, learning_rate=0.01, eval_every=24)
    held = trainer.split_items(catalog, settings)[1]

    def found(trained_on):
        torch.manual_seed(0)
        backbone = adapted_tiny()
        align(backbone, trained_on, CMSALoss(0.2), settings, show_progress=False)
        with torch.no_grad():
            views = [backbone(m, collate_items(catalog, backbone, m, held)) for m in ("image", "text")]
        return retrieval(*views)["mrr"]

    assert found(corrupt(catalog, {name: 0.9}, seed=1)) < 0.7 * found(catalog)


# mistakes


def test_a_share_of_too_few_is_found_before_any_work(catalog):
    stages_of(catalog, align_corrupt={"pairs": 0.04}).check()
    with pytest.raises(SDAError, match=r"align_corrupt: pairs=0.02 is 1 of the 58 items .* raise it"):
        stages_of(catalog, align_corrupt={"pairs": 0.02}).check()
    with pytest.raises(SDAError, match=r"align_corrupt: text=0.001 is 0 of the 59 items"):
        stages_of(catalog, align_corrupt={"text": 0.001}).check()
    stages_of(catalog, align_corrupt={"text": 0.001}, adapter="none").check()
    assert len(corrupted_rows(catalog, "text", 0.5, seed=1)) == round(0.5 * 59)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{smell: 0.3}", "align_corrupt: 'smell' is unknown; choose image, text, pairs, teacher"),
        ("{audio: 0.3}", "align_corrupt: 'audio' is unknown; choose image, text, pairs, teacher"),
        ("{text: 1}", "align_corrupt={'text': 1} must be a mapping such as {text: 0.3}, of shares in [0, 1)"),
        ("{text: -0.1}", "align_corrupt={'text': -0.1} must be a mapping such as {text: 0.3}, of shares in"),
        ("{text: much}", "align_corrupt={'text': 'much'} must be a mapping such as {text: 0.3}, of shares in"),
        ("{text: True}", "align_corrupt={'text': True} must be a mapping such as {text: 0.3}, of shares in"),
        ("0.3", "align_corrupt=0.3 must be a mapping such as {text: 0.3}, of shares in [0, 1)"),
    ],
)
def test_what_is_no_corruption_is_refused(value, message, tmp_path, monkeypatch):
    from recbole_sda.config import SDAConfig

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SDAError) as error:
        SDAConfig("SASRec", "demo", argv=[f"--align_corrupt={value}"])
    assert str(error.value).startswith(message)


def test_where_nothing_is_trained_a_corruption_is_idle(tmp_path, monkeypatch):
    from recbole_sda.plans import model_configs

    monkeypatch.chdir(tmp_path)
    typed = ["--align_corrupt={teacher: 0.3}"]
    with pytest.raises(SDAError, match=r"align_corrupt=.* would do nothing: no variant trains an adapter"):
        model_configs("SASRec", "demo", (), {}, [*typed, "--adapter=none"])
    for compared in ("info_nce,sda", "info_nce"):  # a study compares both, and InfoNCE's part is not to feel it
        (config,) = model_configs("SASRec", "demo", (), {}, [*typed, f"--compare={compared}"])
        assert config["align_corrupt"] == {"teacher": 0.3}
