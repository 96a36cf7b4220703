"""torch.compile: the modality is never baked in, and compiled code computes what plain code does."""

import threading

import pytest
import torch
from test_moda import adapted, forward, inputs
from torch import nn
from torch.utils.checkpoint import checkpoint

from recbole_sda.adapters import checkpoint_routing, routing

BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
SEQUENCE_IDS = torch.tensor([0, 1, 1, 0])
TOKEN_IDS = torch.tensor([[0, 1, 1, 0, 1], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]])


def one_adapted_layer(**settings):
    return adapted(target_modules=["first"], **settings)  # a graph of two takes twice as long to make


class TwoPasses(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, hidden_states):
        image, text = (forward(self.model, name, hidden_states) for name in ("image", "text"))
        return (image * text.flip(0)).sum() + image.pow(3).sum()


class Checkpointed(nn.Module):
    def __init__(self, model, **kwargs):
        super().__init__()
        self.model, self.kwargs = model, kwargs

    def forward(self, hidden_states):
        return checkpoint(self.model, hidden_states, use_reentrant=False, **self.kwargs)


@pytest.fixture(autouse=True)
def no_compiled_code():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_compiled_model_equals_plain_under_every_route(backend):
    model = one_adapted_layer()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for route in ("image", "text", SEQUENCE_IDS, 1 - SEQUENCE_IDS, TOKEN_IDS, "image", "text"):
        ours, theirs = forward(compiled, route), forward(model, route)
        torch.testing.assert_close(ours, theirs)
        assert_same(gradients(model, ours.square().sum()), gradients(model, theirs.square().sum()))
    # one graph a name and one a shape of the ids: going back to a route compiles nothing
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_train_and_eval_of_a_compiled_model(backend):
    model = one_adapted_layer(lora_dropout=0.5)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    plain = forward(model, "image")
    for _ in range(2):
        torch.testing.assert_close(forward(compiled.eval(), "image"), plain)
        assert not torch.allclose(forward(compiled.train(), "image"), plain)


@pytest.mark.parametrize(("fullgraph", "error"), [(True, torch._dynamo.exc.Unsupported), (False, RuntimeError)])
def test_forgetting_the_modality_is_an_error_in_compiled_code_too(fullgraph, error):
    model = torch.compile(one_adapted_layer(), backend="aot_eager", fullgraph=fullgraph)
    forward(model, "image")
    with pytest.raises(error, match=r'with routing\("image"\): model'):
        model(inputs())
    with pytest.raises((error, ValueError), match="id 2 is out of range"):
        forward(model, 2 * SEQUENCE_IDS)


@pytest.mark.slow
def test_another_thread_does_not_inherit_the_modality_of_compiled_code():
    model = torch.compile(one_adapted_layer(), backend="aot_eager")
    errors = []

    def call_without_routing():
        try:
            model(inputs())
        except RuntimeError as error:
            errors.append(str(error))

    with routing("image"):
        model(inputs())
        thread = threading.Thread(target=call_without_routing)
        thread.start()
        thread.join()
    assert "which modality this pass serves" in errors[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "compiled",
    [
        pytest.param(lambda model, compile: compile(TwoPasses(model)), id="routing inside"),
        pytest.param(
            lambda model, compile: TwoPasses(compile(Checkpointed(model, context_fn=checkpoint_routing))),
            id="checkpointing inside",
        ),
        pytest.param(
            lambda model, compile: TwoPasses(Checkpointed(compile(model), context_fn=checkpoint_routing)),
            id="checkpointing outside",
        ),
    ],
)
def test_two_passes_before_one_backward(compiled):
    model = one_adapted_layer()
    expected = gradients(model, TwoPasses(model)(inputs()))
    ours = compiled(model, lambda module: torch.compile(module, backend="aot_eager", fullgraph=True))
    assert_same(gradients(model, ours(inputs())), expected)


@pytest.mark.slow
def test_checkpointing_compiled_code_without_the_context_is_an_error():
    model = one_adapted_layer()
    loss = TwoPasses(Checkpointed(torch.compile(model, backend="aot_eager")))(inputs())
    with pytest.raises(RuntimeError, match="which modality"):
        loss.backward()
