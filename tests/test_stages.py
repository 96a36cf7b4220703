import json
import shutil

import numpy as np
import pytest
import torch
from conftest import open_demo
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file

from recbole_sda import stage_backbone
from recbole_sda import stages as stages_module
from recbole_sda.alignment import CMSALoss, trainer
from recbole_sda.alignment.checkpoint import FILE
from recbole_sda.artefacts import digest
from recbole_sda.defaults import properties_folder, read_yaml
from recbole_sda.encoders.batching import collate_items
from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureStore
from recbole_sda.stage_backbone import bare_backbone
from recbole_sda.stages import EncoderStages


class PlainConfig:
    """Our defaults without RecBole; read like its Config."""

    def __init__(self, **values):
        defaults = read_yaml(properties_folder() / "overall.yaml")
        self.final_config_dict = {
            **defaults, "seed": 2020, "device": "cpu", "checkpoint_dir": "saved", "backbone": "tiny",
            "max_pixels": 3136, "align_steps": 2, "align_batch_size": 8, "align_eval_every": 1,
            "align_learning_rate": 0.02, "align_holdout_share": 0.3, "learning_rate": 0.001, "epochs": 300,
            **values,
        }  # fmt: skip

    def __getitem__(self, key):
        return self.final_config_dict[key]


ZERO_SHOT = {"adapter": "none"}
LORA = {"adapter": "lora"}
INFO_NCE = {"alignment": "info_nce"}


@pytest.fixture
def digests(catalog):
    def named(catalog=catalog, **values):
        stages = EncoderStages(PlainConfig(**values), catalog)
        adapter = None if values.get("adapter") == "none" else digest(stages.settings.adapter)
        return adapter, digest(stages.settings.features)

    return named


# what an artefact is named by

OTHER = {
    "align_temperature": 0.1,
    "align_center": False,
    "align_teacher": "per_modality",
    "align_teacher_temperature": 0.2,
    "align_teacher_perplexity": 4,
    "align_learn_temperature": True,
    "align_normalize": False,
    "align_stop_gradient": False,
    "align_scale_teacher": "multiply",
    "align_divergence": "cross_entropy",
    "align_transpose_target": True,
    "alignment": "info_nce",
    "seed": 1,
    "adapter": "lora",
    "lora_r": 16,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "num_experts": 2,
    "gate_scale": "num_experts",
    "target_modules": ["q_proj"],
    "align_steps": 3,
    "align_batch_size": 16,
    "align_learning_rate": 0.01,
    "align_max_grad_norm": 2.0,
    "align_holdout_share": 0.2,
    "align_holdout_max": 10,
    "align_eval_every": 2,
    "align_patience": 3,
    "align_mixed_precision": "bf16",
    "prompt_domain": "thing",
    "prompt_image": "see:",
    "prompt_text": "{fields}",
    "prompt_field": "{value}",
    "prompt_value_chars": 10,
    "min_pixels": 500,
    "max_pixels": 12544,
    "backbone_dtype": "bfloat16",
}


@pytest.mark.parametrize(("key", "value"), OTHER.items())
def test_what_made_an_adapter_names_it_and_its_features(digests, key, value):
    adapter, features = digests()
    other_adapter, other_features = digests(**{key: value})
    assert other_adapter != adapter
    assert other_features != features


@pytest.mark.parametrize(
    ("variant", "keys"),
    [
        ({}, ["learning_rate", "epochs", "checkpoint_dir", "fusion", "use_item_id", "tail_head_share",
              "embed_batch_tokens", "feature_reduction", "result_file", "max_image_pixels", "align_micro_batch",
              "align_checkpoint_every", "align_trackers", "align_workers", "align_chunk_rows",
              "align_gradient_checkpointing"]),
        (ZERO_SHOT, ["seed", "align_temperature", "alignment", "align_center", "lora_r", "num_experts",
                     "align_steps", "align_teacher", "epochs"]),
        (LORA, ["num_experts", "gate_scale", "epochs"]),
        (INFO_NCE, ["align_teacher", "align_teacher_temperature", "align_teacher_perplexity", "epochs",
                    "align_stop_gradient", "align_scale_teacher", "align_divergence", "align_transpose_target"]),
    ],
)  # fmt: skip
def test_what_an_artefact_does_not_depend_on_does_not_rename_it(digests, variant, keys):
    recommenders = {"learning_rate": 0.1, "epochs": 5, "checkpoint_dir": "elsewhere", "fusion": "sum",
                    "use_item_id": "add", "tail_head_share": 0.5, "embed_batch_tokens": 99,
                    "feature_reduction": "pca", "result_file": "x.json", "max_image_pixels": 10_000,
                    "align_micro_batch": 4, "align_checkpoint_every": 7, "align_trackers": [], "align_workers": 2,
                    "align_chunk_rows": 9, "align_gradient_checkpointing": True}  # fmt: skip
    for key in keys:
        value = {**recommenders, **OTHER}[key]
        assert PlainConfig()[key] != value
        assert digests(**variant, **{key: value}) == digests(**variant), key


def test_encoder_keys_name_zero_shot_features(digests):
    names = {digests(**ZERO_SHOT)[1]}
    for key in ("prompt_domain", "prompt_text", "max_pixels", "backbone_dtype"):
        names.add(digests(**ZERO_SHOT, **{key: OTHER[key]})[1])
    names.add(digests(**ZERO_SHOT, feature_dtype="float32")[1])
    names.add(digests(**ZERO_SHOT, modalities=["text"])[1])
    names.add(digests(**ZERO_SHOT, modalities=["image"])[1])
    assert len(names) == 8


def test_feature_dtype_is_no_matter_of_the_adapter(digests):
    adapter, features = digests()
    assert digests(feature_dtype="float32")[0] == adapter
    assert digests(feature_dtype="float32")[1] != features


def test_automatic_dtype_counts_as_what_it_is(digests):
    assert digests(backbone_dtype="auto") == digests(backbone_dtype="float32")
    on_gpu = digests(backbone_dtype="auto", device="cuda")
    assert on_gpu == digests(backbone_dtype="bfloat16", device="cuda")
    assert on_gpu != digests(backbone_dtype="auto", device="cpu")


def test_content_of_the_catalogue_names_the_artefacts(digests, demo_folder, tmp_path):
    before = digests(), digests(**ZERO_SHOT, modalities=["text"]), digests(**ZERO_SHOT, modalities=["image"])
    copy = tmp_path / "demo"
    shutil.copytree(demo_folder, copy)
    assert digests(open_demo(copy)) == before[0]  # the place does not count

    picture = next((copy / "images").iterdir())
    picture.write_bytes(picture.read_bytes() + b"x")
    changed = open_demo(copy)
    assert all(a != b for a, b in zip(digests(changed), before[0], strict=True))
    assert digests(changed, **ZERO_SHOT, modalities=["text"]) == before[1]
    assert digests(changed, **ZERO_SHOT, modalities=["image"]) != before[2]

    items = copy / "demo.item"
    items.write_text(items.read_text().replace("Norvik", "Norwik"))
    assert digests(open_demo(copy), **ZERO_SHOT, modalities=["text"]) != before[1]


def test_recboles_config_serves_as_well(catalog, tmp_path, monkeypatch):
    config_module = pytest.importorskip("recbole_sda.config")
    monkeypatch.chdir(tmp_path)

    def named(**values):
        config = config_module.SDAConfig("SASRec", "demo", config_dict=values)
        stages = EncoderStages(config, catalog)
        return digest(stages.settings.adapter), digest(stages.settings.features)

    plain = named()
    assert named(learning_rate=0.1, epochs=2, hidden_size=32, train_batch_size=64) == plain
    assert named(align_temperature=0.3) != plain
    sequential, general = (
        EncoderStages(config_module.SDAConfig(model, "demo"), catalog) for model in ("SASRec", "VBPR")
    )
    assert sequential.settings.features == general.settings.features  # models share what they stand on


@pytest.mark.parametrize(
    ("modality", "keys"),
    [("text", ["max_pixels", "prompt_image"]), ("image", ["prompt_text", "prompt_field", "prompt_value_chars"])],
)
def test_one_modality_does_not_depend_on_the_others_pass(digests, modality, keys):
    changed = {"max_pixels": 800, "prompt_value_chars": 7}
    plain = digests(**ZERO_SHOT, modalities=[modality])
    for key in keys:
        value = changed.get(key, "another line")
        assert digests(**ZERO_SHOT, modalities=[modality], **{key: value}) == plain, key


# checks before any work


def test_check_finds_what_cannot_run(catalog, demo_folder, tmp_path):
    def check(catalog=catalog, **values):
        EncoderStages(PlainConfig(**values), catalog).check()

    check()
    check(**ZERO_SHOT)
    with pytest.raises(SDAError, match=r"backbone=.*--backbone=tiny"):
        check(backbone=str(tmp_path))
    with pytest.raises(SDAError, match="prompt_text="):
        check(prompt_text="{nothing}")
    with pytest.raises(SDAError, match="backbone_dtype='float31'"):
        check(backbone_dtype="float31")
    with pytest.raises(SDAError, match=r"align_batch_size=2 .* align_center=True needs at least 3"):
        check(align_batch_size=2)
    with pytest.raises(SDAError, match=r"align_batch_size=1 .* align_center=False needs at least 2"):
        check(align_batch_size=1, align_center=False)
    check(align_batch_size=2, align_center=False)
    with pytest.raises(SDAError, match=r"perplexity=8 is not below the 8 items .*align_batch_size=8"):
        check(align_teacher_perplexity=8)
    with pytest.raises(SDAError, match=r"perplexity=17.5 is not below the 17 items .*41 to train on, 17 held out"):
        check(align_teacher_perplexity=17.5, align_batch_size=64)
    check(align_teacher_perplexity=7)
    with pytest.raises(SDAError, match=r"align_workers=9 leaves some without one of the 8 items .*lower it"):
        check(align_workers=9)
    with pytest.raises(SDAError, match=r"the alignment's configuration, whose keys carry align_: .*contradict"):
        check(align_teacher_perplexity=7, align_teacher_temperature=0.1)
    check(align_batch_size=1, **ZERO_SHOT)
    (tmp_path / "none").mkdir()
    wordless = stages_module.Catalog.open(
        demo_folder, catalog.tokens, image_folder=tmp_path / "none", show_progress=False
    )
    with pytest.raises(SDAError, match="--modalities=text"):
        check(wordless)
    with pytest.raises(SDAError, match=r"no item of 'demo' has a readable picture; use --modalities=text"):
        check(wordless, **ZERO_SHOT)
    check(wordless, **ZERO_SHOT, modalities=["text"])
    with pytest.raises(SDAError, match="adapter's configuration"):
        check(catalog, target_modules="((")


def test_processes_of_a_launcher_are_refused(catalog, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(SDAError, match=r"WORLD_SIZE=4: .*start one and say --align_workers=4"):
        EncoderStages(PlainConfig(), catalog).check()
    monkeypatch.setenv("WORLD_SIZE", "1")
    EncoderStages(PlainConfig(), catalog).check()


# the stages


@pytest.fixture(scope="module")
def finished(tmp_path_factory, catalog):
    """MoDA + CMSA for two steps, then the features. Returns: stages, adapter folder, feature folder."""
    saved = tmp_path_factory.mktemp("run") / "saved"
    stages = EncoderStages(PlainConfig(checkpoint_dir=str(saved)), catalog)
    features = stages.embed()  # trains the adapter first
    (adapter,) = (path for path in (saved / "adapters").iterdir() if path.is_dir())
    return stages, adapter, features


def test_folders_are_named_by_their_digests(finished):
    stages, adapter, features = finished
    assert adapter.name == digest(stages.settings.adapter)
    assert features.name == digest(stages.settings.features)
    assert [path.name for path in features.parent.iterdir() if path.is_dir()] == [features.name]


def test_second_run_reuses_everything(finished, catalog, monkeypatch):
    stages, adapter, features = finished

    def refuse(*args, **kwargs):
        raise AssertionError("the second run did the work again")

    monkeypatch.setattr(stage_backbone, "load_backbone", refuse)
    for name in ("align", "embed_catalog"):
        monkeypatch.setattr(stages_module, name, refuse)
    again = EncoderStages(PlainConfig(checkpoint_dir=stages.config["checkpoint_dir"], epochs=7), catalog)
    assert again.embed() == features
    assert again.adapt() == adapter
    with pytest.raises(AssertionError, match="did the work again"):
        EncoderStages(PlainConfig(checkpoint_dir=stages.config["checkpoint_dir"], seed=1), catalog).adapt()
    assert [path.name for path in adapter.parent.iterdir() if path.suffix not in (".lock", ".unfinished")] == [
        adapter.name
    ]


def test_features_are_the_adapted_backbones(finished, catalog):
    """The adapter folder is PEFT's own, and a backbone that PEFT restores gives the rows of the store."""
    stages, adapter, features = finished
    assert PeftConfig.from_pretrained(adapter).peft_type == "MODA"
    assert (adapter / "adapter_model.safetensors").is_file()
    backbone = bare_backbone(stages.settings)
    unadapted, store = {}, FeatureStore.open(features, verify=True)
    rows = np.flatnonzero(catalog.present("image") & catalog.present("text"))[:6]
    for restored in (False, True):
        if restored:
            backbone.model = PeftModel.from_pretrained(backbone.model, adapter).eval()
        for modality in ("image", "text"):
            with torch.no_grad():
                found = backbone(modality, collate_items(catalog, backbone, modality, rows)).numpy()
            if restored:
                np.testing.assert_allclose(store.values(modality)[rows], found, rtol=2e-3, atol=1e-3)
                assert np.abs(found - unadapted[modality]).max() > 0.01
            else:
                unadapted[modality] = found


def test_manifests_tell_what_made_them(finished, catalog):
    stages, adapter, features = finished
    manifest = json.loads((adapter / "manifest.json").read_text())
    assert manifest["settings"] == json.loads(json.dumps(stages.settings.adapter))
    assert manifest["adapted_layers"] == 14
    assert manifest["trainable_parameters"] == sum(
        value.numel() for value in PeftModel.from_pretrained(
            bare_backbone(stages.settings).model, adapter, is_trainable=True
        ).parameters() if value.requires_grad
    )  # fmt: skip
    assert [record["step"] for record in manifest["held_out"]] == [0, 1, 2]
    assert manifest["seconds"] >= 0
    for key in (
        "align_temperature",
        "seed",
        "num_experts",
        "prompts",
        "backbone",
        "catalog",
        "align_steps",
        "version",
    ):
        assert key in manifest["settings"]

    manifest = json.loads((features / "manifest.json").read_text())
    assert manifest["settings"] == json.loads(json.dumps(stages.settings.features))
    assert manifest["settings"]["adapter"] == adapter.name
    assert manifest["settings"]["catalog"]["text"] == catalog.fingerprint("text")
    assert manifest["items"] == 60
    assert {name: entry["present"] for name, entry in manifest["modalities"].items()} == {"image": 59, "text": 59}


def test_zero_shot_has_no_adapter(catalog, tmp_path, tiny):
    stages = EncoderStages(
        PlainConfig(checkpoint_dir=str(tmp_path), max_pixels=12544, modalities=["text"], **ZERO_SHOT), catalog
    )
    assert stages.adapt() is None
    store = FeatureStore.open(stages.embed())
    assert store.manifest["settings"]["adapter"] == "none"
    assert "seed" not in store.manifest["settings"]
    assert not (tmp_path / "adapters").exists()
    with torch.no_grad():
        expected = tiny("text", collate_items(catalog, tiny, "text", [3, 5])).numpy()
    np.testing.assert_allclose(store.values("text")[[3, 5]], expected, rtol=2e-3, atol=1e-4)


def test_interrupted_stage_leaves_nothing_that_looks_finished(catalog, tmp_path, monkeypatch):
    stages = EncoderStages(PlainConfig(checkpoint_dir=str(tmp_path), modalities=["text"], **ZERO_SHOT), catalog)

    def stop(folder, *args, **kwargs):
        (folder / "text.npy").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages_module, "embed_catalog", stop)
        with pytest.raises(KeyboardInterrupt):
            stages.embed()
    assert not (tmp_path / "features" / digest(stages.settings.features)).exists()
    FeatureStore.open(stages.embed(), verify=True)


def test_interrupted_training_goes_on(catalog, tmp_path, monkeypatch):
    """Killed after the adapter was trained and before it was saved: only the saving is done again."""
    keys = {"align_checkpoint_every": 1, "lora_dropout": 0.0}
    _, records, whole = trained(catalog, tmp_path / "alone", **keys)
    stages = EncoderStages(PlainConfig(checkpoint_dir=str(tmp_path / "killed"), **keys), catalog)

    def stop(folder, manifest):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages_module, "write_manifest", stop)
        with pytest.raises(KeyboardInterrupt):
            stages.adapt()
    folder = tmp_path / "killed" / "adapters" / digest(stages.settings.adapter)
    assert not folder.exists()
    assert (folder.with_name(f"{folder.name}.unfinished") / FILE).is_file()
    with monkeypatch.context() as patch:
        patch.setattr(trainer._Training, "_step", None)
        assert stages.adapt() == folder
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in whole.iterdir()}
    assert FILE not in names
    weights = "adapter_model.safetensors"
    assert (folder / weights).read_bytes() == (whole / weights).read_bytes()
    assert json.loads((folder / "manifest.json").read_text())["held_out"] == records


def trained(catalog, folder, **values):
    stages = EncoderStages(PlainConfig(checkpoint_dir=str(folder), **values), catalog)
    adapter = stages.adapt()
    records = json.loads((adapter / "manifest.json").read_text())["held_out"]
    return load_file(adapter / "adapter_model.safetensors"), records, adapter


def test_same_settings_give_the_same_adapter_elsewhere(finished, catalog, tmp_path):
    _, adapter, _ = finished
    weights, _, again = trained(catalog, tmp_path)
    assert again.name == adapter.name
    assert (again / "adapter_model.safetensors").read_bytes() == (
        adapter / "adapter_model.safetensors"
    ).read_bytes()
    assert any("moda_B" in name and value.abs().max() > 0 for name, value in weights.items())


@pytest.mark.parametrize("values", [{"adapter": "lora"}, {"adapter": "moda"}])
def test_checkpointed_training_is_plain_training(catalog, tmp_path, values):
    """Also for LoRA, which is PEFT's own and stored in its format."""
    plain, records, folder = trained(catalog, tmp_path, **values)
    checkpointed, again, _ = trained(catalog, tmp_path, align_gradient_checkpointing=True, **values)
    assert PeftConfig.from_pretrained(folder).peft_type == values["adapter"].upper()
    assert records[-1]["loss"] == pytest.approx(again[-1]["loss"], rel=1e-4)
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value, rtol=1e-3, atol=1e-4)


def test_info_nce_trains_with_its_own_loss(catalog, tmp_path):
    _, cmsa, _ = trained(catalog, tmp_path, align_temperature=0.5)  # at 0.05 the soft target is all but one-hot
    _, info_nce, _ = trained(catalog, tmp_path, align_temperature=0.5, **INFO_NCE)
    assert cmsa[0]["mrr"] == info_nce[0]["mrr"]  # the same start
    assert abs(cmsa[0]["held_out_loss"] - info_nce[0]["held_out_loss"]) > 0.1


def test_settings_reach_the_loss_and_the_adapter(catalog):
    def made(**values):
        stages = EncoderStages(PlainConfig(**values), catalog)
        return repr(stages.settings.loss()), stages.settings.peft_config()

    teacher = {"align_teacher": "per_modality", "align_teacher_temperature": 0.4}
    loss, peft = made(align_temperature=0.3, align_center=False, **teacher)
    assert loss == "CMSALoss(temperature=0.3, center=False, teacher=per_modality, teacher_temperature=0.4)"
    loss, _ = made(align_temperature=0.3, align_center=False, **INFO_NCE)
    assert loss == "InfoNCELoss(temperature=0.3, center=False)"
    reference = read_yaml(properties_folder() / "preset" / "reference.yaml")
    assert made(**reference)[0] == repr(CMSALoss.reference())
    assert EncoderStages(PlainConfig(align_chunk_rows=7), catalog).settings.loss().chunk_rows == 7
    _, peft = made(lora_r=16, lora_alpha=8, lora_dropout=0.3, num_experts=2, gate_scale="num_experts")
    assert (peft.r, peft.lora_alpha, peft.lora_dropout) == (16, 8, 0.3)
    assert (peft.num_experts, peft.gate_scale) == (2, "num_experts")
    _, lora = made(lora_r=4, lora_dropout=0.2, **LORA)
    assert (lora.peft_type, lora.r, lora.lora_dropout) == ("LORA", 4, 0.2)
    assert lora.target_modules == peft.target_modules
