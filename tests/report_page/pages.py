"""One small finished command, and the same dataset afterwards with texts and a picture that mean harm."""

import json
import shutil

import pytest
from report_page.hostile import HOSTILE

import recbole_sda
from recbole_sda.artefacts import read_manifest
from recbole_sda.report.page.write import write_report

TINY = {"backbone": "tiny", "demo_items": 40, "demo_users": 60, "epochs": 2}
TINY |= {"align_steps": 3, "align_batch_size": 8}


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a finished command: ``result.json``, ``saved`` and ``data``. Do not write to it."""
    folder = tmp_path_factory.mktemp("finished")
    places = {"checkpoint_dir": str(folder / "saved"), "data_path": str(folder / "data")}
    told = {**TINY, **places, "compare": ["ids", "zero_shot", "sda"], "result_file": str(folder / "result.json")}
    recbole_sda.run("SASRec", "demo", told)
    return folder


@pytest.fixture(scope="session")
def conflict(finished):
    """What ``diagnose conflict`` would have left, its numbers made up."""
    result = json.loads((finished / "result.json").read_text())
    adapter = result["runs"][-1]["artefacts"]["adapter"]
    experts = read_manifest(adapter)["settings"].get("num_experts", 4)
    parts = [(None, None), *((expert, None) for expert in range(experts)), ("each", "each")]
    records = [
        {
            "adapter": name,
            "trained": trained,
            "pair": ["image", "text"],
            "expert": expert,
            "projection": projection,
            "mean": 0.1,
            "low": 0.0,
            "high": 0.2,
        }
        for name in ("lora", "moda")
        for trained in (False, True)
        for expert, projection in parts
    ]
    shared = {"dataset": "demo", "seed": 2020, "alignment": "cmsa", "align_batch_size": 8, "batches": 10}
    adapters = {"lora": "of another", "moda": adapter.rpartition("/")[2]}
    return {**shared, "num_experts": experts, "adapters": adapters, "conflict": records}


@pytest.fixture(scope="session")
def hostile_page(finished, conflict, tmp_path_factory):
    """The page of that command with hostile titles, a truncated picture and a diagnosis."""
    folder = tmp_path_factory.mktemp("hostile")
    shutil.copytree(finished / "saved", folder / "saved")
    shutil.copy(finished / "result.json", folder / "result.json")
    data = shutil.copytree(finished / "data", folder / "data")
    _rewrite_titles(data / "demo" / "demo.item")
    pictures = sorted((data / "demo" / "images").iterdir())
    pictures[0].write_bytes(pictures[0].read_bytes()[:100])
    result = json.loads((folder / "result.json").read_text())
    result["runs"][0]["variant"] = "<b>ids</b>"
    result["config"]["SASRec"]["note"] = HOSTILE[1]
    for run in result["runs"]:
        for name, path in run["artefacts"].items():
            run["artefacts"][name] = path and path.replace(str(finished), str(folder))
    (folder / "result.json").write_text(json.dumps(result))
    diagnosis = folder / "saved" / "diagnose" / "conflict-0"
    diagnosis.mkdir(parents=True)
    (diagnosis / "conflict.json").write_text(json.dumps(conflict))
    return write_report(folder / "result.json", folder / "page", users=4, data_path=data)


def _rewrite_titles(item_file):
    header, *rows = item_file.read_text(encoding="utf-8").splitlines()
    title = [name.partition(":")[0] for name in header.split("\t")].index("title")
    written = [header]
    for number, row in enumerate(rows):
        cells = row.split("\t")
        cells[title] = f"{HOSTILE[number % len(HOSTILE)]} {number}"
        written.append("\t".join(cells))
    item_file.write_text("\n".join(written) + "\n", encoding="utf-8")
