"""Features of your own in a minute: TF-IDF of the items' texts, reduced by a truncated SVD.

    python dataset_scripts/tfidf_features.py dataset/my-shop [--dimension 256] [--text-fields title,brand]
    python run_recbole_sda.py --model=SASRec --dataset=my-shop --features=dataset/my-shop/tfidf.npy

The classic that an adapted model has to beat, and an example of what `--features` takes: it writes `tfidf.npy`,
(items, dimension) float32, and `tfidf.items.txt`, the item of every row. Items without text get no row.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

if importlib.util.find_spec("recbole_sda") is None:  # run from a clone that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from recbole_sda.catalog.fields import item_tokens, read_fields
from recbole_sda.errors import SDAError

ITEM_FIELD = "item_id"
SEED = 0
LEAST_ITEMS_OF_A_WORD = 2


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="the dataset's folder, with <name>.item in it")
    parser.add_argument("--dimension", type=int, default=256, help="width of the features (default %(default)s)")
    parser.add_argument("--text-fields", help="columns to use, with commas; all text columns by default")
    options = parser.parse_args(argv)
    try:
        output, shape, without = write_features(options.dataset, options.dimension, options.text_fields)
    except SDAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {output}: {shape[0]:,} items × {shape[1]}; {without} items without text got no row")
    return 0


def write_features(dataset: Path, dimension: int, text_fields: str | None) -> tuple[Path, tuple[int, int], int]:
    item_file = dataset / f"{dataset.resolve().name}.item"
    if not item_file.is_file():
        raise SDAError(f"{item_file} does not exist; give the folder of a dataset with an .item file")
    tokens = item_tokens(item_file)
    fields = read_fields(item_file, tokens, ITEM_FIELD, text_fields.split(",") if text_fields else None).fields
    texts = [" ".join(filter(None, values)) for values in zip(*fields.values(), strict=True)]
    rows = [row for row, text in enumerate(texts) if text]
    features = tfidf([texts[row] for row in rows], dimension)
    output = dataset / "tfidf.npy"
    np.save(output, features, allow_pickle=False)
    names = "".join(f"{tokens[row]}\n" for row in rows)
    output.with_suffix(".items.txt").write_text(names, encoding="utf-8")
    return output, features.shape, len(tokens) - len(rows)


def tfidf(texts: Sequence[str], dimension: int) -> np.ndarray:
    """(texts, ≤ dimension) float32, rows of at most unit length."""
    try:
        words = TfidfVectorizer(sublinear_tf=True, min_df=LEAST_ITEMS_OF_A_WORD).fit_transform(texts)
    except ValueError as error:
        raise SDAError(f"the texts share no words ({error}); choose other --text-fields") from error
    width = min(dimension, min(words.shape) - 1)
    if width < 1:
        raise SDAError(f"{words.shape[0]} texts of {words.shape[1]} words are too few for features")
    return TruncatedSVD(width, random_state=SEED).fit_transform(words).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
