"""`export`, `import`, `verify` and `nearest` on the command line, without RecBole."""

import subprocess
import sys

import numpy as np
import pytest

from recbole_sda.cli import main
from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureStore, write_store
from recbole_sda.store_commands import run_store_command


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)  # the neighbours on a circle are known
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    np.save(folder / "text.npy", circle)
    write_store(folder, [f"i{n}" for n in range(8)], {"text": np.ones(8, bool)}, settings={})
    return folder


@pytest.mark.parametrize("format", ["npy", "parquet", "safetensors"])
def test_there_and_back(store, tmp_path, capsys, format):
    there, back = tmp_path / "there", tmp_path / "back"
    assert main(["export", str(store), f"--output={there}", f"--format={format}"]) == 0
    assert main(["import", str(there), f"--output={back}", "--format", format, "--dataset=shop"]) == 0
    assert f"--features={back}" in capsys.readouterr().out
    opened = FeatureStore.open(back, verify=True)
    assert opened.manifest["dataset"] == "shop"
    assert np.array_equal(opened.values("text"), FeatureStore.open(store).values("text"))


def test_verify(store, capsys):
    assert main(["verify", str(store)]) == 0
    assert "every file matches its checksum" in capsys.readouterr().out
    values = bytearray((store / "text.npy").read_bytes())
    values[-1] ^= 1
    (store / "text.npy").write_bytes(values)
    assert main(["verify", str(store)]) == 2
    assert "text.npy does not match its checksum" in capsys.readouterr().err


def test_nearest(store, capsys):
    index = pytest.importorskip("recbole_sda.features.index")
    pytest.importorskip("faiss")
    index.build_index(FeatureStore.open(store), "text", show_progress=False)
    assert main(["nearest", str(store), "--modality=text", "--items=i0,i3", "--k=2"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert {tuple(row[:2]) for row in rows} == {("i0", "i1"), ("i0", "i7"), ("i3", "i2"), ("i3", "i4")}
    assert {row[2] for row in rows} == {f"{np.cos(np.pi / 4):.4f}"}


@pytest.mark.parametrize(
    ("verb", "subject", "arguments", "message"),
    [
        ("export", [], ["--output=x"], "export needs a path"),
        ("export", ["s"], ["--output=x"], "export needs --format="),
        ("verify", ["s"], ["--format=x"], "verify does not know --format; it takes nothing"),
        ("import", ["s"], ["--outptu=x"], "import does not know --outptu; it takes --output, --format, --ids"),
        ("export", ["nowhere"], ["--output=x", "--format=npy"], "no manifest.json"),
        ("nearest", ["nowhere"], ["--modality=text", "--items=a"], "no manifest.json"),
    ],
)
def test_mistakes(verb, subject, arguments, message):
    with pytest.raises(SDAError) as caught:
        run_store_command(verb, subject, [], arguments)
    assert message in str(caught.value)


def test_neither_recbole_nor_a_model_is_loaded(store):
    code = (
        "import sys; from recbole_sda.cli import main; main(['verify', sys.argv[1]]); "
        "print(sorted({'recbole', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
