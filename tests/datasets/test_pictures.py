import asyncio
import csv
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from filelock import FileLock
from misbehaving import SCRIPTS, Misbehaving, picture, write_urls

from recbole_sda.catalog.images import find_pictures, open_image
from recbole_sda.errors import SDAError

sys.path.insert(0, str(SCRIPTS))  # as Python itself does for a script
import pictures
import polite
from pictures import PictureOptions, UrlFile, fetch_pictures
from polite import Failed, Manners, PoliteClient, Unavailable, read_body

QUICK = Manners(allow_private=True, first_wait=1e-3, per_second=1e5, attempts=3)


@pytest.fixture
def server():
    with Misbehaving() as running:
        yield running


def fill(server, folder, paths, manners=QUICK, **options):
    urls = {item: [server.url(path) for path in found] for item, found in paths.items()}
    return fetch_pictures(urls, folder, options=PictureOptions(manners=manners, show_progress=False, **options))


def fill_one(server, folder, path, manners=QUICK, **options):
    """The manifest's row of one item with one URL."""
    fill(server, folder, {"item": [path]}, manners, **options)
    return manifest(folder)["item"]


def manifest(folder):
    with open(folder / "manifest.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {row["item_id"]: row for row in rows}
    assert len(found) == len(rows)  # a row an item
    return found


def files(folder):
    """Name -> content, but for the manifest and the lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".jpg", ".png", ".part")}


# What is kept


def test_a_picture_is_kept_as_it_was_sent_and_the_catalogue_finds_it(server, tmp_path):
    summary = fill(server, tmp_path, {"a": ["good-1.jpg"], "b.c": ["good-2.jpg"]})
    assert files(tmp_path) == {"a.jpg": picture(1), "b.c.jpg": picture(2)}
    found = find_pictures(tmp_path, ["a", "b.c", "manifest"])
    assert found.names == {"a": "a.jpg", "b.c": "b.c.jpg"}
    assert not found.strangers
    assert not found.ignored
    assert open_image(tmp_path / "a.jpg", 10**6).size == (24, 16)
    row = manifest(tmp_path)["a"]
    assert row["url"] == server.url("good-1.jpg")
    assert row["status"] == "ok"
    assert row["file"] == "a.jpg"
    assert int(row["bytes"]) == len(picture(1))
    assert len(row["sha256"]) == 64
    assert summary.status == 0
    assert summary.fetched == 2
    assert server.headers_seen[0]["User-Agent"].startswith("recbole-sda/")


def test_content_gives_the_extension(server, tmp_path):
    assert fill_one(server, tmp_path, "wrong-extension.jpg")["file"] == "item.png"
    assert files(tmp_path) == {"item.png": picture(kind="PNG")}


@pytest.mark.parametrize(("path", "times"), [("busy-once.jpg", 2), ("broken-twice.jpg", 3)])
def test_what_may_pass_is_tried_again(server, tmp_path, path, times):
    assert fill_one(server, tmp_path, path)["status"] == "ok"
    assert server.asked[path] == times


# What is refused, for good


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("missing.jpg", "HTTP 404"),
        ("gone.jpg", "HTTP 410"),
        ("web-page.jpg", "not a picture: a web page"),
        ("animated.jpg", "a GIF, which the catalogue does not read"),
        ("empty.jpg", "empty body"),
        ("half.jpg", "bad picture: cannot be decoded"),
        ("endless.jpg", "too large: more than 100,000 bytes"),
        ("too-long.jpg", "too large: more than 100,000 bytes"),
        ("gzip-bomb.jpg", "not a picture: compressed, though it was asked for as it is"),
        ("pixel-bomb.jpg", "bad picture: more pixels than max_image_pixels=50000000"),
        ("reserved.jpg", "X-Robots-Tag"),
        ("to-file.jpg", "scheme refused: file"),
        ("to-ftp.jpg", "scheme refused: ftp"),
        ("loop.jpg", "redirects: more than 5"),
    ],
)
def test_a_failure_for_good_is_named_and_asked_once(server, tmp_path, path, cause):
    row = fill_one(server, tmp_path, path, max_bytes=100_000)
    assert row["status"] == "failed"
    assert row["cause"].startswith(cause)
    assert not files(tmp_path)
    asked = server.asked[path]
    assert asked == (6 if path == "loop.jpg" else 1)

    assert fill_one(server, tmp_path, path, max_bytes=100_000) == row
    assert server.asked[path] == asked
    fill_one(server, tmp_path, path, max_bytes=100_000, retry_failed=True)
    assert server.asked[path] == 2 * asked


def test_pixels_over_the_limit(server, tmp_path):
    assert fill_one(server, tmp_path, "good-1.jpg", max_pixels=24 * 16)["status"] == "ok"
    again = tmp_path / "again"
    assert "24x16 pixels" in fill_one(server, again, "good-1.jpg", max_pixels=24 * 16 - 1)["cause"]


@pytest.mark.parametrize(
    "url", ["ftp://a/b.jpg", "file:///etc/passwd", "b.jpg", "http://", "http://a:b/", "http://a\nb"]
)
def test_an_address_that_is_none_of_ours(tmp_path, url):
    fetch_pictures({"item": [url]}, tmp_path, options=PictureOptions(manners=QUICK, show_progress=False))
    row = manifest(tmp_path)["item"]
    assert row["status"] == "failed"
    assert row["cause"].startswith(("scheme refused", "not a URL"))


@pytest.mark.parametrize("item", ["a/b", "../a", "/etc/a", "", "x" * 251, "ä" * 126])
def test_an_item_that_cannot_name_a_file_is_not_asked_for(server, tmp_path, item):
    fill(server, tmp_path / "images", {item: ["good-1.jpg"]})
    assert manifest(tmp_path / "images")[item]["cause"].startswith("item id")
    assert not server.asked
    assert not files(tmp_path / "images")
    assert len(list(tmp_path.iterdir())) == 1


def test_odd_items_that_can(server, tmp_path):
    items = ["..", ".hidden", "a b", "ä" * 125, "x" * 250, "manifest", "-rf", "a\\b"]
    fill(server, tmp_path, {item: [f"good-{number}.jpg"] for number, item in enumerate(items)})
    assert set(find_pictures(tmp_path, items).names) == set(items)


# What may pass


@pytest.mark.parametrize(
    ("path", "cause"),
    [("broken.jpg", "HTTP 503"), ("truncated.jpg", "connection"), ("reset.jpg", "connection")],
)
def test_a_failure_that_may_pass_is_asked_again_by_the_next_run(server, tmp_path, path, cause):
    for run in (1, 2):
        row = fill_one(server, tmp_path, path)
        assert row["status"] == "later"
        assert row["cause"].startswith(cause)
        assert not files(tmp_path)
        assert server.asked[path] == run * QUICK.attempts


@pytest.mark.parametrize("path", ["silent.jpg", "drip.jpg"])
def test_a_server_that_never_ends(server, tmp_path, path):
    row = fill_one(server, tmp_path, path, replace(QUICK, total_seconds=0.3, attempts=2))
    assert (row["status"], row["cause"]) == ("later", "timeout")
    assert server.asked[path] == 2


def test_nobody_listens(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a.jpg"
    summary = fetch_pictures({"a": [url]}, tmp_path, options=PictureOptions(manners=QUICK, show_progress=False))
    assert summary.later == {"connection": 1}
    assert summary.status == 3


def test_the_next_url_serves_where_one_failed_for_good_only(server, tmp_path):
    summary = fill(
        server, tmp_path, {"a": ["missing.jpg", "web-page.jpg", "good-1.jpg"], "b": ["broken.jpg", "good-2.jpg"]}
    )
    rows = manifest(tmp_path)
    assert rows["a"]["url"] == server.url("good-1.jpg")
    assert rows["b"]["status"] == "later"
    assert not server.asked["good-2.jpg"]
    assert summary.fetched == 1


def test_new_urls_are_asked_though_the_old_ones_failed(server, tmp_path):
    assert fill_one(server, tmp_path, "missing.jpg")["status"] == "failed"
    assert fill_one(server, tmp_path, "good-1.jpg")["status"] == "ok"


def test_a_host_that_fails_and_fails_is_left_alone(server, tmp_path):
    paths = {str(number): ["broken.jpg"] for number in range(12)}
    summary = fill(server, tmp_path, paths, replace(QUICK, strikes=5, at_once=1))
    assert server.asked.total() == 5 * QUICK.attempts
    assert summary.later == {"HTTP 503": 5, "host left alone": 7}


def test_a_host_that_answers_in_between_is_not_left_alone(server, tmp_path):
    paths = {str(number): ["missing.jpg" if number % 3 else "broken.jpg"] for number in range(12)}
    summary = fill(server, tmp_path, paths, replace(QUICK, strikes=2, at_once=1))
    assert summary.later == {"HTTP 503": 4}
    assert summary.failed == {"HTTP 404": 8}


def test_a_host_that_wants_an_hour_is_left_alone_at_once(server, tmp_path):
    paths = {"a": ["closed-for-an-hour.jpg"], "b": ["good-1.jpg"]}
    summary = fill(server, tmp_path, paths, replace(QUICK, at_once=1))
    assert server.asked.total() == 1
    assert summary.later == {"HTTP 429": 2}
    assert summary.status == 3


def test_nobody_sits_out_the_hour_that_a_host_wants(server):
    """Neither those who wait for a slot, nor those who wait for their turn."""
    time = FakeTime()
    urls = [server.url("closed-for-an-hour.jpg")] * 20
    failures = ask(time.client(per_second=1.0, at_once_per_host=4), *urls)
    assert {str(failure) for failure in failures} == {"HTTP 429: the host asks to come back in 3,600 seconds"}
    assert time.now < 30
    assert server.asked.total() <= 4


@pytest.mark.parametrize("items", [1, 20])
def test_nobody_sits_out_the_hour_that_a_redirect_leads_to(server, monkeypatch, items):
    def elsewhere(answer, _):
        answer.send(b"", 302, Location=server.url("closed-for-an-hour.jpg").replace("127.0.0.1", "localhost"))

    monkeypatch.setattr(server.RequestHandlerClass, "elsewhere", elsewhere, raising=False)
    time = FakeTime()
    client = time.client(per_second=1.0, at_once_per_host=4)
    failures = ask(client, *[server.url("elsewhere.jpg")] * items, server.url("good-1.jpg"))
    assert failures.pop() == picture(1)  # where the redirect came from is asked on
    assert {str(failure) for failure in failures} == {"HTTP 429: the host asks to come back in 3,600 seconds"}
    assert time.now < 30
    assert 1 <= server.asked["closed-for-an-hour.jpg"] <= 4
    assert server.asked["elsewhere.jpg"] == items  # no second attempt at any


# Addresses


INSIDE = """127.0.0.1 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255
::1 :: fe80::1 fe80::1%eth0 fc00::1 fec0::1 ff02::1 ::127.0.0.1 ::ffff:127.0.0.1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe
2002:7f00:1:: 2001:db8::1"""


@pytest.mark.parametrize("address", INSIDE.split())
def test_an_address_inside(address):
    assert not polite.is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_an_address_outside(address):
    assert polite.is_public(address)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "0x7f000001", "2130706433", "[::1]", "[::ffff:127.0.0.1]"]
)
def test_a_private_address_is_refused_unasked(server, tmp_path, host):
    url = f"http://{host}:{server.server_port}/good-1.jpg"
    fetch_pictures({"a": [url]}, tmp_path, options=PictureOptions(manners=replace(QUICK, allow_private=False)))
    assert manifest(tmp_path)["a"]["cause"].startswith("address refused")
    assert not server.asked


@pytest.fixture
def only_this_server_is_public(monkeypatch):
    monkeypatch.setattr(polite, "is_public", lambda address: address == "127.0.0.1")


def test_a_redirect_to_a_private_address_is_refused(server, tmp_path, only_this_server_is_public):
    row = fill_one(server, tmp_path, "to-inside.jpg", replace(QUICK, allow_private=False))
    assert row["cause"] == "address refused: 127.0.0.2 is not public (host 127.0.0.2)"
    assert server.asked == {"to-inside.jpg": 1}


def resolving(monkeypatch, *answers):
    """`rebind.test` resolves to the first of `answers`, then to the next, …; returns the questions."""
    questions = []
    true = socket.getaddrinfo

    def getaddrinfo(host, port, *args, **kwargs):
        if host != "rebind.test":
            return true(host, port, *args, **kwargs)
        questions.append(host)
        found = answers[min(len(questions), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return questions


def test_the_connection_goes_to_the_address_that_was_checked(
    server, tmp_path, monkeypatch, only_this_server_is_public
):
    questions = resolving(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    url = f"http://rebind.test:{server.server_port}/good-1.jpg"
    fetch_pictures({"a": [url]}, tmp_path, options=PictureOptions(manners=replace(QUICK, allow_private=False)))
    assert manifest(tmp_path)["a"]["status"] == "ok"
    assert len(questions) == 1
    assert server.headers_seen[0]["Host"] == f"rebind.test:{server.server_port}"


def test_one_private_address_among_several_is_enough(server, tmp_path, monkeypatch, only_this_server_is_public):
    resolving(monkeypatch, ["127.0.0.1", "127.0.0.2"])
    url = f"http://rebind.test:{server.server_port}/good-1.jpg"
    fetch_pictures({"a": [url]}, tmp_path, options=PictureOptions(manners=replace(QUICK, allow_private=False)))
    assert "127.0.0.2" in manifest(tmp_path)["a"]["cause"]
    assert not server.asked


# Bounds


def test_as_many_at_once_as_allowed_and_no_more(server, tmp_path):
    server.barrier = threading.Barrier(3)  # each answer waits until three are asked for
    paths = {str(number): [f"good-{number}.jpg"] for number in range(24)}
    assert fill(server, tmp_path, paths, replace(QUICK, at_once_per_host=3)).fetched == 24
    assert server.most_at_once == 3
    assert not server.barrier.broken


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now = 0.0
        self.naps = []

    async def sleep(self, seconds):
        end = self.now + seconds
        self.naps.append(seconds)
        await asyncio.sleep(0)
        self.now = max(self.now, end)

    def client(self, **manners):
        return PoliteClient(replace(QUICK, **manners), clock=lambda: self.now, sleep=self.sleep, draw=lambda: 1.0)


def ask(client, *urls):
    async def run():
        async with client:
            reads = (client.fetch(url, partial(read_body, max_bytes=10**6)) for url in urls)
            return await asyncio.gather(*reads, return_exceptions=True)

    return asyncio.run(run())


def test_rate(server):
    time = FakeTime()
    ask(time.client(per_second=2.0), *[server.url(f"good-{number}.jpg") for number in range(7)])
    assert time.now == 3.0  # the first at 0, the seventh at 6 / 2


def test_back_off_doubles(server):
    time = FakeTime()
    (failure,) = ask(time.client(first_wait=1.0, attempts=5, longest_wait=5.0), server.url("broken.jpg"))
    assert isinstance(failure, Unavailable)
    assert [nap for nap in time.naps if nap > 0.1] == [1.0, 2.0, 4.0, 5.0]


def test_retry_after_holds_back_the_whole_host(server):
    time = FakeTime()
    client = time.client(first_wait=0.01, longest_wait=100.0)
    assert ask(client, server.url("busy-once.jpg")) == [picture()]
    assert time.now >= 1.0

    host = polite._Host(asyncio.Semaphore(1))
    answer = polite.Answer(503, {"retry-after": "30"}, None)
    with pytest.raises(Unavailable):
        client._judge(answer, host, (200,))
    start = time.now
    asyncio.run(client._turn(host))
    assert time.now == pytest.approx(start + 30)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("-7", 0.0), ("", 0.0), ("soon", 0.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)],
)
def test_retry_after(header, seconds):
    assert polite._seconds(header) == seconds


def test_retry_after_as_a_date(monkeypatch):
    monkeypatch.setattr(polite.time, "time", lambda: 0.0)
    assert polite._seconds("Thu, 01 Jan 1970 00:01:30 GMT") == 90.0


def test_a_failure_for_good_waits_for_nothing(server):
    time = FakeTime()
    (failure,) = ask(time.client(), server.url("missing.jpg"))
    assert isinstance(failure, Failed)
    assert not isinstance(failure, Unavailable)
    assert not time.naps


# Resuming


def test_what_is_there_is_not_asked_for(server, tmp_path):
    (tmp_path / "mine.png").write_bytes(b"whatever the user put there")
    (tmp_path / "empty.jpg").touch()  # a power cut's
    paths = {"mine": ["good-1.jpg"], "empty": ["good-2.jpg"], "new": ["good-3.jpg"]}
    summary = fill(server, tmp_path, paths)
    assert (summary.there, summary.fetched) == (1, 2)
    assert files(tmp_path)["mine.png"] == b"whatever the user put there"

    assert fill(server, tmp_path, paths).there == 3
    assert server.asked == {"good-2.jpg": 1, "good-3.jpg": 1}
    (tmp_path / "new.jpg").unlink()
    fill(server, tmp_path, paths)
    assert server.asked == {"good-2.jpg": 1, "good-3.jpg": 2}


def test_killed_and_started_again(server, tmp_path):
    """The folder of an undisturbed run; only what was missing is asked for."""
    paths = {f"item{number}": [f"good-{number}.jpg"] for number in range(30)} | {"none": ["missing.jpg"]}
    dataset = tmp_path / "killed"
    dataset.mkdir()
    write_urls(
        dataset / "image_urls.csv", {item: [server.url(path) for path in found] for item, found in paths.items()}
    )
    command = [sys.executable, SCRIPTS / "pictures.py", dataset, "--allow-private", "--per-second", "1e5"]
    server.hold_after = 17
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    assert server.holding.wait(60)
    # The eighteenth request waits for ever; those before it were answered, and may still be on their way to disk.
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.hold_after = None

    images = dataset / "images"
    survived = {name.removesuffix(".jpg") for name in files(images) if name.endswith(".jpg")}
    assert len(survived) >= 17 - 2 * Manners.at_once
    with open(images / "manifest.csv", "ab") as file:
        file.write(b'item29,"http://127.0.')  # torn
    (images / ".3.part").write_bytes(picture()[:50])
    before = server.asked.copy()
    assert fill(server, images, paths).status == 0
    for item, (path,) in paths.items():
        assert server.asked[path] - before[path] == (item not in survived)

    undisturbed = tmp_path / "undisturbed"
    fill(server, undisturbed, paths)
    assert files(images) == files(undisturbed)
    assert manifest(images) == manifest(undisturbed)


def test_ctrl_c(server, tmp_path):
    write_urls(tmp_path / "image_urls.csv", {str(n): [server.url(f"good-{n}.jpg")] for n in range(20)})
    server.hold_after = 10
    command = [sys.executable, SCRIPTS / "pictures.py", tmp_path, "--allow-private", "--per-second", "1e5"]
    # What runs in the background of a shell, tests perhaps, is started with the signal ignored.
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, heard)
    assert server.holding.wait(60)
    process.send_signal(signal.SIGINT)
    assert "the same command goes on" in process.communicate()[1]
    assert process.returncode == 130
    server.hold_after = None
    options = PictureOptions(manners=QUICK, show_progress=False)
    assert fetch_pictures(UrlFile(tmp_path / "image_urls.csv"), tmp_path / "images", options=options).status == 0
    assert len(manifest(tmp_path / "images")) == 20


# The folder


def test_disk_full_is_one_clear_line_and_can_be_resumed(server, tmp_path, monkeypatch):
    true = Path.write_bytes
    written = []

    def write_bytes(path, data):
        if len(written) >= 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        return true(path, data)

    paths = {str(number): [f"good-{number}.jpg"] for number in range(10)}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_bytes)
        with pytest.raises(SDAError, match=r"No space left on device.*same command again"):
            fill(server, tmp_path, paths)
    assert len(manifest(tmp_path)) == 3
    assert fill(server, tmp_path, paths).there == 3
    assert set(files(tmp_path)) >= {f"{number}.jpg" for number in range(10)}


def test_a_folder_that_cannot_be_written_is_found_before_the_first_request(server, tmp_path):
    (tmp_path / "images").write_text("a file")
    with pytest.raises(SDAError, match="images cannot be written"):
        fill(server, tmp_path / "images", {"a": ["good-1.jpg"]})
    assert not server.asked


def test_two_processes_do_not_fill_one_folder(server, tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(SDAError, match="another process"):
        fill(server, tmp_path, {"a": ["good-1.jpg"]})


@pytest.mark.parametrize("text", ["", "url,item_id\n", "item_id,url\na\n", "item_id,url\na,http://a/\xff\n"])
def test_a_bad_url_file(tmp_path, capsys, text):
    (tmp_path / "image_urls.csv").write_bytes(text.encode("latin-1"))
    assert pictures.main([str(tmp_path)]) == 1
    assert "image_urls.csv: " in capsys.readouterr().err


def test_no_url_file(tmp_path, capsys):
    assert pictures.main([str(tmp_path)]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_a_strange_manifest_is_left_alone(server, tmp_path):
    (tmp_path / "manifest.csv").write_text("name,age\nann,7\n")
    with pytest.raises(SDAError, match="move the file away"):
        fill(server, tmp_path, {"a": ["good-1.jpg"]})
    assert (tmp_path / "manifest.csv").read_text() == "name,age\nann,7\n"


def test_url_file_groups_by_item(tmp_path):
    write_urls(tmp_path / "image_urls.csv", {"a": ["http://x/1", "http://x/2"], 'b",': ["http://x/3"], "c": [" "]})
    urls = UrlFile(tmp_path / "image_urls.csv")
    assert len(urls) == 3
    assert dict(urls.items()) == {"a": ["http://x/1", "http://x/2"], 'b",': ["http://x/3"], "c": []}


# The command


def test_summary_and_exit_status(server, tmp_path, capsys):
    write_urls(
        tmp_path / "image_urls.csv",
        {"a": [server.url("good-1.jpg")], "b": [server.url("missing.jpg")], "c": [server.url("web-page.jpg")]},
    )
    options = [str(tmp_path), "--allow-private", "--per-second", "1e5"]
    assert pictures.main(options) == 0
    assert capsys.readouterr().out.splitlines() == [
        "3 items with URLs: 0 pictures were there, 1 fetched (0.0 MB)",
        "  2 failed for good (--retry-failed asks again):",
        "          1  HTTP 404",
        "          1  not a picture",
    ]
    assert pictures.main(options) == 0
    assert "1 pictures were there, 0 fetched" in capsys.readouterr().out


def test_no_picture_at_all_is_an_error_status(server, tmp_path):
    write_urls(tmp_path / "image_urls.csv", {"b": [server.url("missing.jpg")]})
    assert pictures.main([str(tmp_path), "--allow-private"]) == 1


@pytest.mark.parametrize(
    "option", [("--at-once", "0"), ("--per-second", "nan"), ("--user-agent", "ü"), ("--attempts", "x")]
)
def test_bad_options(tmp_path, option):
    with pytest.raises(SystemExit):
        pictures.main([str(tmp_path), *option])
