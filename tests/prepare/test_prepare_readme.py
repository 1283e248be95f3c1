"""datasets/README.md: preparing its samples gives the results that it shows."""

from __future__ import annotations

import hashlib
import os
import re
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest

from blair_rec.files.contents import sha256_of
from blair_rec.prepare.own import OwnData, prepare_own
from blair_rec.prepare.public.pairs import Pairs, prepare_pairs
from blair_rec.prepare.public.reviews import Amazon, prepare_amazon
from blair_rec.prepare.public.search import SearchData, prepare_search

README = Path(__file__).resolve().parents[2] / "datasets" / "README.md"
SAMPLES = dict(re.findall(r"^`([^`\n]+)`\n```\n(.*?)```\n", README.read_text("utf-8"), re.MULTILINE | re.DOTALL))


def lay_out(folder: Path, *starts: str) -> Path:
    """Write the samples whose names have one of these starts to files."""
    for name in SAMPLES:
        if name.startswith(starts):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(SAMPLES[name], encoding="utf-8")
    return folder


def assert_shown(*names: str) -> None:
    for name in names:
        assert Path(name).read_text("utf-8") == SAMPLES[name], name


def test_own_files_give_what_is_shown(tmp_path: Path) -> None:
    lay_out(tmp_path, "orders", "articles")
    asked = OwnData(
        Path("orders.csv"),
        "customer",
        "article",
        "at",
        items=Path("articles.jsonl"),
        item_id="sku",
        fields=("name", "about"),
    )
    prepare_own(asked, Path("data/shop"), print)
    assert_shown("data/shop/shop.inter", "data/shop/shop.item")


@pytest.mark.parametrize("reviews", ["benchmark/0core/rating_only", "benchmark/0core/last_out_w_his", "raw/review"])
def test_every_layout_of_amazon_reviews_gives_what_is_shown(tmp_path: Path, reviews: str) -> None:
    source = lay_out(tmp_path / "source", reviews, "raw/meta")
    prepare_amazon(Amazon("Example", 0, "last_out", source), Path("Example"), print)
    assert_shown("Example/Example.inter", "Example/Example.item", "Example/items.jsonl")
    prepare_amazon(Amazon("Example", 0, "last_out", source, benchmark=True), Path("parts"), print)
    assert_shown(*(f"parts/parts.{part}.inter" for part in ("train", "valid", "test")))


def test_pairs_are_what_is_shown(tmp_path: Path) -> None:
    prepare_pairs(Pairs("Example", lay_out(tmp_path / "source", "raw/"), share=1.0), Path("pairs"), print)
    assert_shown("pairs/pairs.tsv")


def test_search_data_is_what_is_shown(tmp_path: Path) -> None:
    source = lay_out(tmp_path / "source", "test.csv", "sampled")
    prepare_search(SearchData("amazon-c4", source), Path("search"), print)
    assert_shown("search/items.jsonl", "search/queries.jsonl", "search/qrels.tsv")


def test_no_sample_is_longer_than_ten_lines() -> None:
    assert len(SAMPLES) == 22 and max(sample.count("\n") for sample in SAMPLES.values()) <= 10


def test_the_files_used_for_measurements_are_listed_with_their_hashes() -> None:
    """The hashes on the page equal those in the script and those of the files that tests with real data read."""
    shown = dict(re.findall(r"^\| `([\w.-]+)` \| `(\w{64})` \|$", README.read_text("utf-8"), re.MULTILINE))
    made = runpy.run_path(str(README.with_name("make_public.py")))["SHA256"]
    bundled = Path(find_spec("recbole").origin).parent / "dataset_example" / "ml-100k"  # type: ignore[union-attr, arg-type]
    # RecBole 1.2.0 has the same lines, with a carriage return at the end of each.
    files = {name: (bundled / name).read_bytes().replace(b"\r\n", b"\n") for name in ("ml-100k.inter", "ml-100k.item")}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert shown == {**hashes, **made}
    if "BLAIR_REC_DATA" in os.environ:
        real = Path(os.environ["BLAIR_REC_DATA"])
        assert {name: sha256_of(real / name.partition(".")[0] / name) for name in made} == made
