"""Public data sets by name: each family's files become a data set, from a mirror on this machine or a local copy."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from file_server import FileServer
from test_prepare_amazon import some_reviews, write_csv, write_meta

from blair_rec.cli import main
from blair_rec.config.comparison import load_config
from blair_rec.errors import AtomicFileError, ConfigError, RejectedLines, SourceError
from blair_rec.prepare.public import named
from blair_rec.prepare.public.fetch import Fetch, prepare_named
from blair_rec.prepare.public.named import named_data, names

REVIEWS = [("ann", "B1", 30), ("bob", "B1", 10), ("ann", "B2", 20), ("bob", "B2", 40), ("cy", "B1", 50)]
PAGE = Path(__file__).parents[2] / "docs" / "data_sets.md"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("BLAIR_REC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[FileServer]:
    server = FileServer()
    yield server
    server.server.shutdown()
    server.server.server_close()


def gzipped(lines: list[str]) -> bytes:
    return gzip.compress("".join(f"{line}\n" for line in lines).encode())


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def reviews() -> bytes:
    rows = [{"reviewerID": user, "asin": item, "overall": 5.0, "unixReviewTime": time} for user, item, time in REVIEWS]
    return gzipped([json.dumps(row) for row in rows])


def rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text("utf-8").splitlines()]


def fetched(name: str, out: Path, **asked: Any) -> list[str]:
    told: list[str] = []
    assert prepare_named(Fetch(name, **asked), out, told.append)
    assert prepare_named(Fetch(name, **asked), out, told.append) is False  # nothing is left to do
    return told


def events_of(path: Path) -> list[list[str]]:
    """The events in the order of the data set: users as they first appear, then by time."""
    return rows(path)[1:]


EVENTS = [["ann", "B2", "20"], ["ann", "B1", "30"], ["bob", "B1", "10"], ["bob", "B2", "40"], ["cy", "B1", "50"]]


def test_amazon_2014_whose_metadata_are_python_literals(server: FileServer, tmp_path: Path) -> None:
    server.files["reviews_Beauty_5.json.gz"] = reviews()
    meta = [
        {"asin": "B1", "title": 'A "big" cup', "categories": [["Home", "Cups"], ["Home", "Blue"]], "price": 3.5},
        {"asin": "B2", "description": "It's a jug", "brand": "Jugs & Co"},
    ]
    server.files["meta_Beauty.json.gz"] = gzipped([repr(item) for item in meta])
    told = fetched("amazon-2014/Beauty", tmp_path / "beauty", source=server.url, core=0)
    assert events_of(tmp_path / "beauty" / "beauty.inter") == EVENTS
    assert rows(tmp_path / "beauty" / "beauty.item") == [
        ["item_id:token", "title:token_seq", "categories:token_seq", "description:token_seq", "brand:token_seq"],
        ["B1", 'A "big" cup', "Home Cups Blue", "", ""],
        ["B2", "", "", "It's a jug", "Jugs & Co"],
    ]
    assert told[0] == f"cache: {tmp_path / 'cache' / 'amazon-2014'}"
    fields = ("title", "categories", "description", "brand")
    assert load_config(tmp_path / "beauty" / "beauty.yaml").text.fields == fields


def test_metadata_that_are_no_literals_are_counted_and_never_run(server: FileServer, tmp_path: Path) -> None:
    server.files["reviews_Baby_5.json.gz"] = reviews()
    lines = [repr({"asin": f"B{number}", "title": "x"}) for number in range(1, 9)]
    attack = "{'asin': __import__('pathlib').Path('hacked').touch()}"
    server.files["meta_Baby.json.gz"] = gzipped([*lines, attack, "{'asin': 'B9', 'title'", "[1]"])
    with pytest.raises(RejectedLines, match=r"3 of 11 lines.*meta_Baby\.json\.gz, line 9"):
        fetched("amazon-2014/Baby", tmp_path / "out", source=server.url, core=0)
    told = fetched("amazon-2014/Baby", tmp_path / "out", source=server.url, core=0, max_rejected=0.5)
    assert any("items without text: 0 of 2" in line for line in told)
    assert not Path("hacked").exists()


def test_amazon_2018(server: FileServer, tmp_path: Path) -> None:
    server.files["Gift_Cards_5.json.gz"] = reviews()
    meta = [{"asin": "B1", "title": "Card", "category": ["Gifts"], "feature": ["Red"], "description": [], "brand": "X"}]
    server.files["meta_Gift_Cards.json.gz"] = gzipped([json.dumps(item) for item in meta])
    fetched("amazon-2018/Gift_Cards", tmp_path / "cards", source=server.url, core=0)
    assert events_of(tmp_path / "cards" / "cards.inter") == EVENTS
    assert rows(tmp_path / "cards" / "cards.item")[1] == ["B1", "Card", "Gifts", "Red", "", "X"]


def test_the_five_core_is_the_default_of_amazon_and_a_missing_field_is_left_out(
    server: FileServer, tmp_path: Path
) -> None:
    server.files["meta_Gift_Cards.json.gz"] = gzipped([json.dumps({"asin": "B1", "title": "Card"})])
    server.files["Gift_Cards_5.json.gz"] = reviews()
    with pytest.raises(SourceError, match="no event is left of 5"):
        fetched("amazon-2018/Gift_Cards", tmp_path / "cards", source=server.url)
    fetched("amazon-2018/Gift_Cards", tmp_path / "cards", source=server.url, core=0)
    assert rows(tmp_path / "cards" / "cards.item")[0] == ["item_id:token", "title:token_seq"]


def test_amazon_2023_is_prepared_as_by_its_own_command(tmp_path: Path) -> None:
    some = [*some_reviews(5)]
    write_csv(tmp_path / "source" / "benchmark/0core/rating_only/All_Beauty.csv", some)
    items = sorted({item for _, item, _, _ in some})
    write_meta(tmp_path / "source" / "raw/meta_categories/meta_All_Beauty.jsonl", items)
    source = str(tmp_path / "source")
    fetched("amazon-2023/All_Beauty", tmp_path / "one" / "X", source=source, core=3)
    command = ["prepare", "amazon-2023", "--category", "All_Beauty", "--core", "3", "--source", source]
    assert main([*command, "-o", str(tmp_path / "two" / "X"), "--quiet"]) == 0
    for file in ("X.inter", "X.item"):
        assert (tmp_path / "one" / "X" / file).read_bytes() == (tmp_path / "two" / "X" / file).read_bytes()


MOVIES = {"1": ("Toy Story (1995)", "Animation, Comedy"), "2": ("Heat, The (1995)", ""), "3": ("Café (1994)", "Drama")}
RATINGS = [("7", "1", "5", "900"), ("7", "2", "3", "800"), ("8", "3", "4", "700"), ("8", "1", "4", "950")]


def movielens(version: str) -> bytes:
    """The archive of a version, with its own names, separators and encodings."""
    if version == "ml-100k":
        genres = ["unknown", "Animation", "Comedy", "Drama"]
        movie = [
            "|".join([item, title, "", "", "", *(str(int(genre in said.split(", "))) for genre in genres)])
            for item, (title, said) in MOVIES.items()
        ]
        return zipped(
            {
                "ml-100k/u.data": "".join("\t".join(row) + "\n" for row in RATINGS),
                "ml-100k/u.item": "".join(f"{line}\n" for line in movie).encode("latin-1"),
                "ml-100k/u.genre": "".join(f"{genre}|{number}\n" for number, genre in enumerate(genres)) + "\n",
            }
        )
    said = {
        item: (title, genres.replace(", ", "|") or "(no genres listed)") for item, (title, genres) in MOVIES.items()
    }
    if version in ("ml-1m", "ml-10m"):
        folder, encoding = ("ml-1m", "latin-1") if version == "ml-1m" else ("ml-10M100K", "utf-8")
        files: dict[str, str | bytes] = {
            f"{folder}/ratings.dat": "".join("::".join(row) + "\n" for row in RATINGS),
            f"{folder}/movies.dat": "".join("::".join([i, *said[i]]) + "\n" for i in said).encode(encoding),
        }
        return zipped({**files, **({"ml-1m/users.dat": "7::F\n"} if version == "ml-1m" else {})})
    tables = {"ratings.csv": ["userId,movieId,rating,timestamp"], "movies.csv": ["movieId,title,genres"]}
    tables["ratings.csv"] += [",".join(row) for row in RATINGS]
    tables["movies.csv"] += [f'{item},"{title}",{genres}' for item, (title, genres) in said.items()]
    return zipped({f"{version}/{name}": "\r\n".join(lines) + "\r\n" for name, lines in tables.items()})


@pytest.mark.parametrize("version", list(named.MD5_OF_MOVIELENS))
def test_every_version_of_movielens(
    server: FileServer, tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = server.files[f"{version}.zip"] = movielens(version)
    monkeypatch.setitem(named.MD5_OF_MOVIELENS, version, hashlib.md5(content).hexdigest())
    fetched(f"movielens/{version}", tmp_path / "ml", source=server.url)
    assert events_of(tmp_path / "ml" / "ml.inter") == [
        ["7", "2", "800"],
        ["7", "1", "900"],
        ["8", "3", "700"],
        ["8", "1", "950"],
    ]
    assert sorted(rows(tmp_path / "ml" / "ml.item")[1:]) == sorted([item, *texts] for item, texts in MOVIES.items())


def test_the_published_hash_of_movielens_is_checked(server: FileServer, tmp_path: Path) -> None:
    server.files["ml-1m.zip"] = movielens("ml-1m")
    with pytest.raises(SourceError, match="its publisher gives c4d9eecfca2ab87c1945afe126590906"):
        fetched("movielens/ml-1m", tmp_path / "ml", source=server.url)
    assert not (tmp_path / "ml").exists()


def test_a_line_of_another_form_names_itself(server: FileServer, tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(movielens("ml-1m"))) as whole:
        files = {name: whole.read(name) for name in whole.namelist()}
    files["ml-1m/ratings.dat"] += b"7::1\n"
    (tmp_path / "ml-32m.zip").write_bytes(zipped(files))
    with pytest.raises(SourceError, match=r"ml-32m\.zip: line 5 of ratings\.dat has 2 cells, but 4 are expected"):
        fetched("movielens/ml-32m", tmp_path / "ml", source=str(tmp_path))


def test_recboles_archives_are_unpacked_under_the_name_of_the_folder(server: FileServer, tmp_path: Path) -> None:
    inter = "user_id:token\titem_id:token\ttimestamp:float\nann\tB1\t3\n"
    item = "item_id:token\ttitle:token_seq\nB1\tCup\n"
    files = {"Old/Old.inter": inter, "Old/Old.item": item, "Old/README.md": "x"}
    server.files["Amazon_Beauty.zip"] = zipped(files)
    fetched("recbole/amazon-beauty", tmp_path / "new", source=server.url)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["new.inter", "new.item", "prepared.json"]
    assert (tmp_path / "new" / "new.inter").read_text() == inter
    record = json.loads((tmp_path / "new" / "prepared.json").read_text())
    assert record["sources"][0]["sha256"] == hashlib.sha256(server.files["Amazon_Beauty.zip"]).hexdigest()


@pytest.mark.parametrize(
    "files, error, match",
    [
        ({"a.inter": "x:token\n", "b.inter": "x:token\n"}, SourceError, r"files of 2 data sets \(a, b\)"),
        ({"README.md": ""}, SourceError, r"files of 0 data sets \(none\)"),
        ({"a.item": "x:token\n"}, SourceError, "one with a .inter file is needed"),
        ({"a.inter": "no kinds\n"}, AtomicFileError, "not in RecBole's format"),
        ({"../a.inter": "x:token\n"}, SourceError, "leads out"),
    ],
)
def test_an_archive_without_one_data_set_is_refused(
    tmp_path: Path, files: dict[str, str], error: type[Exception], match: str
) -> None:
    (tmp_path / "Amazon_Beauty.zip").write_bytes(zipped(files))
    with pytest.raises(error, match=match):
        fetched("recbole/amazon-beauty", tmp_path / "new", source=str(tmp_path))
    assert not (tmp_path / "new").exists()


def test_a_wrong_name_is_answered_with_the_right_one() -> None:
    with pytest.raises(ConfigError, match=r"did you mean amazon-2014/Beauty\? it has 24 names: "):
        named_data("amazon-2014/Beuty")
    with pytest.raises(ConfigError, match=r"movielens is a family and not one data set; it has 7 names: ml-100k"):
        named_data("movielens")
    with pytest.raises(ConfigError, match=r"did you mean movielens/ml-1m\?"):
        named_data("ml-1m")
    with pytest.raises(ConfigError, match="user_inter_num_interval"):
        Fetch("recbole/ml-1m", core=5)
    with pytest.raises(ConfigError, match="HF_ENDPOINT"):
        Fetch("amazon-2023/All_Beauty", source="https://example.org")


def test_every_name_has_https_addresses_of_different_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "_urls_of_recbole", cache(named._urls_of_recbole))
    assert [len(names()[family]) for family in ("amazon-2014", "amazon-2018", "amazon-2023")] == [24, 29, 34]
    for family, known in names().items():
        for name in known:
            urls = [file.url for file in named_data(f"{family}/{name}").files]
            assert len(set(urls)) == len(urls) and all(url.startswith("https://") for url in urls)
    beauty = [file.name for file in named_data("amazon-2014/Beauty").files]
    assert beauty == ["reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"]


def test_the_example_of_the_page_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands of docs/data_sets.md, with a local copy that has the archive of the page."""
    (block,) = re.findall(r"```sh\n# offline\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    Path("copies").mkdir()
    Path("copies", "ml-latest-small.zip").write_bytes(movielens("ml-latest-small"))
    for line in block.splitlines():
        assert main(line.removeprefix("blair-rec ").split()) == 0, line
    said = capsys.readouterr().err
    assert "cache: " in said and "data/ml-latest-small is ready" in said
    with Path("data/ml-latest-small/ml-latest-small.inter").open(newline="") as file:
        assert [row["item_id:token"] for row in csv.DictReader(file, delimiter="\t")] == ["2", "1", "3", "1"]


def test_the_page_lists_every_family_and_home() -> None:
    page = PAGE.read_text("utf-8")
    for family in names():
        assert f"`{family}/" in page, family
    for home in (named.AMAZON_2014, named.AMAZON_2018, named.MOVIELENS):
        assert home in page, home


@pytest.mark.parametrize(("setting", "value"), [("core", -1), ("max_rejected", 2.0), ("max_rejected", float("nan"))])
def test_limits_out_of_range_are_refused(setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{setting} is {value}; it must be"):
        Fetch("movielens/ml-1m", **{setting: value})  # type: ignore[arg-type]
