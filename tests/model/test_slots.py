"""Every model that can use features: stock on its own tables, trained, saved, reloaded; the others are refused."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import recbole.model
import torch
from model.zoo import ITEMS, World, tables_of, with_features, write_dataset

from recbole_sda.config import known_keys
from recbole_sda.errors import SDAError
from recbole_sda.model import OWN_MODELS, attach_item_features, check_model, slots
from recbole_sda.model.slots import REFUSED, SLOTS
from recbole_sda.trainer import build_trainer

STOCK = [name for name in SLOTS if name not in OWN_MODELS]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Name → a model's world."""
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(folder)
    return cache(lambda name: World(name, folder))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def stock(request, worlds):
    """A stock model's world and the model."""
    world = worlds(request.param)
    return world, world.build_large()


each_stock_model = pytest.mark.parametrize("stock", STOCK, indirect=True)


# --- the swap ---


@each_stock_model
def test_scores_loss_and_gradients_are_the_stock_models_when_the_features_are_its_own_tables(stock):
    world, model = stock
    swapped = with_features(model, world.slots)
    torch.testing.assert_close(world.score(swapped), world.score(model), rtol=1e-5, atol=1e-5)
    (loss, gradients), (expected_loss, expected) = world.learn(swapped), world.learn(model)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    for name, gradient in expected.items():
        if name.split(".")[0] not in world.slots.tables:
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@each_stock_model
def test_with_other_rows_in_any_one_of_its_tables_the_loss_is_another(stock):
    world, model = stock
    expected, _ = world.learn(with_features(model, world.slots))
    for wrong, *_ in tables_of(model, world.slots).values():

        def shuffled(name, rows, wrong=wrong):
            return rows.roll(1, 0) if name == wrong else rows

        loss, _ = world.learn(with_features(model, world.slots, shuffled))
        assert not torch.allclose(loss, expected, rtol=1e-4, atol=1e-4), wrong


@each_stock_model
def test_an_item_in_no_history_is_scored_by_its_features_unless_the_table_says_it_cannot(stock):
    world, model = stock
    before, after = world.score_cold_item(model)
    assert torch.isfinite(after).all()
    assert torch.equal(before, after) == bool(world.slots.cold)


@pytest.mark.parametrize("name", SLOTS)
def test_the_table_lists_every_parameter_with_a_row_for_each_item(name, worlds):
    world = worlds(name)
    model = world.build()
    listed = {*world.slots.tables, *world.slots.item_terms}
    assert all(hasattr(model, attribute) for attribute in listed)
    rows = {n: p for n, p in model.named_parameters() if {ITEMS + 1, ITEMS + 2} & set(p.shape)}
    unlisted = {parameter for parameter in rows if parameter.split(".")[0] not in listed}
    # An input layer meets the items of the training history only.
    unlisted -= {"encoder.0.weight"} if name == "MacridVAE" else set()
    assert bool(unlisted) == bool(world.slots.cold)


# --- through the runner's steps ---


@pytest.mark.parametrize("name", SLOTS)
def test_train_save_reload_and_rank(name, worlds, tmp_path):
    world = worlds(name)
    provider = world.provider(tmp_path / "store", missing=[3])

    def with_random_features():
        model = attach_item_features(world.build(), provider, world.config)
        trainer = build_trainer(world.config, model, str(tmp_path / "best.pth"))
        trainer.prepare_evaluation(world.train, world.valid, world.test)
        return model, trainer

    model, trainer = with_random_features()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer.fit(world.train, world.valid, show_progress=False)
    if name == "S3Rec":
        trainer._save_checkpoint(
            0, verbose=False
        )  # RecBole's pretraining saves every 50 epochs, to files of its own
    assert any(
        not torch.equal(before[n], p) for n, p in model.named_parameters() if n.split(".")[0] in world.slots.tables
    )
    first = trainer.evaluate(world.test)
    assert set(first) == {"hit@10", "ndcg@10", "tailhit@10", "tailndcg@10"}

    saved = torch.load(tmp_path / "best.pth", weights_only=True)
    for values in saved["state_dict"].values():
        assert values.shape != (ITEMS + 1, 6), "features in the checkpoint"

    fresh, other = with_random_features()
    for module in (model, fresh):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter)
    assert trainer.evaluate(world.test) == first  # it loads the best state, and no stale table survives
    assert other.evaluate(world.test) == first


def test_the_mask_token_of_bert4rec_has_a_learned_row_of_its_own(worlds, tmp_path):
    world = worlds("BERT4Rec")
    model = attach_item_features(world.build(), world.provider(tmp_path / "store"), world.config)
    table = model.item_embedding
    assert table.num_embeddings == world.n_items + 1
    mask = torch.tensor([world.n_items])
    torch.testing.assert_close(table(mask), table.extra)
    table(mask).sum().backward()
    assert table.extra.grad.abs().sum() > 0


def test_two_names_of_one_table_stay_one_module(worlds, tmp_path):
    world = worlds("GRU4RecCPR")
    model = attach_item_features(world.build(), world.provider(tmp_path / "store"), world.config)
    assert model.out_item_embedding is model.item_embedding


# --- refusals ---


def test_every_model_of_recbole_stands_in_one_of_the_two_tables():
    folder = Path(recbole.model.__file__).parent
    recboles = {file.stem for file in folder.glob("*_recommender/[!_]*.py")}
    assert {name.lower() for name in {*SLOTS, *REFUSED}} == recboles | {"vbpr", "slmrec"}
    assert not set(SLOTS) & set(REFUSED)
    assert len(recboles) > 90


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("DIN", "share one table"),
        ("MultiVAE", "weights for each item"),
        ("Pop", "no vectors of items"),
        ("KSR", "knowledge graph"),
        ("MyOwn", "not known where"),
    ],
)
def test_other_models_are_refused_with_the_reason_and_the_remedy(name, reason):
    with pytest.raises(SDAError, match=rf"model='{name}' cannot use features: .*{reason}.*--features=none"):
        check_model(name)


@pytest.mark.parametrize("name", SLOTS)
def test_models_with_tables_are_not_refused(name):
    check_model(name)


@pytest.mark.parametrize(
    ("name", "key", "value", "right"),
    [("S3Rec", "train_stage", "finetune", "pretrain"), ("GRU4RecCPR", "use_out_emb", True, False)],
)
def test_a_setting_that_features_do_not_go_with_is_refused(name, key, value, right):
    check_model(name, {key: right})
    with pytest.raises(SDAError, match=rf"{key}={value!r}: .*; say --{key}={right}, or --features=none"):
        check_model(name, {key: value})
    assert key in known_keys()


def test_a_missing_package_is_named_before_any_work(monkeypatch):
    monkeypatch.setattr(slots, "find_spec", lambda name: None if name == "faiss" else find_spec(name))
    with pytest.raises(SDAError, match=r"model='NCL' needs faiss.*pip install faiss-cpu"):
        check_model("NCL")
