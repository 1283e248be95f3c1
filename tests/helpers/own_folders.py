"""A user's own folder of atomic files with something wrong in it, and a plain reader to hold ours against."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from mutations import mutated

import blair_rec.recbole  # noqa: F401  (repairs RecBole before anything of it is used)
from blair_rec.border.settings import recbole_config
from blair_rec.config.comparison import read_config
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.errors import BlairRecError, CatalogueError, DatasetError, RejectedLines
from blair_rec.experiment.compare import compare
from blair_rec.text.catalogue import read_catalogue

KINDS = ("inter", "item", "benchmark")
NUL = "\ue000"
"""Written in place of a NUL character."""
"""Which file suffers: the log, the items, or one of three benchmark files."""
ALLOWED = 0.05
"""The share of the events that may be skipped."""
USERS = ("u1", "u2", "u3", "null", "N/A", "5")
ITEMS = ("NA", "None", "nan", '7"', "i1", "i2", "i3", "007", "7")
TEXTS = ("fine", "", "NA", '7" tablet', '"Open quote', 'say "so"', "a\tb", '"', '""', "x" * 300, "été", '"all of it"')

Row = tuple[Any, ...]


class Plain(NamedTuple):
    """The content of a file as a plain reader finds it."""

    rows: list[Row]
    """The wanted cells of each line that can be used: texts, numbers, or lists of texts."""
    left_out: int


class Unreadable(Exception):
    """A file that has to be refused."""


def table(content: bytes) -> tuple[dict[str, str], list[list[str]]]:
    """The kind of each column, and the cells of each line, by nothing but loops over characters, lines and cells.

    Raises:
        Unreadable: no UTF-8, or a header that names no columns.
    """
    try:
        lines = [line.rstrip("\r") for line in content.decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError:
        raise Unreadable("no UTF-8") from None
    while lines and not lines[0].strip():
        lines.pop(0)
    titles = [title.partition(":") for title in (lines[0].split("\t") if lines else [])]
    kinds = {name: kind for name, _, kind in titles}
    known = {"token", "token_seq", "float", "float_seq"}
    if not titles or "" in kinds or len(kinds) < len(titles) or not set(kinds.values()) <= known:
        raise Unreadable("header")
    return kinds, [cells_of(line, len(kinds)) for line in lines[1:] if line]


def plainly(content: bytes, wanted: dict[str, str], needed: tuple[str, ...]) -> Plain:
    """The wanted columns of the lines that can be used.

    Raises:
        Unreadable: as `table`, or a column that is not there or of another kind.
    """
    kinds, lines = table(content)
    if any(kinds.get(name) != kind for name, kind in wanted.items()):
        raise Unreadable("columns")
    names, found, left_out = list(kinds), [], 0
    for cells in lines:
        row = [None]
        if len(cells) == len(names):
            row = [value_of(cells[names.index(name)], kind, name in needed) for name, kind in wanted.items()]
        if None in row:
            left_out += 1
        else:
            found.append(tuple(row))
    return Plain(found, left_out)


def value_of(cell: str, kind: str, needed: bool) -> Any:
    """The value of a cell; None if it can't be used."""
    if "\0" in cell:
        return None
    if kind == "float_seq":
        numbers = tuple(value_of(piece, "float", True) for piece in cell.split(" ") if piece)
        return None if None in numbers else numbers
    if kind == "float":
        cell = cell.strip(" \t\r\v\f")
        try:
            number = float(cell) if set(cell) <= set("0123456789+-.eE") else math.nan
        except ValueError:
            return None
        return number if math.isfinite(number) else None
    if kind == "token_seq":
        pieces = tuple(piece for piece in cell.split(" ") if piece)
        return pieces if pieces or not needed else None
    return cell if cell.strip() or not needed else None


def cells_of(line: str, width: int) -> list[str]:
    """A line cut at tabs; where these are too many, one within a quoted cell is text."""
    cells = line.split("\t")
    if len(cells) > width and len(whole := _with_quoted_tabs(line)) == width:
        cells = whole
    return [_as_meant(cell) for cell in cells]


def _with_quoted_tabs(line: str) -> list[str]:
    cells, at = [], 0
    while True:
        end = _end_of_quoted(line, at) or line.find("\t", at)
        if end in (-1, len(line)):
            return [*cells, line[at:]]
        cells.append(line[at:end])
        at = end + 1


def _end_of_quoted(line: str, at: int) -> int:
    """Behind the mark that closes the cell which begins here; 0 if it is not quoted, or not closed."""
    place = at + 1
    while line[at : at + 1] == '"' and place < len(line):
        if line[place] != '"':
            place += 1
        elif line[place + 1 : place + 2] == '"':
            place += 2
        else:
            return place + 1 if line[place + 1 : place + 2] in ("", "\t") else 0
    return 0


def _as_meant(cell: str) -> str:
    """A cell that the csv module would write so, as it was before; any other as it is."""
    if len(cell) < 2 or _end_of_quoted(cell, 0) != len(cell):
        return cell
    meant = cell[1:-1].replace('""', '"')
    return meant if not meant or written([meant, "x"]) == f"{cell}\tx\n" else cell


def written(cells: list[str]) -> str:
    """A line as pandas writes it, which is how the csv module does."""
    line = io.StringIO()
    # Python 3.10 can't write NUL. No character that is written without quotes changes the rest of the line.
    csv.writer(line, delimiter="\t", lineterminator="\r\n").writerow([cell.replace("\0", NUL) for cell in cells])
    return line.getvalue().removesuffix("\r\n").replace(NUL, "\0") + "\n"


def raw(cells: list[str]) -> str:
    """A line without any quoting, where tabs of a text are spaces."""
    return "\t".join(cell.replace("\t", " ") for cell in cells) + "\n"


def write_folder(folder: Path, kind: str, random: Random) -> dict[str, str]:
    """A folder with odd texts and ids, each line written with or without quoting; RecBole's keys for its columns."""
    names = random.choice([("user_id", "item_id", "timestamp"), ("who", "what", "when")])
    user, item, time = names
    events = [(random.choice(USERS), random.choice(ITEMS), random.randrange(10**9, 2 * 10**9)) for _ in range(120)]
    folder.mkdir(parents=True)

    def write(name: str, header: list[str], rows: list[list[str]]) -> None:
        lines = [random.choice((written, raw))(row) for row in rows]
        (folder / f"{folder.name}.{name}").write_bytes(("\t".join(header) + "\n" + "".join(lines)).encode())

    history = f"{item}_list"
    if kind == "benchmark":
        header = [f"{user}:token", f"{history}:token_seq", f"{item}:token", "review:token_seq"]
        for part in ("train", "valid", "test"):
            rows = [[u, " ".join(random.sample(ITEMS, 3)), i, random.choice(TEXTS)] for u, i, _ in events[:60]]
            write(f"{part}.inter", header, rows)
    else:
        header = [f"{item}:token", "review:token_seq", f"{user}:token", f"{time}:float"]
        write("inter", header, [[i, random.choice(TEXTS), u, str(t)] for u, i, t in events])
    write("item", [f"{item}:token", "title:token_seq"], [[token, random.choice(TEXTS)] for token in ITEMS])
    return {"USER_ID_FIELD": user, "ITEM_ID_FIELD": item, "TIME_FIELD": time}


def settings_for(kind: str, names: dict[str, str]) -> dict[str, Any]:
    """RecBole's settings for a folder of `write_folder`."""
    user, item, time = names.values()
    if kind != "benchmark":
        return {**names, "train_neg_sample_args": None, "load_col": {"inter": [user, item, time]}}
    return {
        **names,
        "train_neg_sample_args": None,
        "benchmark_filename": ["train", "valid", "test"],
        "alias_of_item_id": [f"{item}_list"],
        "load_col": {"inter": [user, f"{item}_list", item]},
    }


def accident(folder: Path, kind: str, random: Random) -> None:
    """Something happens to a file of the kind."""
    ending = random.choice(("train.inter", "valid.inter", "test.inter")) if kind == "benchmark" else kind
    path = folder / f"{folder.name}.{ending}"
    path.write_bytes(mutated(path.read_bytes(), random))


def expected_events(folder: Path, kind: str, names: dict[str, str]) -> tuple[list[list[Row]], int]:
    """By file the events that can be used, and the number of skipped lines.

    Raises:
        Unreadable: the folder has to be refused.
    """
    user, item, time = names.values()
    history = f"{item}_list"
    wanted = {user: "token", item: "token", time: "float"}
    if kind == "benchmark":
        wanted = {user: "token", history: "token_seq", item: "token"}
    parts = ("train.", "valid.", "test.") if kind == "benchmark" else ("",)
    files, left_out, total = [], 0, 0
    for part in parts:
        content = (folder / f"{folder.name}.{part}inter").read_bytes()
        rows, bad = plainly(content, wanted, (user, item, history))
        left_out, total = left_out + bad, total + bad + len(rows)
        if left_out > ALLOWED * total:
            raise Unreadable("too many lines are left out")
        if not rows:
            raise Unreadable("no event")
        files.append(rows)
    return files, left_out


def expected_items(folder: Path, names: dict[str, str]) -> dict[str, dict[str, str | None]]:
    """By item token what the other columns say, None where they are blank; nothing if a token is repeated.

    Raises:
        Unreadable: the file has to be refused.
    """
    kinds, lines = table((folder / f"{folder.name}.item").read_bytes())
    item = next((name for name in (names["ITEM_ID_FIELD"], "item_id", "parent_asin") if name in kinds), None)
    found: dict[str, dict[str, str | None]] = {}
    repeated = False
    for cells in lines:
        if item is None or len(cells) != len(kinds):
            raise Unreadable("columns")
        record = {name: cell if cell.strip() else None for name, cell in zip(kinds, cells, strict=True)}
        token = record.pop(item)
        if token is None or "\0" in token:
            raise Unreadable("item token")
        repeated = repeated or token in found
        found[token] = record
    if not found:
        raise Unreadable("no item")
    return {} if repeated else found


def read_events(data: TextSequentialDataset) -> list[list[Row]]:
    """By file the events of a data set that has been read and not split yet, as `expected_events` has them."""
    fields = [data.uid_field, data.iid_field]
    fields.insert(*((1, f"{data.iid_field}_list") if data.config["benchmark_filename"] else (2, data.time_field)))
    columns = []
    for field in fields:
        values, tokens = data.inter_feat[field], data.field2id_token.get(field)
        if field == data.time_field:
            columns.append(values.tolist())
        elif field in (data.uid_field, data.iid_field):
            columns.append([str(tokens[number]) for number in values])
        else:
            columns.append([tuple(str(tokens[number]) for number in numbers) for numbers in values])
    rows, files = list(zip(*columns, strict=True)), []
    for size in data.file_size_list if data.config["benchmark_filename"] else [len(rows)]:
        files.append(rows[:size])
        rows = rows[size:]
    return files


def try_one(place: Path, kind: str, seed: int) -> str:
    """Read a folder after some accidents: 'refused', 'read' or 'in part', each as a plain reader says."""
    random = Random(seed)
    folder = place / "shop"
    names = write_folder(folder, kind, random)
    accident(folder, kind, random)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    outcome = _items_outcome(folder, names) if kind == "item" else _events_outcome(folder, kind, names)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    assert outcome in ("refused", "read", "in part"), outcome
    return outcome


def _items_outcome(folder: Path, names: dict[str, str]) -> str:
    expected: dict[str, dict[str, str | None]] | None = None
    with contextlib.suppress(Unreadable):
        expected = expected_items(folder, names)
    try:
        catalogue = read_catalogue(folder / f"{folder.name}.item", (names["ITEM_ID_FIELD"], "item_id", "parent_asin"))
    except CatalogueError:
        return "refused" if not expected else "refused, although it can be read"
    assert expected is not None, "read, although it has to be refused"
    if expected:  # what becomes of repeated items is not the reader's to decide
        assert list(catalogue.item_tokens) == list(expected) and list(catalogue.records) == list(expected.values())
    return "read"


def _events_outcome(folder: Path, kind: str, names: dict[str, str]) -> str:
    expected: tuple[list[list[Row]], int] | None = None
    why, refused = "", None
    try:
        expected = expected_events(folder, kind, names)
    except Unreadable as error:
        why = str(error)
    try:
        data = TextSequentialDataset(recbole_config("SASRec", str(folder), settings_for(kind, names)))
    except BlairRecError as error:
        refused = error
    assert (refused is None) == (expected is not None), refused or why
    if refused is not None:
        assert isinstance(refused, RejectedLines) == why.startswith("too many"), refused
        return "refused"
    files, left_out = expected
    found = read_events(data)
    assert [len(rows) for rows in found] == [len(rows) for rows in files]
    assert all(
        same(*pair) for ours, theirs in zip(found, files, strict=True) for pair in zip(ours, theirs, strict=True)
    )
    assert data.rejected.count == left_out == len(data.rejected.kept)
    with contextlib.suppress(DatasetError):  # such as no user with two events
        data.build()
    return "in part" if left_out else "read"


def compare_one(place: Path, kind: str, seed: int) -> str:
    """A whole comparison over such a folder, of a scorer without text: 'compared' or 'compare refused'."""
    random = Random(seed)
    folder, out = place / "shop", place / "out"
    names = write_folder(folder, kind, random)
    accident(folder, kind, random)
    before = {path: path.read_bytes() for path in folder.rglob("*")}
    settings = {key: value for key, value in settings_for(kind, names).items() if key != "train_neg_sample_args"}
    config = {
        "dataset": str(folder),
        "recbole": {**settings, "MAX_ITEM_LIST_LENGTH": 9},
        "variants": {"pop": {"scorer": "popularity"}},
        "baseline": "pop",
        "seeds": [1],
        "evaluate": {"metrics": ["NDCG@2"]},
    }
    outcome = "compared"
    try:
        board = compare(read_config(config), out)
        assert board is not None and (out / "leaderboard.html").is_file()
    except BlairRecError:
        outcome = "compare refused"
        assert not (out / "runs").is_dir() or not any((out / "runs").iterdir())
    assert {path: path.read_bytes() for path in folder.rglob("*")} == before
    assert not list(place.rglob("*.partial"))
    return outcome


def same(ours: Row, theirs: Row) -> bool:
    """Equal, but for the last bits of numbers of more digits than float64 holds."""
    return all(
        math.isclose(one, other, rel_tol=1e-14) if isinstance(other, float) and abs(other) > 2**53 else one == other
        for one, other in zip(ours, theirs, strict=True)
    )
