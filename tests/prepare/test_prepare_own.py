"""A user's own files to a data set: what is found, what is written, and how broken files are handled."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest
from mutations import mutated

from blair_rec.config.comparison import load_config
from blair_rec.errors import BlairRecError, ConfigError, OutputError, RejectedLines, SourceError
from blair_rec.prepare.own import OwnData, prepare_own
from blair_rec.text.catalogue import read_catalogue

EVENTS = [
    ("ann", "cup", 3),
    ("bob", "cup", 1),
    ("ann", "jug", 1),
    ("ann", "cup", 3),
    ("bob", "pan", 2),
    ("ann", "cup", 9),
]
ITEMS = [("cup", "A cup", "kitchen"), ("jug", 'A "big" jug,\n 2 l', ""), ("sofa", "A sofa", "living")]


def write_events(path: Path, events: Sequence[tuple[Any, ...]] = EVENTS) -> Path:
    """Write the rows as the kind of file that the ending names."""
    table = pl.DataFrame(events, schema=["who", "what", "when"], orient="row")
    if path.suffix == ".parquet":
        table.write_parquet(path)
    elif path.suffix == ".jsonl":
        table.write_ndjson(path)
    else:
        table.write_csv(path, separator="\t" if path.suffix == ".tsv" else ",")
    return path


def write_items(path: Path) -> Path:
    pl.DataFrame(ITEMS, schema=["sku", "name", "room"], orient="row").write_csv(path)
    return path


def prepared(out: Path, events: Path, **asked: Any) -> list[str]:
    """The lines of the summary."""
    told: list[str] = []
    data = OwnData(events, **{"user": "who", "item": "what", "time": "when", **asked})
    assert prepare_own(data, out, told.append)
    assert not list(out.parent.glob(".*.partial"))
    return told


def rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text("utf-8").splitlines()]


def in_folder(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_every_kind_of_file_gives_the_same_log(tmp_path: Path, kind: str) -> None:
    """Users come in order of first appearance, events by time; a repeated event counts once."""
    prepared(tmp_path / "mine", write_events(tmp_path / f"events.{kind}"))
    assert rows(tmp_path / "mine" / "mine.inter") == [
        ["user_id:token", "item_id:token", "timestamp:float"],
        ["ann", "jug", "1"],
        ["ann", "cup", "3"],
        ["ann", "cup", "9"],
        ["bob", "cup", "1"],
        ["bob", "pan", "2"],
    ]
    assert in_folder(tmp_path / "mine") == ["comparison.schema.json", "mine.inter", "mine.yaml", "prepared.json"]


def test_items_get_their_text_and_those_without_are_counted(tmp_path: Path) -> None:
    asked = {"items": write_items(tmp_path / "items.csv"), "item_id": "sku", "fields": ("name", "room")}
    told = prepared(tmp_path / "mine", write_events(tmp_path / "events.csv"), **asked)
    assert rows(tmp_path / "mine" / "mine.item") == [
        ["item_id:token", "name:token_seq", "room:token_seq"],
        ["cup", "A cup", "kitchen"],
        ["jug", 'A "big" jug, 2 l', ""],
        ["pan", "", ""],
    ]
    assert len(read_catalogue(tmp_path / "mine" / "mine.item")) == 3
    assert f"items that {tmp_path / 'items.csv'} doesn't have: 1 (first: pan); they stay, without text" in told
    config = load_config(tmp_path / "mine" / "mine.yaml")
    assert (config.dataset, config.text.fields) == (str(tmp_path / "mine"), ("name", "room"))
    assert config.text.missing_text == "mean" and {"id", "text", "text_shuffled"} < set(config.variants)
    told = prepared(tmp_path / "known", tmp_path / "events.csv", unknown=False, **asked)
    assert [row[1] for row in rows(tmp_path / "known" / "known.inter")[1:]] == ["jug", "cup", "cup", "cup"]
    assert "items without text: 0 of 2" in told


def test_titles_with_quotation_marks_come_back_as_they_were(tmp_path: Path) -> None:
    titles = ['"all of it"', '"7"" tablet"', '""', '"Open', '7" tablet']
    rows = [(f"i{at}", title) for at, title in enumerate(titles)]
    pl.DataFrame(rows, schema=["sku", "name"], orient="row").write_csv(tmp_path / "items.csv")
    events = write_events(tmp_path / "events.csv", [("ann", f"i{at}", at) for at in range(len(titles))])
    prepared(tmp_path / "mine", events, items=tmp_path / "items.csv", item_id="sku", fields=("name",))
    catalogue = read_catalogue(tmp_path / "mine" / "mine.item")
    assert [record["name"] for record in catalogue.records] == titles


def test_repeats_can_be_removed_and_a_core_taken(tmp_path: Path) -> None:
    events = [*EVENTS, ("bob", "jug", 4)]
    told = prepared(tmp_path / "mine", write_events(tmp_path / "events.csv", events), repeats=False, core=2)
    assert told[:4] == [
        "read: 2 users, 3 items, 7 events",
        "without duplicate events: 2 users, 3 items, 6 events",
        "first of each user and item: 2 users, 3 items, 5 events",
        "2-core: 2 users, 2 items, 4 events",
    ]
    assert rows(tmp_path / "mine" / "mine.inter")[1:] == [
        ["ann", "jug", "1"],
        ["ann", "cup", "3"],
        ["bob", "cup", "1"],
        ["bob", "jug", "4"],
    ]


def test_a_core_that_nothing_is_left_in_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    events = write_events(tmp_path / "events.csv")
    with pytest.raises(SourceError, match="no event is left of 6"):
        prepared(tmp_path / "mine", events, core=9)
    assert in_folder(tmp_path) == ["events.csv"]


@pytest.mark.parametrize(
    "times, form, written, told",
    [
        (["2020-01-01", "2020-01-02"], None, [1577836800000, 1577923200000], "2020-01-01 to 2020-01-02 (%Y-%m-%d)"),
        (["2020-01-01T01:00:00+01:00", "2020-01-01T00:00:00.5Z"], None, [1577836800000, 1577836800500], "2020-01-01"),
        (["1577836800", "1577923200"], None, [1577836800, 1577923200], "2020-01-01 to 2020-01-02 (seconds since"),
        (["1577836800000", "1577836800001"], None, [1577836800000, 1577836800001], "(milliseconds since 1970)"),
        (["-2", "1.5"], None, [-2.0, 1.5], "-2 to 1.5"),
        (["02.01.2020", "01.02.2020"], "%d.%m.%Y", [1577923200000, 1580515200000], "2020-01-02 to 2020-02-01"),
        (["1577836800000000000", "1577836800000000001"], None, [1577836800000000] * 2, "(nanoseconds since 1970)"),
    ],
)
def test_time_formats_are_found_or_given(
    tmp_path: Path, times: list[str], form: str | None, written: Any, told: str
) -> None:
    """The later event comes first in the file, but second in the data set."""
    events = [("ann", "later", times[1]), ("ann", "sooner", times[0])]
    lines = prepared(tmp_path / "mine", write_events(tmp_path / "events.csv", events), time_format=form)
    found = rows(tmp_path / "mine" / "mine.inter")[1:]
    assert [row[1] for row in found] == ["sooner", "later"] and [float(row[2]) for row in found] == written
    assert any(line.startswith("times: ") and told in line for line in lines), lines


def test_names_of_users_may_hold_spaces_and_names_of_items_may_not(tmp_path: Path) -> None:
    """A space may be part of a cell, but RecBole splits the items of a history at spaces."""
    events = [("Ann Lee", "cup", 2), ("Ann Lee", "jug", 1), ("Ann", "cup", 1), ("Lee", "cup", 1)]
    prepared(tmp_path / "mine", write_events(tmp_path / "events.csv", events))
    assert rows(tmp_path / "mine" / "mine.inter")[1:3] == [["Ann Lee", "jug", "1"], ["Ann Lee", "cup", "2"]]
    from worlds import built

    from blair_rec.data.dataset import TextSequentialDataset

    _, parts = built(TextSequentialDataset, tmp_path / "mine")
    assert {*parts[0].field2id_token["user_id"]} == {"[PAD]", "Ann Lee", "Ann", "Lee"}
    write_events(tmp_path / "items.csv", [("ann", "oak table", 1)])
    with pytest.raises(RejectedLines, match=r"what 'oak table' can't be used: RecBole splits lists of items at spaces"):
        prepared(tmp_path / "items", tmp_path / "items.csv")


def test_one_absurd_time_does_not_change_the_others(tmp_path: Path) -> None:
    events = write_events(tmp_path / "events.csv", [*EVENTS, ("ann", "jug", 10**18)])
    prepared(tmp_path / "mine", events, max_rejected=0.2)
    assert {row[2] for row in rows(tmp_path / "mine" / "mine.inter")[1:]} == {"1", "2", "3", "9"}
    assert "when '1000000000000000000' can't be used" in (tmp_path / "mine" / "rejected.jsonl").read_text()


def test_an_ambiguous_time_asks_for_its_format(tmp_path: Path) -> None:
    events = write_events(tmp_path / "events.csv", [("ann", "cup", "03/04/2020"), ("ann", "jug", "04/03/2020")])
    with pytest.raises(SourceError, match=r"column 'when': no known format.*'03/04/2020'.*--time-format"):
        prepared(tmp_path / "mine", events)


def test_broken_lines_are_listed_with_the_data_set(tmp_path: Path) -> None:
    events = write_events(tmp_path / "events.csv")
    events.write_bytes(events.read_bytes() + b"ann,cup,never\nann\n")
    with pytest.raises(RejectedLines, match="2 of 8 lines"):
        prepared(tmp_path / "mine", events)
    assert in_folder(tmp_path) == ["events.csv"]
    told = prepared(tmp_path / "mine", events, max_rejected=0.25)
    rejected = [json.loads(line) for line in (tmp_path / "mine" / "rejected.jsonl").read_text().splitlines()]
    assert [(one["line"], one["why"]) for one in rejected] == [
        (9, "1 column instead of 3"),
        (8, "when 'never' can't be used: it is not a number"),
    ]
    assert any(line.startswith("lines that can't be used: 2 (events.csv, line") for line in told)


def test_the_same_command_does_nothing_again(tmp_path: Path) -> None:
    asked = OwnData(write_events(tmp_path / "events.csv"), "who", "what", "when")
    out = tmp_path / "mine"
    assert prepare_own(asked, out, print)
    before = (out / "mine.inter").stat().st_mtime_ns
    assert not prepare_own(asked, out, print)
    assert (out / "mine.inter").stat().st_mtime_ns == before
    other = OwnData(asked.events, "who", "what", "when", repeats=False)
    with pytest.raises(OutputError, match=r"was prepared with different settings.*--fresh"):
        prepare_own(other, out, print)
    assert prepare_own(other, out, print, fresh=True) and len(rows(out / "mine.inter")) == 5
    write_events(tmp_path / "events.csv", [*EVENTS, ("bob", "jug", 4)])
    with pytest.raises(OutputError, match="or from other files"):
        prepare_own(other, out, print)


def test_what_a_user_adds_or_changes_in_a_prepared_folder_is_never_replaced(tmp_path: Path) -> None:
    asked = OwnData(write_events(tmp_path / "events.csv"), "who", "what", "when")
    out = tmp_path / "mine"
    prepare_own(asked, out, print)
    (out / "notes.txt").write_text("all I have")
    with pytest.raises(OutputError, match=r"holds 1 file that this command did not write \(first: notes.txt\)"):
        prepare_own(asked, out, print, fresh=True)
    (out / "notes.txt").rename(tmp_path / "notes.txt")
    with (out / "mine.yaml").open("a") as file:
        file.write("# tuned by hand\n")
    with pytest.raises(OutputError, match=r"1 file in .*mine was changed .*first: mine.yaml.*would be lost"):
        prepare_own(asked, out, print, fresh=True)
    assert "# tuned by hand" in (out / "mine.yaml").read_text()
    (out / "mine.yaml").rename(tmp_path / "mine.yaml")
    assert prepare_own(asked, out, print, fresh=True)


def test_a_link_keeps_pointing_to_where_the_data_are(tmp_path: Path) -> None:
    asked = OwnData(write_events(tmp_path / "events.csv"), "who", "what", "when")
    (tmp_path / "disk").mkdir()
    (tmp_path / "mine").symlink_to("disk/mine")
    prepare_own(asked, tmp_path / "mine", print)
    assert (tmp_path / "mine").is_symlink() and (tmp_path / "disk" / "mine" / "mine.inter").is_file()


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_holds_something_else_is_never_touched(tmp_path: Path, fresh: bool) -> None:
    asked = OwnData(write_events(tmp_path / "events.csv"), "who", "what", "when")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all I have")
    with pytest.raises(OutputError, match="was not made by `blair-rec prepare`"):
        prepare_own(asked, tmp_path / "mine", print, fresh=fresh)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "all I have"


def test_a_file_name_in_a_record_is_no_pattern(tmp_path: Path) -> None:
    events = write_events(tmp_path / "events.csv")
    prepared(tmp_path / "mine", events)
    record = json.loads((tmp_path / "mine" / "prepared.json").read_text("utf-8"))
    (tmp_path / "mine" / "prepared.json").write_text(json.dumps({**record, "files": {"*": ""}}), "utf-8")
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="files that this command did not write"):
        prepare_own(OwnData(events, "who", "what", "when"), tmp_path / "mine", print, fresh=True)
    assert (tmp_path / "mine" / "notes.txt").is_file()


def test_a_dry_run_reports_and_writes_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    prepare_own(
        OwnData(write_events(tmp_path / "events.csv"), "who", "what", "when"), tmp_path / "x", told.append, dry=True
    )
    assert told[-1] == "times: 1 to 9" and in_folder(tmp_path) == ["events.csv"]


def test_the_record_names_what_was_written(tmp_path: Path) -> None:
    prepared(tmp_path / "mine", write_events(tmp_path / "events.csv"))
    record = json.loads((tmp_path / "mine" / "prepared.json").read_text("utf-8"))
    written = hashlib.sha256((tmp_path / "mine" / "mine.inter").read_bytes()).hexdigest()
    assert record["files"]["mine.inter"] == written
    assert record["sources"][0]["bytes"] == (tmp_path / "events.csv").stat().st_size
    assert record["found"]["steps"]["without duplicate events"] == {"users": 2, "items": 3, "events": 5}


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"fields": ("title",)}, "--fields needs --items: it names text columns"),
        ({"item": "who"}, "must be three different columns"),
        ({"items": Path("items.csv"), "fields": ("item_id",)}, "'item_id' can't be a column of an .item file"),
        ({"items": Path("items.csv"), "fields": ("a", "a")}, "^--fields names 'a' twice; name each column once"),
        ({"items": Path("items.csv"), "fields": ("a:b",)}, "'a:b' can't be a column of an .item file"),
    ],
)
def test_what_can_not_be_meant_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, SourceError), match=message):
        OwnData(Path("events.csv"), **{"user": "who", "item": "what", "time": "when", **asked})


def test_an_items_file_without_fields_is_refused_and_its_columns_are_named(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("sku,title,price\n")
    (tmp_path / "items.jsonl").write_text('{"sku": 1, "name": "cup"}\n')
    for name, columns in (("items.csv", "sku, title, price"), ("items.jsonl", "sku, name")):
        with pytest.raises(ConfigError, match=f"^--fields is missing: .*{name} are text.* It has: {columns}$"):
            OwnData(Path("events.csv"), "who", "what", "when", items=tmp_path / name)


def test_a_column_of_orders_taken_for_users_is_asked_about(tmp_path: Path) -> None:
    """Each order has its own number, so no user has two events."""
    rows = [(f"o{n}", f"u{n % 3}", f"i{n % 4}", n) for n in range(12)]
    path = tmp_path / "log.csv"
    path.write_text("order,user,item,time\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    for user, count in (("order", 1), ("user", 0)):
        said: list[str] = []
        assert prepare_own(OwnData(path, user, "item", "time"), tmp_path / user, said.append)
        assert sum("no user has two events" in line and f"is '{user}' the column" in line for line in said) == count


# Broken files


def independently(content: bytes, kind: str) -> set[tuple[str, str, int]] | None:
    """Read the events of a file without quoting with the standard library; None for names or times odd by accident."""
    found = set()
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, line in enumerate(lines):
        try:
            if kind == "csv":
                who, what, when = line.decode().removesuffix("\r").split(",")
            else:
                row = json.loads(line.decode(), object_pairs_hook=_once, parse_constant=_refuse)
                who, what, when = row["who"], row["what"], row["when"]
        except (ValueError, KeyError, TypeError):
            continue
        if number == 0 and kind == "csv":
            continue
        if not all(isinstance(name, str) and name.isalnum() and name.isascii() for name in (who, what)):
            return None
        if not str(when).isdecimal() or not str(when).isascii():
            return None
        if 631_152_000_000 <= int(when) < 2**53:
            return None  # a plausible time in milliseconds, among seconds
        if int(when) < 2**53:
            found.add((who, what, int(when)))
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if any(names.count(name) > 1 for name in ("who", "what", "when")):
        raise ValueError("twice")
    return dict(pairs)


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def try_one(folder: Path, kind: str, seed: int) -> str:
    """Prepare a file after random damage; return 'refused', 'read', or 'compared' if an independent reader agreed."""
    random = Random(seed)
    events = [(f"u{random.randrange(5)}", f"i{random.randrange(9)}", random.randrange(10**9)) for _ in range(40)]
    path = write_events(folder / f"events.{kind}", events)
    content = mutated(path.read_bytes(), random)
    path.write_bytes(content)
    if random.random() < 0.2:
        packed = gzip.compress(content)
        path = path.rename(path.with_suffix(f".{kind}.gz"))
        path.write_bytes(mutated(packed, random) if random.random() < 0.5 else packed)
    out = folder / "out"
    before = in_folder(folder)
    try:
        prepared(out, path, max_rejected=0.5)
    except BlairRecError:
        assert in_folder(folder) == before
        return "refused"
    record = json.loads((out / "prepared.json").read_text("utf-8"))
    assert {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in record["files"]} == record["files"]
    written = rows(out / "out.inter")[1:]
    assert written and all(len(row) == 3 and row[0] and row[1] and float(row[2]) is not None for row in written)
    expected = (
        independently(content, kind)
        if kind in ("csv", "jsonl") and b'"' not in content[: 0 if kind == "jsonl" else None]
        else None
    )
    if expected is None or record["found"]["time_format"] != "whole":
        return "read"
    assert {(who, what, int(when)) for who, what, when in written} == expected
    return "compared"


@pytest.mark.parametrize("kind, files", [("csv", 60), ("tsv", 30), ("jsonl", 60), ("parquet", 30)])
def test_a_broken_file_gives_a_clear_error_or_its_good_lines(
    tmp_path: Path, kind: str, files: int, capfd: pytest.CaptureFixture[str]
) -> None:
    outcomes = []
    for seed in range(files):
        (folder := tmp_path / str(seed)).mkdir()
        outcomes.append(try_one(folder, kind, seed))
    assert "refused" in outcomes and ("compared" in outcomes or kind in ("tsv", "parquet")), outcomes
    assert capfd.readouterr() == ("", ""), "no library speaks to the terminal"


@pytest.mark.parametrize(
    ("events", "items", "message"),
    [
        ("who,what,when\n", None, r"a\.csv has no event after its first line"),
        ("who;what;when\na;b;1\n", None, "no column 'who'.*separated by semicolons: save the file with commas"),
        ("who,what,when\na,b,\nc,d, \n", None, "the first 2 times are empty; name another column with --time"),
        (
            "who,what,when\na,b,1\n",
            "sku,name,room\nb, ,\n",
            r"none of the 1 item of .* has text in name, room of .*name other fields",
        ),
        ("who,what,when\na,b,1\n", '{"sku": "b", "name": "x", "name": "y", "room": "z"}\n', "'name' occurs twice"),
    ],
)
def test_a_log_or_items_without_what_is_needed_are_named(
    tmp_path: Path, events: str, items: str | None, message: str
) -> None:
    (tmp_path / "a.csv").write_text(events)
    asked: dict[str, Any] = {}
    if items is not None:
        path = tmp_path / ("items.jsonl" if items.startswith("{") else "items.csv")
        path.write_text(items)
        asked = {"items": path, "item_id": "sku", "fields": ("name", "room")}
    with pytest.raises(SourceError, match=message):
        prepared(tmp_path / "out", tmp_path / "a.csv", **asked)
    assert not (tmp_path / "out").exists()


def test_missing_times_written_as_zero_are_reported(tmp_path: Path) -> None:
    lines = [("u", f"i{at}", at) for at in (0, *range(1_700_000_000, 1_700_000_009))]
    told = prepared(tmp_path / "out", write_events(tmp_path / "a.csv", lines))
    assert sum("1 of 10 times is before 1990" in line and "(first: 0)" in line for line in told) == 1


def test_missing_values_of_parquet_are_no_text(tmp_path: Path) -> None:
    table = pl.DataFrame({"sku": ["cup", "jug"], "name": [1.5, float("nan")], "room": [["a", "b"], None]})
    table.write_parquet(tmp_path / "items.parquet")
    asked = {"items": tmp_path / "items.parquet", "item_id": "sku", "fields": ("name", "room")}
    prepared(tmp_path / "out", write_events(tmp_path / "a.csv"), **asked)
    assert rows(tmp_path / "out" / "out.item")[1:] == [["cup", "1.5", "a b"], ["jug", "", ""], ["pan", "", ""]]
    pl.DataFrame({"sku": [b"\xff"], "name": ["x"]}).write_parquet(tmp_path / "items.parquet")
    with pytest.raises(SourceError, match=r"column 'sku' can't be converted to text .*; write it as text"):
        prepared(tmp_path / "bad", tmp_path / "a.csv", **{**asked, "fields": ("name",)})


def test_the_column_of_ids_may_also_be_a_text(tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps({"name": name}) + "\n" for name in ("cup", "jug", "pan")), encoding="utf-8")
    events = write_events(tmp_path / "events.csv")
    prepared(tmp_path / "mine", events, items=items, item_id="name", fields=("name",))
    assert rows(tmp_path / "mine" / "mine.item")[1:] == [["cup", "cup"], ["jug", "jug"], ["pan", "pan"]]


def test_a_dry_run_names_every_reason_and_says_that_no_file_is_there(tmp_path: Path) -> None:
    events = write_events(tmp_path / "events.csv", [*EVENTS, ("ann", "big cup", 4), ("ann", "cup", None)])
    told: list[str] = []
    asked = OwnData(events, "who", "what", "when", max_rejected=0.5)
    assert prepare_own(asked, tmp_path / "mine", told.append, dry=True)
    (said,) = [line for line in told if line.startswith("lines that can't be used: 2 (")]
    assert "when '' can't be used" in said and "what 'big cup' can't be used" in said
    assert said.endswith("rejected.jsonl will list them")


@pytest.mark.parametrize("name", ["time_format", "item_id"])
def test_an_empty_name_is_not_taken_for_the_default(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is empty; give a value, or leave it out"):
        OwnData(tmp_path / "e.csv", "user", "item", "time", **{name: ""})  # type: ignore[arg-type]
