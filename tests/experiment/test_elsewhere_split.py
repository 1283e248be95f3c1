"""The files of `blair-rec split`: the very cases that we train and test on, worked out a second time by hand."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import yaml
from comparisons import config_of

from blair_rec.cli import main
from blair_rec.config.comparison import CompareConfig, read_config
from blair_rec.errors import ConfigError, DatasetError, OutputError, SourceError
from blair_rec.experiment.elsewhere.cases import cases_of
from blair_rec.experiment.elsewhere.verify import cases_in, verify
from blair_rec.experiment.elsewhere.written.split import write_split
from blair_rec.experiment.run import whole_data

Event = tuple[str, str, float]


def config(dataset: Path, **sections: Any) -> CompareConfig:
    return config_of(dataset, "none", variants={"id": {}}, **sections)


def events_of(path: Path) -> dict[str, list[Event]]:
    """By user, the events of a log in order of time; ties in the order of the file."""
    found: dict[str, list[Event]] = defaultdict(list)
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            event = {name.partition(":")[0]: value for name, value in row.items()}
            found[event["user_id"]].append((event["user_id"], event["item_id"], float(event["timestamp"])))
    return {user: sorted(events, key=lambda event: event[2]) for user, events in found.items()}


def read(path: Path) -> list[tuple[Any, ...]]:
    """The rows of a CSV file, which are those of the Parquet file next to it."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    whole = pyarrow.parquet.read_table(path.with_suffix(".parquet")).to_pylist()
    assert [tuple(map(str, row.values())) for row in whole] == rows
    return rows


def histories(path: Path, key: str = "user_id") -> dict[str, list[str]]:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert pyarrow.parquet.read_table(path.with_suffix(".parquet")).to_pylist() == rows
    return {row[key]: row["history"] for row in rows}


def typed(rows: list[tuple[Any, ...]]) -> set[Event]:
    return {(user, item, float(time)) for user, item, time in rows}


def test_leave_one_out_holds_out_the_last_two_events_of_every_user(tiny: Path, tmp_path: Path) -> None:
    manifest, events = write_split(config(tiny), tmp_path / "split"), events_of(tiny / "tiny.inter")
    assert typed(read(tmp_path / "split" / "test.csv")) == {of_user[-1] for of_user in events.values()}
    assert typed(read(tmp_path / "split" / "valid.csv")) == {of_user[-2] for of_user in events.values()}
    train: dict[str, list[Event]] = defaultdict(list)
    for user, item, time in read(tmp_path / "split" / "train.csv"):
        train[user].append((user, item, float(time)))
    assert train == {user: of_user[:-2] for user, of_user in events.items()}
    for part, left in (("valid", 2), ("test", 1)):
        found = histories(tmp_path / "split" / f"histories_{part}.jsonl")
        assert found == {user: [item for _, item, _ in of_user[:-left]] for user, of_user in events.items()}
    counts = manifest["counts"]
    assert counts["training_events"] == sum(len(of_user) - 2 for of_user in events.values())
    in_history = sum(of_user[-1][1] in {item for _, item, _ in of_user[:-1]} for of_user in events.values())
    assert (counts["test_cases"], counts["test_targets_in_history"]) == (len(events), in_history)


def test_cut_off_times_give_every_case_a_number(tiny: Path, tmp_path: Path) -> None:
    events = events_of(tiny / "tiny.inter")
    times = sorted(time for of_user in events.values() for _, _, time in of_user)
    bounds = times[len(times) // 2], times[3 * len(times) // 4]
    write_split(config(tiny, split={"valid_from": bounds[0], "test_from": bounds[1]}), tmp_path / "split")
    rows = read(tmp_path / "split" / "test.csv")
    assert [row[0] for row in rows] == [str(number) for number in range(1, len(rows) + 1)]
    expected = {event for of_user in events.values() for event in of_user[1:] if event[2] >= bounds[1]}
    assert typed([row[1:] for row in rows]) == expected and len(rows) == len(expected)
    of_case = histories(tmp_path / "split" / "histories_test.jsonl", "case_id")
    for case, user, item, time in rows:
        place = events[user].index((user, item, float(time)))
        assert of_case[case] == [item for _, item, _ in events[user][:place]]
    train = typed(read(tmp_path / "split" / "train.csv"))
    assert train == {
        event for of_user in events.values() for event in of_user if event[2] < bounds[0] and of_user[1][2] < bounds[0]
    }


def test_recbole_files_give_the_same_cases_again(tiny: Path, tmp_path: Path) -> None:
    ours = config(tiny)
    write_split(ours, tmp_path / "split")
    folder = tmp_path / "split" / "recbole" / "tiny"
    settings = yaml.safe_load((folder / "tiny.yaml").read_text("utf-8"))
    again = config(folder, recbole={**ours.recbole, **settings})
    write_split(again, tmp_path / "again")
    width = ours.recbole["MAX_ITEM_LIST_LENGTH"]
    for part in ("valid", "test"):
        rows = [read(tmp_path / name / f"{part}.csv") for name in ("split", "again")]
        assert {row[:2] for row in rows[0]} == {row[:2] for row in rows[1]}
        long, short = (histories(tmp_path / name / f"histories_{part}.jsonl") for name in ("split", "again"))
        assert {user: items[-width:] for user, items in long.items()} == short
    by_user: list[dict[str, list[str]]] = []
    for name in ("split", "again"):
        by_user.append(defaultdict(list))
        for user, item, *_ in read(tmp_path / name / "train.csv"):
            by_user[-1][user].append(item)
    assert by_user[0] == by_user[1]
    assert (folder / "tiny.item").read_text("utf-8").count("\n") == 81


def test_the_folder_read_back_has_the_cases_of_the_data_set(tiny: Path, tmp_path: Path) -> None:
    manifest = write_split(config(tiny), tmp_path / "split")
    data = whole_data(config(tiny), tiny)
    for part, split in (("valid", data.valid), ("test", data.test)):
        ours, found = cases_of(split, part), cases_in(tmp_path / "split", part, manifest)  # type: ignore[arg-type]
        assert list(ours.names) == list(found.names) and list(ours.item_tokens) == list(found.item_tokens)
        for name in ("target", "history_case", "history_item", "history_pairs", "target_in_history"):
            assert getattr(ours, name).tolist() == getattr(found, name).tolist()
        assert ours.users == found.users


def test_the_catalogue_has_metadata_and_the_text_of_the_encoder(tiny: Path, tmp_path: Path) -> None:
    write_split(config(tiny, text={"fields": ["title", "category"]}), tmp_path / "split")
    with (tmp_path / "split" / "items.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 80 and list(rows[0]) == ["item_id", "title", "category", "item_text"]
    assert all(row["item_text"] == f"{row['title']} {row['category']}" for row in rows)


def test_a_split_is_written_once_and_other_folders_are_safe(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "split"
    first = write_split(config(tiny), out)
    before = (out / "test.csv").stat().st_mtime_ns
    assert write_split(config(tiny), out) == first and (out / "test.csv").stat().st_mtime_ns == before
    with pytest.raises(OutputError, match="holds another split"):
        write_split(config(tiny, evaluate={"protocol": "masked"}), out)
    (out / "mine.csv").write_text("a list")
    with pytest.raises(OutputError, match="1 file that this command did not write \\(first: mine.csv\\)"):
        write_split(config(tiny, evaluate={"protocol": "masked"}), out, fresh=True)
    (out / "mine.csv").rename(out / "recbole" / "mine.csv")
    with pytest.raises(
        OutputError, match="1 file that this command did not write, or that changed since .*recbole/mine.csv"
    ):
        write_split(config(tiny, evaluate={"protocol": "masked"}), out, fresh=True)
    (out / "recbole" / "mine.csv").unlink()
    (out / "recbole" / "mine.csv").symlink_to("on_a_disk_that_is_not_mounted.csv")
    with pytest.raises(OutputError, match="1 file that this command did not write, .*recbole/mine.csv"):
        write_split(config(tiny, evaluate={"protocol": "masked"}), out, fresh=True)
    (out / "recbole" / "mine.csv").unlink()
    with pytest.raises(OutputError, match="holds another split"):
        write_split(config(tiny, text={"fields": ["category"]}), out)
    assert write_split(config(tiny, evaluate={"protocol": "masked"}), out, fresh=True)["protocol"] == "masked"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("keep me")
    with pytest.raises(OutputError, match="letter.txt"):
        write_split(config(tiny), tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) in ([], [".split.split"])


def test_a_changed_key_of_the_file_changes_the_split(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.yaml").write_text("dataset: nowhere\nvariants: {id: {}}\n", "utf-8")
    changes = ["--set", f"dataset={tiny}", "--set", "ties=shuffled"]
    assert main(["split", "c.yaml", *changes, "-o", "split"]) == 0
    assert json.loads(Path("split/manifest.json").read_text("utf-8"))["ties"] == "shuffled"
    assert main(["split", str(tiny), *changes, "-o", "other"]) == 1
    assert "is a data set; name a .yaml file" in " ".join(capsys.readouterr().err.split())


def test_verify_says_what_is_in_a_file_and_refuses_a_changed_split(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["split", str(tiny), "-o", "split"]) == 0
    users = [row[0] for row in read(tmp_path / "split" / "test.csv")]
    rows = [f"{user},i{item:02},{20 - item}\n" for user in users[1:] for item in range(1, 13)]
    Path("a.csv").write_text("user_id,item_id,score\n" + "".join(rows))
    assert main(["verify", "a.csv", "--split", "split", "-k", "5"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "a.csv: 119 lists for 120 users, 12 to 12 items, median 12" in said
    assert "a.csv has no list for 1 of 120 users: their targets count as misses" in said
    assert main(["verify", "a.csv", "--split", "split", "-k", "20"]) == 1
    assert main(["verify", "a.csv", "--split", "split", "-k", "12", "--masked"]) == 0
    assert main(["verify", "a.csv", "--split", str(tiny)]) == 1
    assert main(["verify", "a.csv", "--split", "split", "-k", "5", "--valid"]) == 0
    assert "119 lists for 120 users" in " ".join(capsys.readouterr().err.split())
    items = [row["item_id"] for row in csv.DictReader((tmp_path / "split" / "items.csv").open(encoding="utf-8"))]
    np.savez("a.npz", scores=np.ones((120, 80)), user_id=np.array(users), item_id=np.array(items))
    assert verify(Path("a.npz"), tmp_path / "split") == ["a.npz: scores of 80 items for 120 users, both protocols"]
    with pytest.raises(SourceError, match="a full score matrix serves both protocols"):
        verify(Path("a.npz"), tmp_path / "split", masked=True)
    with (tmp_path / "split" / "test.csv").open("a") as file:
        file.write("u999,i01,1\n")
    with pytest.raises(SourceError, match="1 file of the split changed or missing \\(first: test.csv\\)"):
        verify(Path("a.csv"), tmp_path / "split")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": "test"}, "doesn't say what names a test case"),
        ({"keys": {"test": "name"}}, "doesn't say what names a test case"),
        ({"files": {}}, "lacks the hashes of 4 files of the split \\(first: histories_test.jsonl, items.csv, test.csv"),
        ({"keys": {"test": "case_id"}}, "manifest.json and the files of the test cases don't fit each other"),
        ({"files": None}, "1 file of the split changed or missing \\(first: manifest.json\\)"),
        ({"format": "other"}, "has no manifest.json of `blair-rec split`"),
    ],
)
def test_verify_reads_no_file_whose_hash_the_manifest_lacks(
    change: dict[str, Any], message: str, tiny: Path, tmp_path: Path
) -> None:
    write_split(config(tiny), tmp_path / "split")
    manifest = tmp_path / "split" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text("utf-8")), **change}), "utf-8")
    (tmp_path / "split" / "test.csv").write_text("" if change.get("files") == {} else read_text(tmp_path), "utf-8")
    with pytest.raises(SourceError, match=message):
        verify(tmp_path / "a.csv", tmp_path / "split")


def read_text(folder: Path) -> str:
    return (folder / "split" / "test.csv").read_text("utf-8")


def test_verify_needs_a_cutoff_of_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="-k is 0; it has to be at least 1"):
        verify(tmp_path / "a.csv", tmp_path, k=0)


def test_a_folder_name_that_cannot_be_used_is_said_of_the_folder(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", "utf-8")
    for name, message in (
        ("file", "is a file, but a folder is needed"),
        ("x" * 300, "can't be used"),
        ("file/x", "Not a directory"),
    ):
        with pytest.raises(OutputError, match=message):
            write_split(config(tiny), tmp_path / name)
    assert (tmp_path / "file").read_text("utf-8") == "mine"


def test_a_data_set_of_one_item_is_split(tmp_path: Path) -> None:
    rows = "".join(f"u{user}\ta\t{time}\n" for user in range(3) for time in range(4))
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "one.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + rows, "utf-8")
    assert main(["split", str(tmp_path / "one"), "-o", str(tmp_path / "split")]) == 0
    assert read(tmp_path / "split" / "test.csv") == [(f"u{user}", "a", "3") for user in range(3)]


def test_three_events_are_too_few_for_a_validation_case(tmp_path: Path) -> None:
    rows = "".join(f"u{user}\ti{time}\t{time}\n" for user in range(3) for time in range(3))
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "few.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + rows, "utf-8")
    settings = {"variants": {"p": {"scorer": "popularity"}}, "baseline": "p", "evaluate": {"metrics": ["NDCG@1"]}}
    with pytest.raises(DatasetError, match="no validation case; leave-one-out needs users with at least four events"):
        write_split(read_config({"dataset": str(tmp_path / "few"), **settings}), tmp_path / "split")
