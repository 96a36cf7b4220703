"""What a reader sees of a run: means over the seeds, the tables, the lines under them, the page."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from recbole_sda.report.notes import NO_CONTENT
from recbole_sda.report.summary import summarise
from recbole_sda.report.table import results_table

ACCURACY = ("hit@10", "ndcg@10", "tailhit@10", "tailndcg@10")
SPLIT = "evaluation: split LS valid_and_test, order TO"


def run(variant="sda", *, model="SASRec", seed=1, test=None, **values):
    test = {name: 0.1 * (place + 1) for place, name in enumerate(ACCURACY)} if test is None else test
    entry = {"model": model, "variant": variant, "seed": seed, "valid": test, "test": test, "epochs": 10 + seed}
    entry |= {"timings": {"train": 20.4}, "artefacts": {"features": "saved/features/ab12"}}
    return {**entry, "items": 300, "missing": {}, "skipped": 0, **values}


def result(*runs, **values):
    models = ",".join(dict.fromkeys(entry["model"] for entry in runs))
    shared = {"protocol": "full", "history_mask": "recbole"}
    return {"model": models, "dataset": "demo", "seed": runs[0]["seed"], **shared, "runs": list(runs), **values}


def gain(**values):
    entry = {"model": "SASRec", "variant": "sda", "over": "ids", "metric": "ndcg@10", "gain": 0.0123}
    entry |= {"gain_interval": [-0.001, 0.03], "relative_gain": 12.34, "relative_interval": [-1.0, 30.06]}
    return {**entry, "p": 0.01, "p_holm": 0.0204, "users": 600, **values}


def cells(table, label):
    """The cells of the first row that starts with this label."""
    line = next(line for line in table.splitlines() if line.startswith(label))
    return re.split(r"\s{2,}", line.strip())


# --- summary ---


def test_mean_and_sample_deviation_over_the_seeds():
    values = [0.11, 0.17, 0.12]
    runs = [run(seed=seed, test={"hit@10": value}) for seed, value in enumerate(values, 1)]
    (entry,) = summarise(runs)
    assert (entry["model"], entry["variant"], entry["seeds"]) == ("SASRec", "sda", [1, 2, 3])
    for split in ("valid", "test"):
        assert entry[split]["hit@10"] == pytest.approx(
            {"mean": np.mean(values), "sd": np.std(values, ddof=1), "n": 3}
        )
    assert entry["seconds"] == {"train": pytest.approx(61.2)}
    assert entry["epochs"] == 12


def test_one_entry_for_each_model_and_variant_in_order():
    runs = [run(v, model=m, seed=s) for s in (1, 2) for m in ("VBPR", "SASRec") for v in ("ids", "sda")]
    found = [(entry["model"], entry["variant"], entry["seeds"]) for entry in summarise(runs)]
    assert found == [(m, v, [1, 2]) for m in ("VBPR", "SASRec") for v in ("ids", "sda")]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.2], {"mean": 0.2, "sd": None, "n": 1}),
        ([0.2, None], {"mean": 0.2, "sd": None, "n": 1}),
        ([0.2, float("nan"), 0.4], {"mean": pytest.approx(0.3), "sd": pytest.approx(0.02**0.5), "n": 2}),
        ([None, float("nan")], {"mean": None, "sd": None, "n": 0}),
    ],
)
def test_undefined_values_are_left_out_and_counted(values, expected):
    runs = [run(seed=seed, test={"tailhit@10": value}) for seed, value in enumerate(values)]
    assert summarise(runs)[0]["test"]["tailhit@10"] == expected
    json.dumps(summarise(runs), allow_nan=False)


def test_a_model_without_validation_has_none():
    (entry,) = summarise([run(valid=None)])
    assert entry["valid"] == {}
    assert cells(results_table(result(run(valid=None))), "sda")[1:5] == ["–"] * 4


# --- tables ---


def test_a_row_is_a_variant_with_its_scores_seconds_and_epochs():
    table = results_table(result(run("ids"), run("sda")), split=SPLIT)
    assert "\nSASRec on demo, seed 1\nvariant " in table
    scores = ["0.1000", "0.2000", "0.3000", "0.4000"]
    assert cells(table, "sda") == ["sda", *scores, *scores, "0", "0", "20", "11"]
    assert "Gains" not in table
    assert "±" not in table


def test_a_result_of_one_run_as_it_was_before_seeds_and_gains():
    old = {key: value for key, value in run().items() if key not in ("model", "seed")}
    table = results_table({"model": "VBPR", "dataset": "demo", "seed": 2020, "runs": [old]}, split=SPLIT)
    assert "VBPR on demo, seed 2020" in table
    assert cells(table, "sda")[1] == "0.1000"
    *_, items, split, tail = table.splitlines()
    assert (items, split) == ("300 items", SPLIT)
    assert tail.startswith("tail: over the users whose target is long tail")


def test_models_are_a_column_where_there_are_several():
    table = results_table(result(run(model="SASRec"), run(model="VBPR")))
    assert "SASRec, VBPR on demo" in table
    assert cells(table, "VBPR")[:3] == ["VBPR", "sda", "0.1000"]


def test_seeds_give_mean_and_deviation_and_a_star_marks_those_that_lack_some():
    runs = [run(seed=s, test={"hit@10": 0.1 * s, "tailhit@10": 0.1 if s < 3 else None}) for s in (1, 2, 3)]
    table = results_table(result(*runs))
    assert "SASRec on demo, seeds 1, 2, 3" in table
    assert cells(table, "sda")[-6:] == ["0.2000±0.1000", "0.1000±0.0000*", "0", "0", "61", "12"]
    assert "standard deviation of 3 seeds" in table
    assert "*: undefined with some of the seeds" in table
    assert "*" not in results_table(result(*runs[:2]))


def test_undefined_everywhere_is_a_dash():
    table = results_table(result(run(test={"hit@10": 0.1, "tailhit@10": None, "tailndcg@10": float("nan")})))
    assert cells(table, "sda") == ["sda", "0.1000", "–", "–", "0.1000", "–", "–", "0", "0", "20", "11"]


def test_only_metrics_at_k_that_were_measured():
    table = results_table(result(run(test={"hit@5": 0.25, "hit@10": 0.5})), k=5)
    assert "0.2500" in table
    assert "0.5000" not in table
    assert "ndcg" not in table


def test_further_measures_have_a_table_where_they_were_taken():
    more = {"coldhit@10": 0.01, "warmhit@10": 0.02, "headndcg@10": None}
    more |= {"itemcoverage@10": 0.5, "giniindex@10": 0.9}
    table = results_table(result(run(test={"hit@10": 0.1, **more})))
    further = table[table.index("Further measures on test:") :]
    assert further.splitlines()[2].split() == ["headndcg@10", "warmhit@10", "coldhit@10", "coverage@10", "gini@10"]
    assert cells(further, "sda") == ["sda", "–", "0.0200", "0.0100", "0.5000", "0.9000"]
    for line in ("cold: over the users", "coverage: share", "gini: 0 if"):
        assert f"\n{line}" in further
    assert "Further" not in results_table(result(run()))


# --- gains ---


def gains_table(*gains):
    table = results_table(result(run("ids"), run("sda"), gains=list(gains)))
    return table[table.index("Gains on test") :]


def test_a_gain_has_its_interval_and_its_corrected_p():
    loss = gain(metric="hit@10", relative_gain=-2.0, relative_interval=[-5, 1], p_holm=0.0004)
    table = gains_table(gain(), loss)
    assert cells(table, "sda") == ["sda", "ids", "+12.3 % [-1.0, +30.1]", ".020", "-2.0 % [-5.0, +1.0]", "<.001"]
    assert "Holm-corrected, comparisons: 2" in table
    assert "without %" not in table


def test_near_a_base_of_zero_the_difference_is_shown_and_said():
    table = gains_table(gain(relative_gain=None, relative_interval=None, p_holm=1.0))
    assert cells(table, "sda") == ["sda", "ids", "+0.0123 [-0.0010, +0.0300]", "1.000"]
    assert "gain without %: the difference itself" in table


def test_an_undefined_gain_is_a_dash_and_counts_not():
    undefined = dict.fromkeys(("gain", "gain_interval", "relative_gain", "relative_interval", "p", "p_holm"))
    table = gains_table(gain(), gain(metric="tailndcg@10", **undefined))
    assert cells(table, "sda")[-2:] == ["–", "–"]
    assert "Holm-corrected, comparisons: 1" in table
    assert "without %" not in table


def test_every_model_variant_and_baseline_has_its_row():
    several = [gain(model=m, over=o) for m in ("SASRec", "VBPR") for o in ("ids", "zero_shot")]
    runs = [run(v, model=m) for m in ("SASRec", "VBPR") for v in ("ids", "zero_shot", "sda")]
    table = results_table(result(*runs, gains=several))
    rows = [re.split(r"\s{2,}", line)[:3] for line in table.splitlines() if "[-1.0" in line]
    assert rows == [["SASRec", "sda", "ids"], ["SASRec", "sda", "zero_shot"],
                    ["VBPR", "sda", "ids"], ["VBPR", "sda", "zero_shot"]]  # fmt: skip


# --- notes ---


def test_the_lines_below_say_what_is_missing_refused_and_without_content():
    runs = [run("ids", model=model) for model in ("VBPR", "SLMRec", "SASRec")]
    lossy = run("sda", missing={"image": 6, "text": 2}, skipped=3)
    lines = results_table(result(*runs, lossy), split=SPLIT).splitlines()
    refused = "3 files refused, listed in skipped.csv of saved/features/ab12"
    assert f"300 items, 6 without image, 2 without text, {refused}" in lines
    assert "ids: without features VBPR has no content terms" in lines
    assert f"ids: {NO_CONTENT['SLMRec']}" in lines
    assert SPLIT in lines
    assert "ids: without" not in results_table(result(run("sda", model="VBPR")))


def test_of_several_stores_the_lines_name_each_that_may_list_refused_files():
    stores = {"features": "saved/features/ab12,cover=/data/cd34"}
    table = results_table(result(run(skipped=2, artefacts=stores)))
    assert "2 files refused, listed in skipped.csv of saved/features/ab12,cover=/data/cd34" in table


def test_the_lines_below_say_who_was_a_candidate():
    assert "candidates: all items; history: general models never recommend" in results_table(result(run()))
    sampled = results_table(result(run(), protocol="uni100", history_mask="none"))
    assert "candidates: the targets and 100 fixed items that the user never touched; history: what" in sampled


# --- the page ---


@pytest.fixture(scope="module")
def main():
    return runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "results_page.py"))["main"]


def test_the_page_has_the_printed_table_and_what_the_results_say_of_themselves(main, tmp_path):
    said = {"config": {"SASRec": {"epochs": 5, "modalities": ["text"], "backbone": "tiny"}}, "split": SPLIT}
    said |= {"versions": {"torch": "2.13"}, "hardware": {"processors": 2}, "seconds": 1234.5}
    (tmp_path / "a.json").write_text(json.dumps(result(run("ids"), run("sda"), gains=[gain()], **said)))
    (tmp_path / "b.json").write_text(json.dumps(result(run(model="VBPR"), dataset="beauty")))
    (tmp_path / "c.json").write_text(json.dumps(result(run(model="BPR"))))
    page = tmp_path / "results" / "README.md"
    main([*(str(tmp_path / f"{name}.json") for name in "abc"), f"--output={page}"])
    text = page.read_text()
    headings = [line for line in text.splitlines() if line.startswith("##")]
    assert headings == ["## demo", "### SASRec on demo, seed 1", "### BPR on demo, seed 1", "## beauty",
                        "### VBPR on beauty, seed 1"]  # fmt: skip
    assert re.search(r"\| sda +\| ids +\| +\+12\.3 % \[-1\.0, \+30\.1\] \| +\.020 \|", text)
    for line in (
        '- SASRec was told: `epochs=5`, `modalities=["text"]`, `backbone=tiny`',
        "- versions: torch 2.13",
        "- hardware: processors 2",
        "- time: 1,234 s",
        f"- {SPLIT}",
    ):
        assert line in text.splitlines()
    assert text.count("was told") == 1  # what a file does not say is left out


@pytest.mark.parametrize("content", ["no json", "{}", '{"runs": []}', "[1]"])
def test_a_file_that_is_no_result_is_named(main, tmp_path, capsys, content):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(SystemExit):
        main([str(tmp_path / "other.json"), f"--output={tmp_path / 'page.md'}"])
    assert "other.json is not what --result_file writes" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()
