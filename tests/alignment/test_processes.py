"""Two processes with half the items each, against one with all of them."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import adapted_tiny, alignment_settings, open_demo
from two_processes import in_two_processes

from recbole_sda.alignment import CMSALoss, TeacherAttack
from recbole_sda.alignment.checkpoint import FILE
from recbole_sda.alignment.processes import Processes
from recbole_sda.alignment.trainer import align
from recbole_sda.catalog.corrupted import corrupt
from recbole_sda.errors import SDAError

SETTINGS = {"steps": 4, "batch_size": 13, "eval_every": 2, "checkpoint_every": 2, "learning_rate": 0.01}


def train(demo_folder, folder=None, **values):
    """Weights after training, learned temperature among them, and the records."""
    torch.manual_seed(0)
    backbone = adapted_tiny(lora_dropout=0.0)
    loss = CMSALoss(0.2, learn_temperature=True)
    settings = alignment_settings(**{**SETTINGS, **values})
    records = align(backbone, open_demo(demo_folder), loss, settings, folder=folder, show_progress=False)
    weights = {name: p.detach().clone() for name, p in backbone.named_parameters() if p.requires_grad}
    return weights | {"temperature": loss.learned_temperature.detach()}, records


def half(rank, demo_folder, folder, micro_batch):
    return train(demo_folder, folder, micro_batch=micro_batch)


@pytest.mark.parametrize("micro_batch", [64, 3])
def test_two_processes_train_what_one_trains(demo_folder, tmp_path, micro_batch):
    """13 items a step are 7 and 6; the items held out are an odd number, too."""
    expected, records = train(demo_folder)
    results = in_two_processes(half, tmp_path, demo_folder, tmp_path, micro_batch)
    for weights, found_records in results:
        for name, value in expected.items():
            torch.testing.assert_close(weights[name], value, rtol=2e-3, atol=2e-4)
        assert [record["step"] for record in found_records] == [0, 2, 4]
        for found, record in zip(found_records, records, strict=True):
            assert found["held_out_loss"] == pytest.approx(record["held_out_loss"], rel=1e-3)
            assert found["loss"] is None or found["loss"] == pytest.approx(record["loss"], rel=1e-3)
    assert results[0][1] == results[1][1]
    assert all(torch.equal(results[0][0][name], results[1][0][name]) for name in expected)
    # One process goes on from what two have left.
    assert (tmp_path / FILE).is_file()
    resumed, resumed_records = train(demo_folder, tmp_path)
    assert resumed_records == results[0][1]
    assert all(torch.equal(resumed[name], results[0][0][name]) for name in expected)


def attacked(rank, folder):
    """Trained weights, with a corrupted catalogue and a teacher that is wrong about half the pairs."""
    torch.manual_seed(0)
    backbone, loss = adapted_tiny(lora_dropout=0.0), CMSALoss(0.3, attack=TeacherAttack(0.5, 1))
    catalog = corrupt(open_demo(folder), {"image": 0.3, "pairs": 0.3}, seed=1)
    settings = alignment_settings(steps=3, batch_size=13, learning_rate=0.01)
    align(backbone, catalog, loss, settings, show_progress=False)
    return {name: p.detach().clone() for name, p in backbone.named_parameters() if p.requires_grad}


def test_two_processes_are_misled_as_one_is(demo_folder, tmp_path):
    expected = attacked(0, demo_folder)
    for weights in in_two_processes(attacked, tmp_path, demo_folder):
        for name, value in expected.items():
            torch.testing.assert_close(weights[name], value, rtol=2e-3, atol=2e-4)


def gather_three(rank, rows):
    """Gathered rows, and the gradient that reaches this process's own of d/dx of Σ (n·x_n)."""
    processes = Processes(Accelerator(cpu=True))
    own = rows[processes.share(np.arange(5))].clone().requires_grad_()
    everyone = processes.gather(own, 5)
    (everyone * torch.arange(1.0, 6).unsqueeze(1)).sum().backward()
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1, 2))]
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, 10.0 * rank + number)
    parameters.append(torch.nn.Parameter(torch.zeros(1)))  # nobody's gradient
    processes.sum_gradients(parameters)
    said = processes.from_main({"rank": rank})
    return everyone.detach(), own.grad, [p.grad for p in parameters], said


def test_gather_and_sum(tmp_path):
    rows = torch.arange(10.0).view(5, 2)
    one, two = in_two_processes(gather_three, tmp_path, rows)
    for everyone, _, sums, said in (one, two):
        assert torch.equal(everyone, rows)
        assert sums[0].tolist() == [10, 10]
        assert sums[1].tolist() == [[12, 12]]
        assert sums[2] is None
        assert said == {"rank": 0}
    assert one[1][:, 0].tolist() == [1, 2, 3]
    assert two[1][:, 0].tolist() == [4, 5]


def test_one_process_is_left_alone():
    processes = Processes(Accelerator(cpu=True))
    rows = torch.ones(3, 2, requires_grad=True)
    assert processes.gather(rows, 3) is rows
    assert processes.share(np.arange(3)).tolist() == [0, 1, 2]
    assert processes.from_main("x") == "x"
    assert processes.is_main
    processes.count = 4
    with pytest.raises(SDAError, match="3 items cannot be shared by 4 processes; lower align_workers"):
        processes.share(np.arange(3))
