import json
import shlex
from pathlib import Path

import pytest

from recbole_sda.cli import _split, main
from recbole_sda.config import SDAConfig
from recbole_sda.diagnostics import DIAGNOSES
from recbole_sda.errors import SDAError
from recbole_sda.plans import model_configs
from recbole_sda.report.page.gather import MissingError, Run
from recbole_sda.report.page.result import as_variant, command, read_result
from recbole_sda.report.page.write import write_report

RUN = {"model": "SASRec", "variant": "ids", "seed": 1, "items": 3, "missing": {}, "skipped": 0, "epochs": 1}
RUN |= {"valid": {"ndcg@10": 0.1}, "test": {"ndcg@10": 0.1}, "timings": {}, "artefacts": {"adapter": None}}
RESULT = {"model": "SASRec", "dataset": "demo", "seed": 1, "config": {"SASRec": {"epochs": 1}}, "runs": [RUN]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no json", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "it holds no JSON object"),
        ("{}", "it has no dataset"),
        (json.dumps({**RESULT, "runs": []}), "it has no runs"),
        (json.dumps({**RESULT, "runs": ["x"]}), "run 0 has no proper 'variant'"),
        (json.dumps({**RESULT, "runs": [{**RUN, "test": 3}]}), "run 0 has no proper 'test'"),
        (json.dumps({**RESULT, "runs": [{**RUN, "test": {"ndcg@10": "high"}}]}), "in its values"),
        (json.dumps({**RESULT, "config": [1]}), "config is not a dict"),
        (json.dumps({**RESULT, "seconds": "long"}), "seconds is not a number"),
    ],
)
def test_what_is_no_result_is_refused_with_the_file_and_the_remedy(tmp_path, content, said, capsys):
    file = tmp_path / "other {x}.json"
    file.write_text(content)
    assert main(["report", str(file)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert str(file) in error
    assert "a run writes it to result_file" in error
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report"], "saved/results/NAME.json"),
        (["report", "absent.json"], "absent.json cannot be read"),
        (["report", "r.json", "--projection=pca"], "projection='pca' is unknown; choose tsne or umap"),
        (["report", "r.json", "--items=0"], "items=0 must be a whole number of at least 1"),
        (["report", "r.json", "--items=20001"], "say --items=20000 or fewer"),
        (["report", "r.json", "--output=r.json/page"], "output=r.json/page cannot be written to (Not a dir"),
        (["report", "r.json", "--users=some"], "users='some' must be a whole number"),
        (["report", "r.json", "--output=r.json"], "is a file; name a folder"),
    ],
)
def test_arguments_that_cannot_be(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.json").write_text(json.dumps(RESULT))
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_umap_that_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(SDAError, match="pip install umap-learn"):
        write_report(RESULT, tmp_path, projection="umap")


def test_a_result_without_a_file_needs_a_folder():
    with pytest.raises(SDAError, match="needs a folder"):
        write_report(RESULT)


def test_a_run_that_was_not_tested_has_no_test_scores():
    result, file = read_result({**RESULT, "runs": [{**RUN, "test": None}]})
    assert result["runs"][0]["test"] == {}
    assert file is None


def test_the_command_quotes_what_a_shell_would_read():
    result = {**RESULT, "dataset": "my shop; rm x", "config": {"SASRec": {"topk": [5, 10], "adapter": "moda"}}}
    words = shlex.split(command("diagnose conflict", result, RUN, adapter=None, checkpoint_dir="a b"))
    assert words == ["python", "run_recbole_sda.py", "diagnose", "conflict", "--dataset=my shop; rm x",
                     "--model=SASRec", "--seed=1", "--topk=[5, 10]", "--checkpoint_dir=a b"]  # fmt: skip


SAID = {
    "epochs": 1,
    "align_steps": 3,
    "lora_r": 8,
    "n_layers": 1,
    "repeatable": True,
    "train_neg_sample_args": {"distribution": "uniform", "dynamic": False},
    "prompt_field_templates": {"title": "it's \\n {value};"},
    "loss_type": "BPR",
}


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ("ids", {"features": "none"}),
        ("zero_shot", {"adapter": "none"}),
        ("info_nce", {"alignment": "info_nce"}),
        ("sda", {}),
        ("lora+info_nce", {"adapter": "lora", "alignment": "info_nce"}),
    ],
)
def test_every_command_is_accepted(variant, said, tmp_path):
    """With everything back that it was told, but for what would have been refused."""
    result = {**RESULT, "config": {"SASRec": {**SAID, **said}}, "runs": [{**RUN, "variant": variant}]}
    run = Run(result, data_path=str(tmp_path))
    commands = [run.zero_shot_command(), run.command("run", **as_variant(run.shown))]
    for part in (run.sides, run.adapter, run.adapters, run.conflict):
        with pytest.raises(MissingError) as missing:
            part()
        commands.append(missing.value.command)
    for line in commands:
        verb, subject, files, arguments = _split(shlex.split(line)[2:])
        assert not files
        if verb == "run":
            (config,) = model_configs(None, None, None, None, arguments)
        else:
            config = SDAConfig(argv=arguments)
        if verb == "diagnose":
            DIAGNOSES[subject[0]](config)
        assert (config["model"], config["seed"], Path(config["data_path"])) == ("SASRec", 1, tmp_path / "demo")
        for key in SAID.keys() & config.cmd_config_dict.keys():
            assert config[key] == SAID[key]


def test_the_adapted_run_is_shown_beside_the_first_other_variant_of_its_model_and_seed():
    runs = [{**RUN, "variant": v, "seed": s} for s in (1, 2) for v in ("ids", "zero_shot", "lora", "sda")]
    run = Run({**RESULT, "runs": runs})
    assert (run.shown["variant"], run.shown["seed"]) == ("sda", 1)
    assert [(one["variant"], one["seed"]) for one in run.compared] == [("ids", 1), ("sda", 1)]


def test_gradients_are_those_of_the_shown_adapter(tmp_path):
    """Two seeds and three variants were measured; the page is about one of them."""
    digests = {(v, s): f"{v}-{s}" for v in ("lora", "info_nce", "sda") for s in (1, 2)}
    runs = [
        {**RUN, "variant": v, "seed": s, "artefacts": {"adapter": str(tmp_path / "adapters" / name)}}
        for (v, s), name in digests.items()
    ]
    for number, (loss, seed) in enumerate([("info_nce", 1), ("sda", 2), ("sda", 1)]):
        adapters = {"lora": digests["lora", seed], "moda": digests[loss, seed]}
        folder = tmp_path / "diagnose" / f"conflict-{number}"
        folder.mkdir(parents=True)
        (folder / "conflict.json").write_text(json.dumps({"seed": seed, "adapters": adapters}))
    run = Run({**RESULT, "runs": runs})
    assert (run.shown["variant"], run.shown["seed"]) == ("sda", 1)
    assert run.conflict() == {"seed": 1, "adapters": {"lora": "lora-1", "moda": "sda-1"}}
    (folder / "conflict.json").unlink()
    assert run.conflict()["adapters"] == {"lora": "lora-1", "moda": "info_nce-1"}  # its LoRA, at least


def test_a_run_of_ids_has_neither_features_nor_adapter():
    run = Run(RESULT)
    for part in (run.sides, run.adapter, run.adapters, run.conflict):
        with pytest.raises(MissingError) as missing:
            part()
        assert missing.value.command.startswith("python run_recbole_sda.py ")


def test_artefacts_of_a_folder_that_moved_are_found_beside_the_result(tmp_path):
    (tmp_path / "saved" / "adapters" / "ab").mkdir(parents=True)
    (tmp_path / "saved" / "results").mkdir()
    run = Run(RESULT, tmp_path / "saved" / "results" / "r.json")
    assert run.path("/gone/saved/adapters/ab") == tmp_path / "saved" / "adapters" / "ab"
    assert str(run.path("/gone/saved/adapters/cd")) == "/gone/saved/adapters/cd"
