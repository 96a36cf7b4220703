"""Stage 2: from a catalogue to a store, by any road the same."""

import shutil

import numpy as np
import pytest
import torch
from conftest import adapted_tiny, open_demo

from recbole_sda.encoders.batching import collate_items
from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureStore, shards
from recbole_sda.features.embed import embed_catalog
from recbole_sda.features.shards import EmbedSettings, ShardWriter

MODALITIES = ("image", "text")


def settings(**values) -> EmbedSettings:
    defaults = {"batch_tokens": 2048, "shard_items": 16, "read_workers": 0, "dtype": "float32"}
    return EmbedSettings(**{**defaults, **values})


def embed(folder, catalog, backbone, *, older=None, **values) -> FeatureStore:
    chosen = settings(**values)
    embed_catalog(
        folder,
        catalog,
        ShardWriter(backbone, catalog, chosen),
        prompts=backbone.prompts,
        settings=chosen,
        identity={"made": "here"},
        older=older,
        show_progress=False,
    )
    return FeatureStore.open(folder, verify=True)


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(3)
    backbone = adapted_tiny(modalities=MODALITIES)
    for name, parameter in backbone.model.named_parameters():
        if "moda_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return backbone.eval()


@pytest.fixture(scope="module")
def store(catalog, backbone, tmp_path_factory):
    return embed(tmp_path_factory.mktemp("embed") / "store", catalog, backbone)


class Counted:
    """How many items and batches went through the model, by modality."""

    def __init__(self, monkeypatch, backbone):
        self.items = dict.fromkeys(MODALITIES, 0)
        self.batches = dict.fromkeys(MODALITIES, 0)
        forward = type(backbone).forward

        def counting(model, modality, inputs):
            self.items[modality] += len(inputs["input_ids"])
            self.batches[modality] += 1
            return forward(model, modality, inputs)

        monkeypatch.setattr(type(backbone), "forward", counting)


@pytest.fixture
def counted(monkeypatch, backbone):
    return Counted(monkeypatch, backbone)


# what is stored


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_store_holds_what_each_item_gives_alone_through_the_unmerged_adapter(catalog, backbone, store, modality):
    present = catalog.present(modality)
    assert np.array_equal(store.present(modality), present)
    assert not store.values(modality)[~present].any()
    assert store.tokens == list(catalog.tokens)
    for row in np.flatnonzero(present):
        with torch.inference_mode():
            alone = backbone(modality, collate_items(catalog, backbone, modality, [row]))[0]
        torch.testing.assert_close(torch.tensor(store.values(modality)[row]), alone, rtol=1e-4, atol=1e-4)


def test_the_adapter_comes_out_of_the_weights_bit_for_bit(catalog, backbone, tmp_path):
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    embed(tmp_path / "store", catalog, backbone)
    after = backbone.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("other", [{"shard_items": 1000}, {"shard_items": 1}, {"batch_tokens": 1}])
def test_shards_and_batches_change_roundings_only(catalog, backbone, store, tmp_path, other):
    found = embed(tmp_path / "store", catalog, backbone, **other)
    for modality in MODALITIES:
        np.testing.assert_allclose(found.values(modality), store.values(modality), rtol=1e-4, atol=1e-4)


def test_files_read_ahead_give_the_same_bytes(catalog, backbone, store, tmp_path):
    embed(tmp_path / "store", catalog, backbone, read_workers=2)
    assert files(tmp_path / "store") == files(store.path)


@pytest.mark.parametrize(("dtype", "digits"), [("float16", 11), ("bfloat16", 8)])
def test_narrow_dtypes_round_to_the_nearest(catalog, backbone, store, tmp_path, dtype, digits):
    found = embed(tmp_path / "store", catalog, backbone, dtype=dtype)
    exact, rounded = store.get("text", store.tokens), found.get("text", store.tokens)
    assert np.all(np.abs(exact - rounded) <= np.abs(exact) * 2.0**-digits + 1e-7)
    assert (exact != rounded).any()


def test_no_batch_exceeds_its_tokens(catalog, backbone, tmp_path, monkeypatch):
    sizes = []
    forward = type(backbone).forward

    def watching(model, modality, inputs):
        sizes.append(inputs["attention_mask"].numel())
        return forward(model, modality, inputs)

    monkeypatch.setattr(type(backbone), "forward", watching)
    embed(tmp_path / "store", catalog, backbone, batch_tokens=300)
    assert max(sizes) <= 300
    assert max(sizes) > 150  # packed, not one by one


# each content once


def test_equal_contents_go_through_the_model_once(demo_folder, backbone, tmp_path, counted):
    folder = tmp_path / "demo"
    shutil.copytree(demo_folder, folder)
    lines = (folder / "demo.item").read_text().splitlines()
    of_first = lines[1].partition("\t")[2]
    lines[5:10] = [f"{line.partition('	')[0]}\t{of_first}" for line in lines[5:10]]
    (folder / "demo.item").write_text("\n".join(lines) + "\n")
    copies = [line.partition("\t")[0] for line in lines[5:10]]
    first = lines[1].partition("\t")[0]
    for token in copies:
        shutil.copy(folder / "images" / f"{first}.png", folder / "images" / f"{token}.png")
    catalog = open_demo(folder)
    store = embed(tmp_path / "store", catalog, backbone)
    for modality in MODALITIES:
        of_first, of_copies = store.get(modality, [first]), store.get(modality, copies)
        assert of_first.any()
        assert np.array_equal(of_copies, np.repeat(of_first, len(copies), axis=0))
        distinct = len(np.unique(store.contents(modality)[catalog.present(modality)], axis=0))
        assert counted.items[modality] == distinct <= catalog.present(modality).sum() - len(copies)


def test_a_value_that_the_prompt_cuts_off_makes_no_other_content(demo_folder, backbone, tmp_path, counted):
    folder = tmp_path / "demo"
    shutil.copytree(demo_folder, folder)
    rows = "".join(f"P{row:04d}\t{'long ' * 40}{row}\tbrand\t\n" for row in range(60))
    (folder / "demo.item").write_text("item_id:token\ttitle:token\tbrand:token\tdescription:token\n" + rows)
    embed(tmp_path / "store", open_demo(folder), backbone)
    assert counted.items["text"] == 1


# interruptions


class Stopped(Exception):  # noqa: N818
    pass


def stopping_after(count, write_part):
    def write(*args):
        nonlocal count
        if count == 0:
            raise Stopped
        count -= 1
        return write_part(*args)

    return write


@pytest.mark.parametrize("after", [0, 1, 3, 5, 7])
def test_an_interrupted_embedding_goes_on_and_ends_with_the_same_bytes(
    catalog, backbone, store, tmp_path, monkeypatch, counted, after
):
    write_part = shards.write_part
    monkeypatch.setattr(shards, "write_part", stopping_after(after, write_part))
    with pytest.raises(Stopped):
        embed(tmp_path / "store", catalog, backbone)
    spent = dict(counted.items)
    monkeypatch.setattr(shards, "write_part", write_part)
    embed(tmp_path / "store", catalog, backbone)
    assert files(tmp_path / "store") == files(store.path)
    distinct = {
        m: len(np.unique(store.contents(m)[store.present(m)], axis=0)) for m in MODALITIES
    }
    lost = sum(counted.items.values()) - sum(distinct.values())
    assert sum(spent.values()) > 0
    assert 0 < lost <= 16  # the shard in hand


def test_a_finished_folder_is_not_embedded_again(catalog, backbone, store, tmp_path, counted):
    shutil.copytree(store.path, tmp_path / "store")
    (tmp_path / "store" / "parts").mkdir()  # killed between the manifest and the end
    embed(tmp_path / "store", catalog, backbone)
    assert counted.items == dict.fromkeys(MODALITIES, 0)
    assert files(tmp_path / "store") == files(store.path)


def test_other_shards_begin_anew(catalog, backbone, tmp_path, monkeypatch):
    write_part = shards.write_part
    monkeypatch.setattr(shards, "write_part", stopping_after(1, write_part))
    with pytest.raises(Stopped):
        embed(tmp_path / "store", catalog, backbone, shard_items=16)
    monkeypatch.setattr(shards, "write_part", write_part)
    embed(tmp_path / "store", catalog, backbone, shard_items=7)
    embed(tmp_path / "other", catalog, backbone, shard_items=7)
    assert files(tmp_path / "store") == files(tmp_path / "other")


# what cannot be stored


def test_embeddings_that_the_dtype_cannot_hold_are_an_error_with_names(catalog, backbone, tmp_path, monkeypatch):
    forward = type(backbone).forward
    monkeypatch.setattr(type(backbone), "forward", lambda *args: forward(*args) * 1e6)
    with pytest.raises(SDAError, match=r"image embeddings are not finite in feature_dtype=float16 \(items P"):
        embed(tmp_path / "store", catalog, backbone, dtype="float16")


def test_no_memory_names_the_key(catalog, backbone, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(type(backbone), "forward", full)
    with pytest.raises(SDAError, match="Lower embed_batch_tokens or max_pixels"):
        embed(tmp_path / "store", catalog, backbone)


def test_a_picture_that_changes_on_the_way_stops_with_its_name(demo_folder, backbone, tmp_path):
    folder = tmp_path / "demo"
    shutil.copytree(demo_folder, folder)
    catalog = open_demo(folder)
    picture = folder / "images" / "P0000.png"
    picture.write_bytes(picture.read_bytes() + b"more")
    for workers in (0, 1):
        with pytest.raises(SDAError, match=r"P0000\.png changed after the catalogue was opened"):
            embed(tmp_path / f"store{workers}", catalog, backbone, read_workers=workers)
