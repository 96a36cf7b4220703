"""The command line: how arguments are split, what is printed where, and the exit status."""

import logging
import runpy
import sys
from pathlib import Path

import pytest

from recbole_sda import cli, pipeline
from recbole_sda.config import SDAConfig
from recbole_sda.defaults import help_text
from recbole_sda.errors import SDAError

SCRIPT = Path(cli.__file__).parent.parent / "run_recbole_sda.py"


@pytest.fixture(autouse=True)
def quiet_logger(tmp_path, monkeypatch):
    """In a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return logging.getLogger("recbole_sda")


@pytest.fixture
def calls(monkeypatch):
    """The verbs, which note how they are called and do nothing else."""
    noted = []

    def noting(verb, answer):
        def called(**kwargs):
            noted.append((verb, kwargs["config_file_list"], kwargs["argv"]))
            return answer

        return called

    for verb, answer in (("run", {"runs": []}), ("adapt", None), ("embed", Path("saved/features/abc"))):
        monkeypatch.setattr(pipeline, verb, noting(verb, answer))
    return noted


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        ([], ("run", [], [])),
        (["--model=BPR", "--dataset=demo"], ("run", [], ["--model=BPR", "--dataset=demo"])),
        (["run", "--model=BPR"], ("run", [], ["--model=BPR"])),
        (["adapt", "--dataset=demo"], ("adapt", [], ["--dataset=demo"])),
        (["embed", "--dataset", "demo"], ("embed", [], ["--dataset=demo"])),
        (["--model", "BPR", "--dataset", "demo"], ("run", [], ["--model=BPR", "--dataset=demo"])),
        (["--strict"], ("run", [], ["--strict=True"])),
        (["--strict", "--model=BPR"], ("run", [], ["--strict=True", "--model=BPR"])),
        (["--strict", "--model", "BPR"], ("run", [], ["--strict=True", "--model=BPR"])),
        (["--tail_max_popularity", "-1"], ("run", [], ["--tail_max_popularity=-1"])),
        (["--prompt_field={name}={value}"], ("run", [], ["--prompt_field={name}={value}"])),
        (["--prompt_domain", "a b"], ("run", [], ["--prompt_domain=a b"])),
        (["--config_files=a.yaml,b.yaml"], ("run", ["a.yaml", "b.yaml"], [])),
        (["--config_files", "a.yaml b.yaml"], ("run", ["a.yaml", "b.yaml"], [])),
        (["--config_files=b", "--seed=1", "--config_files=a"], ("run", ["b", "a"], ["--seed=1"])),
    ],
)
def test_arguments_are_split(arguments, call, calls, monkeypatch):
    given = arguments[:]
    assert cli.main(arguments) == 0
    assert calls == [call]
    assert arguments == given
    monkeypatch.setattr(sys, "argv", ["run_recbole_sda.py", *arguments])
    assert cli.main() == 0
    assert calls == [call, call]


def test_what_is_split_is_what_the_configuration_reads(monkeypatch):
    seen = []
    monkeypatch.setattr(
        pipeline,
        "run",
        lambda **kw: seen.append(SDAConfig(config_file_list=kw["config_file_list"], argv=kw["argv"])),
    )
    Path("a.yaml").write_text("epochs: 3\nlora_r: 16\nseed: 5\n")
    Path("b.yaml").write_text("lora_r: 12\n")
    arguments = (
        "--model BPR --dataset=demo --config_files=a.yaml,b.yaml --strict --epochs=4 --align_temperature 1e-1"
    )
    assert cli.main(arguments.split()) == 0
    keys = ("model", "dataset", "strict", "epochs", "align_temperature", "lora_r", "seed")
    assert [seen[0][key] for key in keys] == ["BPR", "demo", True, 4, 0.1, 12, 5]


def test_a_stage_alone_prints_where_its_artefact_is(calls, capsys):
    assert cli.main(["embed", "--dataset=demo"]) == 0
    assert capsys.readouterr().out == "saved/features/abc\n"


def test_run_prints_nothing_of_its_own(calls, capsys):
    assert cli.main(["--model=BPR"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["adapt", "--help"], ["--model=BPR", "--help", "x"]])
def test_help(arguments, calls, capsys):
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("python run_recbole_sda.py [run|adapt|embed|diagnose WHAT|")
    assert out.endswith(help_text() + "\n")
    for verb in cli.VERBS:
        assert f"  {verb} " in out
    assert calls == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adpt"], "verb 'adpt' is unknown; choose run, adapt, embed"),
        (["model=BPR"], "verb 'model=BPR' is unknown; choose run, adapt, embed"),
        (["--model=BPR", "adapt"], "argument 'adapt' is not understood; write --key=value"),
        (["-x"], "argument '-x' is not understood; write --key=value"),
        (["--dataset=demo"], "model is not given; say --model=NAME, for example --model=SASRec"),
        (["--model=BPR"], "dataset is not given; say --dataset=NAME, for example --dataset=demo"),
        (
            ["--model=BPR", "--dataset=demo", "--temprature=3"],
            "key 'temprature' is unknown; did you mean temperature",
        ),
        (
            ["--model=BPR", "--dataset=demo", "--num_experts=3"],
            "num_experts=3 does not divide lora_r=8; choose one of 1, 2, 4, 8",
        ),
        (
            ["--model=BPR", "--dataset=demo", "--seed=1", "--seed=2"],
            "--seed is given twice: '1' and '2'; keep one",
        ),
        (
            ["--model=BPR", "--dataset=demo", "--config_files=none.yaml"],
            "configuration file none.yaml cannot be read: No such file or directory",
        ),
    ],
)
def test_a_mistake_is_one_line_on_stderr(arguments, message, capsys, tmp_path):
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"recbole_sda: {message}")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []  # before any work


def test_an_unknown_dataset_names_those_that_are_there(capsys):
    Path("dataset/shop").mkdir(parents=True)
    Path("dataset/shop/shop.inter").touch()
    assert cli.main(["--model=BPR", "--dataset=shopp"]) == 2
    assert "dataset='shopp' is not there" in (err := capsys.readouterr().err)
    assert err.endswith("use one of: demo, shop\n")


@pytest.mark.parametrize("error", [SDAError("the store is empty"), ImportError("no RecBole")])
def test_expected_errors_have_no_traceback(error, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "run", _raising(error))
    assert cli.main(["--model=BPR"]) == 2
    assert capsys.readouterr().err == f"recbole_sda: {error}\n"


@pytest.mark.parametrize("error", [ValueError("a shape"), KeyError("x"), RuntimeError("out of memory")])
def test_faults_of_the_program_keep_theirs(error, monkeypatch):
    monkeypatch.setattr(pipeline, "run", _raising(error))
    with pytest.raises(type(error)):
        cli.main(["--model=BPR"])


def test_progress_goes_to_stdout_once(monkeypatch, capsys, quiet_logger):
    quiet_logger.handlers.clear()
    monkeypatch.setattr(pipeline, "run", lambda **_: logging.getLogger("recbole_sda.stages").info("embedded"))
    assert cli.main(["--model=BPR"]) == 0
    assert cli.main(["--model=BPR"]) == 0
    assert capsys.readouterr().out == "embedded\nembedded\n"


def test_the_script_is_the_command_line(calls, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "embed", "--dataset=demo"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert caught.value.code == 0
    assert calls == [("embed", [], ["--dataset=demo"])]


def _raising(error):
    def raising(**_):
        raise error

    return raising
