"""Features put into a built model: shared by its tables, on the device or on the disk, left out of broadcasts."""

import copy
import logging

import pytest
import torch
from model.zoo import World, write_dataset
from torch import nn

from recbole_sda.errors import SDAError
from recbole_sda.model import FeatureSlot, ItemFeatures, attach_item_features, slots
from recbole_sda.model.by_modality import ByModality
from recbole_sda.model.projection import MappedTable
from recbole_sda.model.slots import Slots


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(folder)
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def attached(tmp_path):
    """Attaches the same random features whenever it is called."""
    given = []

    def attach(world, model=None, **provided):
        if not given:
            given.append(world.provider(tmp_path / "store", **provided))
        return attach_item_features(model or world.build(), given[0], world.config)

    return attach


def tables_of(model):
    return [module for module in model.modules() if isinstance(module, ItemFeatures)]


def test_all_tables_of_a_model_share_the_features(data_path, attached):
    model = attached(World("FPMC", data_path))
    one, *others = tables_of(model)
    assert len(others) == 2
    for name in one.modalities:
        for other in others:
            for what in ("features", "present"):
                assert getattr(one, f"{what}_{name}") is getattr(other, f"{what}_{name}")


class Renamed(nn.Module):
    """Holds one table under two names and in a part of its own."""

    def __init__(self, rows):
        super().__init__()
        self.item_embedding = nn.Embedding(rows, 4)
        self.output = self.item_embedding
        self.part = nn.Module()
        self.part.table = self.item_embedding


def test_one_table_under_several_names_becomes_one(data_path, attached, monkeypatch):
    world = World("BPR", data_path, use_item_id="add")
    monkeypatch.setitem(slots.SLOTS, "Renamed", Slots())
    model = attached(world, Renamed(world.n_items))
    assert isinstance(model.item_embedding, ItemFeatures)
    assert model.output is model.item_embedding is model.part.table
    assert isinstance(model.item_embedding.item_id, nn.Embedding)


class Slotted(nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.content = FeatureSlot(rows, 4, 0.5, by_modality=True, normalize=True)
        self.both = FeatureSlot(rows, 3, 0.1)


def test_a_slot_gets_a_table_for_all_modalities_or_one_for_each(data_path, attached, monkeypatch, caplog):
    world = World("BPR", data_path, use_item_id="add", fusion="gated")
    monkeypatch.setitem(slots.SLOTS, "Slotted", Slots(("content", "both")))
    with caplog.at_level(logging.WARNING):
        model = attached(world, Slotted(world.n_items))
    assert "use_item_id=add" in caplog.text
    assert list(model.content) == list(world.config["modalities"])
    for modality, table in model.content.items():
        assert table.modalities == (modality,)
        assert table.weight.shape == (world.n_items, 4)
        assert getattr(table, f"lengths_{modality}") is not None
        assert table.item_id is None
    assert model.both.modalities == tuple(world.config["modalities"])
    assert float(model.both.weight[1:].detach().square().mean().sqrt()) == pytest.approx(0.1, rel=0.01)


def test_the_features_are_on_the_device_or_on_the_disk_by_size(data_path, attached, caplog):
    world = World("BPR", data_path)
    kinds = {}
    for placement, gib in (("auto", 4.0), ("auto", 1e-9), ("disk", 4.0), ("device", 1e-9)):
        world.config["feature_placement"], world.config["feature_device_gib"] = placement, gib
        with caplog.at_level(logging.INFO):
            model = attached(world)
        kinds[placement, gib] = type(model.item_embedding.features_text)
        outputs = world.score(model)
        assert outputs.isfinite().all()
    assert kinds == {
        ("auto", 4.0): torch.Tensor,
        ("auto", 1e-9): MappedTable,
        ("disk", 4.0): MappedTable,
        ("device", 1e-9): torch.Tensor,
    }
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("features: ")]
    assert lines[0].startswith("features: image 6 + text 6, reduction none, 0.0 MiB on cpu")
    assert lines[1].endswith("mapped from disk")


def test_a_model_learns_the_same_from_disk_as_from_the_device(data_path, attached):
    world = World("SASRec", data_path, feature_reduction="pca", feature_dimension=4)
    models = {}
    for placement in ("device", "disk"):
        world.config["feature_placement"] = placement
        torch.manual_seed(0)
        models[placement] = attached(world, missing=[3])
    models["disk"].load_state_dict(models["device"].state_dict())
    (one, gradients), (other, others) = (world.learn(models[placement]) for placement in ("device", "disk"))
    torch.testing.assert_close(one, other)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, msg=name)
    torch.testing.assert_close(world.score(models["disk"]), world.score(models["device"]))


@pytest.mark.parametrize(
    "values", [{"fusion": "attention"}, {"use_item_id": "concat"}, {"feature_hidden_size": 5}]
)
def test_the_configuration_says_how_rows_are_made(values, data_path, attached):
    world = World("BERT4Rec", data_path, **values)
    table = attached(world).item_embedding
    assert type(table.fusion).__name__.lower() == values.get("fusion", "concat")
    assert (table.join is not None) == ("use_item_id" in values)
    assert hasattr(table.projection["text"], "first") == ("feature_hidden_size" in values)
    model = attached(world)
    assert torch.isfinite(world.learn(model)[0])
    assert model.item_embedding.weight.shape == (world.n_items + 1, table.embedding_dim)


def test_distributed_training_does_not_broadcast_the_features(data_path, attached):
    model = attached(World("GRU4RecCPR", data_path))
    named = dict(model.named_buffers(remove_duplicate=False))
    frozen = {name for name in named if "features_" in name or "present_" in name}
    assert frozen
    assert frozen <= set(model._ddp_params_and_buffers_to_ignore)
    assert not set(dict(model.named_parameters())) & set(model._ddp_params_and_buffers_to_ignore)


def test_a_copied_model_shares_the_features(data_path, attached):
    world = World("SASRec", data_path)
    model = attached(world)
    _ = model.item_embedding.weight
    copied = copy.deepcopy(model)
    assert copied.item_embedding.features_text is model.item_embedding.features_text
    torch.testing.assert_close(world.score(copied), world.score(model))


def test_modalities_that_the_store_lacks_are_refused(data_path, attached):
    with pytest.raises(SDAError, match=r"modalities=image,text, but .*store holds text; say --modalities=text"):
        attached(World("BPR", data_path), modalities=("text",))


@pytest.mark.parametrize("names", [("items", "values"), ("type", "keys"), ("text", "image")])
def test_a_modality_may_have_any_name_and_keeps_its_place(names):
    learned = ByModality({name: torch.nn.Parameter(torch.full((1,), float(n))) for n, name in enumerate(names)})
    assert list(learned) == list(learned.keys()) == list(names)
    assert [value.item() for value in learned.values()] == [0.0, 1.0]
    assert names[0] in learned
    assert "other" not in learned
    with pytest.raises(KeyError):
        learned["other"]
