"""Reading Amazon reviews: the converter's pass over a file against pandas reading it whole.

    python benchmarks/amazon_converter.py [--megabytes=1000] [--pairs=3] [--threads=2] [--folder=/tmp]

The file has the fields of 2018 and texts of realistic lengths (log-normal, median 30 words, one in a hundred over
300), and is made anew in a temporary folder, once at a quarter of the size and once whole. Each reading has a
process of its own, in pairs that take turns to go first. Seconds are those of reading alone, without imports;
memory is the process's largest resident set, imports included. The converter's reading pass
(`dataset_scripts/amazon_reviews.py`) has pyarrow's JSON reader parse blocks of 8 MB, in as many threads as there
are, and keeps four columns as integer codes; pandas' `read_json(lines=True)` has one thread. Goals: three times
pandas' speed, and memory that grows by 20 bytes a review and its ids, not by its text. Linux only.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

CONTESTANTS = ("converter", "pandas")
_SCRIPTS = Path(__file__).resolve().parent.parent / "dataset_scripts"


def main() -> None:
    from harness import options, print_table, start  # not in the measured processes: it imports torch

    args = options(__doc__, megabytes=1000, pairs=3, folder="").parse_args()
    start(args.threads)
    rows = []
    for megabytes in (args.megabytes // 4, args.megabytes):
        with tempfile.TemporaryDirectory(dir=args.folder or None) as folder:
            path = Path(folder) / "reviews.json"
            reviews = write_reviews(path, megabytes * 10**6)
            rows += compare(path, reviews, args)
            print_table(rows[-len(CONTESTANTS) :])
    print()
    print_table(rows)


def compare(path: Path, reviews: int, args) -> list[dict[str, str]]:
    """The rows of one file."""
    from harness import ratio

    cells = {name: [] for name in CONTESTANTS}
    for turn in range(args.pairs):
        for name in CONTESTANTS if turn % 2 else CONTESTANTS[::-1]:
            cells[name].append(in_new_process(name, path, args.threads))
    if len(found := {cell["reviews"] for measured in cells.values() for cell in measured}) > 1:
        raise RuntimeError(f"the contestants read different numbers of reviews: {found}")
    seconds = {name: [cell["seconds"] for cell in measured] for name, measured in cells.items()}
    megabytes = path.stat().st_size / 1e6
    return [
        {
            "MB": f"{megabytes:,.0f}",
            "reviews": f"{reviews:,}",
            "reader": name,
            "MB/s": f"{megabytes / median(seconds[name]):,.0f}",
            "times pandas": ratio(seconds, "pandas", name) if name != "pandas" else "",
            "CPU s": f"{median(cell['cpu'] for cell in measured):.2f}",
            "peak MB": f"{median(cell['peak'] for cell in measured):,.0f}",
        }
        for name, measured in cells.items()
    ]


def in_new_process(name: str, path: Path, threads: int) -> dict:
    command = [sys.executable, __file__, "--cell", name, str(path), str(threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, path: str, threads: str) -> dict:
    """Seconds, processor seconds, peak memory in MB and the number of reviews."""
    read = reader(name, int(threads))
    began, worked = time.perf_counter(), time.process_time()
    reviews = read(Path(path))
    seconds, cpu = time.perf_counter() - began, time.process_time() - worked
    return {"seconds": seconds, "cpu": cpu, "peak": peak_megabytes(), "reviews": reviews}


def peak_megabytes() -> float:
    """The process's largest resident set; `ru_maxrss` would begin with that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def reader(name: str, threads: int) -> Callable[[Path], int]:
    """A function from the file to its number of reviews, its imports done."""
    if name == "pandas":
        import pandas as pd

        return lambda path: len(pd.read_json(path, lines=True))
    sys.path.insert(0, str(_SCRIPTS))
    import pyarrow as pa
    from amazon_reviews import read_reviews
    from raw_lines import BadLines

    pa.set_cpu_count(threads)
    return lambda path: len(read_reviews(path, 2018, BadLines(skip=False)))


def write_reviews(path: Path, size: int) -> int:
    """Write reviews until the file has `size` bytes; return their number."""
    draw = np.random.default_rng(0)
    words = np.array(
        ["".join(draw.choice(list("aeiourstlnmdgh"), size=n)) for n in draw.integers(2, 10, size=3000)]
    )
    texts = [" ".join(draw.choice(words, size=1 + int(n))) for n in draw.lognormal(3.4, 1, size=3000)]
    reviews = written = 0
    with open(path, "w", encoding="utf-8") as file:
        while written < size:
            users, items = draw.integers(10**6, size=1000), draw.zipf(1.3, size=1000) % 10**5
            for user, item, text in zip(users, items, draw.integers(len(texts), size=1000), strict=True):
                written += file.write(json.dumps(review(user, item, texts[text], reviews)) + "\n")
                reviews += 1
                if written >= size:
                    break
    return reviews


def review(user: int, item: int, text: str, number: int) -> dict:
    return {
        "overall": float(1 + number % 5),
        "verified": True,
        "reviewTime": "09 4, 2015",
        "reviewerID": f"A{user:013d}",
        "asin": f"B{item:09d}",
        "style": {"Size:": " Large", "Color:": " Blue/Orange"},
        "reviewerName": "Amazon Customer",
        "reviewText": text,
        "summary": text[:40],
        "unixReviewTime": 1_400_000_000 + number * 86400 % 10**8,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cell"]:
        print(json.dumps(measure(*sys.argv[2:])))
    else:
        main()
