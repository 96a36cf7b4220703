"""A finished store and a catalogue that has grown: only what is new goes through the model."""

import json
import shutil

import numpy as np
import pytest
from test_embed import MODALITIES, backbone, counted, embed  # noqa: F401  (fixtures)
from test_stages import PlainConfig

from recbole_sda.artefacts import digest
from recbole_sda.catalog import Catalog
from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureStore
from recbole_sda.stages import EncoderStages

KEPT = 40


def opened(folder, tokens) -> Catalog:
    return Catalog.open(folder, tokens, show_progress=False)


@pytest.fixture(scope="module")
def older(catalog, backbone, demo_folder, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("append") / "older"
    return embed(folder, opened(demo_folder, catalog.tokens[:KEPT]), backbone)


def test_only_new_items_are_embedded(catalog, backbone, older, tmp_path, counted):  # noqa: F811
    longer = embed(tmp_path / "longer", catalog, backbone, older=older)
    whole = embed(tmp_path / "whole", catalog, backbone)
    assert longer.tokens == whole.tokens
    for modality in MODALITIES:
        assert np.array_equal(longer.values(modality)[:KEPT], older.values(modality))
        np.testing.assert_allclose(longer.values(modality), whole.values(modality), rtol=1e-4, atol=1e-4)
        assert np.array_equal(longer.present(modality), whole.present(modality))
        assert np.array_equal(longer.contents(modality), whole.contents(modality))
    new_and_all = {m: (len(catalog) - KEPT) + len(catalog) for m in MODALITIES}
    assert all(counted.items[m] <= new_and_all[m] for m in MODALITIES)


def test_items_come_in_any_order_change_and_go(catalog, demo_folder, backbone, older, tmp_path, counted):  # noqa: F811
    folder = tmp_path / "demo"
    shutil.copytree(demo_folder, folder)
    changed, stripped, gone = catalog.tokens[5], catalog.tokens[7], catalog.tokens[9]
    lines = (folder / "demo.item").read_text().splitlines()
    lines = [f"{changed}\tanother title\tanother brand\t" if line.startswith(changed) else line for line in lines]
    (folder / "demo.item").write_text("\n".join(lines) + "\n")
    (folder / "images" / f"{stripped}.png").unlink()
    tokens = [token for token in reversed(catalog.tokens[: KEPT + 3]) if token != gone]
    grown = opened(folder, tokens)
    longer = embed(tmp_path / "longer", grown, backbone, older=older)
    assert counted.items["text"] == 3 + 1
    assert longer.tokens[:KEPT] == older.tokens
    assert set(longer.tokens) == {*tokens, gone}
    whole = embed(tmp_path / "whole", grown, backbone)
    for modality in MODALITIES:
        np.testing.assert_allclose(longer.get(modality, tokens), whole.get(modality, tokens), rtol=1e-4, atol=1e-4)
        present = dict(zip(longer.tokens, longer.present(modality), strict=True))
        assert [present[token] for token in tokens] == whole.present(modality).tolist()
        assert np.array_equal(longer.get(modality, [gone]), older.get(modality, [gone]))
    assert not longer.get("image", [stripped]).any()
    assert not np.array_equal(longer.get("text", [changed]), older.get("text", [changed]))


# which store is added to


@pytest.fixture
def grown(catalog, demo_folder, tmp_path, monkeypatch):
    """Runs `embed` on the first 40 items, then gives stages of all 60 for other settings."""
    monkeypatch.chdir(tmp_path)

    def stages(tokens=catalog.tokens, **values):
        return EncoderStages(PlainConfig(read_workers=0, **values), opened(demo_folder, tokens))

    stages.first = lambda **values: stages(catalog.tokens[:KEPT], **values).embed()
    return stages


@pytest.mark.parametrize("adapter", ["none", "moda"])
def test_append_finds_the_store_and_goes_through_its_adapter(grown, catalog, adapter):
    older = FeatureStore.open(grown.first(adapter=adapter))
    longer = FeatureStore.open(grown(adapter=adapter, append="True").embed())
    assert longer.manifest["settings"]["adapter"] == older.manifest["settings"]["adapter"]
    assert longer.manifest["settings"]["appended_to"] == digest(older.manifest["files"])
    assert grown(adapter=adapter, append="True").embed() == longer.path  # nothing is left to add
    assert longer.tokens == list(catalog.tokens)
    assert np.array_equal(longer.values("text")[:KEPT], older.values("text"))
    assert grown(adapter=adapter, append=str(older.path)).embed() == longer.path


def test_what_was_made_another_way_is_not_added_to(grown):
    older = grown.first(adapter="none")
    with pytest.raises(SDAError, match=r"append=.* was made another way: prompts was .*; set that, or leave"):
        grown(adapter="none", prompt_domain="film", append=str(older)).embed()
    with pytest.raises(SDAError, match=r"append=True: of 1 stores in .* none was made with these settings"):
        grown(adapter="none", prompt_domain="film", append="True").embed()
    with pytest.raises(SDAError, match="its adapter is none, here it is another"):
        grown(append=str(older)).embed()
    with pytest.raises(SDAError, match=r"no manifest.json"):
        grown(adapter="none", append="elsewhere").embed()


def test_another_datasets_store_and_unfinished_ones_are_passed_over(grown, demo_folder, caplog):
    older = grown.first(adapter="none")
    stranger = older.with_name("stranger")
    shutil.copytree(older, stranger)
    manifest = json.loads((stranger / "manifest.json").read_text())
    (stranger / "manifest.json").write_text(json.dumps({**manifest, "dataset": "shop"}))
    shutil.copytree(older, older.with_name("newer.unfinished"))
    broken = older.with_name("broken")
    broken.mkdir()
    (broken / "manifest.json").write_text("{}")
    with pytest.raises(SDAError, match="it is of dataset 'shop', not 'demo'"):
        grown(adapter="none", append=str(stranger)).embed()
    stages = grown(adapter="none", append="True")
    stages.check()
    assert stages.older.path.resolve() == older.resolve()
    assert "not appended to" in caplog.text


def test_a_run_that_appends_trains_no_adapter(grown, monkeypatch):
    older = grown.first()
    monkeypatch.setattr("recbole_sda.stages.align", None)
    trained = FeatureStore.open(older).manifest["settings"]["adapter"]
    assert grown(append="True").adapt().name == trained


def test_an_adapter_that_is_gone_is_missed(grown):
    older = grown.first()
    adapter = FeatureStore.open(older).manifest["settings"]["adapter"]
    shutil.rmtree(older.parent.parent / "adapters" / adapter)
    with pytest.raises(SDAError, match=f"its adapter .*{adapter} is gone"):
        grown(append=str(older)).embed()


def test_another_alignment_is_another_adapter(grown):
    older = grown.first()
    with pytest.raises(SDAError, match="was made another way: align_steps was 2 and is 3"):
        grown(append=str(older), align_steps=3).embed()
    trained = FeatureStore.open(older).manifest["settings"]["adapter"]
    assert digest(grown(append=str(older)).settings.adapter) != trained  # of another catalogue
