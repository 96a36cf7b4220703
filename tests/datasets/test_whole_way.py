"""Raw files → dataset → pictures → check → adapt, embed, recommend: the commands of a user, one after another."""

import json
import subprocess
import sys

import numpy as np
import pytest
from whole_way import go

pytestmark = pytest.mark.slow

KINDS = ("Lamp", "Chair", "Clock")


def write_raw(folder) -> list:
    """40 users who each reviewed 8 of 40 products, as in 2018's files; two products have no picture."""
    generator = np.random.default_rng(0)
    reviews, metadata = folder / "reviews.json", folder / "meta.json"
    with reviews.open("w") as file:
        for user in range(40):
            for number, item in enumerate(generator.permutation(40)[:8]):
                row = {"reviewerID": f"U{user}", "asin": f"B{item:03}", "overall": 5.0, "reviewText": "Good."}
                file.write(json.dumps({**row, "unixReviewTime": 1_500_000_000 + 86_400 * number}) + "\n")
    with metadata.open("w") as file:
        for item in range(40):
            title = f"{KINDS[item % 3]} number {item}"
            images = [f"https://pictures.invalid/{item}.jpg"] if item < 38 else []
            row = {"asin": f"B{item:03}", "title": title, "brand": "Maker", "category": ["Home"]}
            file.write(json.dumps({**row, "description": [f"A {title}."], "imageURLHighRes": images}) + "\n")
    return ["--year", "2018", "--reviews", reviews, "--metadata", metadata, "--k-core", "1"]


def test_raw_files_become_a_table(tmp_path):
    told = []

    def run(*command, allowed=(0,)):
        done = subprocess.run([sys.executable, *map(str, command)], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode in allowed, done.stdout + done.stderr
        told.append(done.stdout)

    quick = ("--backbone=tiny", "--epochs=1", "--align_steps=2", "--MAX_ITEM_LIST_LENGTH=5")
    result = json.loads(go(write_raw(tmp_path), tmp_path, run, quick).read_text())
    converted, pictures, checked, table = told
    assert "38 items have a picture's address" in converted
    assert "38 fetched" in pictures
    assert "320 interactions" in checked
    assert (tmp_path / "sheet.png").is_file()
    assert "SASRec on shop" in table
    assert [run["variant"] for run in result["runs"]] == ["ids", "zero_shot", "sda"]
    assert result["runs"][2]["items"] == 40
    assert result["runs"][2]["missing"] == {"image": 2, "text": 0}
