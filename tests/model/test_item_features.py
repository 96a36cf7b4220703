"""ItemFeatures: rows against plain formulas, the same singly and all at once, from disk or device, never stale."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recbole_sda.features import FeatureStore, write_store
from recbole_sda.model import ItemFeatures, projection
from recbole_sda.model import item_features as item_features_module
from recbole_sda.model.projection import FrozenProduct, MappedTable

N_ITEMS, WIDTH, DIM = 20, 5, 4


def inputs(n_items=N_ITEMS, width=WIDTH, *, missing=(), modalities=("image", "text")):
    """Features and presence; the first modality lacks ``missing``, which all others have."""
    generator = torch.Generator().manual_seed(1)
    values = {m: torch.randn(n_items + 1, width, generator=generator) for m in modalities}
    present = {m: torch.arange(n_items + 1) > 0 for m in modalities}
    present[modalities[0]][list(missing)] = False
    for name, table in values.items():
        table[~present[name]] = 0
    return values, present


def item_features(values, present, *, extra=0, dim=DIM, std=0.5, item_id=False, **options):
    torch.manual_seed(2)
    n_rows = len(next(iter(values.values()))) + extra
    return ItemFeatures(
        values,
        present,
        num_embeddings=n_rows,
        embedding_dim=dim,
        std=std,
        item_id=torch.nn.Embedding(n_rows, dim, _weight=torch.randn(n_rows, dim) * std) if item_id else None,
        **options,
    )


def disturbed(table):
    """The same with every parameter drawn anew, so that none is at a start that hides it."""
    for parameter in table.parameters():
        torch.nn.init.normal_(parameter)
    return table


OPTIONS = [
    {},
    {"fusion": "sum"},
    {"fusion": "gated"},
    {"fusion": "attention"},
    {"hidden_size": 7},
    {"hidden_size": 7, "activation": "none", "fusion": "sum"},
    {"hidden_size": 7, "activation": "relu", "fusion": "gated"},
    {"hidden_size": 7, "activation": "tanh", "fusion": "attention"},
    {"item_id": True},
    {"item_id": True, "item_id_fusion": "concat"},
    {"normalize": True},
    {"normalize": True, "hidden_size": 7, "item_id": True, "fusion": "gated"},
]
every_option = pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda options: ",".join(f"{k}={v}" for k, v in options.items()) or "plain"
)


# --- rows ---


def projected(table, name, item):
    """h_m of one item by the formula, a linear projection."""
    values = getattr(table, f"features_{name}")[item]
    return table.projection[name].weight @ values / (len(table.projection) * len(values)) ** 0.5


def test_concat_adds_the_projections_and_a_vector_for_what_is_missing():
    table = disturbed(item_features(*inputs(missing=[4])))
    for item in range(1, N_ITEMS + 1):
        expected = table.offset.clone()
        for name in ("image", "text"):
            lacks = item == 4 and name == "image"
            expected = expected + (table.missing[name] if lacks else projected(table, name, item))
        torch.testing.assert_close(table.weight[item], expected)
    assert torch.equal(table.weight[0], torch.zeros(DIM))


def test_sum_projects_the_mean_of_the_modalities_that_an_item_has():
    values, present = inputs(missing=[5, 7])
    values["text"][7], present["text"][7] = 0, False
    table = disturbed(item_features(values, present, fusion="sum"))
    weight = table.projection["mean"].weight / WIDTH**0.5
    both = (values["image"][6] + values["text"][6]) / 2
    torch.testing.assert_close(table.weight[6], weight @ both + table.offset)
    torch.testing.assert_close(table.weight[5], weight @ values["text"][5] + table.offset)
    torch.testing.assert_close(table.weight[7], table.missing["mean"] + table.offset)


def test_sum_needs_one_width():
    values, present = inputs()
    values["text"] = torch.zeros(N_ITEMS + 1, WIDTH + 1)
    with pytest.raises(ValueError, match=r"fusion=sum.*image.: 5, .text.: 6"):
        item_features(values, present, fusion="sum")


def rows_of_item(table, item, lacking=()):
    """h_m of the weighted fusions, where no modality shares its scale with the others."""
    names = table.modalities
    scale = len(names) ** 0.5
    return [table.missing[n] if n in lacking else projected(table, n, item) * scale for n in names]


def test_a_gate_weighs_the_modalities_in_every_dimension():
    std = 0.5
    table = disturbed(item_features(*inputs(missing=[4], modalities=("image", "text", "audio")), fusion="gated"))
    gate = table.requires_grad_(False).fusion.gate
    for item in (3, 4):
        hidden = rows_of_item(table, item, ("image",) if item == 4 else ())
        logits = gate.weight @ torch.cat(hidden) / std + gate.bias
        expected = table.offset.clone()
        for k in range(DIM):
            powers = [float(torch.exp(logits[m * DIM + k])) for m in range(3)]
            for m in range(3):
                expected[k] = expected[k] + powers[m] / sum(powers) * hidden[m][k]
        torch.testing.assert_close(table.weight[item], expected)


def test_attention_weighs_the_modalities_of_every_item():
    std = 0.5
    table = disturbed(
        item_features(*inputs(missing=[4], modalities=("image", "text", "audio")), fusion="attention")
    )
    for item in (3, 4):
        hidden = rows_of_item(table, item, ("image",) if item == 4 else ())
        key, query = table.fusion.key, table.fusion.query
        powers = [torch.exp(query @ torch.tanh(key.weight @ (h / std) + key.bias)) for h in hidden]
        expected = sum(power / sum(powers) * h for power, h in zip(powers, hidden, strict=True)) + table.offset
        torch.testing.assert_close(table.weight[item], expected)


@pytest.mark.parametrize("fusion", ["gated", "attention"])
def test_a_gate_learns_which_modality_tells(fusion):
    """What is asked for is told by the text alone; the image is noise that no weight can hide from the sum."""
    values, present = inputs(n_items=60)
    table = item_features(values, present, fusion=fusion, std=1.0)
    with torch.no_grad():
        for name in table.modalities:
            table.projection[name].weight.copy_(torch.eye(DIM, WIDTH) * WIDTH**0.5)
            table.projection[name].weight.requires_grad_(False)
    target = values["text"][1:, :DIM]
    optimizer = torch.optim.Adam([p for p in table.fusion.parameters() if p.requires_grad], lr=0.05)
    before = F.mse_loss(table.weight[1:], target).item()
    for _ in range(150):
        optimizer.zero_grad()
        F.mse_loss(table.weight[1:], target).backward()
        optimizer.step()
    assert F.mse_loss(table.weight[1:], target) < (0.05 if fusion == "gated" else 0.6) * before


def test_a_hidden_layer_stands_between_two_projections():
    table = disturbed(item_features(*inputs(missing=[4]), hidden_size=7, activation="tanh"))
    expected = table.offset.clone()
    for name in table.modalities:
        mlp, x = table.projection[name], getattr(table, f"features_{name}")[9]
        hidden = torch.tanh(mlp.first.weight @ x / (2 * WIDTH) ** 0.5 + mlp.first.bias)
        expected = expected + mlp.last.weight @ hidden / 7**0.5
    torch.testing.assert_close(table.weight[9], expected)


def test_normalised_features_have_length_one():
    values, present = inputs(missing=[4])
    table = disturbed(item_features(values, present, normalize=True))
    expected = table.offset.clone()
    for name in table.modalities:
        expected = expected + table.projection[name].weight @ (values[name][9] / values[name][9].norm()) / 2**0.5
    torch.testing.assert_close(table.weight[9], expected)
    assert table.weight.isfinite().all()  # a missing item's length is 0


@pytest.mark.parametrize("way", ["add", "concat"])
def test_item_ids_are_added_or_stand_beside_the_features(way):
    values, present = inputs()
    table = disturbed(item_features(values, present, item_id=True, item_id_fusion=way))
    content = sum(projected(table, name, 9) for name in table.modalities) + table.offset
    own = table.item_id.weight[9]
    if way == "add":
        expected = content + own
    else:
        expected = table.join.weight @ torch.cat([content, own]) / (2 * DIM) ** 0.5
    torch.testing.assert_close(table.weight[9], expected)


@every_option
def test_a_lookup_equals_the_row_of_the_whole_table_in_values_and_gradients(options):
    table = disturbed(item_features(*inputs(missing=[4, 7]), extra=2, **options))
    few, many = torch.tensor([[0, 4, 22], [21, 9, 4]]), torch.arange(23).repeat(3, 2)
    weights = torch.randn(2, 3, DIM)
    (table(few) * weights).sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in table.named_parameters()}
    torch.testing.assert_close(table(many), table.weight[many])
    looked_up = table(few)
    table.zero_grad()
    torch.testing.assert_close(looked_up, table.weight[few])
    (table.weight[few] * weights).sum().backward()
    for name, parameter in table.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name)


@every_option
def test_a_table_in_parts_equals_the_whole_one(options, monkeypatch):
    table = disturbed(item_features(*inputs(missing=[4, 7]), extra=2, **options))
    monkeypatch.setattr(item_features_module, "PART_ROWS", 6)
    expected = table.weight
    with torch.no_grad():
        torch.testing.assert_close(table.weight, expected)


@every_option
def test_padding_is_zero(options):
    table = disturbed(item_features(*inputs(), **options))
    assert not table.weight[0].any()
    assert not table(torch.tensor([0, 3]))[0].any()


@every_option
@pytest.mark.parametrize("width", [8, 512])
@pytest.mark.parametrize("modalities", [("text",), ("image", "text", "audio")])
def test_rows_start_at_the_deviation_of_the_table_that_they_replace(width, modalities, options):
    missing = [3, 5, 8]
    table = item_features(*inputs(200, width, missing=missing, modalities=modalities), dim=64, std=0.02, **options)
    assert float(table.weight[1:].detach().std()) == pytest.approx(0.02, rel=0.03)


# --- held-out items ---


@every_option
def test_a_held_out_item_is_padding_in_training_and_its_features_in_evaluation(options):
    cold = torch.zeros(N_ITEMS + 1, dtype=torch.bool)
    cold[[4, 9]] = True
    warm = disturbed(item_features(*inputs(), **options))
    table = copy.deepcopy(warm)
    table.hold_out(cold)
    ids = torch.tensor([4, 5, 9])
    for rows in (table.train().weight[ids], table(ids)):
        assert not rows[[0, 2]].any()
        torch.testing.assert_close(rows[1], warm.weight[5])
    table(torch.tensor([4, 9])).sum().backward()
    table.weight[ids[[0, 2]]].square().sum().backward()
    assert not any(p.grad.any() for p in table.parameters() if p.grad is not None)

    if table.item_id is not None:
        assert not table.item_id.weight[cold].any()
        with torch.no_grad():
            warm.item_id.weight[cold] = 0
    torch.testing.assert_close(table.eval().weight, warm.eval().weight)
    torch.testing.assert_close(table(ids), warm(ids))
    assert table.weight[4].any()


def test_the_item_ids_of_held_out_items_stay_at_zero_in_training():
    cold = torch.arange(N_ITEMS + 1) == 4
    table = item_features(*inputs(), item_id=True)
    table.hold_out(cold)
    optimizer = torch.optim.Adam(table.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        table.weight.square().sum().backward()
        optimizer.step()
    assert not table.item_id.weight[4].any()


def test_what_is_held_out_is_said_of_every_item():
    with pytest.raises(ValueError, match=r"cold is \(3,\) torch.bool, not \(21,\) bool"):
        item_features(*inputs()).hold_out(torch.zeros(3, dtype=torch.bool))


# --- the cache ---


def test_the_table_is_computed_once_a_step_and_again_after_the_step():
    table = item_features(*inputs())
    optimizer = torch.optim.Adam(table.parameters(), lr=0.1)
    first = table.weight
    assert table.weight is first
    first.sum().backward()
    assert table.weight is not first  # its graph is gone
    torch.testing.assert_close(table.weight, first)
    optimizer.step()
    assert not torch.equal(table.weight, first)


def test_once_the_table_is_there_a_lookup_reads_it():
    table = item_features(*inputs()).eval()
    reads = []
    table.projection["text"].register_forward_hook(lambda *_: reads.append(1))
    with torch.no_grad():
        table(torch.tensor([1, 2]))
        _ = table.weight
        table(torch.tensor([3]))
    assert len(reads) == 2


def test_two_losses_with_two_backwards_give_the_sum_of_the_gradients():
    table, other = item_features(*inputs()), item_features(*inputs())
    (table.weight.sum() + table.weight.square().sum()).backward()
    other.weight.sum().backward()
    other.weight.square().sum().backward()
    for (name, one), two in zip(table.named_parameters(), other.parameters(), strict=True):
        if one.numel():
            torch.testing.assert_close(one.grad, two.grad, msg=name)


def test_a_table_of_evaluation_is_not_used_in_training_and_loading_renews_it():
    table = item_features(*inputs())
    with torch.no_grad():
        cached = table.weight
    assert table.weight.requires_grad
    state = {name: torch.randn_like(value) for name, value in table.state_dict().items()}
    for assign in (False, True):
        table.eval()
        with torch.no_grad():
            cached = table.weight
            table.load_state_dict({name: value + 1 for name, value in state.items()}, assign=assign)
            assert not torch.equal(table.weight, cached)
            state = table.state_dict()


def test_other_parameter_tensors_renew_the_table():
    table = item_features(*inputs()).eval()
    with torch.no_grad():
        cached = table.weight
        table.offset.data = torch.ones(DIM)  # changes no version
        torch.testing.assert_close(table.weight[1:], cached[1:] + 1)


def test_a_table_of_mixed_precision_is_not_used_outside_of_it():
    table = disturbed(item_features(*inputs()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = table.weight
    exact = table.weight
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.05)
    rough.sum().backward()
    gradients = [parameter.grad.clone() for parameter in table.parameters() if parameter.numel()]
    table.zero_grad()
    table.weight.sum().backward()
    for gradient, parameter in zip(gradients, (p for p in table.parameters() if p.numel()), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=0.05, atol=0.1)


def test_a_table_of_inference_mode_can_be_followed_by_training():
    table = item_features(*inputs())
    with torch.inference_mode():
        _ = table.weight
    with torch.no_grad():
        rows = table.weight
    (rows * torch.ones(DIM, requires_grad=True)).sum().backward()


def test_a_copy_shares_the_features_and_has_parameters_of_its_own():
    table = item_features(*inputs(), item_id=True)
    kept = table.weight  # not a leaf, which no copy may hold
    copied = copy.deepcopy(table)
    assert copied.features_text is table.features_text
    assert copied.features_text.data_ptr() == table.features_text.data_ptr()
    torch.testing.assert_close(copied.weight, kept)
    with torch.no_grad():
        copied.offset += 1
    torch.testing.assert_close(table.weight, kept)
    assert not torch.equal(copied.weight, kept)


def test_no_checkpoint_holds_the_features():
    table = item_features(*inputs(), normalize=True)
    table.hold_out(torch.zeros(N_ITEMS + 1, dtype=torch.bool))
    assert set(table.state_dict()) == {name for name, _ in table.named_parameters()}
    assert not any(values.shape[:1] == (N_ITEMS + 1,) for values in table.state_dict().values())
    assert ItemFeatures.bias is None


# --- features in half precision and on the disk ---


@pytest.fixture(params=[torch.float32, torch.float16], ids=["single", "half"])
def small_chunks(request, monkeypatch):
    monkeypatch.setattr(projection, "CHUNK_BYTES", {"cpu": 3 * WIDTH * 4})
    return request.param


def test_the_product_in_chunks_equals_the_plain_one(small_chunks):
    values, weight = torch.randn(11, WIDTH).to(small_chunks), torch.randn(DIM, WIDTH, requires_grad=True)
    gradient = torch.randn(11, DIM)
    product = FrozenProduct.apply(weight, values)
    product.backward(gradient)
    torch.testing.assert_close(product, values.float() @ weight.T)
    torch.testing.assert_close(weight.grad, gradient.T @ values.float())
    assert FrozenProduct.apply(weight, values[:0]).shape == (0, DIM)


@every_option
def test_features_on_the_disk_give_the_same_rows_and_gradients(options, tmp_path, small_chunks):
    values, present = inputs(missing=[4, 7])
    values = {name: table.to(small_chunks) for name, table in values.items()}
    mapped = {name: mapped_table(tmp_path / name, name, table, present[name]) for name, table in values.items()}
    one, other = (
        item_features(values, present, extra=1, **options),
        item_features(mapped, present, extra=1, **options),
    )
    other.load_state_dict(disturbed(one).state_dict())
    ids = torch.tensor([[3, 4, 3], [21, 0, 19]])
    for rows in (lambda table: table.weight, lambda table: table(ids)):
        torch.testing.assert_close(rows(other), rows(one))
        for table in (one, other):
            table.zero_grad()
            rows(table).square().sum().backward()
        for (name, parameter), expected in zip(other.named_parameters(), one.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, expected.grad, msg=name)


def mapped_table(folder, name, values, present):
    folder.mkdir()
    np.save(folder / f"{name}.npy", values.numpy())
    write_store(folder, [f"i{n}" for n in range(len(values))], {name: present.numpy()}, settings={})
    return MappedTable(FeatureStore.open(folder), name)


def test_a_lookup_reads_only_its_rows_from_disk_each_once(tmp_path, monkeypatch):
    values, present = inputs(modalities=("text",))
    table = item_features({"text": mapped_table(tmp_path / "t", "text", values["text"], present["text"])}, present)
    taken = []
    take = FeatureStore.take
    monkeypatch.setattr(FeatureStore, "take", lambda s, m, rows: taken.append(rows.tolist()) or take(s, m, rows))
    table(torch.tensor([[9, 2], [2, 9]])).sum().backward()
    assert taken == [[2, 9]]


def test_nothing_of_the_features_is_kept_for_the_backward_pass():
    values, present = inputs(300, 50, modalities=("text",))
    table = item_features({"text": values["text"].half()}, present)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        rows = table.weight
    rows.sum().backward()
    assert kept
    assert all(50 not in shape[1:] or shape[0] <= DIM for shape in kept)
