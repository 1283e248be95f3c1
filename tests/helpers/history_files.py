"""Files of histories, valid or after accidents, what other readers find in them, and what ours makes of them."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from comparisons import config_of
from mutations import mutated

import blair_rec
from blair_rec.errors import BlairRecError
from blair_rec.experiment.compare import compare
from blair_rec.serve.batch.outputs import COLUMNS

KINDS = ("csv", "jsonl", "parquet")
ITEMS = [f"i{n:02}" for n in range(1, 31)]


@functools.cache
def world() -> Path:
    """A run over ITEMS in a folder that goes with this process."""
    folder = Path(tempfile.mkdtemp(prefix="histories-"))
    data = folder / "world"
    data.mkdir()
    rows = [f"u{user}\t{ITEMS[(7 * user + at) % 30]}\t{at}" for user in range(40) for at in range(5)]
    (data / "world.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows]) + "\n")
    variants = {"rules": {"scorer": "sequential_rules"}}
    here = Path.cwd()
    os.chdir(folder)  # where RecBole writes its log
    try:
        compare(config_of(data, "none", variants=variants, baseline="rules", seeds=[1]), folder / "out")
    finally:
        os.chdir(here)
    return folder / "out" / "runs" / "rules-1"


def content_of(random: Random) -> dict[str, list[Any]]:
    """Events, or a list for each user; now and then with unknown items, or numbers as ids."""
    users = [f"u{n}" for n in range(random.randint(1, 6))] if random.random() < 0.8 else [1, 2, 30]
    pool = [*ITEMS, *["new", "007", "7"] * (random.random() < 0.3)]
    if random.random() < 0.3:
        return {"user_id": users, "history": [random.choices(pool, k=random.randint(0, 8)) for _ in users]}
    rows = random.randint(1, 25)
    found: dict[str, list[Any]] = {"user_id": random.choices(users, k=rows), "item_id": random.choices(pool, k=rows)}
    if random.random() < 0.7:
        times: list[Any] = [random.randint(0, 9), random.random(), 10**18 + random.randint(0, 9)]
        found["timestamp"] = [
            random.randint(0, 9) if random.random() < 0.9 else random.choice(times) for _ in range(rows)
        ]
    return found


def write_histories(path: Path, columns: dict[str, list[Any]]) -> None:
    """A file by the ending of its name."""
    if path.suffix == ".parquet":
        times = columns.get("timestamp", [])
        if any(type(time) is float for time in times):
            columns = {**columns, "timestamp": [float(time) for time in times]}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    elif path.suffix == ".jsonl":
        rows = zip(*columns.values(), strict=True)
        path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows), "utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            for row in zip(*columns.values(), strict=True):
                writer.writerow([" ".join(cell) if isinstance(cell, list) else cell for cell in row])


def as_others_read(path: Path) -> dict[str, list[str]]:
    """The histories by user, as the standard library or Arrow's own readers and sorted() find them."""
    if path.suffix == ".parquet":
        rows = pyarrow.parquet.read_table(path).to_pylist()
    elif path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text("utf-8-sig").split("\n") if line.strip()]
    else:
        rows = list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))
    found: dict[str, list[str]] = {}
    if "history" in rows[0]:
        for row in rows:
            items = row["history"].split() if isinstance(row["history"], str) else row["history"]
            found[str(row["user_id"])] = [str(item) for item in items]
        return found
    events: dict[str, list[tuple[Any, str]]] = {}
    for row in rows:
        events.setdefault(str(row["user_id"]), []).append((_time(row.get("timestamp", 0)), str(row["item_id"])))
    return {user: [item for _, item in sorted(pairs, key=lambda pair: pair[0])] for user, pairs in events.items()}


def _time(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    return float(cell) if any(sign in cell for sign in ".eE") else int(cell)


def read_output(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of recommendations, by readers that are not ours."""
    if path.suffix == ".parquet":
        found: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
        return found
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    typed = {"score": float, "rank": int, "by_popularity": lambda cell: cell == "true"}
    return [{name: typed.get(name, str)(cell) for name, cell in row.items()} for row in rows]


def try_one(folder: Path, kind: str, seed: int) -> str:
    """One file of histories, in two of three cases after accidents: refused with nothing left, or rightly used."""
    random = Random(seed)
    path, out = folder / f"histories.{kind}", folder / f"best.{random.choice(KINDS)}"
    write_histories(path, content_of(random))
    if random.random() < 0.67:
        path.write_bytes(mutated(path.read_bytes(), random))
    before = random.random() < 0.5
    if before:
        out.write_text("an older file")
    unknown = random.choice(["error", "skip"])
    run, k = world(), random.randint(1, 5)
    try:
        served = blair_rec.recommend_file(run, out, histories=path, k=k, unknown=unknown)
    except BlairRecError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert "\n" not in message, message
        assert sorted(entry.name for entry in folder.iterdir()) == sorted([path.name, *[out.name] * before])
        assert not before or out.read_text() == "an older file"
        return "refused"
    assert sorted(entry.name for entry in folder.iterdir()) == sorted([path.name, out.name])
    expected = as_others_read(path)
    rows = read_output(out)
    assert served.rows == len(rows) and served.users == len(expected)
    assert set(COLUMNS) <= set(rows[0])
    model = blair_rec.load(run)
    known = [[item for item in history if item in ITEMS] for history in expected.values()]
    assert unknown == "skip" or known == list(expected.values())
    found: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        found.setdefault(row["user_id"], []).append((row["item_id"], row["score"]))
        assert row["rank"] == len(found[row["user_id"]])
    best = model.recommend(known, k, unknown="skip")
    assert list(found) == list(expected)
    for ours, theirs in zip(found.values(), best, strict=True):
        assert [item for item, _ in ours] == [one.item_token for one in theirs]
        assert np.allclose([score for _, score in ours], [one.score for one in theirs], rtol=1e-6)
    assert [row["by_popularity"] for row in rows if row["rank"] == 1] == [not history for history in known]
    return "used"
