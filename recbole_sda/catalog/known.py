"""Datasets that a user may name before they are there, and the commands that make them."""

import difflib
import shlex
from pathlib import Path

# name → script in dataset_scripts/ and its options. Amazon's and MovieLens' names are RecBole's.
COMMANDS = {
    "amazon-beauty": "amazon.py --year 2014 --category Beauty --domain beauty",
    "amazon-sports-outdoors": "amazon.py --year 2014 --category Sports_and_Outdoors --domain sports",
    "amazon-toys-games": "amazon.py --year 2014 --category Toys_and_Games --domain toy",
    "amazon-all-beauty-18": "amazon.py --year 2018 --category All_Beauty --domain beauty",
    "amazon-sports-outdoors-18": "amazon.py --year 2018 --category Sports_and_Outdoors --domain sports",
    "amazon-toys-games-18": "amazon.py --year 2018 --category Toys_and_Games --domain toy",
    "amazon-beauty-personal-care-23": "amazon.py --year 2023 --category Beauty_and_Personal_Care --domain beauty",
    "amazon-sports-outdoors-23": "amazon.py --year 2023 --category Sports_and_Outdoors --domain sports",
    "amazon-toys-games-23": "amazon.py --year 2023 --category Toys_and_Games --domain toy",
    "ml-1m": "movielens.py --release 1m",
    "ml-10m": "movielens.py --release 10m",
    "ml-20m": "movielens.py --release 20m",
    "ml-25m": "movielens.py --release 25m",
    "ml-32m": "movielens.py --release 32m",
    "ml-latest": "movielens.py --release latest",
    "ml-latest-small": "movielens.py --release latest-small",
    "microlens-50k": "microlens.py --release 50k --covers",
    "microlens-100k": "microlens.py --release 100k --covers",
}


def how_to_make(name: str, folder: Path) -> str:
    """What makes the dataset `name` in `folder`: a command, or a script for data of the user's own."""
    if name in COMMANDS:
        return f"Make it with `python dataset_scripts/{COMMANDS[name]} --output {shlex.quote(str(folder))}`"
    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.75)
    meant = f"Did you mean {near[0]}? " if near else ""
    return f"{meant}Make it with dataset_scripts/from_csv.py"
