"""A picture server on this machine that does what servers do on bad days; each path is one misbehaviour.

    python tests/datasets/misbehaving.py

runs `dataset_scripts/pictures.py` against it and prints what that says.
"""

import csv
import gzip
import io
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import zlib
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image
from tabulate import tabulate

SCRIPTS = Path(__file__).resolve().parents[2] / "dataset_scripts"
RAW = bytes(range(256)) * 400  # a file to download, 102,400 bytes
WEB_PAGE = b"<!doctype html><html><body>Sorry, this product is gone.</body></html>"


def picture(number: int = 0, kind: str = "JPEG") -> bytes:
    """A small picture, another one for each number."""
    file = io.BytesIO()
    Image.new("RGB", (24, 16), (number % 256, number // 256 % 256, 90)).save(file, kind)
    return file.getvalue()


def bomb_picture(side: int = 60_000) -> bytes:
    """A PNG of a few bytes that declares side² pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b""))
    checked = [(kind + data, len(data)) for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", size) + body + struct.pack(">I", zlib.crc32(body)) for body, size in checked
    )


class Misbehaving(ThreadingHTTPServer):
    """Use it as a context. `asked` counts requests by path, `most_at_once` those that were under way together."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: Counter[str] = Counter()
        self.headers_seen: list[dict[str, str]] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.hold_after: int | None = None  # this many requests are answered, later ones wait
        self.holding = threading.Event()  # one waits
        self.barrier: threading.Barrier | None = None  # requests for pictures are answered in groups

    def __enter__(self) -> "Misbehaving":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def handle_error(self, request, client_address) -> None:  # a client that hangs up is no news
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Misbehaving

    def do_GET(self) -> None:
        server, path = self.server, self.path.lstrip("/")
        with server.lock:
            server.asked[path] += 1
            server.headers_seen.append(dict(self.headers))
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            held = server.hold_after is not None and server.asked.total() > server.hold_after
        try:
            if held:
                server.holding.set()
                server.closing.wait()
            self.answer(path, server.asked[path])
        finally:
            with server.lock:
                server.at_once -= 1

    def answer(self, path: str, time: int) -> None:
        """Answer the request for `path`, which comes for the `time`-th time."""
        name = path.partition(".")[0].replace("-", "_")
        number = name.removeprefix("good_")
        if number.isdigit():
            self.good(int(number))
        else:
            getattr(self, name)(time)

    def send(self, body: bytes, status: int = 200, declared: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if declared is None else declared))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass

    # Pictures

    def good(self, number: int) -> None:
        if self.server.barrier is not None:
            with suppress(threading.BrokenBarrierError):
                self.server.barrier.wait(10)
        self.send(picture(number), Content_Type="image/jpeg")

    def missing(self, _) -> None:
        self.send(WEB_PAGE, 404)

    def gone(self, _) -> None:
        self.send(b"", 410)

    def busy_once(self, time: int) -> None:
        self.send(picture(), *((429,) if time == 1 else ()), **({"Retry_After": "1"} if time == 1 else {}))

    def closed_for_an_hour(self, _) -> None:
        self.send(b"", 429, Retry_After="3600")

    def broken_twice(self, time: int) -> None:
        self.send(picture(), 500 if time <= 2 else 200)

    def broken(self, _) -> None:
        self.send(b"", 503)

    def silent(self, _) -> None:
        self.server.closing.wait()

    def drip(self, _) -> None:
        self.send(b"\xff", declared=10_000)
        while not self.server.closing.wait(0.05):
            self.wfile.write(b"\xd8")

    def truncated(self, _) -> None:
        self.send(picture()[:100], declared=len(picture()))
        self.close_connection = True

    def half(self, _) -> None:
        """A picture that was cut before it came to the server."""
        self.send(picture()[:300], Content_Type="image/jpeg")

    def endless(self, _) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while not self.server.closing.is_set():
            self.wfile.write(b"10000\r\n" + b"\xff" * 0x10000 + b"\r\n")

    def too_long(self, _) -> None:
        self.send(b"", declared=10**12)

    def web_page(self, _) -> None:
        self.send(WEB_PAGE, Content_Type="image/jpeg")

    def wrong_extension(self, _) -> None:
        self.send(picture(kind="PNG"), Content_Type="text/plain")

    def animated(self, _) -> None:
        self.send(picture(kind="GIF"), Content_Type="image/gif")

    def empty(self, _) -> None:
        self.send(b"")

    def gzip_bomb(self, _) -> None:
        self.send(gzip.compress(bytes(10**7)), Content_Encoding="gzip", Content_Type="image/jpeg")

    def pixel_bomb(self, _) -> None:
        self.send(bomb_picture())

    def reserved(self, _) -> None:
        self.send(picture(), X_Robots_Tag="noai, noindex")

    def reset(self, _) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    # Redirects

    def moved(self, _) -> None:
        self.send(b"", 302, Location="good-7.jpg")

    def to_file(self, _) -> None:
        self.send(b"", 302, Location="file:///etc/passwd")

    def to_ftp(self, _) -> None:
        self.send(b"", 302, Location="ftp://127.0.0.1/picture.jpg")

    def to_inside(self, _) -> None:
        self.send(b"", 302, Location=f"http://127.0.0.2:{self.server.server_port}/good-1.jpg")

    def loop(self, _) -> None:
        self.send(b"", 301, Location="loop.jpg")

    # A raw file

    def raw(self, _) -> None:
        self.send_part(tag='"one"')

    def raw_changed(self, time: int) -> None:
        """Cut the first time, another file from then on."""
        if time == 1:
            self.send_part(tag='"old"', cut=True)
        elif self.headers.get("If-Range") == '"old"':
            self.send(RAW[::-1], ETag='"new"')

    def raw_in_pieces(self, _) -> None:
        self.send_part(tag='"one"', cut=True)

    def raw_without_range(self, time: int) -> None:
        self.send(RAW[: len(RAW) // 2] if time == 1 else RAW, declared=len(RAW), ETag='"one"')
        self.close_connection = True

    def raw_without_tag(self, time: int) -> None:
        self.send_part(tag=None, cut=time == 1)

    def login(self, _) -> None:
        self.send(WEB_PAGE, Content_Type="text/html; charset=utf-8")

    def send_part(self, tag: str | None, cut: bool = False) -> None:
        """The raw file from the byte that is asked for; cut, no more than a third of it."""
        asked = self.headers.get("Range")
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if begin >= len(RAW):
            self.send(b"", 416, Content_Range=f"bytes */{len(RAW)}")
            return
        headers = {"ETag": tag} if tag else {}
        if asked:
            headers["Content_Range"] = f"bytes {begin}-{len(RAW) - 1}/{len(RAW)}"
        body = RAW[begin : begin + len(RAW) // 3 + 1] if cut else RAW[begin:]
        self.send(body, 206 if asked else 200, declared=len(RAW) - begin, **headers)
        self.close_connection = cut


FAULTS = """missing gone broken silent drip truncated half endless too-long web-page animated empty gzip-bomb
pixel-bomb reserved reset to-file to-ftp loop"""
PATHS = {  # item -> paths
    "good": ["good-1.jpg"],
    "second URL": ["missing.jpg", "good-2.jpg"],
    "busy once": ["busy-once.jpg"],
    "broken twice": ["broken-twice.jpg"],
    "moved": ["moved.jpg"],
    "PNG named .jpg": ["wrong-extension.jpg"],
    **{path.replace("-", " "): [f"{path}.jpg"] for path in FAULTS.split()},
}


def write_urls(path: Path, urls: dict[str, list[str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("item_id", "url"))
        writer.writerows((item, url) for item, found in urls.items() for url in found)


def main() -> None:
    with Misbehaving() as server, tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "dataset" / "misbehaving"
        folder.mkdir(parents=True)
        urls = {item: [server.url(path) for path in paths] for item, paths in PATHS.items()}
        write_urls(folder / "image_urls.csv", urls | {"../escape": [server.url("good-3.jpg")]})
        quick = ["--allow-private", "--attempts", "3", "--total-seconds", "2"]
        run_and_print(server, folder, quick)
        print("dataset/misbehaving/images/manifest.csv, without url and sha256:")
        with open(folder / "images" / "manifest.csv", encoding="utf-8", newline="") as file:
            rows = [
                (item, status, cause, size, name) for item, _, status, cause, size, _, name in csv.reader(file)
            ]
        print(tabulate(rows, headers="firstrow"), end="\n\n")
        run_and_print(server, folder, quick)
        run_and_print(server, folder, ["--retry-failed"])


def run_and_print(server: Misbehaving, folder: Path, options: list[str]) -> None:
    before = server.asked.total()
    print("$ python dataset_scripts/pictures.py dataset/misbehaving", *options, flush=True)
    run = [sys.executable, SCRIPTS / "pictures.py", folder, *options]
    status = subprocess.run(run, stderr=subprocess.DEVNULL, check=False).returncode
    print(f"(exit status {status}; the server saw {server.asked.total() - before} requests)\n", flush=True)


if __name__ == "__main__":
    main()
