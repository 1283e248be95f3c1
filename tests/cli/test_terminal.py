"""The one way to the terminal: what a text holds is shown, never obeyed; and what a closed pipe or Ctrl-C leaves."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from comparisons import tiny_at, write_config
from encoders import build_roberta
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from blair_rec.cli import main, terminal
from blair_rec.cli.progress import Counters
from blair_rec.cli.terminal import Console, clean, say, show, show_json


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    log = logging.getLogger("blair_rec")
    before = log.handlers, log.level, log.propagate
    yield
    log.handlers, log.level, log.propagate = before


TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
"""Bidirectional classes of characters that turn the direction of text."""


def is_safe(shown: str) -> bool:
    """Whether nothing but text, tabs and ends of lines is there, by Unicode's own properties."""
    categories = {unicodedata.category(sign) for sign in shown if sign not in "\t\n"}
    turned = {unicodedata.bidirectional(sign) for sign in shown}
    return not categories & {"Cc", "Cs", "Zl", "Zp"} and not turned & {
        *["LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"]
    }


anything = st.text(st.one_of(st.sampled_from("\x1b\x9b\x07[]/b\n\t:x"), st.characters()), max_size=20)


@given(anything)
@settings(max_examples=100, deadline=None)
def test_clean_text_is_safe_and_safe_text_stays_as_it_is(text: str) -> None:
    assert is_safe(clean(text))
    assert clean(text) == text or not is_safe(text)


@given(anything, st.booleans())
@settings(max_examples=100, deadline=None)
def test_nothing_unsafe_comes_out_of_a_console_in_whatever_form_it_went_in(text: str, styled: bool) -> None:
    file = io.StringIO()
    console = Console(file=file, width=80)
    table = Table(text, title=text, caption=Text(text))
    table.add_row(Text(text, style="red") if styled else text)
    say(console, text)
    console.print(table, Text(text), [text])
    assert is_safe(file.getvalue())


def test_brackets_are_no_markup_and_words_no_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("[bold]name[/bold]", box=None)
    table.add_row("[/b] :smile: [link=x]y")
    show(table)
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        "[bold]name[/bold]",
        "[/b] :smile: [link=x]y",
    ]


def test_a_line_break_in_a_cell_makes_no_further_row(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("score\n(cosine)", "item", box=None)
    table.add_row("0.5", "lamp\n0.9  cup")
    table.add_row("0.4", Text("jug\n0.8  pan"))
    show(table)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["score"], ["(cosine)", "item"], ["0.5", "lamp", "0.9", "cup"], ["0.4", "jug", "0.8", "pan"]] or (
        lines == [["score", "item"], ["(cosine)"], ["0.5", "lamp", "0.9", "cup"], ["0.4", "jug", "0.8", "pan"]]
    )


def test_a_long_fact_of_a_caption_stays_to_the_right_of_its_dash(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    table = Table("a", box=None, caption=Text("- one fact of many, many words\n- [b]two[/b]\nmean - median"))
    table.add_row("1")
    show(table)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[2:] == ["- one fact of many, many", "  words", "- [b]two[/b]", "  mean - median"]


@given(st.recursive(anything, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(anything, inner, max_size=3)))
@settings(max_examples=60, deadline=None)
def test_json_is_safe_and_means_the_same(value: object) -> None:
    file = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        show_json(json.dumps(value, ensure_ascii=False))
    assert is_safe(file.getvalue()) and json.loads(file.getvalue()) == value


def test_progress_bars_show_names_as_they_are() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system=None, width=200)
    with Counters(console) as counters:
        counters.update("a\x1b]0;x\x07[/b]", 1, 2, note="[/c]\x9b")
    shown = file.getvalue()
    assert "a]0;x[/b] " in shown and " [/c]" in shown
    assert "\x1b]" not in shown and "\x07" not in shown and "\x9b" not in shown


# Every command that shows names and titles


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose items are called by control codes, its store, and a comparison of it."""
    folder = tmp_path_factory.mktemp("hostile")
    encoder = build_roberta(folder / "tiny-roberta")
    tiny = tiny_at(folder)
    name = "n\x1b[2J[/b]\x9b1m"
    for path in (tiny / "tiny.inter", tiny / "tiny.item"):
        lines = path.read_text(encoding="utf-8").splitlines()
        place = lines[0].split("\t").index("item_id:token")
        rows = [line.split("\t") for line in lines[1:]]
        for row in rows:
            row[place] += name
        path.write_text("\n".join([lines[0], *map("\t".join, rows)]) + "\n", encoding="utf-8")
    path = tiny / "tiny.item"
    lines = path.read_text(encoding="utf-8").splitlines()
    place = lines[0].split("\t").index("title:token_seq")
    rows = [line.split("\t") for line in lines[1:]]
    for row in rows:
        row[place] += " \x1b]0;owned\x07[/b]\x9b31m\u202e"
    path.write_text("\n".join([lines[0], *map("\t".join, rows)]) + "\n", encoding="utf-8")
    variants = {"id": {}, "last": {"scorer": "last_item"}}
    write_config(folder / "cfg.yaml", Path("tiny"), encoder, variants=variants, seeds=[1], train={"epochs": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        items = ["--items", "tiny/tiny.item", "--fields", "title", "--encoder", str(encoder), "--pooling", "cls"]
        assert main(["encode", *items, "-o", "store", "--quiet"]) == 0
        assert main(["compare", "cfg.yaml", "-o", "out", "--quiet"]) == 0
    return folder


PREPARE = ["prepare", "csv", "--user", "u", "--item", "i", "--time", "t", "-o", "p"]
COMMANDS: dict[str, tuple[int, list[str]]] = {
    "search": (0, ["search", "store", "a lamp \x1b[2J", "--items", "tiny/tiny.item"]),
    "search --json": (0, ["search", "store", "a lamp \x1b[2J\x9b", "--items", "tiny/tiny.item", "--json"]),
    "search, an error": (1, ["search", "nowhere\x1b[2J[/b]", "x"]),
    "leaderboard": (0, ["leaderboard", "out"]),
    "leaderboard, an error": (1, ["leaderboard", "out\x1b[2J[/b]"]),
    "compare": (0, ["compare", "cfg.yaml", "-o", "out"]),
    "compare, an error": (1, ["compare", "cfg.yaml", "-o", "new", "--set", "dataset=no\x1b[2J[/b]\x9b"]),
    "compare --json": (0, ["compare", "cfg.yaml", "-o", "out", "--json"]),
    "compare --dry-run": (0, ["compare", "cfg.yaml", "-o", "ne\x1b[2J[/b]w", "--dry-run"]),
    "store info": (0, ["store", "info", "store"]),
    "store export": (1, ["store", "export", "store", "-o", "x\x1b[2J[/b].nothing"]),
    "encode": (1, ["encode", "--items", "\x1b[2J[/b].item", "--fields", "title", "-o", "s"]),
    "prepare": (
        1,
        [*["prepare", "csv", "--user", "u", "--item", "i", "--time", "t", "-o", "p"], "--events", "\x1b[2J[/b].csv"],
    ),
    "pretrain": (1, ["pretrain", "\x1b[2J[/b].yaml", "-o", "p"]),
    "tune": (1, ["tune", "\x1b[2J[/b].yaml"]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_lets_control_codes_through(
    command: str, hostile: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hostile)
    status, arguments = COMMANDS[command]
    capsys.readouterr()
    assert main(arguments) == status
    shown = capsys.readouterr()
    assert is_safe(shown.out + shown.err), ascii(shown.out + shown.err)
    assert len(shown.out + shown.err) > 10
    if command in ("search", "store info"):
        assert "n[2J[/b]1m" in shown.out, "all else is shown"
    if command == "search --json":
        assert "n\x1b[2J[/b]\x9b1m" in json.loads(shown.out)["items"][0]["item_token"], "JSON loses nothing"


def test_what_is_typed_or_globbed_is_cleaned_where_it_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["leaderboard", "out", "--\x1b[2Jx"])
    assert "--[2Jx" in capsys.readouterr().err


def test_the_command_line_knows_no_other_way_to_the_terminal() -> None:
    folder = Path(terminal.__file__).parent
    for path in folder.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert "print(" not in source.replace("console.print(", ""), path
        assert path.name == "terminal.py" or "rich.console" not in source, path


# Pipes and interruptions


@pytest.mark.parametrize("command", ["leaderboard", "store info", "schema", "--help", "encode --help"])
def test_a_closed_pipe_leaves_no_traceback(command: str, hostile: Path) -> None:
    arguments = COMMANDS[command][1] if command in COMMANDS else command.split()
    command_line = [sys.executable, "-m", "blair_rec.cli", *arguments]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        command_line, cwd=hostile, env=buffered, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read().decode()
    assert (process.returncode, said) == (141, "")


def test_a_closed_pipe_for_messages_leaves_no_traceback(hostile: Path, tmp_path: Path) -> None:
    """`compare ... 2>&1 | head`: the first line that nobody reads ends it. Here it says that the hub is offline."""
    stand_in = Path(shutil.copytree(hostile / "tiny-roberta", tmp_path / "stand-in"))
    (stand_in / "1_Pooling").mkdir()
    (stand_in / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "blair_rec.cli", "compare", "cfg.yaml", "-o", "piped", "--dry-run"]
    command += ["--encoder", "org/model", "--set", f"text.fallback={{encoder: {stand_in}}}"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=hostile, env=offline, stdout=subprocess.PIPE, stderr=writer, check=False)
    os.close(writer)
    assert (done.returncode, done.stdout) == (141, b"")


@pytest.mark.parametrize(
    ("command", "patched", "expected"),
    [
        ("search", "blair_rec.text.search.sentences.TextSearch", "interrupted\n"),
        ("leaderboard", "blair_rec.experiment.board.leaderboard", "interrupted\n"),
        (
            "compare",
            "blair_rec.experiment.compare.compare",
            "interrupted; finished work is kept: run the same command again",
        ),
        (
            "tune",
            "blair_rec.experiment.planning.own_config.load_config",
            "interrupted; finished work is kept: run the same command again",
        ),
        ("prepare", "blair_rec.prepare.own.prepare_own", "interrupted; finished work is kept: run the same"),
    ],
)
def test_an_interruption_is_one_line(
    command: str,
    patched: str,
    expected: str,
    hostile: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(hostile)
    monkeypatch.setattr(patched, interrupt)
    capsys.readouterr()
    assert main(COMMANDS[command][1]) == 130
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith(expected) and shown.err.count("\n") == 1


# What the caller's terminal can't take


@pytest.mark.parametrize("streams", ["1", "2", "1 2"])
def test_a_closed_stream_leaves_no_traceback(streams: str, hostile: Path) -> None:
    closed = " ".join(f"{number}>&-" for number in streams.split())
    command = f"{sys.executable} -m blair_rec.cli store info --help {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=hostile, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == ""


def test_a_terminal_without_unicode_shows_question_marks(hostile: Path) -> None:
    """A pipe on Windows, or a terminal in ISO-8859-1, can't show the signs of a leaderboard."""
    command = [sys.executable, "-m", "blair_rec.cli", *COMMANDS["leaderboard"][1]]
    plain = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(command, cwd=hostile, env=plain, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "?" in done.stdout and "Traceback" not in done.stderr


def test_arguments_that_are_no_text_are_refused_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    word = os.fsdecode(b"caf\xe9")
    with pytest.raises(SystemExit) as ended:
        main(["search", str(tmp_path), word, "lamp"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "error: caf\ufffd is not UTF-8 (1 of 4 arguments is not); rename the file or folder" in said


def test_a_working_directory_that_was_removed_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    command = f"rmdir ../gone && {sys.executable} -m blair_rec.cli leaderboard {tmp_path}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path / "gone", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "the working directory was removed; change to another one, then run the command again\n"
    )
    assert done.stderr.count("\n") == 1
