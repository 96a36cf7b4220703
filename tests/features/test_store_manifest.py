"""A manifest may come from anyone: what it says is checked before any file is opened."""

import json
import os
import re
import shutil

import numpy as np
import pytest

from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureStore, write_store

SUM = "0" * 64


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    np.save(folder / "image.npy", np.ones((3, 2), dtype=np.float16))
    write_store(folder, ["a", "b", "c"], {"image": np.array([True, False, True])}, settings={})
    return folder


def change(folder, *keys, value):
    """Set what the manifest has under `keys`."""
    path = folder / "manifest.json"
    manifest = place = json.loads(path.read_text())
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("items",), "3", "items is '3', not int"),
        (("items",), True, "items is True, not int"),
        (("items",), None, "items is None, not int"),
        (("items",), -1, "-1 items cannot be"),
        (("items",), 2**70, "1180591620717411303424 items cannot be"),
        (("items",), 4, r"image\.npy is \(3, 2\) float16, the manifest says \(4, 2\)"),
        (("dtype",), "object", "dtype is 'object', not one of float16, bfloat16, float32"),
        (("dtype",), "bfloat16", "image.npy is .* float16, the manifest says .* bfloat16"),
        (("dataset",), ["x"], r"dataset is \['x'\], not a name"),
        (("modalities",), [], r"modalities is \[\], not dict"),
        (("modalities",), {}, "it names no modality"),
        (("modalities", "image"), 3, "modality image: 3 is no mapping"),
        (("modalities", "image", "width"), 2.0, "width is 2.0, not int"),
        (("modalities", "image", "width"), 0, "width 0 cannot be"),
        (("modalities", "image", "width"), 3, r"the manifest says \(3, 3\)"),
        (("modalities", "image", "present"), 4, "4 of 3 items"),
        (("modalities", "image", "contents"), 1, "contents is 1, not bool"),
        (("modalities", "image", "contents"), True, "its files are"),
        (("modalities", "../image"), {}, "'../image' is no name of a modality"),
        (("modalities", "/etc/passwd"), {}, "'/etc/passwd' is no name of a modality"),
        (("modalities", ".."), {}, "is no name of a modality"),
        (("modalities", ""), {}, "'' is no name of a modality"),
        (("modalities", "image.present"), {}, "is no name of a modality"),
        (("modalities", "a\nb"), {}, "is no name of a modality"),
        (("files",), None, "files is None, not dict"),
        (("files", "../secret"), {"bytes": 1, "sha256": SUM}, "its files are"),
        (("files", "/etc/hostname"), {"bytes": 1, "sha256": SUM}, "its files are"),
        (("files", "image.npy"), None, "file image.npy: None is no mapping"),
        (("files", "image.npy", "bytes"), "140", "bytes is '140', not int"),
        (("files", "image.npy", "sha256"), 5, "sha256 is 5, not str"),
        (("files", "image.npy", "sha256"), "0" * 63, "is no SHA-256"),
        (("settings",), [1], r"settings is \[1\], not dict"),
    ],
)
def test_hostile_manifests_are_refused_with_the_reason(folder, keys, value, message):
    change(folder, *keys, value=value)
    with pytest.raises(SDAError, match=message):
        FeatureStore.open(folder)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "holds no JSON object"),
        (b"null", "holds no JSON object"),
        (b" " * (16 * 2**20) + b"{}", "more than 16777216 bytes"),
        (b'{"format": [2, [3]]}', r"store format \[2, \[3\]\]"),
    ],
)
def test_what_is_no_manifest_is_refused(folder, data, message):
    (folder / "manifest.json").write_bytes(data)
    with pytest.raises(SDAError, match=message):
        FeatureStore.open(folder)


def test_a_manifest_cut_anywhere_is_refused(folder):
    data = (folder / "manifest.json").read_bytes().rstrip()
    for length in range(0, len(data), 5):
        (folder / "manifest.json").write_bytes(data[:length])
        with pytest.raises(SDAError):
            FeatureStore.open(folder)


@pytest.mark.parametrize("name", ["manifest.json", "image.npy", "items.txt"])
def test_links_that_leave_the_folder_are_not_followed(folder, tmp_path, name):
    shutil.move(folder / name, tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(SDAError, match=f"{re.escape(name)} is a link that leaves its folder"):
        FeatureStore.open(folder)


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert FeatureStore.open(tmp_path / "link", verify=True).tokens == ["a", "b", "c"]


def test_a_pipe_in_a_files_place_is_not_waited_for(folder):
    (folder / "image.npy").unlink()
    os.mkfifo(folder / "image.npy")
    with pytest.raises(SDAError, match=r"lacks .*image\.npy"):
        FeatureStore.open(folder)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f2', 'fortran_order': False, 'shape': (3, 9999999999)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (-3, 2)}",
        f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({2**62}, {2**62})}}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (3, 2)}",
        "{'descr': 'nonsense', 'fortran_order': False, 'shape': (3, 2)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (3, 2",
        "__import__('os').getcwd()",
        "(" * 100,
        "",
    ],
)
def test_broken_headers_are_refused(folder, header):
    text = header.ljust(117).encode() + b"\n"
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(12)
    (folder / "image.npy").write_bytes(data)
    change(folder, "files", "image.npy", value={"bytes": len(data), "sha256": SUM})
    with pytest.raises(SDAError, match=r"image\.npy cannot be read"):
        FeatureStore.open(folder)


def test_tokens_that_are_not_utf8_or_repeated_are_refused(folder):
    (folder / "items.txt").write_bytes(b"a\n\xff\nc\n")
    store = FeatureStore.open(folder)
    with pytest.raises(SDAError, match=r"items\.txt is not UTF-8"):
        _ = store.tokens
    (folder / "items.txt").write_bytes(b"a\nc\nc\n")
    with pytest.raises(SDAError, match=r"items\.txt names some items twice"):
        FeatureStore.open(folder).rows(["a"])
