"""What a report costs: seconds and memory to make it, megabytes, and how soon a browser has it open.

    python benchmarks/report_page.py [--items=10000] [--folder=FOLDER]

A tiny run (``ids,zero_shot,sda`` on the demo with so many items) comes first and is not measured; with
``--folder`` it is kept, and not repeated. The report runs in a process of its own, so that its peak is its own.
The browser opens the page from disk, five times: ``load`` is until the load event, when text, tables and pictures
are there; then the first chart.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

RUN = Path(__file__).parents[1] / "run_recbole_sda.py"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
OPENINGS = 5


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        result = finished_run(folder, options.items)
        page, seconds, megabytes = timed_report(result, folder)
        print(
            f"{options.items:,} items: {seconds:.1f} s, peak {megabytes:,.0f} MB, page "
            f"{page.stat().st_size / 2**20:.1f} MB, pictures {len(list(page.parent.glob('*.png')))}"
        )
        opened = openings(page)
        if opened:
            load, charts = (median(values) for values in zip(*opened, strict=True))
            print(f"browser, median of {len(opened)}: load {load:.2f} s, first chart {charts:.2f} s")


def finished_run(folder: Path, items: int) -> Path:
    result = folder / f"result-{items}.json"
    if not result.exists():
        told = {
            "model": "SASRec",
            "dataset": "demo",
            "compare": "ids,zero_shot,sda",
            "backbone": "tiny",
            "demo_items": items,
            "all_items": True,  # those, too, that nobody took
            "demo_users": max(100, items // 2),
            "align_steps": 3,
            "align_batch_size": 8,
            "epochs": 1,
            "data_path": folder / "data",
            "checkpoint_dir": folder / "saved",
            "result_file": result,
        }
        subprocess.run(
            [sys.executable, RUN, "run", *(f"--{key}={value}" for key, value in told.items())],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
    return result


def timed_report(result: Path, folder: Path) -> tuple[Path, float, float]:
    """The page, seconds of the whole command, and the peak of the memory of its largest process in MB."""
    # The run's process counts among the children, too, so the report has a parent of its own.
    inner = f"import resource, subprocess; subprocess.run({[sys.executable, str(RUN), 'report', str(result)]!r}, "
    inner += "check=True); print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", inner], check=True, cwd=folder, stdout=subprocess.PIPE, text=True)
    seconds = time.monotonic() - started
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return result.with_name(f"{result.stem}-report") / "report.html", seconds, int(done.stdout.split()[-1]) / scale


def openings(page: Path) -> list[tuple[float, float]]:
    """Seconds to the load event and to the first chart, of each opening; none without a browser."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        print("no browser: `pip install playwright`, `apt-get install chromium`")
        return []
    found = []
    with sync_playwright() as driver:
        for _ in range(OPENINGS):
            browser = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS)
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            started = time.monotonic()
            tab.goto(page.as_uri(), timeout=0)
            load = time.monotonic() - started
            tab.wait_for_function("document.querySelector('[data-drawn]')", timeout=0)
            found.append((load, time.monotonic() - started))
            browser.close()
    return found


if __name__ == "__main__":
    main()
