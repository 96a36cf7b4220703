"""Precomputed vectors: the right row for each item, and every file that is not what it should be."""

import hashlib
import os
import pickle

import numpy as np
import pytest

from recbole_sda.catalog import Catalog, Skipped, vectors
from recbole_sda.errors import SDAError

TOKENS = ("a", "b", "c", "d")


def write_vectors(folder, matrix, items="abc"):
    folder.mkdir(exist_ok=True)
    np.save(folder / "graph.npy", matrix)
    (folder / "graph.items.txt").write_text("".join(f"{item}\n" for item in items), encoding="utf-8")


def open_quietly(folder, tokens=TOKENS, **options):
    return Catalog.open(folder, tokens, modalities=["graph"], show_progress=False, **options)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "int8", "uint32"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_each_item_gets_its_own_row(tmp_path, dtype, order):
    matrix = np.asarray([[7, 8], [1, 2], [4, 5]], dtype=dtype, order=order)
    write_vectors(tmp_path, matrix, "cab")
    catalog = open_quietly(tmp_path)
    assert catalog.present("graph").tolist() == [True, True, True, False]
    loaded = [catalog.load("graph", row) for row in range(3)]
    assert [vector.tolist() for vector in loaded] == [[1, 2], [4, 5], [7, 8]]
    assert all(vector.dtype == np.float32 and vector.flags.owndata for vector in loaded)
    row = np.array([1, 2], dtype=dtype)
    said = f"{row.dtype.str} 2\n".encode() + row.tobytes()  # the same bytes are other numbers in another dtype
    assert catalog.contents("graph")[0] == hashlib.sha256(said).hexdigest()
    assert catalog.contents("graph")[3] == ""
    assert catalog.sizes("graph").tolist() == [[1, 2]] * 3 + [[0, 0]]


def test_rows_that_are_not_finite_are_refused_and_zeros_are_not(tmp_path):
    matrix = np.ones((4, 3))
    matrix[0, 1], matrix[1, 2], matrix[2] = np.nan, -np.inf, 0
    matrix[3, 0] = 1e300  # finite, but not as float32
    write_vectors(tmp_path, matrix, "abcd")
    catalog = open_quietly(tmp_path)
    assert catalog.present("graph").tolist() == [False, False, True, False]
    assert catalog.load("graph", 2).tolist() == [0, 0, 0]
    assert catalog.skipped == [
        Skipped("a", "graph", "graph.npy[0]", "value 1 is nan, which no float32 holds as a finite number"),
        Skipped("b", "graph", "graph.npy[1]", "value 2 is -inf, which no float32 holds as a finite number"),
        Skipped("d", "graph", "graph.npy[3]", "value 0 is 1e+300, which no float32 holds as a finite number"),
    ]
    assert "graph: 3 refused: graph.npy[0]: value 1 is nan" in catalog.summary()
    with pytest.raises(SDAError, match=r"item 'a', graph graph\.npy\[0\]: value 1 is nan.* leave out strict"):
        open_quietly(tmp_path, strict=True)
    assert open_quietly(tmp_path, ["c"], strict=True).present("graph").all()  # rows of others do not matter


def test_pieces_of_any_length_give_the_same(tmp_path, monkeypatch):
    matrix = np.random.default_rng(0).standard_normal((100, 3))
    matrix[[0, 41, 99], 1] = np.nan
    write_vectors(tmp_path, matrix, (f"i{row}" for row in range(100)))
    tokens = [f"i{row}" for row in np.random.default_rng(1).permutation(120)]
    whole = open_quietly(tmp_path, tokens)
    for size in (1, 24 * 7):
        monkeypatch.setattr(vectors, "_PIECE_BYTES", size)
        pieces = open_quietly(tmp_path, tokens)
        assert pieces.contents("graph") == whole.contents("graph")
        assert pieces.skipped == whole.skipped
    assert [record.item for record in whole.skipped] == [item for item in tokens if item in {"i0", "i41", "i99"}]


def test_the_fingerprint_changes_with_rows_of_these_items_only(tmp_path):
    write_vectors(tmp_path, np.arange(6.0).reshape(3, 2))
    first = open_quietly(tmp_path, "ab").fingerprint("graph")
    write_vectors(tmp_path, np.array([[0.0, 1], [2, 3], [9, 9]]))
    assert open_quietly(tmp_path, "ab").fingerprint("graph") == first
    write_vectors(tmp_path, np.array([[2.0, 3], [0, 1], [9, 9]]), "bac")  # only the order of the file
    assert open_quietly(tmp_path, "ab").fingerprint("graph") == first
    write_vectors(tmp_path, np.array([[2.0, 3], [0, 1], [9, 9]]))
    assert open_quietly(tmp_path, "ab").fingerprint("graph") != first


@pytest.mark.parametrize("change", ["other numbers", "fewer rows", "gone"])
def test_vectors_that_change_after_opening_are_an_error(tmp_path, change):
    write_vectors(tmp_path, np.ones((3, 2)))
    catalog = open_quietly(tmp_path)
    catalog.load("graph", 2)
    os.unlink(tmp_path / "graph.npy")
    if change != "gone":
        np.save(tmp_path / "graph.npy", np.full((3, 2), 5.0) if change == "other numbers" else np.ones((1, 2)))
    with pytest.raises(SDAError, match="changed after the catalogue was opened"):
        catalog.load("graph", 2)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_tokens_are_whole_lines(tmp_path, line_end):
    tokens = ["a b", "é🎬", 'c,"d"', "\u2028x\x85", " e"]
    write_vectors(tmp_path, np.arange(5.0).reshape(5, 1))
    (tmp_path / "graph.items.txt").write_bytes(("\ufeff" + line_end.join(tokens)).encode())
    catalog = open_quietly(tmp_path, tokens)
    assert [catalog.load("graph", row).item() for row in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones(3), r"has the shape \(3,\); it needs \(rows, dimensions\)"),
        (np.ones((3, 2, 2)), r"has the shape \(3, 2, 2\)"),
        (np.ones((3, 0)), r"has the shape \(3, 0\)"),
        (np.ones((2, 4)), r"graph\.items\.txt names 3 items, but the matrix beside it has 2 rows"),
        (np.ones((3, 2), dtype=complex), "holds complex128; it needs float or whole numbers"),
        (np.ones((3, 2), dtype=bool), "holds bool"),
        (np.array([["x", "y"]] * 3), "holds <U1"),
    ],
)
def test_other_matrices_are_named(tmp_path, matrix, message):
    write_vectors(tmp_path, matrix)
    with pytest.raises(SDAError, match=message):
        open_quietly(tmp_path)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize(
    "damage", ["pickled", "bare pickle", "cut", "empty", "text", "archive", "huge header", "pipe", "folder"]
)
def test_other_files_are_refused_and_nothing_of_them_is_run(tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    write_vectors(tmp_path, np.ones((3, 200)))
    path = tmp_path / "graph.npy"
    whole = path.read_bytes()
    path.unlink()
    if damage == "pickled":
        np.save(path, np.array([[Bomb()]], dtype=object), allow_pickle=True)
    elif damage == "bare pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    elif damage == "archive":
        with open(path, "wb") as file:
            np.savez(file, x=np.ones((3, 2)))
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage == "folder":
        path.mkdir()
    else:
        data = {
            "cut": whole[:-100],
            "empty": b"",
            "text": b"1 2 3\n",
            "huge header": whole.replace(b"(3, 200), }", b"(3, 9999999999999), }".ljust(11)),
        }
        path.write_bytes(data[damage])
    with pytest.raises(SDAError, match=r"graph\.npy .*(numpy\.save|archive)"):
        open_quietly(tmp_path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\na\n", r"graph\.items\.txt:3: item 'a' stands on line 1 too"),
        (b"a\n\nb\n", r"graph\.items\.txt:2: an empty line names no item"),
        (b"a\nb\n", "names 2 items, but the matrix beside it has 3 rows"),
        (b"", "names 0 items"),
        (b"a\nb\n\xff\n", r"graph\.items\.txt:3: byte 0xff is not UTF-8"),
        (None, r"graph\.items\.txt does not exist; it says, a line each, which item every row is"),
    ],
)
def test_lists_of_items_that_do_not_fit(tmp_path, content, message):
    write_vectors(tmp_path, np.ones((3, 2)))
    (tmp_path / "graph.items.txt").unlink()
    if content is not None:
        (tmp_path / "graph.items.txt").write_bytes(content)
    with pytest.raises(SDAError, match=message):
        open_quietly(tmp_path)


def test_no_item_of_the_catalogue_among_the_rows_is_all_missing(tmp_path):
    write_vectors(tmp_path, np.ones((3, 2)))
    catalog = open_quietly(tmp_path, ["x", "y"])
    assert not catalog.present("graph").any()
