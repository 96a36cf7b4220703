"""The JSON file of a command's results."""

import json
from collections.abc import Sequence
from pathlib import Path

from recbole_sda.artefacts import digest, written_whole
from recbole_sda.errors import SDAError
from recbole_sda.trainer import plain

OF_NO_RESULT = {"result_file", "config_files"}


def write_result(path: Path, result: dict) -> None:
    text = json.dumps(result, indent=2, ensure_ascii=False)
    with written_whole(path) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8")


def default_result_file(configs: Sequence) -> Path:
    """Where a command's results go unless it says: a name of its own for each configuration, so that none is lost.

    Args:
        configs: one a model.
    """
    config = configs[0]
    folder = Path(config["checkpoint_dir"]) / "results"
    folder.mkdir(parents=True, exist_ok=True)
    said = [
        {key: plain(value) for key, value in each.final_config_dict.items() if key not in OF_NO_RESULT}
        for each in configs
    ]
    models = "+".join(each["model"] for each in configs)
    return folder / f"{models}-{config['dataset']}-{digest({'configs': said})}.json"


def check_result_file(path: str | None) -> Path | None:
    if path is None:
        return None
    if not Path(path).resolve().parent.is_dir():
        raise SDAError(f"result_file={path}: its folder does not exist; make it first")
    return Path(path)
