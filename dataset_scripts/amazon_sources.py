"""Where Amazon's review data of 2014, 2018 and 2023 comes from, its terms and what to cite.

The publisher gives no checksums; the README of a dataset keeps those of the files that were used.
"""

from dataclasses import dataclass
from pathlib import Path

from dataset_readme import Provenance  # beside this file

from recbole_sda.errors import SDAError

_TERMS = (
    "No licence is stated: Amazon's reviews and product data, collected by Julian McAuley's group (UC San Diego) "
    "and offered for research. Texts and pictures belong to those who wrote and made them."
)
_COMMON = (
    "Automotive Books CDs_and_Vinyl Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry Digital_Music "
    "Electronics Grocery_and_Gourmet_Food Home_and_Kitchen Kindle_Store Movies_and_TV Musical_Instruments "
    "Office_Products Patio_Lawn_and_Garden Pet_Supplies Sports_and_Outdoors Tools_and_Home_Improvement "
    "Toys_and_Games Video_Games"
)


@dataclass(frozen=True)
class Release:
    """A release of the data.

    Attributes:
        page: where it is described.
        ratings: address of a category's ratings; `{}` stands for the category.
        metadata: address of its metadata.
        categories: the categories' names.
        citation: what the publisher asks to cite.
    """

    page: str
    ratings: str
    metadata: str
    categories: frozenset[str]
    citation: str


RELEASES = {
    2014: Release(
        page="https://jmcauley.ucsd.edu/data/amazon/",
        ratings="https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/ratings_{}.csv",
        metadata="https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/meta_{}.json.gz",
        categories=frozenset(
            f"{_COMMON} Amazon_Instant_Video Apps_for_Android Baby Beauty Health_and_Personal_Care".split()
        ),
        citation="R. He, J. McAuley: Ups and Downs: Modeling the Visual Evolution of Fashion Trends with "
        "One-Class Collaborative Filtering. WWW 2016. — J. McAuley, C. Targett, Q. Shi, A. van den Hengel: "
        "Image-Based Recommendations on Styles and Substitutes. SIGIR 2015.",
    ),
    2018: Release(
        page="https://nijianmo.github.io/amazon/",
        ratings="https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/categoryFilesSmall/{}.csv",
        metadata="https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/metaFiles2/meta_{}.json.gz",
        categories=frozenset(
            f"{_COMMON} AMAZON_FASHION All_Beauty Appliances Arts_Crafts_and_Sewing Gift_Cards "
            "Industrial_and_Scientific Luxury_Beauty Magazine_Subscriptions Prime_Pantry Software".split()
        ),
        citation="J. Ni, J. Li, J. McAuley: Justifying Recommendations using Distantly-Labeled Reviews and "
        "Fine-Grained Aspects. EMNLP-IJCNLP 2019.",
    ),
    2023: Release(
        page="https://amazon-reviews-2023.github.io/",
        ratings="https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/benchmark/0core/rating_only/{}.csv.gz",
        metadata="https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw/meta_categories/meta_{}.jsonl.gz",
        categories=frozenset(
            f"{_COMMON} All_Beauty Amazon_Fashion Appliances Arts_Crafts_and_Sewing Baby_Products "
            "Beauty_and_Personal_Care Gift_Cards Handmade_Products Health_and_Household Health_and_Personal_Care "
            "Industrial_and_Scientific Magazine_Subscriptions Software Subscription_Boxes Unknown".split()
        ),
        citation="Y. Hou, J. Li, Z. He, A. Yan, X. Chen, J. McAuley: Bridging Language and Items for Retrieval "
        "and Recommendation. arXiv:2403.03952, 2024.",
    ),
}


def provenance(year: int, category: str | None) -> Provenance:
    """What a dataset's README says of its source."""
    release = RELEASES[year]
    title, urls = f"Amazon reviews {year}", [release.page]
    if category:
        title += f": {category}"
        urls += [release.ratings.format(category), release.metadata.format(category)]
    return Provenance(title, urls, _TERMS, release.citation)


def category_name(year: int, category: str) -> str:
    """`category` as the release's files spell it.

    Raises:
        SDAError: the release has no such category.
    """
    names = {name.lower(): name for name in RELEASES[year].categories}
    wanted = category.strip().lower().replace(" & ", "_and_").replace(" ", "_").replace("-", "_")
    if wanted not in names:
        raise SDAError(f"{year} has no --category {category}; it has {', '.join(sorted(names.values()))}")
    return names[wanted]


def raw_file(year: int, category: str | None, folder: Path, *, metadata: bool) -> Path:
    """The category's file of ratings or of metadata in `folder`, downloaded if it is not there.

    Raises:
        SDAError: the category is not named, or the file cannot be had.
    """
    option = "--metadata" if metadata else "--reviews"
    if category is None:
        raise SDAError(f"{option} is not given: name a local file, or --category to download it")
    release = RELEASES[year]
    url = (release.metadata if metadata else release.ratings).format(category)
    try:
        from downloads import fetch  # needs the extra
    except ImportError as error:
        raise SDAError(
            f"a download needs {error.name}: pip install 'recbole_sda[datasets]', or save {url} with a browser "
            f"and name it with {option}"
        ) from error
    return fetch(url, folder / f"amazon-{year}" / url.rpartition("/")[2])
