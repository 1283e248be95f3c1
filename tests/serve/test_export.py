"""Exported folders score as the runs do, by onnxruntime and without torch; a fresh environment runs their program."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import config_of, tiny_at
from encoders import build_roberta
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import blair_rec
from blair_rec.errors import ConfigError
from blair_rec.experiment.compare import compare
from blair_rec.serve.export.folder import export_run
from blair_rec.text.store.embeddings import open_store
from blair_rec.text.store.exchange import export_store
from blair_rec.text.store.writer import write_store

PACKAGE = Path(blair_rec.__file__).parent
VARIANTS: dict[str, Any] = {
    "id": {"items": "id"},
    "text": {"items": "text", "transforms": ["whiten"]},
    "delta": {"items": "text_delta", "max_delta": 0.2, "transforms": ["center", {"pca": 6}]},
    "gate": {"items": "id_text", "fusion": "gate", "transforms": [{"whiten": "pca"}, {"rescale": 1.0}]},
    "experts": {"items": "unisrec", "transforms": [{"shrink": 0.5}]},
    "adaptor": {"items": "sasrec_text", "control": "shuffle", "transforms": ["center", "l2"]},
    "popular": {"scorer": "popularity"},
    "markov": {"scorer": "markov"},
    "rules": {"scorer": "sequential_rules"},
    "divided": {"scorer": "sequential_rules", "options": {"source_power": 0.5, "target_power": 0.25}},
    "text_rules": {"scorer": "text_rules", "transforms": ["center"], "options": {"neighbours": 3}},
    "last": {"scorer": "last_item"},
    "mean": {"scorer": "mean_history", "transforms": ["center"]},
    "recent": {"scorer": "recent_history", "transforms": [{"whiten": "pca"}]},
    "mixed": {"average": ["id", "rules", "popular"], "weights": "equal"},
    "by_text": {"average": ["text", "mean"], "weights": "equal"},
    "of_rules": {"average": ["popular", "divided", "text_rules"], "weights": "equal"},
}
OTHER_MODELS = {
    "GRU4Rec": {"hidden_size": 8},
    "eSASRec": {"hidden_size": 8, "inner_size": 8, "n_layers": 1},
    "BERT4Rec": {"hidden_size": 8, "inner_size": 8, "n_layers": 1},
}
TAKE_NEW_ITEMS = ("text", "delta", "experts", "adaptor", "last", "mean", "recent", "by_text", "GRU4Rec", "eSASRec")
MEMBERS = ("id", "text", "mean")
"""Exported and compared as members of `mixed` and `by_text`, not alone."""

Export = Callable[[str], Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each kind, trained for one epoch, by what it is called here."""
    folder = tmp_path_factory.mktemp("export")
    tiny, encoder = tiny_at(folder), build_roberta(folder / "tiny-roberta")
    train: dict[str, Any] = {"epochs": 1, "learning_rate": 0.01}
    compare(config_of(tiny, encoder, variants=VARIANTS, seeds=[1], train=train, baseline="id"), folder / "out")
    found = {name: folder / "out" / "runs" / f"{name}-1" for name in VARIANTS}
    for model, keys in OTHER_MODELS.items():
        own: dict[str, Any] = {
            "recbole": {"n_heads": 1, "MAX_ITEM_LIST_LENGTH": 10, **keys} if model == "BERT4Rec" else keys,
            "variants": {"text": {"items": "text", "transforms": ["whiten"]}},
            "train": {**train, **({"loss": "recbole"} if model == "BERT4Rec" else {})},
        }
        compare(config_of(tiny, encoder, model=model, seeds=[1], baseline="text", **own), folder / model)
        found[model] = folder / model / "runs" / "text-1"
    return found


@pytest.fixture(scope="module")
def exported(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Exports the run of this name, once."""
    folder = tmp_path_factory.mktemp("exported")

    def export(name: str) -> Path:
        if not (folder / name).is_dir():
            assert export_run(runs[name], folder / name).difference <= 1e-4
        return folder / name

    return export


def program(folder: Path) -> Any:
    """The folder's recommend.py, imported as a user would."""
    spec = importlib.util.spec_from_file_location("exported_program", folder / "recommend.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def some_histories(items: list[str]) -> list[list[str]]:
    """Short ones and some that are longer than the window, items repeated now and then."""
    dice = np.random.default_rng(3)
    return [[items[item] for item in dice.integers(0, len(items), length)] for length in (1, 1, 2, 5, 9, 10, 11, 25)]


def assert_the_same(model: blair_rec.serve.recommender.Recommender, ours: Any, histories: list[list[str]]) -> None:
    """Scores within 1e-4 of a history's standard deviation, and the same first 20 but for ties."""
    items = list(model.item_tokens)
    assert ours.items == items
    lists = model.recommend(histories, len(items), exclude_history=False)
    theirs = np.array([[dict(found)[item] for item in items] for found in lists])
    scores = ours.scores(histories)
    spread = theirs.std(axis=1, keepdims=True)
    assert (spread > 0).all()
    assert (np.abs(scores - theirs) <= 1e-4 * spread).all()
    place = {item: number for number, item in enumerate(items)}
    best = model.recommend(histories, 20)
    for row, (expected, found) in enumerate(zip(best, ours.recommend(histories, 20), strict=True)):
        assert not {item for item, _ in found} & set(histories[row])
        there = [theirs[row, place[item]] for item, _ in found]  # scores that differ by rounding may change places
        assert there == pytest.approx([score for _, score in expected], abs=2e-4 * spread[row, 0])


@pytest.fixture(scope="module")
def more(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store like the runs', with two items more."""
    [path] = (runs["text"].parent.parent / "stores").iterdir()
    own = open_store(path)
    vectors = np.vstack([own.vectors, np.random.default_rng(0).standard_normal((2, own.text_dim)).astype(np.float32)])
    made = {"encoder": dict(own.encoder), "template": dict(own.template), "text_sha256": "0" * 64}
    folder = tmp_path_factory.mktemp("more") / "store"
    write_store(folder, [*own.item_tokens, "new1", "new2"], vectors, textless=(), **made)
    export_store(open_store(folder), folder.with_name("more.npy"))
    return folder


@pytest.mark.parametrize("name", [name for name in (*VARIANTS, *OTHER_MODELS) if name not in MEMBERS])
def test_every_kind_scores_and_ranks_as_torch_does_with_an_item_that_came_later_or_refuses_it(
    name: str, runs: dict[str, Path], exported: Export, more: Path
) -> None:
    folder, extra = exported(name), more.with_name("more.npy")
    model, ours = blair_rec.load(runs[name]), program(folder).ExportedModel
    assert_the_same(model, ours(folder), some_histories(list(model.item_tokens)))
    if name not in TAKE_NEW_ITEMS:
        with pytest.raises(ConfigError, match="after training can't be scored"):
            blair_rec.load(runs[name], extra_items=more)
        with pytest.raises(ValueError, match="can't score new items: it knows items by more than their text"):
            ours(folder, extra)
        return
    model = blair_rec.load(runs[name], extra_items=more)
    assert model.item_tokens[-2:] == ("new1", "new2")
    assert_the_same(model, ours(folder, extra), [["new1"], ["i01", "new2"], ["new2", "i03", "new1", "i04"], ["i05"]])


def test_the_program_is_the_packages_own_and_short(exported: Export) -> None:
    source = (exported("rules") / "recommend.py").read_text("utf-8")
    assert source == (PACKAGE / "serve" / "export" / "recommend.py").read_text("utf-8")
    assert len(source.splitlines()) <= 170
    imported = set(re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE))
    assert imported - sys.stdlib_module_names == {"numpy", "scipy", "onnxruntime"}


def needs_of(names: list[str]) -> set[str]:
    """These distributions and all that they require, but for extras."""
    found: set[str] = set()
    while names:
        name = names.pop()
        if name in found:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or ():
            if "extra ==" not in line:
                names.append(re.split(r"[^\w.-]", line)[0].lower().replace("_", "-"))
    return found


@pytest.fixture
def fresh(tmp_path: Path) -> list[str]:
    """The Python of a new environment that holds NumPy, SciPy and onnxruntime, with what these require, alone."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    [packages] = (tmp_path / "env").glob("lib/python*/site-packages")
    for name in needs_of(["numpy", "scipy", "onnxruntime"]):
        for file in importlib.metadata.distribution(name).files or ():
            top, home = file.parts[0], Path(str(importlib.metadata.distribution(name).locate_file(file.parts[0])))
            if top not in ("..", "__pycache__") and not (packages / top).is_symlink():
                (packages / top).symlink_to(home)
    return [str(tmp_path / "env" / "bin" / "python")]


def run_there(python: list[str], *arguments: str | Path, where: Path | None = None) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run([*python, *map(str, arguments)], capture_output=True, text=True, env=clean, cwd=where)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["mixed", "by_text"])
def test_a_fresh_environment_with_numpy_scipy_and_onnxruntime_alone_runs_the_program(
    name: str, runs: dict[str, Path], exported: Export, fresh: list[str], more: Path, tmp_path: Path
) -> None:
    names = ("torch", "recbole", "blair_rec", "onnx", "pandas")
    look = f"import importlib.util as u; print([name for name in {names} if u.find_spec(name)])"
    assert run_there(fresh, "-c", look, where=tmp_path).strip() == "[]"
    takes = name in TAKE_NEW_ITEMS
    histories = {"ann": ["i01", "i02"], "bob": ["i07"], "eve": ["new1"] if takes else ["i09", "i10"]}
    lines = [{"user_id": user, "item_id": items} for user, items in histories.items()]
    file = tmp_path / "histories.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    extra = ["--extra", more.with_name("more.npy")] if takes else []
    rows = [
        json.loads(line)
        for line in run_there(fresh, exported(name) / "recommend.py", file, "-k", "10", *extra).splitlines()
    ]
    model = blair_rec.load(runs[name], extra_items=more if takes else None)
    expected = model.recommend(list(histories.values()), 10)
    assert [(row["user_id"], row["rank"]) for row in rows] == [(user, n) for user in histories for n in range(1, 11)]
    scores = [score for found in expected for _, score in found]
    assert [row["score"] for row in rows] == pytest.approx(scores, abs=1e-3)
    assert len({row["item_id"] for row in rows[:10]} & {item for item, _ in expected[0]}) >= 9  # one may tie at the end
    code = "from recommend import ExportedModel; print(ExportedModel('.').recommend([['i01', 'i02']], k=1)[0][0][0])"
    assert run_there(fresh, "-c", code, where=exported(name)).strip() in {item for item, _ in expected[0][:2]}


@pytest.mark.parametrize(
    "vectors, ids, expected",
    [
        (np.zeros((2, 5), np.float32), ["a", "b"], r"new items need vectors of width 32, and these are \(2, 5\)"),
        (np.zeros(2, np.float32), ["a", "b"], r"new items need vectors of width 32, and these are \(2,\)"),
        (np.zeros((2, 32), np.float32), ["a"], r"zip\(\) argument 2 is longer"),
    ],
)
def test_new_items_of_another_width_or_number_are_refused(
    vectors: np.ndarray, ids: list[str], expected: str, exported: Export, tmp_path: Path
) -> None:
    np.save(tmp_path / "bad.npy", vectors)
    (tmp_path / "bad.ids.json").write_text(json.dumps(ids))
    with pytest.raises(ValueError, match=expected):
        program(exported("last")).ExportedModel(exported("last"), tmp_path / "bad.npy")


def test_items_that_are_known_already_stay_as_they_are(exported: Export, tmp_path: Path) -> None:
    np.save(tmp_path / "known.npy", np.ones((1, 32), np.float32))
    (tmp_path / "known.ids.json").write_text('["i05"]')
    plain, again = (
        program(exported("last")).ExportedModel(exported("last"), extra) for extra in (None, tmp_path / "known.npy")
    )
    assert again.items == plain.items
    assert (again.scores([["i05"]]) == plain.scores([["i05"]])).all()


def test_of_equal_scores_the_first_items_are_recommended_as_the_run_does() -> None:
    from blair_rec.serve.export.recommend import ExportedModel

    class Tied(ExportedModel):
        def __init__(self) -> None:
            self.items = [f"i{number}" for number in range(2000)]
            self.row_of = {item: row for row, item in enumerate(self.items)}

        def scores(self, histories: Any) -> np.ndarray:
            scores = np.zeros((len(histories), len(self.items)), np.float32)
            scores[:, 7] = 1
            return scores

    assert Tied().recommend([["i0"]], 3) == [[("i7", 1.0), ("i1", 0.0), ("i2", 0.0)]]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.integers(1, 80), min_size=1, max_size=15), min_size=1, max_size=5),
    st.integers(1, 60),
)
def test_any_histories_are_recommended_what_torch_recommends(
    runs: dict[str, Path], exported: Export, numbers: list[list[int]], k: int
) -> None:
    histories = [[f"i{number:02d}" for number in history] for history in numbers]
    expected = blair_rec.load(runs["mixed"]).recommend(histories, k)
    found = program(exported("mixed")).ExportedModel(exported("mixed")).recommend(histories, k)
    for ours, theirs in zip(found, expected, strict=True):
        assert len({item for item, _ in ours}) == k
        assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=1e-4)


def test_a_history_gets_fewer_items_if_fewer_are_left(exported: Export) -> None:
    model = program(exported("rules")).ExportedModel(exported("rules"))
    few, more = model.recommend([["i01"], ["i01", "i02", "i01"]], k=1000)
    assert (len(few), len(more)) == (79, 78)
    assert few[:5] == model.recommend([["i01"]], k=5)[0]
    assert len(model.recommend([["i01"]], k=1000, repeat=True)[0]) == 80


def test_histories_come_as_lists_as_events_or_by_user(exported: Export, tmp_path: Path) -> None:
    def found(*lines: str) -> list[Any]:
        (tmp_path / "h.jsonl").write_text("\n".join(lines), encoding="utf-8")
        command = [sys.executable, str(exported("rules") / "recommend.py"), "h.jsonl", "-k", "3", "--repeat"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        return [(row["item_id"], row["score"]) for row in rows]

    by_event = found(*(json.dumps({"user_id": 7, "item_id": item}) for item in ("i01", "i02", "i01")))
    assert found('["i01", "i02", "i01"]') == found('{"user_id": 7, "item_id": ["i01", "i02", "i01"]}') == by_event
    assert by_event != found('["i01", "i02"]')


@pytest.mark.parametrize(
    "lines, arguments, expected",
    [
        ("", [], "h.jsonl, line 1 is not a history"),
        ("\n\n", [], "h.jsonl, line 1 is not a history"),
        ("[]", [], "there are no histories, or some are empty"),
        ('["i01"]\n[]', [], "there are no histories, or some are empty"),
        ('["i01"]\nnonsense', [], "h.jsonl, line 2 is not a history"),
        ('{"user": 1, "item_id": ["i01"]}', [], "h.jsonl, line 1 is not a history"),
        ('{"user_id": [1], "item_id": ["i01"]}', [], "h.jsonl, line 1 is not a history"),
        ("3", [], "h.jsonl, line 1 is not a history"),
        ('["i01", "x1", "x2"]', [], "unknown items in the histories: 2 (first: 'x1')"),
        ('["i01", ["i02"]]', [], "h.jsonl, line 1 is not a history"),
        ('["i01", 5]', [], "h.jsonl, line 1 is not a history"),
        ('{"user_id": true, "item_id": ["i01"]}', [], "h.jsonl, line 1 is not a history"),
        ('{"user_id": 1.0, "item_id": ["i01"]}', [], "h.jsonl, line 1 is not a history"),
        ("[" * 100_000, [], "h.jsonl, line 1 is not a history"),
        ('["i01"]', ["-k", "0"], "k is 0; it has to be at least 1"),
        ('["i01"]', ["--extra", "none.npy"], "none.ids.json"),
    ],
)
def test_what_the_program_cannot_read_is_one_line(
    lines: str,
    arguments: list[str],
    expected: str,
    exported: Export,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "h.jsonl").write_text(lines, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["recommend.py", "h.jsonl", *arguments])
    with pytest.raises(SystemExit) as ended:
        program(exported("rules")).main()
    said = capfd.readouterr()
    assert ended.value.code == 1 and said.out == ""
    assert said.err.startswith("error: ") and expected in said.err and said.err.count("\n") == 1


def many(folder: Path) -> str:
    (folder / "h.jsonl").write_text("".join(f'{{"user_id": {n}, "item_id": "i01"}}\n' for n in range(2000)))
    return "h.jsonl"


def test_a_reader_that_has_enough_leaves_no_traceback(exported: Export, tmp_path: Path) -> None:
    command = [sys.executable, str(exported("rules") / "recommend.py"), many(tmp_path), "-k", "9"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("k", ["1", "9"])
def test_a_full_disk_is_one_line_of_the_program(exported: Export, tmp_path: Path, k: str) -> None:
    many(tmp_path)
    command = [sys.executable, str(exported("rules") / "recommend.py"), "h.jsonl", "-k", k]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: [Errno 28] No space left on device\n"


def test_a_file_of_windows_and_a_damaged_config(exported: Export, tmp_path: Path) -> None:
    shutil.copytree(exported("rules"), tmp_path / "x")
    (tmp_path / "h.jsonl").write_bytes(b'\xef\xbb\xbf["i01"]\r\n')
    command = [sys.executable, "x/recommend.py", "h.jsonl"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count("\n") == 10
    (tmp_path / "x" / "config.json").write_text("{")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "config.json is damaged (" in done.stderr and done.stderr.count("\n") == 1


def test_a_file_that_is_not_utf_8_is_named(exported: Export, tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_bytes('["Müsli"]'.encode("latin-1"))
    command = [sys.executable, str(exported("rules") / "recommend.py"), "h.jsonl"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: h.jsonl is not UTF-8 (") and done.stderr.endswith("save it as UTF-8\n")


def test_a_closed_output_is_no_traceback(exported: Export, tmp_path: Path) -> None:
    command = shlex.join([sys.executable, str(exported("rules") / "recommend.py"), many(tmp_path)])
    for closed in (">&-", ">&- 2>&-"):
        done = subprocess.run(f"{command} {closed}", shell=True, cwd=tmp_path, stderr=subprocess.PIPE, check=False)
        assert (done.returncode, done.stderr) == (0, b"")


def test_the_form_of_the_lines_is_said_in_plain_words(exported: Export, tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text("3")
    command = [sys.executable, str(exported("rules") / "recommend.py")]
    said = (
        'JSON lines: a list of items, or {"user_id": USER, "item_id": ITEM}, where ITEM is an item or a list of items'
    )
    help_text = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert said in " ".join(help_text.split())
    done = subprocess.run([*command, "h.jsonl"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == f"error: h.jsonl, line 1 is not a history; give {said}\n"
