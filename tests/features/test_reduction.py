"""Prepared tables: standardised, reduced, in the recommender's order, made once."""

import numpy as np
import pytest
import torch

from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureProvider, FeatureStore, arrays, reduction, write_store
from recbole_sda.features.reduction import prepare_features


def provider_of(folder, values, *, missing=(), order=None, dtype=np.float32):
    """Items i0, i1, …; asked for in ``order``."""
    folder.mkdir(parents=True)
    present = np.ones(len(values), dtype=bool)
    present[list(missing)] = False
    np.save(folder / "text.npy", (values * present[:, None]).astype(dtype))
    tokens = [f"i{n}" for n in range(len(values))]
    write_store(folder, tokens, {"text": present}, settings={})
    return FeatureProvider(FeatureStore.open(folder), tokens if order is None else [tokens[n] for n in order])


def random_values(items=50, width=6, *, rank=None, shift=40.0, seed=0):
    generator = np.random.default_rng(seed)
    rank = rank or width
    return generator.normal(size=(items, rank)) @ generator.normal(size=(rank, width)) + shift


@pytest.fixture
def prepare(tmp_path):
    def prepared(provider, *, reduction="none", dimension=768):
        store = prepare_features(
            provider, "text", reduction=reduction, dimension=dimension, folder=tmp_path / "tables"
        )
        return store, np.array(store.values("text"), dtype=np.float64), store.present("text")

    return prepared


@pytest.fixture(params=[2**26, 7 * 6 * 8], ids=["one chunk", "chunks"])
def _chunks(request, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK_BYTES", request.param)


@pytest.mark.usefixtures("_chunks")
def test_every_dimension_has_mean_0_and_variance_1_in_the_order_of_the_ids(tmp_path, prepare):
    order = np.random.default_rng(1).permutation(50)
    values = random_values()
    _, table, present = prepare(provider_of(tmp_path / "store", values, missing=[7, 9], order=order))
    having = [n for n in range(50) if n not in (7, 9)]
    expected = (values - values[having].mean(0)) / values[having].std(0)
    for row, item in enumerate(order, start=1):
        assert present[row] == (item not in (7, 9))
        np.testing.assert_allclose(table[row], expected[item] * present[row], atol=2e-3)
    assert not present[0]
    assert not table[0].any()
    np.testing.assert_allclose(table[present].mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(table[present].std(0), 1, atol=1e-3)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("kind", ["pca", "whiten"])
def test_components_equal_the_singular_value_decomposition(kind, tmp_path, prepare):
    provider = provider_of(tmp_path / "store", random_values(), missing=[2])
    _, reduced, present = prepare(provider, reduction=kind, dimension=3)
    raw = provider.values("text")[provider.present("text")].astype(np.float64)
    left, values, _ = np.linalg.svd((raw - raw.mean(0)) / raw.std(0), full_matrices=False)
    if kind == "pca":
        expected = left[:, :3] * values[:3]
        expected /= np.sqrt((expected**2).mean())  # a mean variance of 1, the spectrum kept
    else:
        expected = left[:, :3] * np.sqrt(len(raw))
    signs = np.sign((reduced[present] * expected).sum(0))
    np.testing.assert_allclose(reduced[present] * signs, expected, atol=4e-3)
    assert not reduced[~present].any()
    covariance = np.cov(reduced[present].T, bias=True)
    if kind == "whiten":
        np.testing.assert_allclose(covariance, np.eye(3), atol=3e-3)
    else:
        assert np.trace(covariance) == pytest.approx(3, rel=1e-3)


def test_there_are_no_more_components_than_the_items_span(tmp_path, prepare):
    _, reduced, _ = prepare(provider_of(tmp_path / "store", random_values(4, 9)), reduction="pca")
    assert reduced.shape == (5, 3)


@pytest.mark.parametrize("kind", ["pca", "whiten"])
def test_the_rounding_of_half_precision_becomes_no_feature(kind, tmp_path, prepare):
    values = random_values(200, 64, rank=10, shift=0.0)
    provider = provider_of(tmp_path / "store", values, dtype=np.float16)
    _, reduced, _ = prepare(provider, reduction=kind, dimension=64)
    assert reduced.shape == (201, 10)


@pytest.mark.parametrize("kind", ["none", "pca", "whiten"])
def test_a_dimension_that_does_not_vary_becomes_0_and_small_ones_count(kind, tmp_path, prepare):
    values = random_values(shift=0.0) * 1e-4
    values[:, 2] = 0.7
    _, table, present = prepare(provider_of(tmp_path / "store", values), reduction=kind)
    assert np.isfinite(table).all()
    assert (table[present] ** 2).mean(0).sum() == pytest.approx(5, rel=1e-2)
    assert table.shape[1] == (6 if kind == "none" else 5)


def test_large_means_cost_no_digits(tmp_path, prepare):
    values = random_values(shift=0.0).astype(np.float32)
    _, near, _ = prepare(provider_of(tmp_path / "near", values), reduction="whiten")
    _, far, _ = prepare(provider_of(tmp_path / "far", values + 4096.0), reduction="whiten")
    np.testing.assert_allclose(near, far, atol=0.05)


def test_the_same_table_is_made_once_and_another_beside_it(tmp_path, prepare, monkeypatch):
    values = random_values()
    provider = provider_of(tmp_path / "store", values)
    first, _, _ = prepare(provider, reduction="pca", dimension=3)
    with monkeypatch.context() as patch:
        patch.setattr(reduction, "_fit", lambda *_: pytest.fail("made again"))
        again, _, _ = prepare(provider, reduction="pca", dimension=3)
        copied, _, _ = prepare(provider_of(tmp_path / "elsewhere", values), reduction="pca", dimension=3)
    assert first.path == again.path == copied.path
    FeatureStore.open(first.path, verify=True)
    assert first.manifest["settings"]["feature_dimension"] == 3

    changed = values.copy()
    changed[0] += 1
    others = [
        prepare(provider, reduction="pca", dimension=2),
        prepare(provider, reduction="whiten", dimension=3),
        prepare(provider, reduction="none", dimension=3),
        prepare(provider_of(tmp_path / "changed", changed), reduction="pca", dimension=3),
        prepare(provider_of(tmp_path / "missing", values, missing=[1]), reduction="pca", dimension=3),
        prepare(provider_of(tmp_path / "order", values, order=range(49, -1, -1)), reduction="pca", dimension=3),
    ]
    assert len({store.path for store, _, _ in others} | {first.path}) == 7
    same, _, _ = prepare(provider, reduction="none", dimension=9)  # which says nothing to `none`
    assert same.path == others[2][0].path


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["none", "pca"])
def test_values_that_are_no_numbers_are_refused_with_the_first_item(kind, broken, tmp_path, prepare):
    values = random_values()
    values[[11, 30], 3] = broken
    provider = provider_of(tmp_path / "store", values)
    with pytest.raises(SDAError, match=r"text features of item 'i11' hold NaN or an infinite.*leave text out"):
        prepare(provider, reduction=kind)
    assert not [path for path in (tmp_path / "tables").iterdir() if path.is_dir() and path.suffix == ""]


def test_a_modality_that_no_item_has_is_refused(tmp_path, prepare):
    with pytest.raises(SDAError, match="no item has text; leave it out"):
        prepare(provider_of(tmp_path / "store", random_values(5), missing=range(5)))


def test_an_eigenvectors_sign_does_not_depend_on_the_machine(tmp_path, monkeypatch, prepare):
    provider = provider_of(tmp_path / "store", random_values())
    _, one, _ = prepare(provider, reduction="pca", dimension=3)
    solve = reduction.scipy.linalg.eigh
    monkeypatch.setattr(reduction.scipy.linalg, "eigh", lambda *a, **k: (solve(*a, **k)[0], -solve(*a, **k)[1]))
    _, other, _ = prepare_again(provider, tmp_path)
    np.testing.assert_array_equal(one, other)


def prepare_again(provider, tmp_path):
    store = prepare_features(provider, "text", reduction="pca", dimension=3, folder=tmp_path / "other")
    return store, np.array(store.values("text"), dtype=np.float64), store.present("text")


def test_the_table_reads_as_torch_does(tmp_path, prepare):
    store, table, _ = prepare(provider_of(tmp_path / "store", random_values()))
    assert store.dtype == np.float16
    assert torch.from_numpy(np.array(store.values("text"))).dtype == torch.float16
    assert store.tokens[:2] == ["[PAD]", "i0"]
    assert len(table) == 51
