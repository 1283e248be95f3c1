"""A result.json with a value of another JSON type ends every reader in one message, never in a traceback."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from comparisons import config_of, tiny_at
from encoders import build_roberta
from hypothesis import given, settings
from hypothesis import strategies as st

import blair_rec
from blair_rec.config.comparison import load_config
from blair_rec.errors import BadRun, BlairRecError
from blair_rec.evaluate.runs.recorded import read_recorded
from blair_rec.experiment.compare import compare, planned
from blair_rec.experiment.planning.still_valid import changes
from blair_rec.serve.export.card import model_card
from blair_rec.serve.export.folder import refuse_second_stage
from blair_rec.serve.refit import refit
from blair_rec.serve.winner import choose

VARIANTS: dict[str, Any] = {
    "near": {"scorer": "last_item", "transforms": ["center"]},
    "rules": {"scorer": "sequential_rules"},
    "both": {"average": ["near", "rules"], "weights": "equal"},
    "second": {"rerank": ["near", "rules"]},
    "student": {"items": "id", "distill": "rules", "train": {"epochs": 1}},
}
REFIT = "refit"
OTHERS = (None, True, 7, -1.5, 10**400, float("inf"), float("nan"), "text", "", [], [7], {}, {"text": 7})
"""One value of each JSON type at least, with the numbers that Python's json also reads."""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison with a run of each kind, and a refit of one of them; a test restores what it changes."""
    folder = tmp_path_factory.mktemp("damaged")
    tiny, encoder = tiny_at(folder), build_roberta(folder / "tiny-roberta")
    compare(config_of(tiny, encoder, variants=VARIANTS, seeds=[1], baseline="rules"), folder / "out")
    refit(folder / "out" / "runs" / "near-1", folder / "out" / REFIT)
    logging.getLogger("blair_rec").setLevel(logging.CRITICAL)
    yield folder / "out"  # type: ignore[misc]
    logging.getLogger("blair_rec").setLevel(logging.NOTSET)


def folder_of(out: Path, name: str) -> Path:
    return out / REFIT if name == REFIT else out / "runs" / f"{name}-1"


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value, at any depth."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in inside:
        yield (*path, key)
        yield from places(entry, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    """A copy of a JSON value with another value at `path`."""
    if not path:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], other)
    return copy


def readers(out: Path, name: str) -> list[Callable[[], object]]:
    """Each reader of result.json, as far as it goes before it trains or writes files."""
    folder = folder_of(out, name)
    config = {"run": {"variant": name, "dataset": "tiny", "hashes": {}}, "parts": [], "items": 80, "window": 10}
    found: list[Callable[[], object]] = [
        lambda: blair_rec.load(folder),
        lambda: refuse_second_stage(folder),
        lambda: model_card(folder, config, 0.0, ()),
    ]
    if name != REFIT:
        found += [
            lambda: blair_rec.leaderboard(out),
            lambda: choose(folder).parts(),
            lambda: choose(out, name).parts(),
            lambda: [changes(run) for run in planned(load_config(out / "config.yaml"), out).asked if run.done],
        ]
    return found


@pytest.mark.parametrize("name", [*VARIANTS, REFIT])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_value_of_another_type_is_reported_without_a_traceback(out: Path, name: str, data: st.DataObject) -> None:
    path = folder_of(out, name) / "result.json"
    text = path.read_text("utf-8")
    result = json.loads(text)
    place = data.draw(st.sampled_from([(), *places({**result, "code_files": {"x.py": "0"}})]))
    other = data.draw(st.sampled_from(OTHERS))
    try:
        path.write_text(json.dumps(replaced({**result, "code_files": {"x.py": "0"}}, place, other)), "utf-8")
        for read in readers(out, name):
            with suppress(BlairRecError):
                read()
    finally:
        path.write_text(text, "utf-8")


@pytest.mark.parametrize("name", [*VARIANTS, REFIT])
@pytest.mark.parametrize("key", ["setup", "store", "store_sha256", "weights", "hashes", "selection", "variant"])
def test_a_key_of_another_type_names_file_key_and_cure(out: Path, name: str, key: str) -> None:
    path = folder_of(out, name) / "result.json"
    text = path.read_text("utf-8")
    try:
        path.write_text(json.dumps({**json.loads(text), key: 7}), "utf-8")
        cure = "expected .*; delete the folder .*, and make it again with the same command"
        with pytest.raises(BadRun, match=rf"result.json: {key} is 7 \(int\), {cure}"):
            blair_rec.load(path.parent)
        if name != REFIT:
            with pytest.raises(BadRun, match=rf"result.json: {key} is 7 \(int\), {cure}"):
                refit(path.parent, out.parent / "another")
    finally:
        path.write_text(text, "utf-8")


def test_a_setup_that_was_edited_is_no_longer_that_of_the_run(out: Path) -> None:
    path = folder_of(out, "near") / "result.json"
    text = path.read_text("utf-8")
    result = json.loads(text)
    result["setup"]["text"]["missing_text"] = "zeros"
    try:
        path.write_text(json.dumps(result), "utf-8")
        with pytest.raises(BadRun, match="setup is not the one that was written: its hash is not hashes.config"):
            read_recorded(path.parent)
    finally:
        path.write_text(text, "utf-8")
