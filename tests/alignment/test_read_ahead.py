"""Files that are read ahead in other processes, against files that are read when their turn comes."""

import multiprocessing
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from conftest import adapted_tiny, alignment_settings, open_demo
from three_modalities import MODALITIES, Numbers, Towers, read_numbers

from recbole_sda.alignment import AlignmentLoss, CMSALoss, encoding, trainer
from recbole_sda.alignment.conflict import measure_conflict
from recbole_sda.alignment.encoding import ItemEncoder
from recbole_sda.alignment.trainer import align
from recbole_sda.errors import SDAError
from recbole_sda.reading import AHEAD


class FailingError(Exception):
    pass


@pytest.fixture(autouse=True)
def nothing_is_left_running():
    yield
    assert multiprocessing.active_children() == []


def train(catalog, loss=None, folder=None, **values):
    """Returns: the adapter after training, the records."""
    torch.manual_seed(0)
    backbone = adapted_tiny(lora_dropout=0.2)
    given = {"steps": 4, "batch_size": 12, "eval_every": 2, "learning_rate": 0.02, **values}
    records = align(
        backbone, catalog, loss or CMSALoss(0.2), alignment_settings(**given), folder=folder, show_progress=False
    )
    return {name: p.detach().clone() for name, p in backbone.named_parameters() if p.requires_grad}, records


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("workers", "micro_batch", "teacher"), [(1, 5, "mean"), (2, 5, "base"), (1, 64, "base")])
def test_the_same_bytes_come_out(catalog, monkeypatch, workers, micro_batch, teacher):
    loss = CMSALoss(0.2, teacher=teacher)
    expected, records = train(catalog, loss, micro_batch=micro_batch)
    read_here = []
    monkeypatch.setattr(encoding, "collate_items", noting(read_here))
    found, found_records = train(catalog, loss, micro_batch=micro_batch, read_workers=workers)
    assert same(found, expected)
    assert found_records == records
    assert read_here == []  # all of it in the other processes


def noting(seen):
    whole = encoding.collate_items

    def read(*arguments):
        seen.append(arguments)
        return whole(*arguments)

    return read


def test_a_training_that_was_stopped_goes_on_with_other_readers(catalog, tmp_path, monkeypatch):
    expected, records = train(catalog, micro_batch=5)
    step = trainer._Training._step

    def failing(self):
        if self.progress.step == 3:
            raise FailingError
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Training, "_step", failing)
        with pytest.raises(FailingError):
            train(catalog, folder=tmp_path, micro_batch=5, checkpoint_every=1, read_workers=2)
    found, found_records = train(catalog, folder=tmp_path, micro_batch=5, checkpoint_every=1, read_workers=1)
    assert same(found, expected)
    assert found_records == records


def test_conflict_is_the_same(catalog):
    def measured(workers):
        torch.manual_seed(0)
        settings = alignment_settings(read_workers=workers, micro_batch=5)
        loss = CMSALoss(0.2, teacher="base")
        return measure_conflict(
            adapted_tiny(), catalog, loss, settings, batches=2, num_experts=4, show_progress=False
        )

    assert measured(1) == measured(0)


def test_a_picture_that_breaks_on_the_way_stops_with_the_same_error(demo_folder, tmp_path):
    folder = tmp_path / "demo"
    shutil.copytree(demo_folder, folder)
    catalog = open_demo(folder)
    for path in (folder / "images").iterdir():
        path.write_bytes(path.read_bytes() + b"more")
    errors = []
    for workers in (0, 1, 2):
        with pytest.raises(SDAError, match=r"changed after the catalogue was opened") as error:
            train(catalog, read_workers=workers)
        assert multiprocessing.active_children() == []  # although the traceback is still held
        errors.append(str(error.value))
    assert len(set(errors)) == 1


class Spoiled(AlignmentLoss):
    def compare(self, pair, teachers):
        return (pair[0] * pair[1]).sum().expand(2, 2) * float("nan" if pair[0].requires_grad else 1)


class Failing(AlignmentLoss):
    def compare(self, pair, teachers):
        raise FailingError


@pytest.mark.parametrize(("loss", "error"), [(Spoiled(), SDAError), (Failing(), FailingError)])
def test_an_error_elsewhere_ends_the_readers(catalog, loss, error):
    with pytest.raises(error):
        train(catalog, loss, read_workers=2, micro_batch=5)
    assert multiprocessing.active_children() == []


def test_a_reader_that_dies_is_named_with_the_remedy(catalog, monkeypatch):
    parent, whole = os.getpid(), encoding.collate_items
    calls = []

    def dying(*arguments):
        calls.append(arguments)
        if len(calls) == 6 and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments)

    monkeypatch.setattr(encoding, "collate_items", dying)
    with pytest.raises(SDAError, match=r"process that reads files ahead has died \(.*\); set read_workers=0"):
        train(catalog, read_workers=1, micro_batch=5)
    assert multiprocessing.active_children() == []


# the plan


@pytest.fixture
def encode(monkeypatch):
    monkeypatch.setattr(encoding, "collate_items", read_numbers)
    settings = alignment_settings(modalities=MODALITIES, read_workers=2, micro_batch=2)
    return ItemEncoder(Towers(), Numbers(), settings)


def test_a_plan_is_followed_a_few_micro_batches_ahead(encode):
    drawn = []

    def plan():
        for row in range(12):
            drawn.append(row)
            yield "text", np.array([row])

    with torch.no_grad(), encode.ahead(plan()):
        for row in range(12):
            encode("text", np.array([row]))
            assert row < len(drawn) <= row + 1 + 2 * AHEAD


def test_what_nobody_asks_for_is_passed_over(encode):
    rows = np.arange(12)
    with torch.no_grad():
        expected = encode("audio", rows[4:6])
        with encode.ahead(encode.reads(rows, times=2)):
            assert torch.equal(encode("audio", rows[4:6]), expected)
            assert torch.equal(encode("audio", rows[4:6]), expected)
            with pytest.raises(RuntimeError, match=r"the image of rows .* was not planned"):
                encode("image", rows[1:3])
        assert torch.equal(encode("audio", rows[4:6]), expected)  # without a plan it reads for itself


def test_rows_that_lack_a_modality_are_not_planned(encode):
    rows = np.array([1, 12, 13, 3, 17, 23])  # 12 and 13 lack the image, 17 the text, 23 the audio
    assert [(m, part.tolist()) for m, part in encode.reads(rows, times=1)] == [
        ("image", [1, 3]), ("image", [17, 23]), ("text", [1, 12]), ("text", [13, 3]), ("text", [23]),
        ("audio", [1, 12]), ("audio", [13, 3]), ("audio", [17]),
    ]  # fmt: skip
    assert {m for m, _ in encode.reads(np.array([12, 13]), times=1)} == {"text", "audio"}
