"""Public data sets by name: `amazon-2014/Beauty`, `movielens/ml-1m`, and their files at their public homes."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from blair_rec.config.yaml.files import load_yaml
from blair_rec.errors import ConfigError, counted
from blair_rec.prepare.public.download import RemoteFile
from blair_rec.prepare.public.published import categories

AMAZON_2014 = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
AMAZON_2018 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2"
MOVIELENS = "https://files.grouplens.org/datasets/movielens"

# Categories with a 5-core, as listed at https://jmcauley.ucsd.edu/data/amazon/ and /amazon_v2/.
CATEGORIES_2014 = [
    "Amazon_Instant_Video", "Apps_for_Android", "Automotive", "Baby", "Beauty", "Books", "CDs_and_Vinyl",
    "Cell_Phones_and_Accessories", "Clothing_Shoes_and_Jewelry", "Digital_Music", "Electronics",
    "Grocery_and_Gourmet_Food", "Health_and_Personal_Care", "Home_and_Kitchen", "Kindle_Store", "Movies_and_TV",
    "Musical_Instruments", "Office_Products", "Patio_Lawn_and_Garden", "Pet_Supplies", "Sports_and_Outdoors",
    "Tools_and_Home_Improvement", "Toys_and_Games", "Video_Games",
]  # fmt: skip
CATEGORIES_2018 = [
    "AMAZON_FASHION", "All_Beauty", "Appliances", "Arts_Crafts_and_Sewing", "Automotive", "Books", "CDs_and_Vinyl",
    "Cell_Phones_and_Accessories", "Clothing_Shoes_and_Jewelry", "Digital_Music", "Electronics", "Gift_Cards",
    "Grocery_and_Gourmet_Food", "Home_and_Kitchen", "Industrial_and_Scientific", "Kindle_Store", "Luxury_Beauty",
    "Magazine_Subscriptions", "Movies_and_TV", "Musical_Instruments", "Office_Products", "Patio_Lawn_and_Garden",
    "Pet_Supplies", "Prime_Pantry", "Software", "Sports_and_Outdoors", "Tools_and_Home_Improvement",
    "Toys_and_Games", "Video_Games",
]  # fmt: skip
MD5_OF_MOVIELENS = {
    "ml-100k": "0e33842e24a9c977be4e0107933c0723",
    "ml-1m": "c4d9eecfca2ab87c1945afe126590906",
    "ml-10m": "ce571fd55effeba0271552578f2648bd",
    "ml-20m": "cd245b17a1ae2cc31bb14903e1204af3",
    "ml-25m": "6b51fb2759a8657d3bfcbfc42b592ada",
    "ml-32m": None,
    "ml-latest-small": None,
}
"""The MD5 of each archive as GroupLens publishes it next to the file; ml-latest-small changes, so it has none here."""


@dataclass(frozen=True)
class NamedData:
    """A public data set."""

    family: str
    """amazon-2014, amazon-2018, amazon-2023, movielens or recbole."""
    name: str
    """The category or version within the family."""
    files: tuple[RemoteFile, ...] = ()
    """The files to download; for amazon-2023 `prepare_amazon` finds them."""


def named_data(full_name: str) -> NamedData:
    """Return the data set with a name such as amazon-2014/Beauty.

    Raises:
        ConfigError: there is no such family, or no such name in it.
    """
    family, _, name = full_name.partition("/")
    families = names()
    if family not in families:
        every = {name.lower(): f"{one}/{name}" for one in reversed(families) for name in families[one]}
        near = get_close_matches(full_name.lower(), every, n=1)
        hint = f"did you mean {every[near[0]]}? " if near else ""
        begins = ", ".join(f"{one}/" for one in families)
        raise ConfigError(f"no data set {full_name!r}; {hint}a name begins with one of: {begins}")
    known = families[family]
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {family}/{near[0]}? " if near else ""
        wrong = f"has no data set {name!r}; {hint}it" if name else "is a family and not one data set; it"
        raise ConfigError(f"{family} {wrong} has {counted(len(known), 'name')}: {', '.join(known)}")
    return NamedData(family, name, _files(family, name))


def names() -> dict[str, Sequence[str]]:
    """Return the families, and the names in each."""
    return {
        "amazon-2014": CATEGORIES_2014,
        "amazon-2018": CATEGORIES_2018,
        "amazon-2023": tuple(categories()),
        "movielens": tuple(MD5_OF_MOVIELENS),
        "recbole": tuple(_urls_of_recbole()),
    }


def _files(family: str, name: str) -> tuple[RemoteFile, ...]:
    if family == "amazon-2014":
        return tuple(RemoteFile(f"{AMAZON_2014}/{file}.json.gz") for file in (f"reviews_{name}_5", f"meta_{name}"))
    if family == "amazon-2018":
        files = (f"categoryFilesSmall/{name}_5", f"metaFiles2/meta_{name}")
        return tuple(RemoteFile(f"{AMAZON_2018}/{file}.json.gz") for file in files)
    if family == "movielens":
        return (RemoteFile(f"{MOVIELENS}/{name}.zip", MD5_OF_MOVIELENS[name]),)
    return (RemoteFile(_urls_of_recbole()[name]),) if family == "recbole" else ()


def _urls_of_recbole() -> dict[str, str]:
    """Return the data sets that RecBole can download, from its own list; RecBole is not imported."""
    spec = importlib.util.find_spec("recbole")
    if spec is None or spec.origin is None:
        return {}
    listed = load_yaml(Path(spec.origin).parent / "properties" / "dataset" / "url.yaml")
    return {str(name): str(url) for name, url in listed.items()}
