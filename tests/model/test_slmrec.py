"""SLMRec against its formulas, node by node and pair by pair; on the road that a run takes; never stale."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from model.walks import cosine_cross_entropy_loop, fac_loop, fuse_loop, lightgcn_loop
from model.zoo import World, write_dataset
from recbole.data.interaction import Interaction
from torch import nn

from recbole_sda.config import SDAConfig
from recbole_sda.defaults import read_properties
from recbole_sda.errors import SDAError
from recbole_sda.model import SLMRec, attach_item_features
from recbole_sda.model import graph as graph_module
from recbole_sda.model import slmrec as slmrec_module
from recbole_sda.model.by_modality import ByModality
from recbole_sda.model.slmrec import SSL_TASKS
from recbole_sda.trainer import build_trainer

N_USERS, N_ITEMS, WIDTH = 6, 8, 4
# User 5 and items 0 and 7 have no edge.
PAIRS = [(1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (3, 4), (4, 5), (4, 1), (1, 6), (3, 6), (2, 3)]
EDGES = sorted(set(PAIRS))
USERS, ITEMS = [1, 2, 4, 1, 3], [2, 3, 5, 6, 6]  # a batch with a user and an item twice
MODALITIES = ("image", "text", "audio")
CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # the graph's weights are float32


def build(task="none", *, modalities=MODALITIES[:2], dtype=torch.float64, **values):
    config = {
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "NEG_PREFIX": "neg_",
        "device": torch.device("cpu"),
        **read_properties("model", "SLMRec"),
        "embedding_size": WIDTH,
        "ssl_task": task,
        "ssl_alpha": 0.7,
        "ssl_temp": 0.3,
        **values,
    }
    users, items = zip(*PAIRS, strict=True)
    dataset = SimpleNamespace(
        num=lambda field: {"user_id": N_USERS, "item_id": N_ITEMS}[field],
        inter_matrix=lambda form: sp.coo_matrix((np.ones(len(PAIRS)), (users, items)), shape=(N_USERS, N_ITEMS)),
    )
    torch.manual_seed(0)
    model = SLMRec(config, dataset)
    if modalities:
        # Anything with rows: what features make of them is the business of ItemFeatures.
        model.item_content = ByModality({name: nn.Embedding(N_ITEMS, WIDTH) for name in modalities})
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.to(dtype)


def batch():
    return Interaction({"user_id": torch.tensor(USERS), "item_id": torch.tensor(ITEMS)})


def item_sides(model):
    return [model.item_embedding.weight, *(model.item_content[name].weight for name in model.modalities)]


def plain_channels(model, *, without=None, masks=None):
    """Users' channels and items' channels, (n, d) each; a channel that is left out has an item side of 0."""
    channels = []
    for number, side in enumerate(item_sides(model)):
        side = side * 0 if number == without else side
        own = slice(number * WIDTH, (number + 1) * WIDTH)
        own_masks = masks and [(users[:, own], items[:, own]) for users, items in masks]
        channels.append(lightgcn_loop(EDGES, model.user_embedding.weight, side, model.n_layers, own_masks))
    return tuple(zip(*channels, strict=True))


def plain_embeddings(model, **view):
    users, items = plain_channels(model, **view)
    return fuse_loop(users, model.user_fusion), fuse_loop(items, model.item_fusion)


def plain_main_loss(model):
    users, items = plain_embeddings(model)
    return cosine_cross_entropy_loop(users[USERS], items[ITEMS], model.temperature)


def plain_contrast(model, first, second):
    """InfoNCE of two views, ``without`` and ``masks`` of each, over the batch's distinct users and items."""
    views = [plain_embeddings(model, **view) for view in (first, second)]
    return sum(
        cosine_cross_entropy_loop(views[0][side][ids], views[1][side][ids], model.ssl_temp)
        for side, ids in enumerate((sorted(set(USERS)), sorted(set(ITEMS))))
    )


def assert_same_loss_and_gradients(model, loss, expected):
    torch.testing.assert_close(loss, expected, **CLOSE)
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, parameters.values(), allow_unused=True)
    wanted = torch.autograd.grad(expected, parameters.values(), allow_unused=True)
    for name, gradient, other in zip(parameters, gradients, wanted, strict=True):
        assert gradient is not None, f"{name} learns nothing"
        torch.testing.assert_close(gradient, other, **CLOSE, msg=name)


# --- the formulas ---


@pytest.mark.parametrize("modalities", [MODALITIES[:n] for n in range(4)])
def test_scores_equal_the_formula_pair_by_pair(modalities):
    model = build(modalities=modalities).eval()
    users, items = plain_embeddings(model)
    with torch.no_grad():
        full = model.full_sort_predict(Interaction({"user_id": torch.tensor([1, 5])})).view(2, N_ITEMS)
        for row, user in enumerate((1, 5)):
            for item in range(N_ITEMS):
                expected = users[user] @ items[item]
                torch.testing.assert_close(full[row, item], expected, **CLOSE)
                pair = Interaction({"user_id": torch.tensor([user]), "item_id": torch.tensor([item])})
                torch.testing.assert_close(model.predict(pair)[0], expected, **CLOSE)


@pytest.mark.parametrize("modalities", [MODALITIES[:n] for n in range(4)])
def test_the_main_loss_finds_each_pairs_item_in_the_batch(modalities):
    model = build(modalities=modalities)
    assert_same_loss_and_gradients(model, model.calculate_loss(batch()), plain_main_loss(model))


@pytest.mark.parametrize("modalities", [MODALITIES[:n] for n in range(1, 4)])
def test_fac_lets_an_items_channels_find_each_other(modalities):
    model = build("FAC", modalities=modalities)
    _, channels = plain_channels(model)
    channels = [channel[sorted(set(ITEMS))] for channel in channels]
    expected = plain_main_loss(model) + 0.7 * fac_loop(channels, model.fac, 0.3)
    assert_same_loss_and_gradients(model, model.calculate_loss(batch()), expected)
    assert [head.weight.shape[0] for head in model.fac.others] == [WIDTH // 2] * (len(modalities) - 1)


@pytest.mark.parametrize("task", ["FD", "FM", "FD+FM"])
def test_two_views_are_contrasted(task, monkeypatch):
    masks, left_out = [], (None, None)

    def drop(values, probability):
        if not probability:
            return values
        assert probability == 0.3
        generator = torch.Generator().manual_seed(len(masks))
        masks.append((torch.rand(values.shape, generator=generator) > 0.3).double() / 0.7)
        return values * masks[-1]

    monkeypatch.setattr(graph_module.F, "dropout", drop)
    if "FM" in task:
        monkeypatch.setattr(slmrec_module.torch, "randperm", lambda n: torch.tensor([2, 0, 1][:n]))
        left_out = (2, 0)
    model = build(task)
    loss = model.calculate_loss(batch())

    by_layer = list(zip(masks[0::2], masks[1::2], strict=True))  # users' and items' masks
    assert len(by_layer) == (2 * model.n_layers if "FD" in task else 0)
    views = [
        {"without": channel, "masks": by_layer[view * model.n_layers : (view + 1) * model.n_layers] or None}
        for view, channel in enumerate(left_out)
    ]
    expected = plain_main_loss(model) + 0.7 * plain_contrast(model, *views)
    assert_same_loss_and_gradients(model, loss, expected)


@pytest.mark.parametrize("modalities", [MODALITIES[:1], MODALITIES])
def test_fm_leaves_out_two_different_channels_and_every_one_in_its_turn(modalities, monkeypatch):
    model, seen = build("FM", modalities=modalities), []
    fuse = model._fuse

    def watch(*args, without=None):
        seen.append(without)
        return fuse(*args, without=without)

    monkeypatch.setattr(model, "_fuse", watch)
    torch.manual_seed(0)
    for _ in range(40):
        model.calculate_loss(batch())
    left_out = [channel for channel in seen if channel is not None]
    assert set(left_out) == set(range(1 + len(modalities)))
    assert all(first != second for first, second in zip(left_out[0::2], left_out[1::2], strict=True))


@pytest.mark.parametrize(("task", "left"), [("FAC", set()), ("FM", set()), ("FD+FM", {"FD"}), ("FD", {"FD"})])
def test_without_features_what_compares_channels_is_left_out(task, left):
    model = build(task, modalities=())
    assert model.tasks == left
    if not left:
        torch.testing.assert_close(model.calculate_loss(batch()), plain_main_loss(model), **CLOSE)
    else:
        assert model.calculate_loss(batch()) > plain_main_loss(model)


# --- the embeddings of evaluation ---


def scores(model):
    with torch.no_grad():
        return model.full_sort_predict(Interaction({"user_id": torch.tensor([1, 3])}))


def learn(model, steps=2):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model.train().calculate_loss(batch()).backward()
        optimizer.step()


@pytest.mark.parametrize("task", SSL_TASKS)
def test_other_weights_give_other_embeddings_though_the_model_stays_in_evaluation(task):
    model = build(task)
    learn(model)
    first, state = scores(model.eval()), copy.deepcopy(model.state_dict())
    learn(model)
    second = scores(model.eval())
    assert not torch.allclose(first, second)
    model.load_state_dict(state)  # as RecBole's trainer does before the test
    assert torch.equal(scores(model), first)
    with torch.no_grad():
        model.item_content["image"].weight += 1
    assert not torch.allclose(scores(model), first)
    fresh = build(task)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(scores(model), scores(fresh.eval()))


def test_they_are_computed_once_an_evaluation_and_are_in_no_checkpoint(monkeypatch):
    model, calls = build().eval(), []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda: calls.append(1) or forward())
    for _ in range(3):
        scores(model)
    assert len(calls) == 1
    scores(model.eval())  # the next evaluation
    assert len(calls) == 2
    model.calculate_loss(batch())
    assert model.restore_user_e is None
    assert model.restore_item_e is None
    assert not model.other_parameter()
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_a_score_in_training_carries_a_gradient():
    model = build()
    scores(model.eval())
    pair = Interaction({"user_id": torch.tensor([1]), "item_id": torch.tensor([2])})
    model.predict(pair).sum().backward()
    assert model.user_embedding.weight.grad[1].any()


def test_a_copy_scores_the_same_and_goes_its_own_way():
    model = build("FAC").eval()
    expected = scores(model)
    other = copy.deepcopy(model)
    assert torch.equal(scores(other), expected)
    with torch.no_grad():
        other.user_embedding.weight.zero_()
    assert torch.equal(scores(model), expected)


@pytest.mark.parametrize("task", SSL_TASKS)
def test_mixed_precision_gives_finite_gradients(task):
    model = build(task, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.calculate_loss(batch())
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    if task in ("FAC", "none"):  # the others draw
        torch.testing.assert_close(loss, model.calculate_loss(batch()), rtol=0.02, atol=0.02)


# --- settings ---


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"ssl_task": "fac"}, "ssl_task='fac' is unknown; choose FAC, FD, FM, FD.FM, none"),
        ({"ssl_task": None}, "ssl_task=None is unknown"),
        ({"embedding_size": 1}, "embedding_size=1 must be a whole number of at least 2"),
        ({"n_layers": 0}, "n_layers=0 must be a whole number of at least 1"),
        ({"temperature": 0.0}, "temperature=0.0 must be a number greater than 0"),
        ({"ssl_temp": -1}, "ssl_temp=-1 must be a number greater than 0"),
        ({"ssl_temp": "low"}, "ssl_temp='low' must be a number greater than 0"),
        ({"ssl_alpha": -0.1}, "ssl_alpha=-0.1 must be a number of at least 0"),
        ({"ssl_dropout": 1.0}, r"ssl_dropout=1.0 must be a number in \[0, 1\)"),
    ],
)
def test_a_setting_out_of_bounds_is_refused(setting, message):
    with pytest.raises(SDAError, match=message):
        SLMRec.check_config({**read_properties("model", "SLMRec"), **setting})


# --- the road of a run ---


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(folder)
    return folder


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_no_negatives_are_drawn(shop, elsewhere):
    world = World("SLMRec", shop)
    assert world.config["train_neg_sample_args"]["distribution"] == "none"
    assert "neg_item_id" not in world.batch
    assert world.config["weight_decay"] == 1e-4


def test_its_keys_are_known_on_the_command_line():
    assert SDAConfig("SLMRec", "demo", argv=["--ssl_task=FD+FM"])["ssl_task"] == "FD+FM"
    with pytest.raises(SDAError, match=r"key 'ssl_task' is of other models"):
        SDAConfig("BPR", "demo", argv=["--ssl_task=FD"])


@pytest.mark.parametrize(
    ("task", "modalities"),
    [(task, ("image", "text")) for task in SSL_TASKS]
    + [(task, modalities) for task in ("FAC", "FD+FM") for modalities in ((), ("text",))],
)
def test_train_save_reload_and_rank(task, modalities, shop, tmp_path, elsewhere):
    world = World("SLMRec", shop, ssl_task=task, epochs=2, modalities=list(modalities) or ["text"])
    model = world.build()
    if modalities:
        attach_item_features(
            model, world.provider(tmp_path / "store", missing=[3], modalities=modalities), world.config
        )
    assert model.modalities == modalities
    trainer = build_trainer(world.config, model, str(tmp_path / "best.pth"))
    trainer.fit(world.train, world.valid, show_progress=False)
    assert all(np.isfinite(loss) for loss in trainer.train_loss_dict.values())
    first, expected = trainer.evaluate(world.test), world.score(model)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    assert trainer.evaluate(world.test) == first
    assert torch.equal(world.score(model), expected)


def test_candidates_are_scored_as_the_full_ranking_scores_them(shop, tmp_path, elsewhere):
    world = World("SLMRec", shop)
    model = world.build()
    attach_item_features(model, world.provider(tmp_path / "store"), world.config)
    full = world.score(model)
    pairs = world.scored.repeat_interleave(world.n_items)
    pairs.update(Interaction({"item_id": torch.arange(world.n_items).repeat(len(world.scored))}))
    with torch.no_grad():
        torch.testing.assert_close(model.predict(pairs).view_as(full), full)
