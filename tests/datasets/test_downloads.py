import gzip
import hashlib
import io
import stat
import sys
import tarfile
import zipfile

import pytest
from misbehaving import RAW, SCRIPTS, Misbehaving

from recbole_sda.errors import SDAError

sys.path.insert(0, str(SCRIPTS))  # as Python itself does for a script
import archives
from downloads import fetch, unpack
from polite import Manners
from raw_lines import read_blocks

QUICK = Manners(allow_private=True, first_wait=1e-3, per_second=1e5, attempts=3, total_seconds=None)
SHA256, MD5 = hashlib.sha256(RAW).hexdigest(), hashlib.md5(RAW).hexdigest()


@pytest.fixture
def server():
    with Misbehaving() as running:
        yield running


def get(server, path, target, **options):
    return fetch(server.url(path), target, manners=QUICK, show_progress=False, **options)


def ranges(server):
    return [headers.get("Range") for headers in server.headers_seen]


# Downloads


def test_a_file_with_its_checksums(server, tmp_path):
    target = tmp_path / "new" / "raw.bin"
    assert get(server, "raw", target, sha256=SHA256.upper(), md5=MD5) == target
    assert target.read_bytes() == RAW
    assert list(target.parent.iterdir()) == [target]
    get(server, "raw", target, sha256=SHA256)
    assert server.asked["raw"] == 1


def test_lost_connections_cost_only_what_is_missing(server, tmp_path):
    assert get(server, "raw-in-pieces", tmp_path / "raw.bin", sha256=SHA256).read_bytes() == RAW
    third = len(RAW) // 3 + 1
    assert ranges(server) == [None, f"bytes={third}-", f"bytes={2 * third}-"]


def test_a_part_that_an_earlier_run_left(server, tmp_path):
    target = tmp_path / "raw.bin"
    with pytest.raises(SDAError, match="run the same command again to go on"):
        fetch(
            server.url("raw-in-pieces"),
            target,
            manners=Manners(allow_private=True, attempts=1),
            show_progress=False,
        )
    assert not target.exists()
    assert (tmp_path / "raw.bin.part").read_bytes() == RAW[: len(RAW) // 3 + 1]
    assert get(server, "raw-in-pieces", target).read_bytes() == RAW
    assert ranges(server)[:2] == [None, f"bytes={len(RAW) // 3 + 1}-"]


def test_a_part_that_was_complete(server, tmp_path):
    (tmp_path / "raw.bin.part").write_bytes(RAW)
    url = server.url("raw")
    (tmp_path / "raw.bin.part.json").write_text(f'{{"url": "{url}", "validator": "\\"one\\""}}')
    assert get(server, "raw", tmp_path / "raw.bin", sha256=SHA256).read_bytes() == RAW
    assert ranges(server) == [f"bytes={len(RAW)}-"]


@pytest.mark.parametrize("note", [None, "{", '{"url": "http://elsewhere/", "validator": "\\"one\\""}'])
def test_a_part_of_an_unknown_file_is_not_continued(server, tmp_path, note):
    (tmp_path / "raw.bin.part").write_bytes(b"of another file")
    if note is not None:
        (tmp_path / "raw.bin.part.json").write_text(note)
    assert get(server, "raw", tmp_path / "raw.bin").read_bytes() == RAW
    assert ranges(server) == [None]


@pytest.mark.parametrize(
    ("path", "expected"), [("raw-changed", RAW[::-1]), ("raw-without-range", RAW), ("raw-without-tag", RAW)]
)
def test_a_server_that_cannot_go_on_begins_again(server, tmp_path, path, expected):
    assert get(server, path, tmp_path / "raw.bin").read_bytes() == expected
    assert server.asked[path] == 2
    assert ranges(server)[1] == (None if path == "raw-without-tag" else ranges(server)[1])


@pytest.mark.parametrize("digest", ["sha256", "md5"])
def test_a_wrong_checksum_names_both_and_leaves_nothing(server, tmp_path, digest):
    found, wrong = {"sha256": SHA256, "md5": MD5}[digest], "0" * len(hashlib.new(digest).hexdigest())
    with pytest.raises(SDAError, match=f"{digest} {found}, expected {wrong}; it was deleted"):
        get(server, "raw", tmp_path / "raw.bin", **{digest: wrong})
    assert not list(tmp_path.iterdir())


def test_a_damaged_download_says_how_it_gets_better(server, tmp_path):
    """A complete download is kept, so running the same command again is not enough."""
    target = get(server, "raw", tmp_path / "raw.json.gz")
    target.write_bytes(gzip.compress(RAW)[:-30])
    assert get(server, "raw", target) == target
    with pytest.raises(SDAError, match="delete it and run the same command again"):
        list(read_blocks(target))
    target.unlink()
    get(server, "raw", target)
    assert list(read_blocks(target))


def test_a_host_that_wants_an_hour_is_not_waited_for(server, tmp_path):
    with pytest.raises(SDAError, match=r"come back in 3,600 seconds\); run the same command again"):
        get(server, "closed-for-an-hour", tmp_path / "raw.bin")
    assert server.asked.total() == 1


def test_a_wrong_file_of_the_user_is_not_deleted(server, tmp_path):
    target = tmp_path / "raw.bin"
    target.write_bytes(b"mine")
    with pytest.raises(SDAError, match="delete it to download it anew"):
        get(server, "raw", target, sha256=SHA256)
    assert target.read_bytes() == b"mine"
    assert not server.asked


@pytest.mark.parametrize("path", ["raw", "endless", "too-long"])
def test_a_file_over_the_limit(server, tmp_path, path):
    with pytest.raises(SDAError, match=r"too large: more than 100,000 bytes"):
        get(server, path, tmp_path / "raw.bin", max_bytes=100_000)
    assert not list(tmp_path.iterdir())


def test_a_file_for_which_there_is_no_room(server, tmp_path):
    with pytest.raises(SDAError, match=r"has no room for 1,000,000,000,000 bytes"):
        get(server, "too-long", tmp_path / "raw.bin", max_bytes=10**15)


@pytest.mark.parametrize(
    ("path", "cause"),
    [("login", "a web page came instead"), ("missing", "HTTP 404"), ("broken", "HTTP 503"), ("to-file", "scheme")],
)
def test_a_file_that_cannot_be_had(server, tmp_path, path, cause):
    with pytest.raises(SDAError, match=cause):
        get(server, path, tmp_path / "raw.bin")
    assert not list(tmp_path.iterdir())


def test_private_addresses_need_leave(server, tmp_path):
    with pytest.raises(SDAError, match=r"127\.0\.0\.1 is not public"):
        fetch(server.url("raw"), tmp_path / "raw.bin", show_progress=False)
    assert not server.asked


def test_an_unwritable_folder_is_found_before_the_first_request(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SDAError, match="cannot be written"):
        get(server, "raw", tmp_path / "file" / "raw.bin")
    assert not server.asked


# Archives

CONTENT = {"a.csv": b"user,item\n" * 100, "deep/er/b.txt": b"", "ü/c.bin": bytes(range(256))}


def zip_of(path, content):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def tar_of(path, content, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, data in content.items():
            entry = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            entry.size = 0 if data is entry else len(data)
            archive.addfile(entry, None if data is entry else io.BytesIO(data))
    return path


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:xz", "w:bz2"])
def test_unpacked_by_content_whatever_its_name(tmp_path, mode):
    path = tmp_path / "archive"
    zip_of(path, CONTENT) if mode == "zip" else tar_of(path, CONTENT, mode)
    assert unpack(path, tmp_path / "out") == tmp_path / "out"
    assert tree(tmp_path / "out") == CONTENT


def test_gz(tmp_path):
    (tmp_path / "reviews.json.gz").write_bytes(gzip.compress(b"{}"))
    assert tree(unpack(tmp_path / "reviews.json.gz", tmp_path / "out")) == {"reviews.json": b"{}"}


def refused(archive, tmp_path, match, **limits):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SDAError, match=match):
        unpack(archive, tmp_path / "out", **limits)
    assert sorted(tmp_path.rglob("*")) == before  # no folder, no half of one, nothing beside it


@pytest.mark.parametrize("name", ["/etc/a", "../a", "b/../../a", "..\\a", "C:\\a", "C:a", "\\\\host\\share\\a"])
@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_members_that_would_leave(tmp_path, make, name):
    refused(make(tmp_path / "archive", {"good.txt": b"1", name: b"2"}), tmp_path, "would leave its folder")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar(tmp_path, kind):
    entry = tarfile.TarInfo("link")
    entry.type, entry.linkname = kind, "a.csv"
    refused(tar_of(tmp_path / "archive", {**CONTENT, "link": entry}), tmp_path, "is a link or a device")


def test_a_link_in_a_zip(tmp_path):
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    refused(zip_of(tmp_path / "archive", {entry: b"/etc/passwd"}), tmp_path, "is a link or a device")


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_limits(tmp_path, make, monkeypatch):
    archive = make(tmp_path / "archive", {"a": bytes(10**6), "b": bytes(10**6)})
    refused(archive, tmp_path, "more bytes than allowed", max_bytes=2 * 10**6 - 1)
    refused(archive, tmp_path, "more than 1 members", max_files=1)
    monkeypatch.setattr(archives, "SMALL", 1000)
    refused(archive, tmp_path, "as a bomb would")
    monkeypatch.setattr(archives, "MAX_RATIO", 10_000)
    assert len(tree(unpack(archive, tmp_path / "out", max_bytes=2 * 10**6, max_files=2))) == 2


def test_a_gz_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "SMALL", 1000)
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(10**7)))
    refused(tmp_path / "a.gz", tmp_path, "as a bomb would")


def test_a_zip_whose_header_lies_about_the_size(tmp_path):
    archive = zip_of(tmp_path / "archive", {"a": bytes(10**6)})
    size = (10**6).to_bytes(4, "little")
    archive.write_bytes(archive.read_bytes().replace(size, (10).to_bytes(4, "little")))
    refused(archive, tmp_path, "damaged|cannot be unpacked")


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_a_truncated_archive(tmp_path, make):
    archive = make(tmp_path / "archive", {"a": b"some text that is long enough" * 20, **CONTENT})
    archive.write_bytes(archive.read_bytes()[:-60])
    refused(archive, tmp_path, "damaged")


def test_a_truncated_gz(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(1000))[:-9])
    refused(tmp_path / "a.gz", tmp_path, "damaged")


@pytest.mark.parametrize("content", [b"", bytes(10**4), b"<html>", b"\x1f\x8bxxxx", b"PKxxxx"])
def test_no_archive(tmp_path, content):
    (tmp_path / "archive").write_bytes(content)
    refused(tmp_path / "archive", tmp_path, "no zip, tar or gzip file|damaged")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [["a", "a"], ["a", "a/b"], ["a/b", "a"]])
def test_members_in_each_others_way(tmp_path, names):
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        for name in names:
            archive.writestr(name, b"1")
    refused(tmp_path / "archive", tmp_path, "cannot be unpacked")


def test_what_is_there_is_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    archive = zip_of(tmp_path / "archive", CONTENT)
    assert tree(unpack(archive, tmp_path / "out")) == CONTENT
    with pytest.raises(SDAError, match="out exists; delete it"):
        unpack(archive, tmp_path / "out")


def test_no_such_archive(tmp_path):
    refused(tmp_path / "none.zip", tmp_path, "cannot be unpacked.*No such file")


def test_an_empty_archive(tmp_path):
    refused(zip_of(tmp_path / "archive", {}), tmp_path, "holds nothing")
