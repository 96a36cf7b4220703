"""Features of the user's own: whatever the file, the same values for the same items, or a refusal that helps."""

import shutil

import numpy as np
import pytest

from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureProvider, FeatureStore, arrays, sources, write_store
from recbole_sda.features.exchange import export_store
from recbole_sda.features.exchange_source import modality_name
from recbole_sda.features.sources import import_features, open_features

TOKENS = ["10", "Été 東京", "c", "d", "e"]
WANTED = ["d", "10", "e", "c"]
CLIP = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
BERT = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def provide(features, tokens=WANTED, modalities=None, **options):
    return FeatureProvider(open_features(import_features(features, folder()), modalities), tokens, **options)


def folder():
    from pathlib import Path

    return Path("saved/features")


def refused(features, **options) -> str:
    with pytest.raises(SDAError) as error:
        provide(features, **options)
    assert "\n" not in str(error.value)
    assert not [path for path in folder().glob("*/*") if path.parent.suffix == ".unfinished"]
    return str(error.value)


def write_npy(name, values, tokens=TOKENS):
    np.save(f"{name}.npy", values)
    with open(f"{name}.items.txt", "w", encoding="utf-8") as file:
        file.writelines(f"{token}\n" for token in tokens)
    return f"{name}.npy"


def write_text(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def as_store(name="mine", **arrays_of):
    from pathlib import Path

    arrays_of = arrays_of or {"clip": CLIP, "bert": BERT}
    Path(name).mkdir()
    for modality, values in arrays_of.items():
        np.save(f"{name}/{modality}.npy", values)
    write_store(Path(name), TOKENS, {m: np.ones(len(TOKENS), bool) for m in arrays_of}, settings={})
    return name


def as_npy():
    return f"{write_npy('clip', CLIP)},{write_npy('bert', BERT)}"


def as_parquet():
    pytest.importorskip("pyarrow")
    export_store(FeatureStore.open(as_store("other")), "both.parquet", format="parquet")
    return "both.parquet"


def as_safetensors():
    export_store(FeatureStore.open(as_store("other")), "both.safetensors", format="safetensors")
    return "both.safetensors"


def as_atomic():
    """Written by another hand than the reader's: plain text."""
    lines = [
        "\t".join([token, *(" ".join(map(repr, row.tolist())) for row in rows)])
        for token, *rows in zip(TOKENS, CLIP, BERT, strict=True)
    ]
    return write_text("demo.itememb", "\n".join(["iid:token\tclip:float_seq\tbert:float_seq", *lines]) + "\n")


FORMATS = [as_store, as_npy, as_parquet, as_safetensors, as_atomic]


@pytest.mark.parametrize("chunk_bytes", [1, 2**26])
@pytest.mark.parametrize("write", FORMATS)
def test_every_format_gives_the_same_values(monkeypatch, write, chunk_bytes):
    monkeypatch.setattr(arrays, "CHUNK_BYTES", chunk_bytes)
    provider = provide(write())
    rows = [TOKENS.index(token) for token in WANTED]
    assert set(provider.modalities) == {"clip", "bert"}
    assert len(provider) == len(WANTED)
    for modality, given in {"clip": CLIP, "bert": BERT}.items():
        assert provider.width(modality) == given.shape[1]
        assert provider.values(modality).dtype == np.float32
        np.testing.assert_array_equal(provider.values(modality), given[rows])
        np.testing.assert_array_equal(provider.values(modality, 1, 3), given[rows[1:3]])
        assert provider.present(modality).all()
    assert provider.skipped_count() == 0


@pytest.mark.parametrize(("given", "kept"), [("float16", "float16"), ("float64", "float32"), ("int64", "float32")])
def test_dtypes(given, kept):
    values = (CLIP * 10).astype(given)
    provider = provide(write_npy("clip", values))
    np.testing.assert_array_equal(provider.values("clip"), values[[3, 0, 4, 2]].astype(kept))
    assert provider.values("clip").dtype == kept


@pytest.mark.parametrize(
    ("given", "kept"), [("halffloat", "float16"), ("float", "float32"), ("double", "float32")]
)
def test_dtypes_of_parquet(given, kept):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    values = CLIP.astype(np.float16)
    kind = pa.list_(getattr(pa, {"halffloat": "float16", "float": "float32", "double": "float64"}[given])())
    table = pa.table({"asin": TOKENS, "clip": pa.array(list(values.astype(np.float64)), kind), "price": [1.5] * 5})
    parquet.write_table(table, "in.parquet")
    provider = provide("in.parquet", TOKENS)
    assert provider.values("clip").dtype == kept
    np.testing.assert_array_equal(provider.values("clip"), values.astype(kept))


# --- several at once, and their names ---


def test_sources_of_every_kind_together():
    features = f"{write_npy('clip', CLIP)},title={write_npy('bert', BERT)},{as_store(plot=-CLIP)}"
    provider = provide(features)
    assert provider.modalities == ("clip", "title", "plot")
    np.testing.assert_array_equal(provider.values("plot"), -provider.values("clip"))
    assert "mine" in provider.describe()


@pytest.mark.parametrize(
    ("text", "name"),
    [("CLIP-L.v2", "clip_l_v2"), ("512", "features_512"), ("_x_", "x"), ("東京", "features"), ("a b", "a_b")],
)
def test_names_become_names_of_modalities(text, name):
    assert modality_name(text) == modality_name(name) == name
    assert provide(write_npy(text, CLIP)).modalities == (name,)


def test_mmrecs_names_and_mapping():
    np.save("image_feat.npy", CLIP)
    rows = "".join(f"{token}\t{row}\n" for row, token in enumerate(TOKENS))
    write_text("i_id_mapping.csv", f"asin\titemID\n{rows}")
    assert provide("image_feat.npy").modalities == ("image",)
    np.testing.assert_array_equal(provide("image_feat.npy").values("image"), CLIP[[3, 0, 4, 2]])


def test_ids_of_its_own_come_before_the_folders():
    write_text("items.txt", "".join(f"{token}\n" for token in reversed(TOKENS)))
    np.save("clip.npy", CLIP)
    np.testing.assert_array_equal(provide("clip.npy", TOKENS).values("clip"), CLIP[::-1])
    np.save("clip.items.npy", np.array(TOKENS))
    np.testing.assert_array_equal(provide("clip.npy", TOKENS).values("clip"), CLIP)
    np.save("clip.items.npy", np.arange(5))
    np.testing.assert_array_equal(provide("clip.npy", ["4", "0"]).values("clip"), CLIP[[4, 0]])


def test_a_name_goes_to_the_modality_or_before_each_of_several():
    store = as_store()
    assert provide(f"shop={store}").modalities == ("shop_bert", "shop_clip")
    assert provide(f"shop={write_npy('clip', CLIP)}").modalities == ("shop",)
    assert "'Shop' is no name of a modality; use shop=mine" in refused(f"Shop={store}")
    assert provide(f"{store},shop={store}").modalities == ("bert", "clip", "shop_bert", "shop_clip")


def test_one_name_twice_is_refused():
    message = refused(f"{as_store()},{write_npy('clip', CLIP)}")
    assert "mine and clip.npy both have a modality clip; call one by another name, as in --features=" in message


def test_modalities_select_what_is_checked():
    write_npy("bert", BERT[:1], TOKENS[:1])
    features = f"{write_npy('clip', CLIP)},bert.npy"
    assert "features=bert.npy lacks 3 of 4 items" in refused(features)
    assert provide(features, modalities=["clip"]).modalities == ("clip",)
    message = refused(features, modalities=["clip", "image"])
    assert "features have clip, bert and no image; say --modalities=clip,bert or leave modalities out" in message


@pytest.mark.parametrize("name", ["a,b.npy", "x=y.npy", "in/a=b/c.npy"])
def test_paths_with_signs_that_mean_something(here, name):
    (here / name).parent.mkdir(parents=True, exist_ok=True)
    write_npy(name.removesuffix(".npy"), CLIP)
    assert len(provide(name).modalities) == 1


# --- imported once ---


def test_a_second_run_reuses_the_store(monkeypatch):
    features = as_npy()
    first = import_features(features, folder())
    monkeypatch.setattr(sources, "fill_store", None)  # must not be called
    assert import_features(features, folder()) == first
    assert import_features(first, folder()) == first
    assert all(FeatureStore.open(path, verify=True) for path in first.split(","))


@pytest.mark.parametrize("change", ["values", "ids", "name"])
def test_a_change_makes_another_store(here, change):
    before = import_features(write_npy("clip", CLIP), folder())
    if change == "values":
        write_npy("clip", CLIP + 1)
    elif change == "ids":
        write_npy("clip", CLIP, TOKENS[::-1])
    else:
        write_npy("other", CLIP)
    after = import_features("other.npy" if change == "name" else "clip.npy", folder())
    assert after != before
    (here / "elsewhere").mkdir()
    shutil.copy("clip.npy", "elsewhere")
    shutil.copy("clip.items.txt", "elsewhere")
    assert (import_features("elsewhere/clip.npy", folder()) == after) == (change != "name")


def test_an_interrupted_import_is_made_anew(monkeypatch):
    features = write_npy("clip", CLIP)
    fill = sources.fill_store

    def interrupted(unfinished, *args, **options):
        fill(unfinished, *args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "fill_store", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_features(features, folder())
    monkeypatch.setattr(sources, "fill_store", fill)
    np.testing.assert_array_equal(provide(features, TOKENS).values("clip"), CLIP)


# --- items without a row, and rows without an item ---


def test_items_without_a_row_are_refused_or_learned():
    features = write_npy("clip", CLIP)
    tokens = ["x1", *WANTED, *(f"x{number}" for number in range(2, 8))]
    message = refused(features, tokens=tokens)
    assert message == (
        "features=clip.npy lacks 7 of 11 items, the first 'x1', 'x2', 'x3', 'x4', 'x5'; supply them, or learn a "
        "vector for them with --missing_features=learn"
    )
    provider = provide(features, tokens, missing="learn")
    assert provider.present("clip").tolist() == [False, *[True] * 4, *[False] * 6]
    expected = np.zeros((11, 3), np.float32)
    expected[1:5] = CLIP[[3, 0, 4, 2]]
    np.testing.assert_array_equal(provider.values("clip"), expected)
    np.testing.assert_array_equal(provider.values("clip", 4, 7), expected[4:7])
    (line,) = provider.coverage()
    assert line.startswith("clip: 3 wide, 7 of 11 items without it; 1 rows are of items that the dataset lacks")


def test_each_source_has_missing_items_of_its_own():
    features = f"{write_npy('clip', CLIP[:3], TOKENS[:3])},{write_npy('bert', BERT[2:], TOKENS[2:])}"
    provider = provide(features, TOKENS, missing="learn")
    assert provider.present("clip").tolist() == [True, True, True, False, False]
    assert provider.present("bert").tolist() == [False, False, True, True, True]


@pytest.mark.parametrize("missing", ["refuse", "learn"])
def test_features_for_other_items_are_refused_always(missing):
    message = refused(write_npy("clip", CLIP), tokens=["v", "w", "x", "y"], missing=missing)
    assert message == (
        "features=clip.npy belongs to another catalogue: it has none of the 4 items; it names '10', 'Été 東京', "
        "'c', the dataset 'v', 'w', 'x'"
    )


def test_empty_cells_are_without_the_modality():
    write_text("demo.emb", 'iid:token\tclip:float_seq\n10\t\nc\t1 2\nd\t\n"e ""f"""\t3 4')
    provider = provide("demo.emb", ["10", "c", 'e "f"'])
    assert provider.present("clip").tolist() == [False, True, True]
    assert provider.values("clip").tolist() == [[0, 0], [1, 2], [3, 4]]


# --- what is refused ---


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", [(1, 2), (1, slice(None))])
def test_rows_that_are_not_finite(value, where):
    values = CLIP.copy()
    values[3, 0] = np.nan
    values[where] = value
    message = refused(write_npy("clip", values))
    assert message == (
        "features=clip.npy: clip of 2 of 5 items is not finite, or too large for float32, the first 'Été 東京'. "
        "Mend these rows, or leave them out"
    )
    assert "clip of 2 of 5 items is not finite" in refused("clip.npy")  # again: nothing half made is reused


def test_arrays_that_are_refused(here):
    np.save("clip.npy", CLIP)
    assert refused("clip.npy").startswith(
        "features=clip.npy: clip.npy does not say which item a row is, and rows are never taken by position: put "
        "the items, one a line, into clip.items.txt"
    )
    assert "has 5 rows, clip.items.txt names 4 items" in refused(write_npy("clip", CLIP, TOKENS[:4]))
    assert "item '10' is there twice" in refused(write_npy("clip", CLIP, [*TOKENS[:4], "10"]))
    assert "not real numbers" in refused(write_npy("clip", np.array([["x"]] * 5)))
    assert "has shape (5,)" in refused(write_npy("clip", CLIP[:, 0]))
    assert "cannot be read as an .npy array" in refused(write_npy("clip", CLIP.astype(object)))
    (here / "clip.npy").write_bytes(b"")
    assert "cannot be read as an .npy array" in refused("clip.npy")
    write_npy("clip", CLIP)
    np.save("clip.items.npy", np.ones(5))
    (here / "clip.items.txt").unlink()
    assert "one item a row is needed, as texts or whole numbers" in refused("clip.npy")
    assert "has none of the 4 items; it names none at all" in refused(write_npy("none", CLIP[:0], []))


HEADER = "iid:token\tclip:float_seq\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEADER}a\t1 2\nb\t1 2 3\n", "clip of item 'b' has 3 numbers, of the first item 2"),
        (f"{HEADER}a\t1 2\nb\t1 two\n", "clip of item 'b' holds 'two', which is no number"),
        (f"{HEADER}a\t1 2\nb\t1 nan\n", "clip of 1 of 2 items is not finite"),
        (f"{HEADER}a\t1 2\nb\t1 1e39\n", "clip of 1 of 2 items is not finite"),
        (f"{HEADER}a\t1 2\na\t1 2\n", "item 'a' is there twice"),
        (f"{HEADER}a\t\n", "the vectors of clip have no values"),
        (f"{HEADER}a\t1 2\tx\n", "3 fields, but the header has 2"),
        (HEADER, "the vectors of clip have no values"),
        ("iid:token\tname:token\tclip:float_seq\n", "one token column and float_seq columns are needed"),
        ("clip:float_seq\n", "one token column and float_seq columns are needed"),
        ("iid:token\tprice:float\na\t1\n", "has columns iid:token, price:float; one token column and float_seq"),
        ("iid:token\tA b:float_seq\ta-b:float_seq\nx\t1\t1\n", "A b, a-b are too much alike"),
        ("iid,clip\na,1 2\n", "demo.emb: it is no feature store, .npy, .parquet, .safetensors or atomic file"),
        ("", "features=demo.emb: the file is empty"),
    ],
)
def test_atomic_files_that_are_refused(text, message):
    assert message in refused(write_text("demo.emb", text), tokens=["a"])


def test_parquet_that_is_refused():
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def write(**columns):
        parquet.write_table(pa.table(columns), "in.parquet")
        return "in.parquet"

    assert "clip has lists of 2 and of 1 numbers" in refused(write(item_id=["a", "b"], clip=[[1.0, 2.0], [1.0]]))
    assert "holds no embeddings" in refused(write(item_id=["a"], clip=[["x"]], price=[1.5]))
    assert "clip of 1 of 1 items is not finite" in refused(write(item_id=["a"], clip=[[1.0, np.nan]]))
    assert "item 'a' is there twice" in refused(write(item_id=["a", "a"], clip=[[1.0], [2.0]]))


def test_paths_that_are_refused(here):
    write_npy("clip", CLIP)
    assert refused("clpi.npy") == "features=clpi.npy does not exist; did you mean clip.npy?"
    assert "did you mean auto?" in refused("autto")
    assert refused("nowhere/at/all").endswith("nowhere/at/all does not exist")
    assert "features=x=nothing" not in refused("x=nothing")
    (here / "folder").mkdir()
    assert "folder is no feature store" in refused("folder")
    (here / "picture.bin").write_bytes(bytes(range(256)))
    assert "is no feature store, .npy" in refused("picture.bin")
    as_store("whole")
    values = (here / "whole" / "clip.npy").read_bytes()
    (here / "whole" / "clip.npy").write_bytes(values[:-1] + b"?")
    assert "does not match its checksum" in refused("whole")


def test_a_store_of_another_dataset(here):
    (here / "theirs").mkdir()
    np.save("theirs/clip.npy", CLIP)
    write_store(here / "theirs", TOKENS, {"clip": np.ones(5, bool)}, settings={}, dataset="market")
    assert provide("theirs", dataset="market").modalities == ("clip",)
    assert "it was embedded for 'market', the dataset is 'shop'" in refused("theirs", dataset="shop")
