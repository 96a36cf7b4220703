"""A training that is stopped and goes on, against one that was left alone."""

import json
import logging

import pytest
import torch
from conftest import adapted_tiny, alignment_settings
from safetensors.torch import load_file, save_file
from torch import nn

from recbole_sda.alignment import CMSALoss, checkpoint, trainer
from recbole_sda.alignment.checkpoint import FILE, Progress, load_state, remove_state, save_state
from recbole_sda.alignment.trainer import align
from recbole_sda.errors import SDAError


class Killed(BaseException):
    """What no handler of the program may catch."""


def case(seed=0):
    """Parameters and an optimizer that has moved them."""
    torch.manual_seed(seed)
    parameters = {"a": nn.Parameter(torch.randn(3, 2)), "b": nn.Parameter(torch.randn(4))}
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1)
    for _ in range(3):
        sum(p.square().sum() for p in parameters.values()).backward()
        optimizer.step()
    return parameters, optimizer


def test_saved_equals_loaded(tmp_path):
    parameters, optimizer = case()
    records = [{"step": 0, "mrr": 1 / 3, "loss": None}]
    progress = Progress(3, records, {"a": torch.ones(3, 2), "b": torch.zeros(4)}, [{"loss": 0.1}])
    save_state(tmp_path, progress, parameters, optimizer, settings="s")
    assert [path.name for path in tmp_path.iterdir()] == [FILE]

    other, other_optimizer = case(seed=5)
    found = load_state(tmp_path, other, other_optimizer, settings="s")
    assert (found.step, found.records, found.recent) == (3, records, [{"loss": 0.1}])
    assert all(torch.equal(found.best[name], value) for name, value in progress.best.items())
    for pair, opt in ((parameters, optimizer), (other, other_optimizer)):
        opt.zero_grad()
        sum(p.square().sum() for p in pair.values()).backward()
        opt.step()  # the next step shows whether the moments came along
    assert all(torch.equal(other[name], parameters[name]) for name in parameters)
    remove_state(tmp_path)
    assert load_state(tmp_path, other, other_optimizer, settings="s") is None
    remove_state(tmp_path)


def test_interrupted_saving_leaves_the_old_state(tmp_path, monkeypatch):
    parameters, optimizer = case()
    save_state(tmp_path, Progress(3), parameters, optimizer, settings="s")

    def half(tensors, path, metadata):
        path.write_bytes(b"half")
        raise Killed

    monkeypatch.setattr(checkpoint, "save_file", half)
    with pytest.raises(Killed):
        save_state(tmp_path, Progress(4), parameters, optimizer, settings="s")
    assert load_state(tmp_path, *case(), settings="s").step == 3


def test_states_of_something_else_are_refused(tmp_path):
    parameters, optimizer = case()
    save_state(tmp_path, Progress(3), parameters, optimizer, settings="s")
    with pytest.raises(SDAError, match=rf"{FILE} is of a training with other settings; remove .*{FILE} to train"):
        load_state(tmp_path, parameters, optimizer, settings="t")
    with pytest.raises(SDAError, match="is of another model or adapter; remove"):
        load_state(tmp_path, {"a": parameters["a"]}, optimizer, settings="s")
    path = tmp_path / FILE
    whole = path.read_bytes()
    for broken in (whole[:-1], whole[: len(whole) // 2], b"", b"nonsense" * 9):
        path.write_bytes(broken)
        with pytest.raises(SDAError, match=rf"{FILE} is broken .*; remove .* to train from the start"):
            load_state(tmp_path, parameters, optimizer, settings="s")
    save_file({"a": torch.ones(1)}, path)  # no header of ours
    with pytest.raises(SDAError, match="is broken"):
        load_state(tmp_path, parameters, optimizer, settings="s")


# a whole training


SETTINGS = {"steps": 6, "batch_size": 12, "eval_every": 2, "checkpoint_every": 2, "learning_rate": 0.02}


def trained(catalog, folder=None, loss=None, r=8, **values):
    """Returns: the adapter's weights after training, the records."""
    torch.manual_seed(0)
    backbone = adapted_tiny(lora_dropout=0.2, r=r)
    loss = loss or CMSALoss(0.2, learn_temperature=True)
    settings = alignment_settings(**{**SETTINGS, **values})
    records = align(backbone, catalog, loss, settings, folder=folder, show_progress=False)
    weights = {name: p.detach().clone() for name, p in backbone.named_parameters() if p.requires_grad}
    return weights | dict(loss.named_parameters()), records


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


@pytest.fixture(scope="module")
def left_alone(catalog):
    return trained(catalog)


def killed(catalog, folder, monkeypatch, at, *, look=False, **values):
    """Trains until the step with this number, or the look after it, has been done but not kept."""
    place, name = (trainer.HeldOut, "look") if look else (trainer._Training, "_step")
    whole = getattr(place, name)

    def dying(self, *args):
        result = whole(self, *args)
        if at == (args[0] if look else self.progress.step):
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(place, name, dying)
        with pytest.raises(Killed):
            trained(catalog, folder, **values)


@pytest.mark.parametrize("micro_batch", [12, 5])
def test_killed_five_times_ends_with_the_same_weights(catalog, left_alone, tmp_path, monkeypatch, micro_batch):
    """Before the first checkpoint, after one, twice at the same step, and at the last look."""
    weights, records = left_alone if micro_batch == 12 else trained(catalog, micro_batch=micro_batch)
    for at in (1, 3, 4, 4):
        killed(catalog, tmp_path, monkeypatch, at, micro_batch=micro_batch)
    killed(catalog, tmp_path, monkeypatch, 6, look=True, micro_batch=micro_batch)
    found, found_records = trained(catalog, tmp_path, micro_batch=micro_batch)
    assert_same(found, weights)
    assert found_records == records
    assert max(record["mrr"] for record in records) > records[0]["mrr"]  # so that the best is not the start


def test_a_finished_training_is_not_trained_again(catalog, left_alone, tmp_path, monkeypatch, caplog):
    with caplog.at_level(logging.INFO, logger=trainer.logger.name):
        trained(catalog, tmp_path)
        monkeypatch.setattr(trainer._Training, "_step", None)
        found, records = trained(catalog, tmp_path)
    assert "going on after step 6 of 6" in caplog.text
    assert_same(found, left_alone[0])
    assert records == left_alone[1]


def test_what_a_checkpoint_depends_on(catalog, tmp_path, monkeypatch):
    killed(catalog, tmp_path, monkeypatch, 5)
    with pytest.raises(SDAError, match="other settings"):
        trained(catalog, tmp_path, learning_rate=0.01)
    for loss in (CMSALoss(0.3, learn_temperature=True), CMSALoss(0.2)):
        with pytest.raises(SDAError, match="other settings"):
            trained(catalog, tmp_path, loss=loss)
    with pytest.raises(SDAError, match="another model or adapter"):
        trained(catalog, tmp_path, r=4)
    # Memory ran out: smaller micro-batches go on from there.
    _, records = trained(catalog, tmp_path, micro_batch=4, checkpoint_every=1, patience=9)
    assert [record["step"] for record in records] == [0, 2, 4, 6]


def test_the_state_is_a_safetensors_file(catalog, tmp_path):
    trained(catalog, tmp_path)
    tensors = load_file(tmp_path / FILE)
    kinds = {name.partition(".")[0] for name in tensors}
    assert kinds == {"parameter", "best", "optimizer"}
    assert json.dumps(sorted(tensors)).count("loss.learned_temperature") == 2
