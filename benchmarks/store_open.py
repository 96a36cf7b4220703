"""Opening a feature store and reading random rows of it; beside it, item features the way RecBole loads them.

    python benchmarks/store_open.py [--items=1000000] [--width=3584] [--reads=10000] [--small-items=20000]
        [--small-width=256] [--folder=FOLDER]

The store is really written (7.2 GB at the size above), to the folder's disk, and read before and after the system
has its pages in memory. RecBole parses its features from text (`additional_feat_suffix`, `preload_weight`), so
the two are compared at a size where that loads, both up to the same float32 matrix by item; the second table says
nothing about other sizes. Each contestant has a process of its own; memory is how far its resident set grew at
its peak, mapped pages of the store's files included. Linux only.
"""

import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from harness import SEED, options, print_table, start

from recbole_sda.features import FeatureProvider, FeatureStore, write_store
from recbole_sda.features.arrays import create_array, row_chunks

NAME = "texts"
MEGABYTE = 2**20


def measure(work: Callable[[], object]) -> tuple[object, float, float]:
    """What it returns, seconds, megabytes."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins at what is resident now
    before, began = resident_peak(), time.perf_counter()
    result = work()
    seconds = time.perf_counter() - began
    return result, seconds, resident_peak() - before


def resident_peak() -> float:
    """Megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def alone(function: Callable, *arguments: object) -> object:
    """Its result, from a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def make_store(folder: Path, items: int, width: int) -> None:
    folder.mkdir()
    block = np.random.default_rng(SEED).normal(size=(4096, width)).astype(np.float16)
    values = create_array(folder / "text.npy", dtype=block.dtype, shape=(items, width))
    for rows in row_chunks(items, width, 2):
        values[rows] = block[np.arange(rows.start, rows.stop) % len(block)]
    values.flush()
    write_store(folder, tokens_of(items), {"text": np.ones(items, dtype=bool)}, settings={})


def tokens_of(items: int) -> list[str]:
    return [f"B{item:09d}" for item in range(items)]


def forget_pages(folder: Path) -> None:
    """Have the system drop the files from its memory."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def open_and_read(folder: Path, items: int, reads: int) -> list[tuple[str, float, float]]:
    chosen = np.random.default_rng(SEED).choice(items, size=reads, replace=False)
    wanted = [f"B{item:09d}" for item in chosen]
    steps = []
    forget_pages(folder)
    store, *figures = measure(lambda: FeatureStore.open(folder))
    steps.append(("open", *figures))
    _, *figures = measure(lambda: store.rows(wanted[:1]))
    steps.append(("read the item tokens", *figures))
    for state in ("from the disk", "again, from memory"):
        got, *figures = measure(lambda: store.get("text", wanted))
        assert got.shape == (reads, store.width("text"))
        del got
        steps.append((f"{reads:,} random rows {state}", *figures))
    return steps


def write_texts(folder: Path, store: FeatureStore) -> None:
    """The store's items as RecBole's atomic files: one interaction and one line of features an item."""
    folder.mkdir()
    rows = store.get("text", store.tokens).tolist()
    lines = (f"{token}\t{' '.join(map(str, row))}" for token, row in zip(store.tokens, rows, strict=True))
    (folder / f"{NAME}.itememb").write_text("iid:token\titem_emb:float_seq\n" + "\n".join(lines) + "\n")
    pairs = "\n".join(f"u\t{token}" for token in store.tokens)
    (folder / f"{NAME}.inter").write_text(f"user_id:token\titem_id:token\n{pairs}\n")


def recbole_dataset(folder: Path, with_features: bool):
    """RecBole's dataset of the atomic files."""
    from recbole_sda.config import SDAConfig  # has to come first: it makes RecBole importable

    from recbole.data.dataset import Dataset  # isort: skip

    warnings.simplefilter("ignore", FutureWarning)  # pandas, of RecBole's ways
    features = {
        "additional_feat_suffix": ["itememb"],
        "load_col": {"inter": ["user_id", "item_id"], "itememb": ["iid", "item_emb"]},
        "alias_of_item_id": ["iid"],
        "preload_weight": {"iid": "item_emb"},
    }
    plain = {"load_col": {"inter": ["user_id", "item_id"]}}
    values = {"data_path": str(folder.parent), **(features if with_features else plain)}
    return Dataset(SDAConfig("BPR", NAME, config_dict=values))


def load_by_recbole(folder: Path) -> tuple[float, float, float]:
    """Seconds, megabytes, and the sum of the matrix, which is the store's."""
    recbole_dataset(folder, with_features=False)  # imports and what has to be read anyway
    began = measure(lambda: recbole_dataset(folder, with_features=False))[1]

    def load() -> np.ndarray:
        return recbole_dataset(folder, with_features=True).get_preload_weight("iid")[1:]

    matrix, seconds, memory = measure(load)
    return seconds - began, memory, float(matrix.astype(np.float64).sum())


def load_by_store(folder: Path) -> tuple[float, float, float]:
    tokens = tokens_of(FeatureStore.open(folder).manifest["items"])[::-1]  # some recommender's order

    def load() -> np.ndarray:
        return FeatureProvider(FeatureStore.open(folder), tokens).values("text").astype(np.float32)

    matrix, seconds, memory = measure(load)
    return seconds, memory, float(matrix.astype(np.float64).sum())


def beside_recbole(folder: Path, items: int, width: int) -> list[dict[str, object]]:
    make_store(folder / "small", items, width)
    write_texts(folder / NAME, FeatureStore.open(folder / "small"))
    recbole, own = alone(load_by_recbole, folder / NAME), alone(load_by_store, folder / "small")
    assert abs(recbole[2] - own[2]) < 1e-3 * items, "the two loaded other values"
    return [
        {
            "features": name,
            "items × width": f"{items:,} × {width:,}",
            "on disk MB": f"{sum(path.stat().st_size for path in place.iterdir()) / MEGABYTE:,.0f}",
            "seconds": f"{seconds:.3f}",
            "memory MB": f"{memory:,.0f}",
        }
        for name, place, (seconds, memory, _) in (
            ("RecBole, text files", folder / NAME, recbole),
            ("feature store", folder / "small", own),
        )
    ]


def main() -> None:
    sizes = {"items": 1_000_000, "width": 3584, "reads": 10_000, "small_items": 20_000, "small_width": 256}
    args = options(__doc__, **sizes, folder="").parse_args()
    start(args.threads)
    folder = Path(tempfile.mkdtemp(prefix="store_open-", dir=args.folder or None))
    try:
        make_store(folder / "large", args.items, args.width)
        steps = alone(open_and_read, folder / "large", args.items, args.reads)
        print(f"\n{args.items:,} × {args.width:,} float16, written in full\n")
        print_table(
            [
                {"step": name, "milliseconds": f"{1000 * seconds:,.1f}", "memory MB": f"{memory:,.0f}"}
                for name, seconds, memory in steps
            ]
        )
        print()
        print_table(beside_recbole(folder, args.small_items, args.small_width))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
