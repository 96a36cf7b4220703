"""The JSON file of a command's results."""

import json
from pathlib import Path

from recbole_sda.artefacts import written_whole
from recbole_sda.errors import SDAError


def write_result(path: Path, result: dict) -> None:
    text = json.dumps(result, indent=2, ensure_ascii=False)
    with written_whole(path) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8")


def check_result_file(path: str | None) -> Path | None:
    if path is None:
        return None
    if not Path(path).resolve().parent.is_dir():
        raise SDAError(f"result_file={path}: its folder does not exist; make it first")
    return Path(path)
