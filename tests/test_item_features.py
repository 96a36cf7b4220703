"""Features in place of an item table: equal to the stock model on its own table, right rows, right cache."""

import numpy as np
import pytest
import torch

from recbole_sda.catalog.demo import write_demo
from recbole_sda.config import SDAConfig
from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureProvider, FeatureStore, write_store
from recbole_sda.model import ItemFeatures, attach_item_features, check_model
from recbole_sda.model.slots import SLOTS
from recbole_sda.model.standardise import standardised
from recbole_sda.recommend import item_tokens, load_dataset
from recbole_sda.trainer import build_trainer

STOCK = [model for model in SLOTS if model != "VBPR"]


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    write_demo(folder / "demo", items=30, users=40)
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def configure(model, data_path, **values):
    defaults = {"data_path": str(data_path), "epochs": 1, "use_gpu": False, "train_batch_size": 64}
    return SDAConfig(model, "demo", config_dict={**defaults, **values})


def store_of(folder, tokens, modalities):
    """modality → (array, present)."""
    folder.mkdir()
    for name, (values, _) in modalities.items():
        np.save(folder / f"{name}.npy", values)
    write_store(folder, tokens, {name: present for name, (_, present) in modalities.items()}, settings={})
    return FeatureStore.open(folder)


def random_provider(tmp_path, tokens, *, width=6, missing=(), modalities=("image", "text"), shift=0.0):
    generator = np.random.default_rng(0)
    present = np.ones(len(tokens), dtype=bool)
    present[list(missing)] = False
    arrays = {}
    for name in modalities:
        values = generator.normal(shift, 1, (len(tokens), width)).astype(np.float32)
        values[~present] = 0
        arrays[name] = values, present
    return FeatureProvider(store_of(tmp_path / "store", tokens, arrays), tokens)


def item_features(n_items=20, width=5, dim=4, *, extra=0, missing=(), std=0.5, **options):
    generator = torch.Generator().manual_seed(1)
    present = torch.ones(n_items + 1, dtype=torch.bool)
    present[[0, *missing]] = False
    values = {m: torch.randn(n_items + 1, width, generator=generator) for m in ("image", "text")}
    for table in values.values():
        table[~present] = 0
    torch.manual_seed(2)
    return ItemFeatures(
        values,
        {m: present.clone() for m in values},
        num_embeddings=n_items + 1 + extra,
        embedding_dim=dim,
        std=std,
        **options,
    )


# --- the swap ---


@pytest.mark.parametrize("name", STOCK)
def test_a_stock_model_scores_and_learns_the_same_when_the_features_are_its_own_table(name, data_path):
    config = configure(name, data_path)
    dataset = load_dataset(config)
    train_data, _, test_data = _loaders(config, dataset)
    torch.manual_seed(0)
    model = config.model_class(config, train_data._dataset)
    interaction, scored = next(iter(train_data)), next(iter(test_data))[0]
    expected = _outputs(model, interaction, scored)

    (slot,) = SLOTS[name]
    table = getattr(model, slot)
    replacement = _holding(table, dataset.item_num)
    with torch.no_grad():
        table.weight[0] = 0  # features give padding no row of its own
    expected = _outputs(model, interaction, scored)
    setattr(model, slot, replacement)
    for stock, swapped in zip(expected, _outputs(model, interaction, scored), strict=True):
        torch.testing.assert_close(swapped, stock, rtol=1e-5, atol=1e-5)


def _loaders(config, dataset):
    from recbole.data import data_preparation

    return data_preparation(config, dataset)


def _outputs(model, interaction, scored):
    torch.manual_seed(3)
    loss = model.train().calculate_loss(interaction)
    with torch.no_grad():
        scores = model.eval().full_sort_predict(scored)
    return loss.detach(), scores.view(-1)


def _holding(table, n_items):
    """An ItemFeatures whose rows are those of ``table``: its features are the table, its projection inverts."""
    rows, dim = table.weight.shape
    features = table.weight.detach()[:n_items].clone()
    features[0] = 0
    present = torch.arange(n_items) > 0
    swapped = ItemFeatures({"text": features}, {"text": present}, num_embeddings=rows, embedding_dim=dim, std=1.0)
    with torch.no_grad():
        swapped.projection["text"].weight.copy_(torch.eye(dim) * dim**0.5)
        swapped.extra.copy_(table.weight[n_items:])
    return swapped


@pytest.mark.parametrize("name", list(SLOTS))
def test_train_save_reload_and_rank(name, data_path, tmp_path):
    config = configure(name, data_path)
    dataset = load_dataset(config)
    provider = random_provider(tmp_path, item_tokens(dataset), missing=[3])
    train_data, valid_data, test_data = _loaders(config, dataset)
    model = config.model_class(config, train_data._dataset)
    attach_item_features(model, provider, config)
    trainer = build_trainer(config, model, str(tmp_path / "best.pth"))
    trainer.fit(train_data, valid_data, show_progress=False)
    first = trainer.evaluate(test_data)

    saved = torch.load(tmp_path / "best.pth", weights_only=True)
    assert not [key for key in saved["state_dict"] if "features_" in key or "present_" in key]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    assert trainer.evaluate(test_data) == first  # it loads the best state, and no stale table survives
    assert set(first) >= {"hit@10", "ndcg@10", "tailhit@10", "tailndcg@10"}


def test_the_mask_token_of_bert4rec_has_a_learned_row_of_its_own(data_path, tmp_path):
    config = configure("BERT4Rec", data_path)
    dataset = load_dataset(config)
    train_data, _, _ = _loaders(config, dataset)
    model = config.model_class(config, train_data._dataset)
    attach_item_features(model, random_provider(tmp_path, item_tokens(dataset)), config)
    table = model.item_embedding
    assert table.num_embeddings == dataset.item_num + 1
    mask = torch.tensor([dataset.item_num])
    torch.testing.assert_close(table(mask), table.extra)
    table(mask).sum().backward()
    assert table.extra.grad.abs().sum() > 0


def test_a_model_without_a_known_item_table_is_refused_with_the_reason():
    with pytest.raises(SDAError, match=r"model='Caser'.*item table.*--features=none"):
        check_model("Caser")


def test_modalities_that_the_store_lacks_are_refused(data_path, tmp_path):
    config = configure("BPR", data_path)
    dataset = load_dataset(config)
    train_data, _, _ = _loaders(config, dataset)
    provider = random_provider(tmp_path, item_tokens(dataset), modalities=("text",))
    with pytest.raises(SDAError, match="--modalities=text"):
        attach_item_features(config.model_class(config, train_data._dataset), provider, config)


# --- rows ---


def test_rows_equal_the_plain_sum_of_projections():
    table = item_features(missing=[4])
    for item in range(1, 21):
        expected = table.offset.clone()
        for name in ("image", "text"):
            values = getattr(table, f"features_{name}")[item]
            projected = table.projection[name].weight @ values / (2 * 5) ** 0.5
            expected = expected + (table.missing[name] if item == 4 else projected)
        torch.testing.assert_close(table.weight[item], expected)
    assert torch.equal(table.weight[0], torch.zeros(4))


@pytest.mark.parametrize("options", [{}, {"fusion": "sum"}, {"item_id": torch.nn.Embedding(23, 4)}])
def test_a_lookup_equals_the_row_of_the_whole_table(options):
    table = item_features(extra=2, missing=[4, 7], **options)
    few = torch.tensor([[0, 4, 22], [21, 9, 1]])
    many = torch.arange(23).repeat(3, 2)
    torch.testing.assert_close(table(few), table.weight[few])
    torch.testing.assert_close(table(many), table.weight[many])


def test_sum_projects_the_mean_of_the_modalities_that_an_item_has():
    table = item_features(fusion="sum")
    table.present_image[5] = False
    table.features_image[5] = 0
    weight = table.projection["mean"].weight / 5**0.5
    both = (table.features_image[6] + table.features_text[6]) / 2
    torch.testing.assert_close(table.weight[6], weight @ both + table.offset)
    torch.testing.assert_close(table.weight[5], weight @ table.features_text[5] + table.offset)


def test_sum_needs_one_width():
    values = {"image": torch.zeros(3, 4), "text": torch.zeros(3, 5)}
    present = {name: torch.ones(3, dtype=torch.bool) for name in values}
    with pytest.raises(ValueError, match=r"fusion=sum.*image.: 4, .text.: 5"):
        ItemFeatures(values, present, num_embeddings=3, embedding_dim=2, std=1.0, fusion="sum")


@pytest.mark.parametrize("width", [8, 512])
def test_rows_start_at_the_scale_of_the_table_they_replace(width):
    table = item_features(n_items=400, width=width, dim=64, std=0.02)
    assert float(table.weight[1:].std()) == pytest.approx(0.02, rel=0.15)


# --- the cache ---


def test_the_table_is_computed_once_a_step_and_again_after_the_step():
    table = item_features()
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    first = table.weight
    assert table.weight is first
    first.sum().backward()
    assert table.weight is not first  # its graph is gone
    torch.testing.assert_close(table.weight, first)
    optimizer.step()
    assert not torch.equal(table.weight, first)


def test_two_losses_with_two_backwards_give_the_sum_of_the_gradients():
    table, other = item_features(), item_features()
    (table.weight.sum() + table.weight.square().sum()).backward()
    other.weight.sum().backward()
    other.weight.square().sum().backward()
    for (name, one), two in zip(table.named_parameters(), other.parameters(), strict=True):
        if one.numel():
            torch.testing.assert_close(one.grad, two.grad, msg=name)


def test_a_table_of_evaluation_is_not_used_in_training_and_loading_renews_it():
    table = item_features()
    with torch.no_grad():
        cached = table.weight
    assert table.weight.requires_grad
    state = {name: torch.randn_like(value) for name, value in table.state_dict().items()}
    table.eval()
    with torch.no_grad():
        cached = table.weight
        table.load_state_dict(state)
        assert not torch.equal(table.weight, cached)


# --- standardising ---


def test_features_come_standardised_in_the_order_of_the_ids(tmp_path):
    tokens = [f"i{n}" for n in range(50)]
    provider = random_provider(tmp_path, tokens, missing=[7, 9], shift=40.0)
    table, mask = standardised(provider, "text")
    assert mask.nonzero().squeeze(1).tolist() == [n + 1 for n in range(50) if n not in (7, 9)]
    present = table[mask].double()
    torch.testing.assert_close(present.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(present.std(0, correction=0), torch.ones(6, dtype=torch.float64), atol=1e-4, rtol=0)
    assert not table[~mask].any()
    raw = provider.values("text")[3]
    kept = provider.values("text")[provider.present("text")]
    torch.testing.assert_close(table[4].numpy(), (raw - kept.mean(0)) / kept.std(0), atol=1e-4, rtol=1e-4)


def test_pca_equals_the_singular_value_decomposition(tmp_path):
    tokens = [f"i{n}" for n in range(40)]
    provider = random_provider(tmp_path, tokens, missing=[2])
    full, mask = standardised(provider, "text")
    reduced, _ = standardised(provider, "text", reduction="pca", dimension=3)
    rows = full[mask].double()
    left, values, _ = torch.linalg.svd(rows, full_matrices=False)
    expected = left[:, :3] * values[:3]
    expected = expected / expected.square().mean().sqrt()  # a mean variance of 1, the spectrum kept
    signs = torch.sign((reduced[mask].double() * expected).sum(0))
    torch.testing.assert_close(reduced[mask].double() * signs, expected, atol=1e-4, rtol=1e-4)
    assert not reduced[~mask].any()


def test_pca_keeps_fewer_components_than_items(tmp_path):
    provider = random_provider(tmp_path, ["a", "b", "c", "d"], width=9)
    reduced, _ = standardised(provider, "text", reduction="pca", dimension=768)
    assert reduced.shape == (5, 3)


def test_pca_makes_no_feature_of_the_rounding_of_half_precision(tmp_path):
    generator = np.random.default_rng(0)
    tokens = [f"i{n}" for n in range(200)]
    values = (generator.normal(size=(200, 10)) @ generator.normal(size=(10, 64))).astype(np.float16)
    store = store_of(tmp_path / "store", tokens, {"text": (values, np.ones(200, bool))})
    reduced, _ = standardised(FeatureProvider(store, tokens), "text", reduction="pca", dimension=64)
    assert reduced.shape == (201, 10)


def test_padding_is_zero_with_item_ids_too():
    table = item_features(item_id=torch.nn.Embedding(21, 4))
    assert not table.weight[0].any()
    assert not table(torch.tensor([0, 3]))[0].any()
