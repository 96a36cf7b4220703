"""From raw files to a dataset at the size of Amazon's Beauty of 2014: seconds and peak memory of the whole script.

    python benchmarks/amazon_whole.py [--folder=/tmp]

Drawn: 2,023,070 ratings of 1,210,271 users and 259,204 rows of metadata as Python literals, gzipped. 22,363 of the
users share the 198,502 ratings of 12,101 items that the real 5-core has; the others rated one item each, so that
the 5-core is about the real one's size. Without pictures: at the downloader's eight a second and host they take
12,101 / 8 = 25 minutes, whatever the machine. Linux only.
"""

import gzip
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import SEED, options, print_table

SCRIPT = Path(__file__).resolve().parent.parent / "dataset_scripts" / "amazon.py"
RATINGS, USERS, METADATA = 2_023_070, 1_210_271, 259_204
CORE_RATINGS, CORE_USERS, CORE_ITEMS = 198_502, 22_363, 12_101
# Runs a script and adds its largest resident set, which ends with the process.
MEASURED = """
import runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as exit:
    assert not exit.code, exit.code
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def write_ratings(path: Path) -> None:
    generator = np.random.default_rng(SEED)
    lengths = 5 + generator.multinomial(CORE_RATINGS - 5 * CORE_USERS, np.full(CORE_USERS, 1 / CORE_USERS))
    weights = 1 / np.arange(10, CORE_ITEMS + 10)
    items = generator.choice(CORE_ITEMS, size=CORE_RATINGS, p=weights / weights.sum())
    items[generator.permutation(CORE_RATINGS)[: 5 * CORE_ITEMS]] = np.repeat(np.arange(CORE_ITEMS), 5)
    others = RATINGS - CORE_RATINGS
    user = np.r_[np.repeat(np.arange(CORE_USERS), lengths), generator.integers(CORE_USERS, USERS, others)]
    item = np.r_[items, generator.integers(METADATA, size=others)]
    time_ = generator.integers(1_300_000_000, 1_400_000_000, RATINGS)
    rows = np.stack([user, item, generator.integers(1, 6, RATINGS), time_], axis=1)
    np.savetxt(path, rows[generator.permutation(RATINGS)], fmt="A%012d,B%09d,%d.0,%d")


def write_metadata(path: Path) -> None:
    generator = np.random.default_rng(SEED)
    words = np.array(["soft", "hair", "brush", "nail", "lotion", "mineral", "powder", "set", "travel", "natural"])
    with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as file:
        for item in range(METADATA):
            title, *sentences = (" ".join(generator.choice(words, size=n)) for n in (8, 20, 30))
            row = {
                "asin": f"B{item:09d}",
                "title": title,
                "description": ". ".join(sentences),
                "imUrl": f"http://pictures.invalid/{item}.jpg",
                "related": {"also_bought": [f"B{n:09d}" for n in generator.integers(METADATA, size=40)]},
                "salesRank": {"Beauty": item},
                "categories": [["Beauty", "Hair Care"]],
            }
            file.write(f"{row}\n")


def main() -> None:
    args = options(__doc__, folder="").parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder or None) as place:
        ratings, metadata = Path(place) / "ratings_Beauty.csv", Path(place) / "meta_Beauty.json.gz"
        write_ratings(ratings)
        write_metadata(metadata)
        command = [SCRIPT, "--year=2014", "--reviews", ratings, "--metadata", metadata, "--no-images"]
        command += ["--output", Path(place) / "dataset" / "beauty"]
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *map(str, command)], check=True, stdout=subprocess.PIPE, text=True
        )
        seconds = time.perf_counter() - began
        *told, peak = done.stdout.strip().splitlines()
        print("\n".join(told[:10]), end="\n\n")
        row = {"ratings MB": ratings, "metadata MB, gzipped": metadata}
        row = {name: f"{path.stat().st_size / 1e6:,.0f}" for name, path in row.items()}
        print_table([{**row, "seconds": f"{seconds:.1f}", "peak MB": f"{int(peak) * 1024 / 1e6:,.0f}"}])


if __name__ == "__main__":
    main()
