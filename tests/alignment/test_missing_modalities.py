"""Three modalities, of which items lack some: against a loop, and every way of computing against the plainest."""

import math
import re
from itertools import combinations

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import alignment_settings
from oracles import rank_loop
from test_processes import in_two_processes
from three_modalities import MODALITIES, Numbers, Towers, loop_loss, read_numbers

from recbole_sda.alignment import CMSALoss, InfoNCELoss, encoding
from recbole_sda.alignment.comparison import Comparison
from recbole_sda.alignment.encoding import ItemEncoder
from recbole_sda.alignment.health import (
    distance_to_base,
    effective_rank,
    mean_pairwise_cosine,
    retrieval_by_pairs,
)
from recbole_sda.alignment.processes import Processes
from recbole_sda.alignment.sampling import check_comparable, split_items
from recbole_sda.alignment.trainer import align
from recbole_sda.errors import SDAError

ROWS = np.array([3, 13, 20, 0, 17, 22, 7, 14, 9, 18, 21, 2, 12])  # lacking image 3, text 2, audio 3


@pytest.fixture(autouse=True)
def numbers_are_read(monkeypatch):
    monkeypatch.setattr(encoding, "collate_items", read_numbers)


def settings(**values):
    return alignment_settings(**{"modalities": MODALITIES, "batch_size": 9, "holdout_share": 0.4, **values})


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **tolerance)


def compared(rows=ROWS, catalog=None, loss=None, micro_batch=64, processes=None):
    """Returns: the loss, the gradients of all parameters, the backbone."""
    backbone, loss = Towers(), loss or CMSALoss(0.3)
    encode = ItemEncoder(backbone, catalog or Numbers(), settings(micro_batch=micro_batch))
    processes = processes or Processes(Accelerator(cpu=True))
    parts, names = Comparison(encode, loss, processes).gradients(rows, step=1)
    processes.sum_gradients(backbone.parameters())
    return Comparison(encode, loss, processes).measured(parts, names), gradients(backbone), backbone


# one comparison


@pytest.mark.parametrize("teacher", ["mean", "base"])
@pytest.mark.parametrize("micro_batch", [64, 4, 1])
def test_gradients_are_the_loops(teacher, micro_batch):
    loss = CMSALoss(0.3, teacher=teacher)
    measured, found, backbone = compared(loss=loss, micro_batch=micro_batch)
    expected = Towers()
    value = loop_loss(Numbers(), expected, ROWS, loss, base=teacher == "base")
    value.backward()
    assert measured["loss"] == pytest.approx(value.item(), rel=1e-5)
    assert all(gradient.abs().max() > 0 for gradient in found.values())
    assert_same(found, gradients(expected), rtol=1e-4, atol=1e-6)
    times = (2 if micro_batch < 64 else 1) + (teacher == "base")
    for modality, count in zip(MODALITIES, (10, 11, 10), strict=True):
        assert sum(rows for m, rows in backbone.passed if m == modality) == times * count


def test_every_pair_is_measured_by_name():
    measured, _, _ = compared()
    pairs = [pair for both in combinations(MODALITIES, 2) for pair in (both, both[::-1])]
    assert {name for name in measured if name.startswith("divergence")} == {
        f"divergence_{query}_to_{key}" for query, key in pairs
    }
    assert measured["loss"] == pytest.approx(sum(measured[f"divergence_{q}_to_{k}"] for q, k in pairs) / 6)


def test_what_an_item_lacks_pulls_at_nothing():
    """Its row is 0, and so is the gradient of that."""
    encode = ItemEncoder(Towers(), Numbers(), settings())
    embedded = {m: rows.requires_grad_() for m, rows in encode.embed(ROWS).items()}
    masks = encode.present(ROWS)
    CMSALoss(0.3)(*embedded.values(), present=list(masks.values())).backward()
    for modality, rows in embedded.items():
        assert torch.equal(masks[modality], torch.from_numpy(Numbers().present(modality)[ROWS]))
        assert rows.detach()[~masks[modality]].abs().max() == 0
        assert rows.grad[~masks[modality]].abs().max() == 0
        assert (rows.grad[masks[modality]].norm(dim=1) > 0).all()


@pytest.mark.parametrize("micro_batch", [64, 3])
@pytest.mark.parametrize("teacher", ["mean", "base"])
@pytest.mark.parametrize("rare", [0, 1])
def test_a_batch_that_hardly_has_a_modality_does_without_it(micro_batch, teacher, rare):
    """And names the others rightly, also where the first one is missing."""
    catalog = Numbers(lacking={"image": range(rare, 24)})
    measured, found, _ = compared(np.arange(8), catalog, CMSALoss(0.3, teacher=teacher), micro_batch)
    assert {name for name in measured if name.startswith("divergence")} == {
        "divergence_text_to_audio", "divergence_audio_to_text",
    }  # fmt: skip
    assert not any("image" in name for name in found if found[name].abs().max() > 0)
    assert found["own.audio.weight"].abs().max() > 0


def test_a_rare_modality_cannot_be_as_soft_as_the_teacher():
    everyone = Numbers(lacking={})
    rare = Numbers(lacking={"audio": range(5, 24)})
    loss = CMSALoss(0.3, teacher_perplexity=6)
    rows = np.arange(12)
    assert len(compared(rows, everyone, loss)[0]) == 2 + 2 * 6
    assert len(compared(rows, rare, loss)[0]) == 2 + 2 * 2


CASES = [  # micro-batch, what is lacking, rows
    (64, None, ROWS),
    (2, None, ROWS),
    (64, {"audio": range(8)}, np.arange(15)),  # the first process has no row with audio
    (2, {"audio": range(8)}, np.arange(15)),
    (2, {"audio": range(24)}, np.arange(15)),  # nobody has
]


def compare_cases(rank, micro_batch=None):
    encoding.collate_items = read_numbers  # also in a process of its own
    found = []
    for size, lacking, rows in CASES:
        catalog = None if lacking is None else Numbers(lacking=lacking)
        found.append(compared(rows, catalog, micro_batch=micro_batch or size)[:2])
    return found


def test_two_processes_compare_what_one_compares(tmp_path):
    expected = compare_cases(0, micro_batch=64)
    assert ["own.audio.weight" in found for _, found in expected] == [True] * 4 + [False]
    for results in in_two_processes(compare_cases, tmp_path):
        for (measured, found), (one_measured, one_found) in zip(results, expected, strict=True):
            assert measured == pytest.approx(one_measured, rel=1e-4)
            assert_same(found, one_found, rtol=1e-4, atol=1e-6)


# a whole training


def train(catalog=None, loss=None, **values):
    backbone = Towers()
    given = settings(**{"steps": 6, "eval_every": 2, "learning_rate": 0.02, **values})
    return backbone, align(backbone, catalog or Numbers(), loss or CMSALoss(0.3), given, show_progress=False)


@pytest.mark.parametrize("loss", [CMSALoss(0.3), CMSALoss(0.3, teacher="base"), InfoNCELoss(0.3)])
def test_training_in_micro_batches_is_training(loss):
    whole, records = train(loss=loss)
    cached, again = train(loss=loss, micro_batch=2)
    assert_same(dict(cached.named_parameters()), dict(whole.named_parameters()), rtol=1e-3, atol=1e-4)
    assert [record["step"] for record in records] == [0, 2, 4, 6]
    for record, other in zip(records, again, strict=True):
        assert record["held_out_loss"] == pytest.approx(other["held_out_loss"], rel=1e-3)
    assert records[-1]["held_out_loss"] < records[0]["held_out_loss"]
    for name in ("mean_pairwise_cosine", "effective_rank", "distance_to_base"):
        assert list(records[-1][name]) == list(MODALITIES)
        assert all(math.isfinite(value) for value in records[-1][name].values())
    assert sum("_recall@5" in name for name in records[-1]) == 6


def test_looks_read_only_what_is_there():
    """Held-out figures of a modality are those of the items that have it."""
    backbone, records = train(steps=4, eval_every=4)
    record = max(records, key=lambda record: record["mrr"])  # the state that is left
    held = split_items(Numbers(), settings())[1]
    encode, start = (ItemEncoder(one, Numbers(), settings()) for one in (backbone, Towers()))
    embedded, base, present = encode.embed(held), start.embed(held, base=True), encode.present(held)
    assert any(not mask.all() for mask in present.values())
    measured = retrieval_by_pairs(embedded, present, center=True)
    assert {name: record[name] for name in measured} == pytest.approx(measured)
    expected = loop_loss(Numbers(), backbone, held, CMSALoss(0.3))
    assert record["held_out_loss"] == pytest.approx(expected.item(), rel=1e-4)
    for modality, mask in present.items():
        rows, base_rows = embedded[modality][mask], base[modality][mask]
        assert record["mean_pairwise_cosine"][modality] == pytest.approx(mean_pairwise_cosine(rows), abs=1e-6)
        assert record["effective_rank"][modality] == pytest.approx(effective_rank(rows), rel=1e-5)
        assert record["distance_to_base"][modality] == pytest.approx(distance_to_base(rows, base_rows), rel=1e-5)


def test_steps_that_lack_a_modality_say_nothing_of_it(monkeypatch):
    """Audio is so rare that many a step has too little of it; the records average the steps that have."""
    said, whole = [], Comparison.measured

    def note(self, *arguments):
        said.append(whole(self, *arguments))
        return said[-1]

    monkeypatch.setattr(Comparison, "measured", note)
    catalog = Numbers(items=60, lacking={"audio": [row for row in range(60) if row % 4]})
    _, records = train(catalog, steps=12, batch_size=12, eval_every=12)
    with_audio = [step["divergence_image_to_audio"] for step in said if "divergence_image_to_audio" in step]
    assert 0 < len(with_audio) < len(said) == 12
    assert records[-1]["divergence_image_to_audio"] == pytest.approx(sum(with_audio) / len(with_audio))
    assert records[-1]["loss"] == pytest.approx(sum(step["loss"] for step in said) / 12)


def test_retrieval_is_the_mean_over_pairs_and_directions():
    encode = ItemEncoder(Towers(), Numbers(), settings())
    rows = np.arange(24)
    views = {m: v + 0.3 * torch.randn(24, 5, generator=torch.Generator().manual_seed(1)) for m, v in
             encode.embed(rows).items()}  # fmt: skip
    present = encode.present(rows)
    found = retrieval_by_pairs(views, present, center=True)
    reciprocals = []
    for query, key in [(q, k) for q in MODALITIES for k in MODALITIES if q != k]:
        both = [row for row in rows if present[query][row] and present[key][row]]
        ranks = rank_loop(views[query][both].double(), views[key][both].double(), center=True)
        assert found[f"{query}_to_{key}_recall@5"] == pytest.approx(sum(rank <= 5 for rank in ranks) / len(both))
        reciprocals.append(sum(1 / rank for rank in ranks) / len(ranks))
    assert found["mrr"] == pytest.approx(sum(reciprocals) / 6)
    assert len(found) == 7


# which items


def test_items_with_two_of_three_take_part():
    lacking = {"image": [0, 1, 2], "text": [2, 3], "audio": [0, 4]}
    catalog = Numbers(lacking=lacking)
    train_rows, held = split_items(catalog, settings())
    two = [row for row in range(24) if sum(row in rows for rows in lacking.values()) <= 1]
    assert sorted([*train_rows, *held]) == two
    assert len(two) == 22
    assert len(held) == round(0.4 * 22)


def refuses(text, call, *arguments):
    with pytest.raises(SDAError, match=re.escape(text)):
        call(*arguments)


def test_what_cannot_be_split_is_refused_with_the_modalities():
    nobody = Numbers(lacking={"image": range(24), "text": range(24)})
    text = "no item of 'numbers' has two of an image, a text and an audio, so they cannot be aligned; "
    refuses(text + "use --modalities=audio (or image, text), which", split_items, nobody, settings())
    few = Numbers(lacking={"image": range(24), "text": range(4, 24)})
    text = "only 4 items of 'numbers' have two of an image, a text and an audio; with align_holdout_share=0.4"
    refuses(text, split_items, few, settings())
    apart = Numbers(lacking={"image": range(12), "audio": range(14, 24)})
    text = (
        "items of 'numbers' to train on have both an image and an audio, and 3 are needed to compare them; "
        "leave image or audio out of modalities, or change align_holdout_share=0.4"
    )
    refuses(text, split_items, apart, settings())
    refuses(text, align, Towers(), apart, CMSALoss(), settings())
    rare = Numbers(lacking={"audio": [row for row in range(24) if row % 4]})
    refuses("held out have both an image and an audio", split_items, rare, settings())


def test_batches_without_a_pair_are_found_before_the_first_step():
    """Every item lacks one modality: three items have no three in common."""
    apart = Numbers(items=60, lacking={m: range(i, 60, 3) for i, m in enumerate(MODALITIES)})
    text = "align_batch_size=3: of the 3 items of step 1 no two modalities share more than"
    refuses(text, check_comparable, apart, CMSALoss(), settings(batch_size=3))
    backbone = Towers()
    refuses(text, align, backbone, apart, CMSALoss(), settings(batch_size=3))
    assert backbone.passed == []
    check_comparable(apart, CMSALoss(), settings(batch_size=7))  # seven have three in common, whichever they are
    check_comparable(Numbers(lacking={}), CMSALoss(), settings(batch_size=3))
    wide = CMSALoss(teacher_perplexity=12)
    refuses("of the 24 items of what is held out no two", check_comparable, apart, wide, settings(batch_size=40))
