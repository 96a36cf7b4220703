"""Out of a store and back: equal bits, the same items missing, and nothing hostile let in."""

import csv
import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureStore, arrays, write_store
from recbole_sda.features.arrays import array_dtype, create_array
from recbole_sda.features.exchange import FORMATS, export_store, import_store

TOKENS = ["10", "Été 東京", 'a "quoted", b', "tab\there", "NA", " b ", "u\u2028v"]
PRESENT = {"image": [1, 1, 0, 1, 1, 0, 1], "text": [0, 1, 1, 1, 1, 1, 1]}


def make(folder, dtype="float16"):
    folder.mkdir()
    draw = np.random.default_rng(0)
    for width, (modality, present) in enumerate(PRESENT.items(), start=3):
        values = create_array(folder / f"{modality}.npy", dtype=array_dtype(dtype), shape=(len(TOKENS), width))
        values[np.flatnonzero(present)] = draw.normal(size=(sum(present), width))
        values.flush()
    marks = {modality: np.array(present, dtype=bool) for modality, present in PRESENT.items()}
    write_store(folder, TOKENS, marks, settings={}, dataset="demo")
    return FeatureStore.open(folder)


@pytest.fixture
def store(tmp_path):
    return make(tmp_path / "store")


def assert_same(found, store, dtype=None):
    assert found.tokens == store.tokens
    assert found.modalities == store.modalities
    assert found.dtype == (dtype or store.dtype)
    for modality in store.modalities:
        np.testing.assert_array_equal(found.present(modality), store.present(modality))
        expected = np.array(store.values(modality)).astype(found.dtype)
        assert found.values(modality).tobytes() == expected.tobytes()


# there and back


@pytest.mark.parametrize("chunk_bytes", [1, 40, 2**26])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_round_trips_are_equal_bit_for_bit(tmp_path, monkeypatch, dtype, format, chunk_bytes):
    monkeypatch.setattr(arrays, "CHUNK_BYTES", chunk_bytes)
    store = make(tmp_path / "store", dtype)
    export_store(store, tmp_path / "out", format=format)
    keeps_dtype = format != "npy"
    found = import_store(
        tmp_path / "out",
        tmp_path / "back",
        format=format,
        dataset="other",
        dtype=None if keeps_dtype else dtype,
    )
    assert_same(found, store)
    assert_same(FeatureStore.open(tmp_path / "back", verify=True), store)
    assert found.manifest["dataset"] == "other"
    assert found.contents("image") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "out", "store"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_store_of_no_items(tmp_path, format):
    create_array(tmp_path / "image.npy", dtype=np.dtype(np.float16), shape=(0, 4))
    write_store(tmp_path, [], {"image": np.zeros(0, dtype=bool)}, settings={})
    export_store(FeatureStore.open(tmp_path), tmp_path / "out", format=format)
    store = import_store(tmp_path / "out", tmp_path / "back", format=format)
    assert (len(store), store.width("image")) == (0, 4)


def test_npy_is_what_mmrec_reads(tmp_path, store):
    export_store(store, tmp_path / "out", format="npy")
    with (tmp_path / "out" / "i_id_mapping.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file, delimiter="\t")
    assert header == ["asin", "itemID"]
    assert rows == [[token, str(row)] for row, token in enumerate(TOKENS)]
    for modality in store.modalities:
        features = np.load(tmp_path / "out" / f"{modality}_feat.npy", allow_pickle=False)
        assert features.dtype == np.float32
        np.testing.assert_array_equal(features, np.array(store.values(modality)).astype(np.float32))


def test_parquet_is_what_others_read(tmp_path, store):
    parquet = pytest.importorskip("pyarrow.parquet")
    export_store(store, tmp_path / "out.parquet", format="parquet")
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["item_id"] for row in rows] == TOKENS
    for modality in store.modalities:
        for row, values, here in zip(rows, store.values(modality), store.present(modality), strict=True):
            assert row[modality] == (values.astype(np.float32).tolist() if here else None)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_safetensors_is_what_the_library_reads(tmp_path, dtype):
    store = make(tmp_path / "store", dtype)
    export_store(store, tmp_path / "out.safetensors", format="safetensors")
    tensors = load_file(tmp_path / "out.safetensors")
    assert set(tensors) == {"image", "text", "image.present", "text.present", "items.utf8"}
    for modality in store.modalities:
        assert tensors[modality].dtype == getattr(torch, dtype)
        expected = np.array(store.values(modality)).astype(np.float32)
        np.testing.assert_array_equal(tensors[modality].float().numpy(), expected)
        np.testing.assert_array_equal(tensors[f"{modality}.present"].numpy(), store.present(modality))


# what others wrote


def foreign(folder, values, ids="a\nb\nc\n", name="image.npy"):
    folder.mkdir(exist_ok=True)
    np.save(folder / name, values)
    if ids is not None:
        (folder / "items.txt").write_bytes(ids.encode())
    return folder


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "int32", "uint8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_npy_with_one_item_a_line(tmp_path, dtype, order):
    values = np.arange(6).reshape(3, 2).astype(dtype, order=order)
    for source in (foreign(tmp_path / "in", values), tmp_path / "in" / "image.npy"):
        store = import_store(source, tmp_path / f"from {source.name}", format="npy")
        assert store.tokens == ["a", "b", "c"]
        assert store.dtype == ("float16" if dtype == "float16" else "float32")
        np.testing.assert_array_equal(store.get("image", ["c", "a"]), values[[2, 0]])
        assert store.present("image").all()


@pytest.mark.parametrize("ids", ["a\nb\nc", "a\r\nb\r\nc\r\n", "\ufeffa\nb\nc\n"])
def test_ids_may_lie_elsewhere_and_end_as_they_like(tmp_path, ids):
    source = foreign(tmp_path / "in", np.ones((3, 2)), ids=None)
    (tmp_path / "ids.txt").write_bytes(ids.encode())
    assert import_store(source, tmp_path / "out", format="npy", ids=tmp_path / "ids.txt").tokens == ["a", "b", "c"]


@pytest.mark.parametrize("table", ["asin\titemID\nc\t2\na\t0\nb\t1\n", "itemID,name\n2,c\n0,a\n1,b\n"])
def test_the_mapping_says_which_row_is_whose(tmp_path, table):
    source = foreign(tmp_path / "in", np.arange(3.0)[:, None], ids=None, name="image_feat.npy")
    (source / "i_id_mapping.csv").write_text(table)
    store = import_store(source, tmp_path / "out", format="npy")
    assert store.tokens == ["a", "b", "c"]
    assert store.get("image", ["c", "a"]).tolist() == [[2], [0]]


def test_rows_of_nan_are_missing(tmp_path):
    values = np.array([[1, 2], [np.nan, np.nan], [0, 0]], dtype=np.float32)
    store = import_store(foreign(tmp_path / "in", values), tmp_path / "out", format="npy")
    assert store.present("image").tolist() == [True, False, True]
    assert store.values("image").tolist() == [[1, 2], [0, 0], [0, 0]]


def test_parquet_lists_need_no_fixed_size(tmp_path, caplog):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    kinds = pa.list_(pa.float64()), pa.large_list(pa.float16()), pa.list_(pa.int64())
    vectors = [None, [1, 2], [3, 4], None]
    columns = {name: pa.array(vectors, kind) for name, kind in zip("xyz", kinds, strict=True)}
    table = pa.table({"item_id": [7, 8, 9, 10], **columns, "price": [1.0, 2.0, 3.0, 4.0]})
    parquet.write_table(table, tmp_path / "in.parquet", row_group_size=1)
    store = import_store(tmp_path / "in.parquet", tmp_path / "out", format="parquet")
    assert "left out: price" in caplog.text
    assert store.tokens == ["7", "8", "9", "10"]
    for modality in "xyz":
        assert store.present(modality).tolist() == [False, True, True, False]
        assert store.get(modality, ["9", "8", "7"]).tolist() == [[3, 4], [1, 2], [0, 0]]


def test_safetensors_of_others_need_ids(tmp_path, caplog):
    save_file({"clip": torch.eye(3), "bias": torch.ones(3)}, tmp_path / "in.safetensors")
    with pytest.raises(SDAError, match="names no items: give --ids=FILE"):
        import_store(tmp_path / "in.safetensors", tmp_path / "out", format="safetensors")
    (tmp_path / "ids").write_text("a\nb\nc\n")
    store = import_store(tmp_path / "in.safetensors", tmp_path / "out", format="safetensors", ids=tmp_path / "ids")
    assert store.modalities == ("clip",)
    assert "left out: bias" in caplog.text
    assert store.get("clip", ["b"]).tolist() == [[0, 1, 0]]


# refusals


def refuse(source, match, **options):
    output = source.parent / "refused"
    with pytest.raises(SDAError, match=match):
        import_store(source, output, format=options.pop("format", "npy"), **options)
    assert not output.exists()
    assert not list(source.parent.glob("*.unfinished"))
    assert not list(source.parent.glob(".*.unfinished"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((4, 2)), r"image\.npy has 4 rows, .*items\.txt names 3 items"),
        (np.ones((3, 2, 1)), r"has shape \(3, 2, 1\)"),
        (np.ones(3), r"has shape \(3,\)"),
        (np.ones((3, 0)), "the vectors of image have no values"),
        (np.array([["x"], ["y"], ["z"]]), "not real numbers"),
        (np.ones((3, 2), dtype=bool), "holds bool, not real numbers"),
        (np.ones((3, 2), dtype=complex), "holds complex128, not real numbers"),
        (np.array([[1, 2], [np.nan, 1], [1, 1]]), "image of 1 of 3 items is not finite.*, the first 'b'"),
        (np.array([[1, 2], [1, np.nan], [1, -np.inf]]), "image of 2 of 3 items is not finite.*, the first 'b'"),
        (np.array([[1e39, 2], [1, 1], [1, 1]]), "1 of 3 items is not finite, or too large for float32.* 'a'"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, values, message):
    refuse(foreign(tmp_path / "in", values), message)


def test_values_too_large_for_the_dtype_are_refused(tmp_path):
    source = foreign(tmp_path / "in", np.array([[1.0], [65504], [65505]]))
    refuse(source, "1 of 3 items is not finite, or too large for float16, the first 'c'", dtype="float16")
    assert import_store(source, tmp_path / "out", format="npy").get("image", ["c"]) == 65505
    refuse(source, "feature_dtype=int8: choose float16", dtype="int8")


def test_pickles_are_refused_unrun(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path / "ran").write_text, ("x",)

    source = foreign(tmp_path / "in", np.array([Evil()], dtype=object))
    assert (tmp_path / "ran").exists() is False
    refuse(source, "cannot be read as an .npy array")
    (source / "image.npy").write_bytes(pickle.dumps(Evil()))
    refuse(source, "cannot be read as an .npy array")
    np.savez(tmp_path / "several.npz", a=np.ones(2))
    (source / "image.npy").write_bytes((tmp_path / "several.npz").read_bytes())
    refuse(source, "archive of arrays")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("a\nb\na\n", "item 'a' is there twice; 1 identifiers are repeated"),
        ("a\nb\n", "names 2 items"),
        (None, "does not say which item a row is, .* into .*items.txt, or `import` it with --ids"),
    ],
)
def test_bad_ids_are_refused(tmp_path, ids, message):
    refuse(foreign(tmp_path / "in", np.ones((3, 2)), ids), message)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "has columns ; "),
        ("asin\tnumber\na\t0\n", "has columns asin, number; an item's token and itemID are needed"),
        ("asin\titemID\na\tx\n", "a row without a number as itemID"),
        ("asin\titemID\na\n", "a row without a number as itemID"),
        ("asin\titemID\na\t0\nb\t0\nc\t1\n", "does not number its 3 items from 0"),
        ("asin\titemID\na\t1\nb\t2\nc\t3\n", "does not number its 3 items from 0"),
    ],
)
def test_bad_mappings_are_refused(tmp_path, table, message):
    source = foreign(tmp_path / "in", np.ones((3, 2)), ids=None)
    (source / "i_id_mapping.csv").write_text(table)
    refuse(source, message)


def test_bad_folders_are_refused(tmp_path, store):
    refuse(tmp_path / "nowhere", "does not exist; it has to hold embeddings as npy")
    refuse(store.path, "is a feature store; use it as it is: --features=")
    source = foreign(tmp_path / "in", np.ones((3, 2)))
    np.save(source / "image_feat.npy", np.ones((3, 2)))
    refuse(source, "are both image; leave one")
    (source / "image.npy").rename(source / "a.b.npy")
    refuse(source, r"'a\.b' is no name of a modality")
    (source / "a.b.npy").unlink()
    np.save(source / "image_present.npy", np.ones(2, dtype=bool))
    refuse(source, r"image_present\.npy is \(2,\) bool; \(3,\) bool is needed")
    for path in source.glob("*.npy"):
        path.unlink()
    refuse(source, "holds no embeddings")
    refuse(source, "format=csv: choose npy, parquet, safetensors", format="csv")


def test_bad_parquet_is_refused(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "in.parquet"

    def write(**columns):
        parquet.write_table(pa.table(columns), path)

    (path).write_bytes(b"PAR1 nothing")
    refuse(path, "cannot be read as parquet", format="parquet")
    write(id=["a"], title=["b"], image=[[1.0]])
    refuse(path, r"names the items is not clear \(id, title could all be it\); call it item_id", format="parquet")
    write(price=[1.5], image=[[1.0]])
    refuse(path, "not clear .none holds texts or whole numbers.; call it item_id", format="parquet")
    write(item_id=["a", None], image=[[1.0], [2.0]])
    refuse(path, "has rows without item_id", format="parquet")
    write(item_id=["a", "b"], image=[[1.0, 2.0], [2.0]])
    refuse(path, "image has lists of 2 and of 1 numbers", format="parquet")
    write(item_id=["a", "b"], image=pa.array([None, None], pa.list_(pa.float32())))
    refuse(path, "image has no vector at all", format="parquet")
    write(item_id=["a", "b"], image=[[1.0, 2.0], [2.0, None]])
    refuse(path, "image of 1 of 2 items is not finite.*, the first 'b'", format="parquet")
    write(item_id=["a", "a"], image=[[1.0], [2.0]])
    refuse(path, "'a' is there twice", format="parquet")
    refuse(path, "leave out --ids", format="parquet", ids=path)


def test_bad_safetensors_are_refused(tmp_path):
    path = tmp_path / "in.safetensors"
    lines = torch.tensor(list(b"a\nb\n"), dtype=torch.uint8)

    def write(**tensors):
        save_file({"items.utf8": lines, **tensors}, path)

    path.write_bytes(b"\xff" * 100)
    refuse(path, "cannot be read as safetensors", format="safetensors")
    header = json.dumps({"image": {"dtype": "F32", "shape": [2, 2**40], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    refuse(path, "cannot be read as safetensors", format="safetensors")
    write(image=torch.ones(3, 2))
    refuse(path, "image has 3 rows for 2 items", format="safetensors")
    write(image=torch.ones(2, 2, dtype=torch.bool))
    refuse(path, "holds no embeddings", format="safetensors")
    write(**{"image": torch.ones(2, 2), "image.present": torch.ones(2)})
    refuse(path, r"image\.present is \(2,\) torch\.float32", format="safetensors")
    save_file({"items.utf8": torch.ones(2), "image": torch.ones(2, 2)}, path)
    refuse(path, r"items\.utf8 is torch\.float32, not bytes", format="safetensors")
    save_file({"items.utf8": lines + 128, "image": torch.ones(2, 2)}, path)
    refuse(path, r"items\.utf8 is not UTF-8", format="safetensors")


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_is_overwritten(tmp_path, store, format):
    (tmp_path / "there").write_text("precious")
    with pytest.raises(SDAError, match="there exists already"):
        export_store(store, tmp_path / "there", format=format)
    assert (tmp_path / "there").read_text() == "precious"


@pytest.mark.parametrize("format", FORMATS)
def test_a_failed_export_leaves_nothing(tmp_path, store, format, monkeypatch):
    def fail(self, modality):
        raise OSError("no space left on device")

    monkeypatch.setattr(FeatureStore, "values", fail)
    with pytest.raises(OSError, match="no space"):
        export_store(store, tmp_path / "out", format=format)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
