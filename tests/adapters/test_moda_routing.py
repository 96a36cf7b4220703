"""Which modality reaches a layer: names, ids, nesting, other threads, recomputation."""

import threading
from contextlib import nullcontext

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from recbole_sda.adapters import MoDAConfig, checkpoint_routing, routing
from recbole_sda.adapters.routing import active_route


@pytest.fixture
def model():
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))
    settings = MoDAConfig(target_modules=["0", "2"], lora_dropout=0.0, init_weights=False)
    return get_peft_model(base, settings).eval()


@pytest.fixture
def hidden_states():
    return torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(1))


def run(model, modality, hidden_states):
    with routing(modality):
        return model(hidden_states)


def test_mixed_batch_equals_separate_passes(model, hidden_states):
    ids = torch.tensor([1, 0, 0, 1])
    mixed = run(model, ids, hidden_states)
    for row, name in enumerate(["text", "image", "image", "text"]):
        torch.testing.assert_close(mixed[row], run(model, name, hidden_states[row : row + 1])[0])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8])
def test_ids_per_token_equal_separate_passes(model, hidden_states, dtype):
    ids = torch.tensor([[0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0]]).to(dtype)
    mixed = run(model, ids, hidden_states)
    by_name = torch.stack([run(model, name, hidden_states) for name in ("image", "text")])
    expected = torch.where(ids[..., None].bool(), by_name[1], by_name[0])
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(run(model, ids, hidden_states.flatten(0, 1)), expected.flatten(0, 1))


def test_flat_hidden_states_take_one_id_a_row(model, hidden_states):
    ids = torch.tensor([1, 0, 0, 1])
    torch.testing.assert_close(run(model, ids, hidden_states[:, 0]), run(model, ids, hidden_states)[:, 0])


def test_nesting_and_errors_restore_the_outer_modality():
    outer = routing("image")
    with outer:
        with routing("text"):
            assert active_route().name == "text"
        with pytest.raises(KeyError), routing("text"):
            raise KeyError
        with outer:
            pass
        assert active_route().name == "image"
    assert active_route() is None


def test_no_routing_names_the_remedy(model, hidden_states):
    with pytest.raises(RuntimeError, match=r'with routing\("image"\): model'):
        model(hidden_states)


@pytest.mark.parametrize(
    ("modality", "error", "message"),
    [
        ("audio", ValueError, "unknown modality 'audio'; this adapter has 'image', 'text'"),
        (torch.tensor([0, 1, 2, 0]), ValueError, "id 2 is out of range; this adapter has 2 modalities"),
        (torch.tensor([0, 1]), ValueError, r"\(2,\) do not fit .* \(4, 3, 6\).*\(4,\), .*\(4, 3\)"),
        (torch.zeros(4, 2, dtype=torch.long), ValueError, r"\(4, 2\) do not fit"),
        (torch.tensor([0, -1]), ValueError, "id -1 is negative"),
        (torch.zeros(1, 1, 1, dtype=torch.long), ValueError, r"shape \(1, 1, 1\)"),
        (torch.zeros(0, dtype=torch.long), ValueError, r"shape \(0,\)"),
        (torch.tensor([True]), TypeError, r"mask\.long\(\)"),
        (torch.tensor([0.0]), TypeError, "give integers"),
        (None, TypeError, r"routing\(None\)"),
        (1, TypeError, "name, or an integer tensor"),
    ],
)
def test_bad_modalities_are_named(model, hidden_states, modality, error, message):
    with pytest.raises(error, match=message):
        run(model, modality, hidden_states)


# recomputation


class Checkpointed(nn.Module):
    def __init__(self, model, **kwargs):
        super().__init__()
        self.model, self.kwargs = model, kwargs

    def forward(self, hidden_states):
        return checkpoint(self.model, hidden_states, use_reentrant=False, **self.kwargs)


def contrast(model, hidden_states):
    image, text = (run(model, name, hidden_states) for name in ("image", "text"))
    return (image * text.flip(0)).sum() + image.pow(3).sum()


def gradients(model):
    collected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return collected


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], msg=name)


def test_checkpointed_gradients_equal_plain_with_two_passes_before_backward(model, hidden_states):
    contrast(model, hidden_states).backward()
    plain = gradients(model)
    loss = contrast(Checkpointed(model, context_fn=checkpoint_routing), hidden_states)
    for _ in range(2):  # a second backward recomputes a second time
        loss.backward(retain_graph=True)
        assert_same(gradients(model), plain)
    with routing("text"):  # a modality that is active during backward changes nothing
        loss.backward()
    assert_same(gradients(model), plain)


def test_backward_in_another_thread_recomputes_the_right_modality(model, hidden_states):
    contrast(model, hidden_states).backward()
    plain = gradients(model)
    loss = contrast(Checkpointed(model, context_fn=checkpoint_routing), hidden_states)
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    assert_same(gradients(model), plain)


@pytest.mark.parametrize("during_backward", [nullcontext(), routing("text")])
def test_checkpointing_without_the_context_is_an_error_not_a_wrong_gradient(model, hidden_states, during_backward):
    loss = contrast(Checkpointed(model), hidden_states)
    with during_backward, pytest.raises(RuntimeError, match=r"context_fn.*checkpoint_routing"):
        loss.backward()


def test_routing_inside_the_checkpointed_function_needs_no_context(model, hidden_states):
    def image_pass(hidden_states):
        return run(model, "image", hidden_states)

    run(model, "image", hidden_states).pow(2).sum().backward()
    plain = gradients(model)
    checkpoint(image_pass, hidden_states, use_reentrant=False).pow(2).sum().backward()
    assert_same(gradients(model), plain)
