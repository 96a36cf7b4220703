"""From raw Amazon files to a recommender's table, every command as a user types it, pictures from a local server.

    python tests/datasets/whole_way.py --year 2018 --reviews Gift_Cards_5.json.gz \\
        --metadata meta_Gift_Cards.json.gz

The server stands in for the one that the metadata name: it draws a picture for every address it is asked for. In
`image_urls.csv` it takes their place, and nothing else is changed.
"""

import argparse
import csv
import io
import os
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "dataset_scripts"
QUICK = ("--backbone=tiny", "--epochs=2", "--align_steps=20", "--train_batch_size=256")


class _Drawings(BaseHTTPRequestHandler):
    def do_GET(self) -> None:  # http.server's name
        number = zlib.crc32(self.path.encode())
        picture = io.BytesIO()
        left = -2 + number % 9973 / 9973  # another part of the set for each address
        Image.effect_mandelbrot((64, 64), (left, -1.5, left + 3, 1.5), 50).save(picture, "PNG")
        self.send_response(200)
        self.send_header("Content-Length", str(picture.tell()))
        self.end_headers()
        self.wfile.write(picture.getvalue())

    def log_message(self, *_) -> None: ...


@contextmanager
def drawing_server():
    """Its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Drawings)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def go(raw: list[str], folder: Path, run: Callable[..., None], settings: tuple[str, ...] = QUICK) -> Path:
    """All steps in `folder`, each by `run(*command)`; returns the result file.

    Args:
        raw: the options of amazon.py that say what is read.
    """
    dataset = folder / "dataset" / "shop"
    run(SCRIPTS / "amazon.py", *raw, "--output", dataset, "--no-images")
    with drawing_server() as address:
        _ask_here(dataset / "image_urls.csv", address)
        run(SCRIPTS / "pictures.py", dataset, "--allow-private", "--per-second", "1000")
    use_pictures = "--modalities=image,text"  # `--no-images` made it a dataset of texts
    # 1: items without a picture are pointed out, which stops nothing
    check = ("-m", "recbole_sda.catalog", "check", dataset, use_pictures, "--contact-sheet", "sheet.png")
    run(*check, allowed=(0, 1))
    job = ("--model=SASRec", "--dataset=shop", "--compare=ids,zero_shot,sda", "--result_file=result.json")
    run(ROOT / "run_recbole_sda.py", *job, use_pictures, *settings)
    return folder / "result.json"


def _ask_here(urls: Path, address: str) -> None:
    with open(urls, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    with open(urls, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows((item, f"{address}/{zlib.crc32(url.encode())}.png") for item, url in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--year", required=True)
    parser.add_argument("--reviews", required=True, type=Path)
    parser.add_argument("--metadata", required=True, type=Path)
    options, settings = parser.parse_known_args()
    raw = ["--year", options.year]
    raw += ["--reviews", options.reviews.resolve(), "--metadata", options.metadata.resolve()]
    with tempfile.TemporaryDirectory() as folder:

        def run(*command, allowed=(0,)) -> None:
            shown = [str(part).replace(str(ROOT) + os.sep, "").replace(folder + os.sep, "") for part in command]
            print("$ python", *shown, flush=True)
            status = subprocess.run([sys.executable, *map(str, command)], cwd=folder, check=False).returncode
            print(f"(exit status {status})\n", flush=True)
            if status not in allowed:
                sys.exit(1)

        go(raw, Path(folder), run, tuple(settings) or QUICK)


if __name__ == "__main__":
    main()
