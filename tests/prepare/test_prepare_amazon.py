"""Amazon Reviews 2023: the published rules, every layout of its files, the hub, and pairs of texts."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from random import Random
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import pytest
from hubs import LocalHub
from published_rules import Case, Review, in_plain_python, splits_in_plain_python

from blair_rec.config.comparison import load_config
from blair_rec.errors import ConfigError, SourceError
from blair_rec.prepare.events import TEST_FROM, VALID_FROM
from blair_rec.prepare.public.pairs import Pairs, prepare_pairs
from blair_rec.prepare.public.published import categories, published, rounded
from blair_rec.prepare.public.reviews import HUB, Amazon, prepare_amazon
from blair_rec.text.catalogue import read_catalogue

PARTS = ("train", "valid", "test")


def some_reviews(seed: int, count: int = 300) -> list[Review]:
    """Events with ties, repeated pairs, users with a single event, and times on both sides of both cut-offs."""
    random = Random(seed)
    moments = [VALID_FROM - 1, VALID_FROM, VALID_FROM + 1, TEST_FROM - 1, TEST_FROM, TEST_FROM + 1]
    moments += [random.randrange(VALID_FROM - 10**11, TEST_FROM + 10**10) for _ in range(60)]
    reviews = [
        (
            f"U{int(25 * random.random())}",
            f"B{int(20 * random.random())}",
            float(random.randint(1, 5)),
            random.choice(moments),
        )
        for _ in range(count)
    ]
    return [*reviews, *((f"single{number}", f"B{number}", 5.0, moments[number]) for number in range(6))]


def write_csv(path: Path, reviews: Sequence[Review], header: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["user_id,parent_asin,rating,timestamp"] * header + [",".join(map(str, review)) for review in reviews]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_raw(path: Path, reviews: Sequence[Review]) -> Path:
    """Write raw reviews, with a text that looks like a review itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for user, item, rating, time in reviews:
            row = {
                "rating": rating,
                "title": "Good",
                "text": f'it is "{item}", {{"user_id": "X"}}\n',
                "images": [{"a": 1}],
            }
            row |= {"asin": "other", "parent_asin": item, "user_id": user, "timestamp": time, "verified_purchase": True}
            file.write(json.dumps(row) + "\n")
    return path


def write_meta(path: Path, items: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "main_category": "All Beauty",
            "title": f"Thing {item}",
            "features": ["soft,\nwarm", "red"],
            "description": [],
            "price": [12.5, None, "from 3"][number % 3],
            "store": "A store",
            "categories": ["Beauty", "Hair"],
            "details": {"Brand": "B", "Size": None},
            "parent_asin": item,
        }
        for number, item in enumerate(items)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def a_source(folder: Path, reviews: Sequence[Review], layout: str) -> Path:
    """Write the same reviews in one of the published layouts."""
    items = sorted({review[1] for review in reviews})
    meta = "raw/meta_categories/meta_X.jsonl" if "flat" not in layout else "meta_X.jsonl"
    write_meta(folder / meta, items)
    if layout == "rating_only":
        write_csv(folder / "benchmark" / "0core" / "rating_only" / "X.csv", reviews)
    elif layout == "rating_only, flat, without header":
        write_csv(folder / "X.csv", reviews, header=False)
    elif layout == "rating_only, flat, zipped":
        plain = write_csv(folder / "X.csv", reviews)
        plain.with_name("X.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    elif layout == "raw":
        write_raw(folder / "raw" / "review_categories" / "X.jsonl", reviews)
    else:
        assert layout == "split, flat"
        parts = splits_in_plain_python(in_plain_python(list(reviews), 0), "last_out", 0, 0)
        for part, cases in parts.items():
            lines = ["user_id,parent_asin,rating,timestamp,history"]
            lines += [",".join([*map(str, case[:4]), " ".join(case[4])]) for case in cases]
            (folder / f"X.{part}.csv").write_text("\n".join(lines) + "\n")
    return folder


def rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text("utf-8").splitlines()]


def written_log(out: Path) -> list[Review]:
    header, *events = rows(out / f"{out.name}.inter")
    assert header == ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    return [(user, item, float(rating), int(time)) for user, item, rating, time in events]


def written_benchmark(out: Path) -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = {}
    for part in PARTS:
        header, *events = rows(out / f"{out.name}.{part}.inter")
        assert header[1] == "item_id_list:token_seq"
        found[part] = [(u, i, float(r), int(t), tuple(history.split(" "))) for u, history, i, r, t in events]
    return found


def as_written(cases: dict[str, list[Case]]) -> dict[str, list[Case]]:
    """Rows without a history are skipped, and histories are cut to the last 50 items."""
    return {part: [(*case[:4], case[4][-50:]) for case in rows if case[4]] for part, rows in cases.items()}


@pytest.mark.parametrize("split", ["last_out", "timestamp"])
@pytest.mark.parametrize("core", [0, 2, 5])
@pytest.mark.parametrize("layout", ["rating_only", "raw"])
def test_what_is_written_is_what_the_published_rules_give(tmp_path: Path, split: str, core: int, layout: str) -> None:
    reviews = some_reviews(core)
    asked = Amazon("X", core, split, a_source(tmp_path / "source", reviews, layout), benchmark=True)
    assert prepare_amazon(asked, tmp_path / "out", lambda line: None)
    expected = splits_in_plain_python(in_plain_python(reviews, core), split, VALID_FROM, TEST_FROM)
    assert written_benchmark(tmp_path / "out") == as_written(expected)
    assert min(map(len, expected.values())) > 0, "a case that shows nothing"


LAYOUTS = ["rating_only", "rating_only, flat, without header", "rating_only, flat, zipped", "raw", "split, flat"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_log(tmp_path: Path, layout: str) -> None:
    reviews = some_reviews(7)
    asked = Amazon("X", 4, "last_out", a_source(tmp_path / "source", reviews, layout))
    assert prepare_amazon(asked, tmp_path / "out", lambda line: None)
    expected = in_plain_python(reviews, 4)
    ours = written_log(tmp_path / "out")
    assert ours == expected or (layout == "split, flat" and sorted(ours) == sorted(expected))


@pytest.mark.parametrize("split", ["last_out", "timestamp"])
def test_the_log_is_split_by_recbole_as_the_rules_say(tmp_path: Path, split: str) -> None:
    """The training, validation and test cases, read back with the data set class and the written config."""
    from worlds import built, cases

    from blair_rec.config.section import to_dict
    from blair_rec.data.dataset import TextSequentialDataset

    reviews = some_reviews(11)
    asked = Amazon("X", 4, split, a_source(tmp_path / "source", reviews, "rating_only"))
    prepare_amazon(asked, tmp_path / "out", lambda line: None)
    config = load_config(tmp_path / "out" / "out.yaml")
    settings = {**config.recbole, **({"blair_split": to_dict(config.split)} if config.split else {})}
    _, parts = built(TextSequentialDataset, tmp_path / "out", **settings)
    expected = splits_in_plain_python(in_plain_python(reviews, 4), split, VALID_FROM, TEST_FROM)
    for part, name in zip(parts, PARTS, strict=True):
        want = [(case[0], case[4], case[1]) for case in as_written(expected)[name]]
        assert sorted(cases([part])) == sorted(want) and want


@pytest.mark.parametrize("events, as_log", [(3, False), (4, True)])
def test_users_with_few_events_need_benchmark_files(tmp_path: Path, events: int, as_log: bool) -> None:
    """With three events, RecBole's leave-one-out would train on the second, but last_out validates on it."""
    reviews = [(f"u{user}", f"B{number}", 5.0, number) for user in range(3) for number in range(events)]
    reviews += [("busy", f"B{number}", 5.0, number) for number in range(events + 2)]
    asked = Amazon("X", 0, "last_out", a_source(tmp_path / "source", reviews, "rating_only"))
    prepare_amazon(asked, tmp_path / "out", lambda line: None)
    assert (tmp_path / "out" / "out.inter").exists() == as_log
    assert (tmp_path / "out" / "out.test.inter").exists() == (not as_log)
    names = load_config(tmp_path / "out" / "out.yaml").recbole.get("benchmark_filename")
    assert names == (None if as_log else list(PARTS))


def test_the_items_come_with_their_text_and_a_catalogue(tmp_path: Path) -> None:
    reviews = [("u", f"B{number}", 5.0, number) for number in range(5)]
    source = a_source(tmp_path / "source", reviews, "rating_only")
    write_meta(source / "raw" / "meta_categories" / "meta_X.jsonl", ["B2", "B0", "B9", "B2", "B1", "B3"])
    told: list[str] = []
    prepare_amazon(Amazon("X", 0, "last_out", source), tmp_path / "out", told.append)
    header, *items = rows(tmp_path / "out" / "out.item")
    assert header[0] == "item_id:token" and {name.partition(":")[2] for name in header[1:]} == {"token_seq"}
    first = dict(zip(header, items[0], strict=True))
    assert first["item_id:token"] == "B2" and first["features:token_seq"] == "soft, warm red"
    assert first["details:token_seq"] == "Brand: B" and first["price:token_seq"] == "12.5"
    assert [item[0] for item in items] == ["B2", "B0", "B1", "B3", "B4"]
    assert set(items[-1][1:]) == {""} and "items without metadata: 1 (first: B4)" in told
    catalogue = read_catalogue(tmp_path / "out" / "items.jsonl")
    assert catalogue.item_tokens == ("B2", "B0", "B1", "B3", "B4")
    assert catalogue.records[0]["features"] == ["soft,\nwarm", "red"]
    config = load_config(tmp_path / "out" / "out.yaml")
    assert (config.text.template, config.text.fields) == ("blair", ())
    assert (config.text.items, config.text.missing_text) == (str(tmp_path / "out" / "items.jsonl"), "mean")
    digest = hashlib.sha256((source / "benchmark/0core/rating_only/X.csv").read_bytes()).hexdigest()
    assert f"# X.csv: sha256 {digest}\n" in (tmp_path / "out" / "out.yaml").read_text()


def test_published_figures_are_those_of_the_site() -> None:
    assert published(5, "All_Beauty") == ("253", "356", "2.5K", ("2.0K", "253", "253"), ("2.2K", "276", "22"))
    assert published(0, "Books") == ("10.3M", "4.4M", "29.1M", ("14.5M", "4.3M", "10.3M"), ("26.2M", "1.6M", "1.4M"))
    assert published(5, "Appliances") is None and published(3, "Books") is None
    assert (len(categories(0)), len(categories(5))) == (34, 28)
    assert [rounded(count) for count in (22, 2535, 693_929, 1_628_934)] == ["22", "2.5K", "693.9K", "1.6M"]


@pytest.mark.parametrize("split", ["last_out", "timestamp"])
def test_all_beauty_is_what_is_published(tmp_path: Path, split: str) -> None:
    """The real files: last_out equals its published files, timestamp follows the rules, both match the site."""
    if "BLAIR_REC_DATA" not in os.environ:
        pytest.skip("BLAIR_REC_DATA names no folder with the real files")
    source = Path(os.environ["BLAIR_REC_DATA"]) / "All_Beauty_2023"
    told: list[str] = []
    prepare_amazon(Amazon("All_Beauty", 5, split, source, benchmark=True), tmp_path / "out", told.append)
    assert [line for line in told if "another number" in line or "not published" in line] == []
    theirs: dict[str, list[Case]] = {}
    for part in PARTS:
        with (source / f"All_Beauty.{part}.csv").open(newline="") as file:
            theirs[part] = [
                (
                    row["user_id"],
                    row["parent_asin"],
                    float(row["rating"]),
                    int(row["timestamp"]),
                    tuple(row["history"].split()),
                )
                for row in csv.DictReader(file)
            ]
    if split == "timestamp":
        reviews = [case[:4] for part in PARTS for case in theirs[part]]
        theirs = splits_in_plain_python(in_plain_python(reviews, 5), split, VALID_FROM, TEST_FROM)
    ours = written_benchmark(tmp_path / "out")
    assert {part: sorted(cases) for part, cases in ours.items()} == {
        part: sorted(cases) for part, cases in as_written(theirs).items()
    }
    assert [case[0] for case in ours["test"]] == [case[0] for case in as_written(theirs)["test"]]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(
        SourceError, match=r"raw/review_categories/X\.jsonl was not found, neither at this path nor by its"
    ):
        prepare_amazon(Amazon("X", 5, "last_out", tmp_path / "source"), tmp_path / "out", print)
    write_csv(tmp_path / "source" / "X.csv", some_reviews(1))
    with pytest.raises(SourceError, match=r"meta_X\.jsonl was not found"):
        prepare_amazon(Amazon("X", 5, "last_out", tmp_path / "source"), tmp_path / "out", print)
    with pytest.raises(SourceError, match="--source .*nowhere doesn't exist"):
        prepare_amazon(Amazon("X", 5, "last_out", tmp_path / "nowhere"), tmp_path / "out", print)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"category": "All_beauty"}, "no category 'All_beauty'; did you mean 'All_Beauty'"),
        ({"category": "All_Beauty", "split": "random"}, "split is 'random'; known: last_out, timestamp"),
        ({"category": "All_Beauty", "core": -1}, "core is -1"),
    ],
)
def test_what_can_not_be_meant_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Amazon(**asked)


# Files with unexpected content


def prepared(source: Path, out: Path, core: int = 0, split: str = "last_out", **asked: Any) -> list[str]:
    """The lines of the summary."""
    told: list[str] = []
    prepare_amazon(Amazon("X", core, split, source, **asked), out, told.append)
    return told


def test_json_lines_of_another_release_are_refused_by_their_columns(tmp_path: Path) -> None:
    """JSON lines have as many columns as a CSV file without a header, but they name their columns."""
    row = {"reviewerID": "u", "asin": "B1", "overall": 5.0, "unixReviewTime": 1_600_000_000}
    (tmp_path / "X.jsonl").write_text(json.dumps(row) + "\n")
    write_meta(tmp_path / "meta_X.jsonl", ["B1"])
    with pytest.raises(
        SourceError, match=r"no column user_id, parent_asin, rating, timestamp; columns: reviewerID,"
    ) as e:
        prepared(tmp_path, tmp_path / "out")
    assert "use `blair-rec prepare csv`" in str(e.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "header", ["asin,user,rating,timestamp", "user_id,asin,rating,timestamp", "a,b,c,d", "u,i,5.0,x"]
)
def test_a_header_with_other_names_is_an_error_and_not_a_row(tmp_path: Path, header: str) -> None:
    source = a_source(tmp_path / "source", some_reviews(3), "rating_only, flat, without header")
    (source / "X.csv").write_text(header + "\n" + (source / "X.csv").read_text())
    with pytest.raises(SourceError, match=rf"no column .*parent_asin.*; columns: {header.replace(',', ', ')}\."):
        prepared(source, tmp_path / "out")


def test_a_header_in_another_order_is_read_by_its_names(tmp_path: Path) -> None:
    reviews = some_reviews(3)
    source = a_source(tmp_path / "source", reviews, "rating_only")
    lines = [f"{time},{item},{rating},{user}" for user, item, rating, time in reviews]
    names = "timestamp,parent_asin,rating,user_id"
    (source / "benchmark/0core/rating_only/X.csv").write_text("\n".join([names, *lines]) + "\n")
    prepared(source, tmp_path / "out", 4)
    assert written_log(tmp_path / "out") == in_plain_python(reviews, 4)


def test_items_of_which_none_has_metadata_are_an_error(tmp_path: Path) -> None:
    """Users and items are swapped, in a file without a header."""
    swapped = [(item, user, rating, time) for user, item, rating, time in some_reviews(3)]
    source = a_source(tmp_path / "source", swapped, "rating_only, flat, without header")
    write_meta(source / "meta_X.jsonl", [f"B{number}" for number in range(20)])
    with pytest.raises(
        SourceError, match=r"none of the 2\d items of .*X\.csv is in .*: the log has .* 'U0', .* 'B0', 'B1'"
    ):
        prepared(source, tmp_path / "out", 2)
    assert not (tmp_path / "out").exists()


def test_metadata_without_any_known_field_are_an_error(tmp_path: Path) -> None:
    source = a_source(tmp_path / "source", some_reviews(3), "rating_only")
    names = "".join(json.dumps({"parent_asin": f"B{number}"}) + "\n" for number in range(20))
    (source / "raw/meta_categories/meta_X.jsonl").write_text(names)
    with pytest.raises(SourceError, match=r"meta_X\.jsonl has no text: it has none of the fields title, features,"):
        prepared(source, tmp_path / "out", 2)


@pytest.mark.parametrize(
    "times, split, empty",
    [
        ([1, 2, 3, 4, 5], "timestamp", "valid and test"),
        ([1, 2, 3, 4, VALID_FROM], "timestamp", "test"),
        ([1, 2, 3, TEST_FROM, TEST_FROM], "timestamp", "valid"),
        ([TEST_FROM] * 4 + [VALID_FROM], "timestamp", "train"),
        ([1], "last_out", "train and valid"),
        ([1, 2], "last_out", "train"),
        ([1, 2, 3], "last_out", "train"),
    ],
)
def test_a_split_with_an_empty_part_is_an_error(tmp_path: Path, times: list[int], split: str, empty: str) -> None:
    """With three events, the first is for training, but it has no history to learn from."""
    reviews = [(f"u{user}", f"B{number}", 5.0, time) for user in range(3) for number, time in enumerate(times)]
    source = a_source(tmp_path / "source", reviews, "rating_only")
    with pytest.raises(SourceError, match=rf"split {split}.* leaves no event for {empty} \(times: .*--split or --core"):
        prepared(source, tmp_path / "out", split=split)
    assert not (tmp_path / "out").exists()


# Pairs


def write_texts(folder: Path, count: int) -> Path:
    """Raw reviews: some too recent, some too short, some about items without text or metadata."""
    folder.mkdir()
    with (folder / "X.jsonl").open("w") as file:
        for number in range(count):
            row = {
                "title": f" Review\t{number}" if number % 3 else None,
                "text": "short" if number % 11 == 0 else f"which is quite long enough,\r\nand has two lines {number}",
                "parent_asin": "tiny" if number % 13 == 0 else "unknown" if number % 17 == 0 else f"B{number % 5}",
                "timestamp": VALID_FROM if number % 10 == 0 else VALID_FROM - 1,
                "user_id": "u",
                "rating": 5.0,
            }
            file.write(json.dumps(row) + "\n")
    metas = [
        {"parent_asin": f"B{n}", "title": f'The "thing"\t{n}', "features": ["a\nb", "c"], "description": ["long " * 6]}
        for n in range(5)
    ]
    metas.append({"parent_asin": "tiny", "title": "x" * 30, "features": [], "description": []})
    (folder / "meta_X.jsonl").write_text("".join(json.dumps(meta) + "\n" for meta in metas))
    return folder


def expected_pairs(folder: Path) -> list[list[str]]:
    """Return the pairs by the rules of upstream's script, without its random sampling."""

    def cleaned(text: str) -> str:
        return text.replace("\t", " ").replace("\n", " ").replace("\r", "").strip()

    meta = {}
    for row in map(json.loads, (folder / "meta_X.jsonl").read_text().splitlines()):
        text = cleaned(" ".join([row["title"], *row["features"], *row["description"]]))
        if len(text) > 30:
            meta[row["parent_asin"]] = text
    pairs = []
    for row in map(json.loads, (folder / "X.jsonl").read_text().splitlines()):
        review = cleaned(" ".join(text for text in (row["title"], row["text"]) if text is not None))
        if row["timestamp"] < VALID_FROM and len(review) > 30 and row["parent_asin"] in meta:
            pairs.append([row["parent_asin"], review, meta[row["parent_asin"]]])
    return pairs


def test_pairs_are_those_of_the_rules(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "source", 400)
    assert prepare_pairs(Pairs("X", source, share=1.0), tmp_path / "out", print)
    header, *pairs = rows(tmp_path / "out" / "pairs.tsv")
    assert header == ["item_id", "review", "meta"] and pairs == expected_pairs(source)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["pairs.tsv", "prepared.json"]


def test_a_share_of_the_reviews_is_drawn_by_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from blair_rec.prepare.reading import blocks

    source = write_texts(tmp_path / "source", 5000)
    drawn: dict[str, list[list[str]]] = {}
    for name, seed, block in (("a", 1, 4 << 20), ("b", 1, 1 << 12), ("c", 2, 4 << 20)):
        monkeypatch.setattr(blocks, "BLOCK", block)
        prepare_pairs(Pairs("X", source, share=0.1, seed=seed), tmp_path / name, lambda line: None)
        drawn[name] = rows(tmp_path / name / "pairs.tsv")
    assert drawn["a"] == drawn["b"] != drawn["c"]
    everything = expected_pairs(source)
    assert all(pair in everything for pair in drawn["a"][1:])
    assert 0.07 < len(drawn["a"]) / len(everything) < 0.13


# The hub


class Hub(LocalHub):
    """A local hub with the files of one data set; it can fail or stop in the middle of a file."""

    breaks = 0
    hashes: ClassVar[dict[str, str]] = {}
    """Number of downloads that will still be interrupted."""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        start = f"/datasets/{HUB}/resolve/"
        name = path.removeprefix(start).partition("/")[2]
        file, status = self.folder / name, self.status
        if status == 200 and not (path.startswith(start) and file.is_file()):
            status = 404
        content = file.read_bytes() if status == 200 else b"{}"
        begin = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        request.send_response(206 if begin and status == 200 else status)
        request.send_header("X-Repo-Commit", self.COMMIT)
        request.send_header("ETag", f'"{self.hashes.get(name, name)}"')
        request.send_header("Content-Length", str(len(content) - begin))
        if status == 404:
            request.send_header("X-Error-Code", "EntryNotFound")
        request.end_headers()
        if request.command == "GET" and path.startswith(start):
            self.asked.append(f"{name} from {begin}" if begin else name)
            if self.breaks:
                self.breaks -= 1
                request.wfile.write(content[: len(content) // 2])
                request.close_connection = True
            else:
                request.wfile.write(content[begin:])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the 5-core files of Gift_Cards, and an empty cache."""
    from huggingface_hub import constants

    hub = Hub(tmp_path / "hub")
    reviews = some_reviews(5)
    write_csv(hub.folder / "benchmark" / "5core" / "rating_only" / "Gift_Cards.csv", in_plain_python(reviews, 5))
    write_raw(hub.folder / "raw" / "review_categories" / "Gift_Cards.jsonl", reviews)
    write_meta(hub.folder / "raw" / "meta_categories" / "meta_Gift_Cards.jsonl", sorted({r[1] for r in reviews}))
    # The same effect as HF_ENDPOINT, set before huggingface_hub is imported.
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def test_files_come_from_the_hub_and_are_announced(hub: Hub, tmp_path: Path) -> None:
    told: list[str] = []
    assert prepare_amazon(Amazon("Gift_Cards"), tmp_path / "out", told.append)
    assert written_log(tmp_path / "out") == in_plain_python(some_reviews(5), 5)
    files = ["benchmark/5core/rating_only/Gift_Cards.csv", "raw/meta_categories/meta_Gift_Cards.jsonl"]
    assert hub.asked == files
    assert told[0] == f"downloading {files[0]} of {HUB}" and told[1].startswith("disk: about ")
    prepare_amazon(Amazon("Gift_Cards"), tmp_path / "again", told.append)
    assert hub.asked == files, "what is in the cache is not fetched again"


def test_raw_reviews_come_from_the_hub_where_they_are_asked_for(hub: Hub, tmp_path: Path) -> None:
    prepare_amazon(Amazon("Gift_Cards", raw=True), tmp_path / "out", lambda line: None)
    assert written_log(tmp_path / "out") == in_plain_python(some_reviews(5), 5)
    assert hub.asked[0] == "raw/review_categories/Gift_Cards.jsonl"


def test_what_the_hub_does_not_have_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"raw/review_categories/Books\.jsonl was not found"):
        prepare_amazon(Amazon("Books"), tmp_path / "out", lambda line: None)


@pytest.mark.parametrize("status", [401, 403, 503])
def test_a_hub_that_refuses_is_an_error(hub: Hub, tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.status = status
    with pytest.raises(SourceError, match=rf"the hub refuses .*Gift_Cards\.csv.*\(status {status}\).*--source"):
        prepare_amazon(Amazon("Gift_Cards"), tmp_path / "out", lambda line: None)
    assert not (tmp_path / "out").exists()


def test_a_hub_that_can_not_be_reached_is_an_error(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(
        SourceError, match=r"Gift_Cards\.csv .* can't be downloaded .*run the same command again.*HF_ENDPOINT"
    ):
        prepare_amazon(Amazon("Gift_Cards"), tmp_path / "out", lambda line: None)


def test_a_download_must_have_the_hash_that_the_hub_gives(hub: Hub, tmp_path: Path) -> None:
    """The tag of a large file is its SHA-256; that of a small file is another hash and says nothing here."""
    name = "benchmark/5core/rating_only/Gift_Cards.csv"
    hub.hashes[name] = "0" * 64
    with pytest.raises(SourceError, match=rf"with SHA-256 [0-9a-f]{{64}}, but the hub gives {'0' * 64}.*was removed"):
        prepare_amazon(Amazon("Gift_Cards"), tmp_path / "out", lambda line: None)
    hub.hashes[name] = hashlib.sha256((hub.folder / name).read_bytes()).hexdigest()
    prepare_amazon(Amazon("Gift_Cards"), tmp_path / "out", lambda line: None)
    assert hub.asked[:2] == [name, name]


def test_an_interrupted_download_resumes(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.breaks = 1
    prepare_amazon(Amazon("Gift_Cards"), tmp_path / "out", lambda line: None)
    name = "benchmark/5core/rating_only/Gift_Cards.csv"
    assert hub.asked[0] == name and hub.asked[1].startswith(f"{name} from ")
    assert written_log(tmp_path / "out") == in_plain_python(some_reviews(5), 5)
